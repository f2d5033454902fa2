// The latent: sliders for its main directions (model/directions.py), in standard deviations.

import { button, slider } from "./controls.js";
import { html } from "./dom.js";
import { clamp } from "./numbers.js";

export const AMOUNT = 3; // the largest: more is rare among latents
const STEP = 0.05; // so that a latent is met again, and its picture with it

/** Amounts that are moved along the first directions, within the sliders' range, without zeros at the end. */
export function moved(amounts, by) {
  const all = Array.from({ length: Math.max(amounts.length, by.length) }, (_, i) => {
    const steps = Math.round(clamp((amounts[i] ?? 0) + (by[i] ?? 0), -AMOUNT, AMOUNT) / STEP);
    return Number((steps * STEP).toFixed(2));
  });
  while (all.length && !all.at(-1)) all.pop();
  return all;
}

export function latentCard({ change }) {
  const title = html("h3", {}, "Latent"), grid = html("div", { class: "directions" });
  const unit = html("span", { class: "muted", title: "Of the first layer's weight: in which its output varies most. Every checkpoint has its own." },
    "main directions, in standard deviations");
  const reset = button("Reset", "Back to the sample's own latent", () => change({ directions: [] }));
  const node = html("section", { class: "card latent-card", "aria-label": "Latent" },
    html("div", { class: "row" }, title, unit, html("span", { class: "spring" }), reset), grid);
  const sliders = [];
  const write = (value) => `${value > 0 ? "+" : value < 0 ? "−" : ""}${Math.abs(value).toFixed(2)}`;
  let amounts = [];

  function directionOf(i) {
    const set = (value) => change({ directions: moved(amounts, Array.from({ length: i + 1 }, (_, k) => (k === i ? value - (amounts[i] ?? 0) : 0))) });
    const control = slider(`Direction ${i + 1}`, { min: -AMOUNT, max: AMOUNT, step: STEP, write }, set);
    control.node.firstChild.textContent = ["1 ↔", "2 ↕"][i] ?? String(i + 1);
    return control;
  }

  return {
    node,
    draw({ view, catalog }, frozen) {
      amounts = view.directions;
      node.hidden = frozen || view.source !== "samples" || (view.tool !== "drag" && !amounts.length);
      if (node.hidden) return;
      while (sliders.length < catalog[0].directions) grid.append(sliders[sliders.push(directionOf(sliders.length)) - 1].node);
      sliders.forEach((control, i) => control.show(amounts[i] ?? 0));
      reset.disabled = !amounts.length;
    },
  };
}
