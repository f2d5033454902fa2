// The tools for the image, what each does, and where the paint comes from.

import { button, segmented } from "./controls.js";
import { html } from "./dom.js";
import { keysOf } from "./maps.js";
import { canvasOf, paintPicture } from "./paint.js";

const TOOLS = [
  { value: "pin", name: "Pin", about: "Click a place to see where it looks",
    help: "Click a place to see where it looks; shift-click to pin several." },
  { value: "drag", name: "✥ Drag latent", about: "Drag on the image to move its latent",
    help: "Drag, or press arrow keys: across is main direction 1 of the latent, up is 2." },
  { value: "brush", name: "✎ Knock out", about: "Forbid attention to places",
    help: "Brush over places: nothing may look there. Brush again to allow them." },
  { value: "paint", name: "▧ Paint", about: "Put values of another place or image into places",
    help: "Brush over places: who looks there gets the source's values. Brush again to restore." },
];
const HERE = "here";

/** The tools for images of a source; a page has no network to run. */
export function toolsFor(source, { kinds, tools }) {
  const works = { drag: source === "samples", brush: source !== "recorded", paint: source !== "recorded" };
  return TOOLS.filter(({ value }) => value === "pin" || (!kinds && tools.includes(value) && works[value]));
}

export function toolCard({ change, undo }) {
  const group = segmented("Tool", (tool) => pick(tool === view.tool ? "pin" : tool)); // a second click puts the tool away
  const back = button("↶ Undo", "Take back the last change of the latent or the intervention (Ctrl+Z)", undo), help = html("p", { class: "muted" });
  const from = html("select", { "aria-label": "Values from" }), picture = canvasOf("source"), summary = html("span", { class: "muted" });
  const clearAll = button("Clear", "Every place has its own values again", () => change({ paint: [] }));
  const source = html("div", { class: "row" }, html("label", { class: "row" }, "Values from", from), picture, clearAll, summary);
  const node = html("section", { class: "tool-card", "aria-label": "Tools" }, html("div", { class: "row" }, group.node, back), help, source);
  let view, offered = [], drawn = "";
  from.addEventListener("change", () => {
    change({ paint: [], paint_from: from.value === HERE ? null : Number(from.value) });
  });

  /** The paint is at first that of a neighbour in the strip. */
  function pick(tool) {
    const neighbour = offered.find(({ sample }) => sample > view.sample) ?? offered.at(-1);
    const fresh = tool === "paint" && !view.paint.length && view.paint_from === null && !view.pins.length && neighbour;
    change({ tool, ...(fresh && { paint_from: neighbour.sample }) });
  }

  function drawSources() {
    const rest = view.paint_from === null || offered.some(({ sample }) => sample === view.paint_from) ? [] : [{ sample: view.paint_from, label: "" }];
    const pin = view.active >= 0 ? `this image, from pin ${view.active + 1}` : "this image";
    const options = [[HERE, pin], ...[...offered, ...rest].map(({ sample, label }) => [String(sample), `${label.split(",")[0]} ${sample}`.trim()])];
    const text = JSON.stringify(options);
    if (text !== drawn) from.replaceChildren(...options.map(([value, name]) => html("option", { value }, name)));
    drawn = text;
    from.value = view.paint_from ?? HERE;
    const chosen = offered.find(({ sample }) => sample === view.paint_from);
    picture.hidden = !chosen;
    if (chosen) paintPicture(picture, chosen.image);
  }

  return {
    node,
    /** `strip` is the page of images to choose from, or null. */
    draw(state, strip, undoable) {
      view = state.view;
      offered = (strip?.images ?? []).map((image, i) => ({ sample: strip.start + i, label: strip.labels[i], image }))
        .filter(({ sample }) => sample !== view.sample);
      const tools = toolsFor(view.source, state.catalog[0]);
      node.hidden = tools.length < 2;
      group.show(tools.map(({ value, name, about }) => ({ value, name, about })), view.tool);
      back.disabled = !undoable;
      help.textContent = tools.find(({ value }) => value === view.tool).help;
      source.hidden = view.tool !== "paint" && !view.paint.length;
      if (source.hidden || node.hidden) return;
      drawSources();
      clearAll.disabled = !view.paint.length;
      const count = view.paint.length, waiting = view.paint_from === null && view.active < 0;
      summary.textContent = count ? `${count} of ${keysOf(state.layer)} keys` : waiting ? "click the place to copy from, then brush" : "";
    },
  };
}
