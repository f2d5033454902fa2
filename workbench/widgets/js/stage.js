// The image of one run with the map above it, which takes pointer and keys.

import { slider } from "./controls.js";
import { fill, html, svg } from "./dom.js";
import { describe, placeOf } from "./maps.js";
import { clamp, format } from "./numbers.js";
import { canvasOf, clear, paintHeat, paintPicture } from "./paint.js";
import { PIN_COLOURS } from "./state.js";

export const FACTS = ["position", "entropy", "distance", "outside 3×3", "outside 9×9", "strength", "to tokens"];

/** `actions` handles pointer and keys. */
export function stageCard(index, hatch, actions) {
  const label = html("h3"), about = html("span", { class: "muted" });
  const gamma = html("span", { class: "gamma", title: "The learned strength of this layer" });
  let steps = [], layer, size = 0, tall = 0, seen = null, opacity = 0; // width and height in CSS pixels
  const writeStep = (i) => steps[i]?.toLocaleString("en") ?? "";
  const step = slider("Step", { min: 0, max: 0, step: 1, write: writeStep }, (i) => actions.step(index, steps[i]));
  const picture = canvasOf("image"), heat = canvasOf("heat"), pins = svg("g");
  const forbidden = svg("path", { fill: `url(#${hatch})` });
  const painted = svg("path", { class: "painted" }), sources = svg("path", { class: "sources" });
  const frame = () => svg("g", { class: "cursor", visibility: "hidden" }, svg("rect", { class: "outer" }), svg("rect", { class: "inner" }));
  const cursor = frame(), readCell = frame();
  const pattern = svg("pattern", { id: hatch, width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
    svg("rect", { width: 6, height: 6, fill: "rgb(0 0 0 / 45%)" }), svg("rect", { width: 2, height: 6, fill: "white" }));
  const overlay = svg("svg", { class: "overlay", "aria-hidden": "true" }, svg("defs", {}, pattern), forbidden, sources, painted, cursor, readCell, pins);
  const stage = html("div", { class: "stage", tabindex: 0, role: "application" }, picture, heat, overlay);
  const hint = html("span", { class: "muted" }), facts = FACTS.map((name) => html("span", {}, name === "position" ? "" : `${name} `, html("b")));
  const readout = html("p", { class: "readout", "aria-hidden": "true" }, hint, ...facts);
  const node = html("section", { class: "card view" }, html("div", { class: "row title" }, label, gamma, about), step.node, stage, readout);

  const at = (event) => {
    const cell = (part, count) => clamp(Math.floor(part * count), 0, count - 1);
    return layer.tokens.length + cell(event.offsetY / tall, layer.rows) * layer.side + cell(event.offsetX / size, layer.side);
  };
  stage.addEventListener("pointermove", (event) => actions.hover(at(event), event, size));
  stage.addEventListener("pointerleave", () => actions.hover(null));
  stage.addEventListener("blur", () => actions.hover(null));
  stage.addEventListener("pointerdown", (event) => {
    if (event.button === 0 && actions.press(at(event), event)) stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointerup", actions.release);
  stage.addEventListener("pointercancel", actions.release);
  stage.addEventListener("click", (event) => actions.click(at(event), event.shiftKey));
  stage.addEventListener("keydown", actions.key);

  /** The rectangle of a cell of a map, in CSS pixels. */
  const square = (cell, { side, rows }) => {
    const width = size / side, height = tall / rows;
    return { x: (cell % side) * width, y: Math.floor(cell / side) * height, width, height };
  };

  function drawPins(queries, active) {
    pins.replaceChildren(...queries.flatMap((query, i) => {
      if (!placeOf(layer, query)) return []; // a token is nowhere
      const { x, y, width, height } = square(query - layer.tokens.length, layer), [cx, cy] = [x + width / 2, y + height / 2];
      const style = `--pin: ${PIN_COLOURS[i]}`, name = { class: i === active ? "pin active" : "pin", "data-query": query, style };
      return svg("g", name, svg("circle", { cx, cy, r: i === active ? 10 : 8 }), svg("text", { x: cx, y: cy + 4 }, String(i + 1)));
    }));
  }

  /** Put a frame around a cell of a map (null: around none). */
  function place(frame, cell, map) {
    frame.setAttribute("visibility", cell === null ? "hidden" : "visible");
    if (cell !== null) for (const rect of frame.children) fill(rect, square(cell, map), []);
  }

  const outline = (keys) => keys.filter((key) => key >= layer.tokens.length).map((key) => {
    const { x, y, width, height } = square(key - layer.tokens.length, { side: layer.key_side, rows: layer.key_rows });
    return `M${x} ${y}h${width}v${height}h${-width}z`;
  }).join("");
  const drawForbidden = (keys) => forbidden.setAttribute("d", outline(keys));

  /** Mark keys that have the values of others, `shift` = [rows, columns] away, and those if they are in this image. */
  function drawPainted(keys, shift) {
    painted.setAttribute("d", outline(keys));
    sources.setAttribute("d", outline(shift.some(Boolean) ? keys.map((key) => key + shift[0] * layer.key_side + shift[1]) : []));
  }

  return {
    node,
    drawForbidden,
    drawPainted,
    /** Frame the cell of a map whose value is read. */
    frameCell: (cell, map) => place(readCell, cell, map),
    /** `inspection` is shown (null: none); `current`: it is the answer to the view. */
    draw(state, inspection, current, newSize) {
      const { view } = state, info = state.catalog[index];
      tall = inspection ? (newSize * inspection.height) / inspection.size : newSize;
      [layer, size, seen, steps] = [state.layer, newSize, inspection, view.source === "recorded" ? info.recorded : info.steps];
      label.hidden = state.catalog.length < 2;
      label.textContent = `${"ab"[index]} · ${info.label}`;
      label.title = info.about;
      gamma.textContent = seen && seen.gamma !== null ? (info.gamma0 ? "γ set to 0" : `γ ${format(Number(seen.gamma.toPrecision(3)))}`) : "";
      about.textContent = seen ? [...(seen.logit == null ? [] : [`logit ${format(seen.logit)}`]), seen.about].join(" · ") : "";
      about.title = about.textContent;
      step.show(steps.indexOf(steps.includes(view.steps[index]) ? view.steps[index] : seen?.step), steps.length - 1);
      step.node.hidden = steps.length < 2;
      node.style.width = `${size + 24}px`;
      const lines = (size >= 470 ? 2 : size >= 370 ? 3 : 4) + Math.sign(layer.tokens.length);
      readout.style.height = `${1.35 * lines}em`; // the view must not jump while the pointer moves
      [stage.style.width, stage.style.height] = [`${size}px`, `${tall}px`];
      stage.classList.toggle("stale", !current);
      stage.dataset.tool = view.tool;
      stage.setAttribute("aria-label", `${info.label}, ${layer.label}: arrow keys move over its places, Enter pins one`);
      overlay.setAttribute("viewBox", `0 0 ${size} ${tall}`);
      heat.style.opacity = opacity = view.opacity;
      heat.classList.toggle("smooth", view.smooth);
      if (seen) paintPicture(picture, seen.image, seen.size);
      drawPins(view.pins, view.active);
      drawForbidden(view.forbid);
      drawPainted(view.paint, view.paint_from === null ? view.paint_shift : [0, 0]);
    },
    /** Draw what follows the pointer: a map, its query, and the cell under the pointer. */
    paint(map, query, hovered, scale, tables, hintText) {
      [heat.values, heat.query] = [map?.values ?? null, query];
      if (map) paintHeat(heat, map.values, tables[scale.table], scale.at(map), map.side);
      else clear(heat);
      picture.classList.toggle("grey", Boolean(map) && opacity > 0); // so that colours are those of the scale
      place(cursor, hovered === null ? null : hovered - layer.tokens.length, layer);
      const values = seen && query !== null ? describe(seen, query) : null;
      hint.hidden = Boolean(values) && map !== null;
      hint.textContent = hintText;
      facts.forEach((span, i) => {
        span.hidden = values?.[FACTS[i]] === undefined;
        if (!span.hidden) span.lastChild.textContent = values[FACTS[i]];
      });
      return values ? FACTS.filter((name) => values[name] !== undefined).map((name) => `${name === "position" ? "" : name} ${values[name]}`).join(", ") : "";
    },
  };
}
