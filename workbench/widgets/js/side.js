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
  const toCell = ({ offsetX, offsetY }) => [offsetX / canvas.clientWidth, offsetY / canvas.clientHeight].map((part) =>
    clamp(Math.floor(part * canvas.width), 0, canvas.width - 1));
  for (const type of ["pointermove", "pointerdown"]) canvas.addEventListener(type, (event) => readAt(toCell(event)));
  canvas.addEventListener("pointerleave", () => readAt(null));
  reader.addEventListener("blur", () => readAt(null));
  reader.addEventListener("keydown", (event) => {
    const move = MOVES[event.key];
    if (!move) return;
    event.preventDefault();
    const middle = Math.floor(canvas.width / 2);
    readAt(at ? at.map((part, i) => clamp(part + move[i], 0, canvas.width - 1)) : [middle, middle]);
  });

  /** The value of the cell that is read, in words. */
  function drawValue() {
    const readable = at && shown && shown.panel !== "images";
    const [first] = readable ? shown.maps : [];
    const cellOf = ({ side }) => {
      const [column, row] = at.map((part) => Math.floor((part * side) / canvas.width));
      return row * side + column;
    };
    frameCell(readable && shown.panel === "map" ? cellOf(first) : null, first?.side);
    if (!readable) return say(value, "");
    const numbers = shown.maps.map((map) => format(Number(map.values[cellOf(map)].toPrecision(3))));
    const { reference } = first, times = reference && format(Number((first.values[cellOf(first)] / reference.value).toPrecision(2)));
    const words = numbers.length > 1 ? `a ${numbers[0]}, b ${numbers[1]}` : `${numbers[0]}${times ? `, ${times} × ${reference.name}` : ""}`;
    say(value, `${shown.panel === "offsets" ? offsetWords(shown.layer) : placeWords(cellOf(first), first.side, shown)}: ${words}`);
  }

  /** Numbers of rows and columns from the place itself. */
  function drawAxes(hidden, { side }) {
    const ends = [1 - side, 0, side - 1].map((value, i) => `${i === 2 ? "+" : ""}${format(value)}`);
    for (const axis of axes) {
      axis.hidden = hidden;
      if (axis.textContent !== ends.join("")) axis.replaceChildren(...ends.map((text) => html("span", {}, text)));
    }
  }

  const offsetWords = ({ side }) => {
    const [x, y] = at.map((part) => part - side + 1);
    const far = (count, before, after) => (count ? [`${Math.abs(count)} ${count < 0 ? before : after}`] : []);
    return [...far(y, "up", "down"), ...far(x, "left", "right")].join(", ") || "the place itself";
  };

  /** One map, or the difference of two, and its scale; `opacity` is that of the map over the image. */
  function paintMaps(maps, unit, { sequential, tables, opacity }) {
    const side = Math.max(...maps.map((map) => map.side)), [a, b] = maps.map((map) => upsample(map, side));
    if (!b) {
      paintHeat(canvas, a, tables[sequential.table], sequential.at(maps[0]));
      return scale.show(sequential, tables, opacity);
    }
    const values = b.map((value, i) => value - a[i]), signed = differenceScale(values, maps, unit);
    paintHeat(canvas, values, tables[signed.table], signed.at());
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
          paintPicture(canvas, rgb);
          note.textContent = `difference of the images × ${factor}, on grey`;
        }
        if (panel !== "images") canvas.shown = null;
      }
      drawValue();
    },
  };
}

/** Where a cell of a map is, in places of the layer: a pooled key has several. */
function placeWords(cell, side, { layer, reading }) {
  const pool = layer.side / side, [row, column] = [Math.floor(cell / side), cell % side].map((at) => at * pool);
  const key = READINGS[reading].keys ? "key at " : "";
  return pool > 1 ? `${key}rows ${row}–${row + pool - 1}, columns ${column}–${column + pool - 1}` : `${key}row ${row}, column ${column}`;
}
