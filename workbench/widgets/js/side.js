// The map without the image below it, its values at the pointer, and its colour scale; in a comparison, the difference.

import { scaleBar, segmented } from "./controls.js";
import { html, say } from "./dom.js";
import { READINGS, upsample } from "./maps.js";
import { clamp, format } from "./numbers.js";
import { canvasOf, difference, paintHeat, paintPicture } from "./paint.js";
import { differenceScale, scaleOf } from "./scale.js";

const OFFSETS = { value: "offsets", name: "By offset", about: "Where the places of these samples look on average, relative to themselves" };
const PANELS = [[{ value: "map", name: "Map" }, OFFSETS], [{ value: "map", name: "Maps" }, { value: "images", name: "Images" }, OFFSETS]];
const MOVES = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] };

/** `frameCell(cell, side)` frames the cell of a map that is read, or none. */
export function sideCard(onPanel, frameCell) {
  const tabs = segmented("What the side view shows", onPanel);
  const canvas = canvasOf("plain"), note = html("p", { class: "muted" }), scale = scaleBar(), other = scaleBar();
  const axes = ["across", "down"].map((name) => html("div", { class: `axis ${name}`, "aria-hidden": "true" }));
  const reader = html("div", { class: "reader", tabindex: 0, role: "application", "aria-label": "Values: arrow keys move over the map" },
    canvas, ...axes);
  const value = html("p", { class: "value", role: "status" });
  const mapsScale = html("div", { class: "maps-scale" }, html("h3", {}, "Maps on the images"), other.node);
  const title = html("h3", {}, "Difference b − a");
  const node = html("section", { class: "card side", "aria-label": "Side view" }, title, tabs.node,
    html("div", { class: "split" }, reader, html("div", { class: "legends" }, value, scale.node, note, mapsScale)));
  let at = null, shown = null; // column and row that are read; {panel, maps, layer, reading}

  function readAt(next) {
    at = next;
    drawValue();
  }
  const toCell = ({ offsetX, offsetY }) => [[offsetX / canvas.clientWidth, canvas.width], [offsetY / canvas.clientHeight, canvas.height]]
    .map(([part, count]) => clamp(Math.floor(part * count), 0, count - 1));
  for (const type of ["pointermove", "pointerdown"]) canvas.addEventListener(type, (event) => readAt(toCell(event)));
  canvas.addEventListener("pointerleave", () => readAt(null));
  reader.addEventListener("blur", () => readAt(null));
  reader.addEventListener("keydown", (event) => {
    const move = MOVES[event.key];
    if (!move) return;
    event.preventDefault();
    const sizes = [canvas.width, canvas.height];
    readAt(sizes.map((count, i) => (at ? clamp(at[i] + move[i], 0, count - 1) : Math.floor(count / 2))));
  });

  /** The value of the cell that is read, in words. */
  function drawValue() {
    const readable = at && shown && shown.panel !== "images";
    const [first] = readable ? shown.maps : [];
    const cellOf = ({ side, rows }) => Math.floor((at[1] * rows) / canvas.height) * side + Math.floor((at[0] * side) / canvas.width);
    frameCell(readable && shown.panel === "map" ? cellOf(first) : null, first);
    if (!readable) return say(value, "");
    const numbers = shown.maps.map((map) => format(Number(map.values[cellOf(map)].toPrecision(3))));
    const { reference } = first, times = reference && format(Number((first.values[cellOf(first)] / reference.value).toPrecision(2)));
    const words = numbers.length > 1 ? `a ${numbers[0]}, b ${numbers[1]}` : `${numbers[0]}${times ? `, ${times} × ${reference.name}` : ""}`;
    say(value, `${shown.panel === "offsets" ? offsetWords(shown.layer) : placeWords(cellOf(first), first, shown)}: ${words}`);
  }

  /** Numbers of rows and columns from the place itself. */
  function drawAxes(hidden, { side, rows }) {
    for (const [axis, count] of [[axes[0], side], [axes[1], rows]]) {
      const ends = [1 - count, 0, count - 1].map((value, i) => `${i === 2 ? "+" : ""}${format(value)}`);
      axis.hidden = hidden;
      if (axis.textContent !== ends.join("")) axis.replaceChildren(...ends.map((text) => html("span", {}, text)));
    }
  }

  const offsetWords = ({ side, rows }) => {
    const [x, y] = [at[0] - side + 1, at[1] - rows + 1];
    const far = (count, before, after) => (count ? [`${Math.abs(count)} ${count < 0 ? before : after}`] : []);
    return [...far(y, "up", "down"), ...far(x, "left", "right")].join(", ") || "the place itself";
  };

  /** One map, or the difference of two, and its scale; `opacity` is that of the map over the image. */
  function paintMaps(maps, unit, { sequential, tables, opacity }) {
    const larger = maps.reduce((most, map) => (map.values.length > most.values.length ? map : most));
    const [a, b] = maps.map((map) => upsample(map, larger));
    if (!b) {
      paintHeat(canvas, a, tables[sequential.table], sequential.at(maps[0]), larger.side);
      return scale.show(sequential, tables, opacity);
    }
    const values = b.map((value, i) => value - a[i]), signed = differenceScale(values, maps, unit);
    paintHeat(canvas, values, tables[signed.table], signed.at(), larger.side);
    scale.show(signed, tables);
    if (values.every((value) => !value)) note.textContent = "No difference.";
  }

  return {
    node,
    paint({ state, inspections, maps, offsets, sequential, tables }) {
      const pair = state.catalog.length > 1, { panel, opacity, reading } = state.view, { unit } = READINGS[reading];
      title.hidden = !pair;
      const options = PANELS[Number(pair)].filter((option) => option !== OFFSETS || state.offsets);
      tabs.show(options, panel);
      tabs.node.hidden = options.length < 2;
      drawAxes(panel !== "offsets", state.layer);
      canvas.classList.toggle("smooth", state.view.smooth && panel === "map");
      const ready = { map: maps, images: inspections, offsets }[panel].every(Boolean);
      canvas.classList.toggle("stale", !ready);
      const { size, height } = inspections[0] ?? { size: 1, height: 1 };
      const [across, down] = panel === "offsets" ? [2 * state.layer.side - 1, 2 * state.layer.rows - 1] : [size, height];
      canvas.style.aspectRatio = `${across} / ${down}`;
      scale.node.hidden = !ready || panel === "images";
      mapsScale.hidden = !pair || !maps.every(Boolean);
      if (!mapsScale.hidden) other.show(sequential, tables, opacity);
      note.textContent = panel !== "offsets" ? "" : ready ? "The centre is the place itself; rows and columns count from there." : "averaging over samples…";
      shown = ready ? { panel, maps: panel === "offsets" ? offsets : maps, layer: state.layer, reading } : null;
      if (ready) {
        const unitOfOffsets = "mean weight by offset";
        if (panel === "map") paintMaps(maps, unit, { sequential, tables, opacity });
        else if (panel === "offsets") paintMaps(offsets, unitOfOffsets, { sequential: scaleOf(offsets, unitOfOffsets, state.relative), tables });
        else {
          const { rgb, factor } = difference(inspections[0].image, inspections[1].image);
          paintPicture(canvas, rgb, inspections[0].size);
          note.textContent = `difference of the images × ${factor}, on grey`;
        }
        if (panel !== "images") canvas.shown = null;
      }
      drawValue();
    },
  };
}

/** Where a cell of a map is, in places of the layer: a pooled key has several. */
function placeWords(cell, { side, rows }, { layer, reading }) {
  const key = READINGS[reading].keys ? "key at " : "";
  const words = (name, at, pool) => (pool > 1 ? `${name}s ${at * pool}–${(at + 1) * pool - 1}` : `${name} ${at}`);
  return `${key}${words("row", Math.floor(cell / side), layer.rows / rows)}, ${words("column", cell % side, layer.side / side)}`;
}
