// The view that the address of an exported page names after "#", as far as the page holds it.

import { HELD } from "./answers.js";
import { viewOf } from "./line.js";

const OF_LAYER = ["forbid", "paint", "paint_from", "paint_shift"]; // held for the layer that the page was exported with

/** The view, null if there is none, and what is `lost` of it, in words; `opened` is the view that the page was exported with. */
export function addressedView(text, catalog, defaults, opened) {
  if (!text) return { view: null, lost: "" };
  try {
    return heldView(viewOf(text, catalog, defaults), catalog, opened);
  } catch (error) {
    return { view: null, lost: error.message };
  }
}

function heldView({ run, view }, catalog, opened) {
  const [info] = catalog, lost = [];
  const take = (name, held) => {
    if (held) return;
    lost.push(name);
    view[name] = opened[name];
  };
  const same = (name) => JSON.stringify(view[name]) === JSON.stringify(opened[name]);
  take("layer", !view.layer || catalog.every(({ layers }) => layers.some(({ id }) => id === view.layer)));
  take("sample", info.samples.includes(view.sample));
  for (const name of HELD) take(name, same(name));
  take("steps", !view.steps.length || same("steps"));
  view.steps = opened.steps;
  if (view.layer === opened.layer) for (const name of OF_LAYER) take(name, same(name));
  else view.forbid = view.paint = [];
  const words = [run === info.name ? "" : `This page shows ${info.name}, not ${run}.`, lost.length ? `This page does not hold the ${lost.join(", ")} of that view.` : ""];
  return { view, lost: words.filter(Boolean).join(" ") };
}
