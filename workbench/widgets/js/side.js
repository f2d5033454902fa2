// The map without the image below it, and its colour scale; in a comparison, the difference.

import { scaleBar, segmented } from "./controls.js";
import { html } from "./dom.js";
import { upsample } from "./maps.js";
import { extent, largest } from "./numbers.js";
import { canvasOf, difference, paintHeat, paintPicture } from "./paint.js";

const OFFSETS = { value: "offsets", name: "By offset", about: "Where the places of these samples look on average, relative to themselves" };
const PANELS = [[{ value: "map", name: "Map" }, OFFSETS], [{ value: "map", name: "Maps" }, { value: "images", name: "Images" }, OFFSETS]];

export function sideCard(onPanel) {
  const tabs = segmented("What the side view shows", onPanel);
  const canvas = canvasOf("plain"), note = html("p", { class: "muted" }), scale = scaleBar(), other = scaleBar();
  const mapsScale = html("div", { class: "maps-scale" }, html("h3", {}, "Maps on the images"), other.node);
  const title = html("h3", {}, "Difference b − a");
  const node = html("section", { class: "card side", "aria-label": "Side view" }, title, tabs.node,
    html("div", { class: "split" }, canvas, html("div", { class: "legends" }, scale.node, note, mapsScale)));

  /** One map, or the difference of two, and its scale. */
  function paintMaps(maps, { plain: sequential, diverging }, high, unit, mark) {
    const side = Math.max(...maps.map((map) => map.side)), [a, b] = maps.map((map) => upsample(map, side));
    if (!b) {
      paintHeat(canvas, a, sequential, 0, high);
      return scale.show(sequential, 0, high, unit, mark);
    }
    const values = b.map((value, i) => value - a[i]), most = extent(values);
    paintHeat(canvas, values, diverging, -most || -1, most || 1); // where nothing differs, all has the middle colour
    scale.show(diverging, -most, most, unit);
    if (!most) note.textContent = "No difference.";
  }

  return {
    node,
    paint({ state, panel, frozen, inspections, maps, offsets, high, tables, map: { unit, mark } }) {
      const pair = state.catalog.length > 1;
      title.hidden = !pair;
      const askable = frozen ? offsets.every(Boolean) : state.view.source !== "recorded";
      const options = PANELS[Number(pair)].filter((option) => option !== OFFSETS || askable);
      tabs.show(options, panel);
      tabs.node.hidden = options.length < 2;
      canvas.classList.toggle("smooth", state.view.smooth && panel === "map");
      const ready = { map: maps, images: inspections, offsets }[panel].every(Boolean);
      canvas.classList.toggle("stale", !ready);
      scale.node.hidden = !ready || panel === "images";
      mapsScale.hidden = !pair || !maps.every(Boolean);
      if (!mapsScale.hidden) other.show(tables.plain, 0, high, unit, mark);
      note.textContent = panel !== "offsets" ? "" : ready ? "The centre is the place itself." : "averaging over samples…";
      if (!ready) return;
      if (panel === "map") paintMaps(maps, tables, high, unit, mark);
      else if (panel === "offsets") paintMaps(offsets, tables, largest(offsets[0].values), "mean weight by offset of the key");
      else {
        const { rgb, factor } = difference(inspections[0].image, inspections[1].image);
        paintPicture(canvas, rgb);
        note.textContent = `difference of the images × ${factor}, on grey`;
      }
      if (panel !== "images") canvas.shown = null;
    },
  };
}
