// The row of controls: network, layer, weights and reading.

import { segmented } from "./controls.js";
import { html } from "./dom.js";
import { READINGS } from "./maps.js";

const NETWORKS = { G: "Generator", D: "Discriminator" };
const WEIGHTS = { ema: "EMA", raw: "raw" };

export function toolbarOf({ change, pickLayer }) {
  const networks = segmented("Network", (network) => pickLayer(state.layers.find((layer) => layer.network === network).id));
  const layers = segmented("Attention layer", pickLayer);
  const weights = segmented("Weights", (value) => change({ weights: value }));
  const readings = ["one place", "all places"].map((label) => segmented(`Reading, ${label}`, (reading) => change({ reading })));
  const caption = (text, { node }) => html("span", { class: "row" }, html("span", { class: "muted" }, text), node);
  const meaning = html("span", { class: "muted meaning" });
  const node = html("div", { class: "row controls" }, networks.node, layers.node, weights.node,
    caption("one place", readings[0]), caption("all places", readings[1]), meaning);
  let state;

  return {
    node,
    /** `used`: the weights of the shown image. */
    draw(next, used) {
      state = next;
      const { view, layer } = state, kinds = [...new Set(state.layers.map(({ network }) => network))];
      networks.show(kinds.map((value) => ({ value, name: value, about: NETWORKS[value] })), layer.network);
      networks.node.hidden = kinds.length < 2;
      const ofNetwork = state.layers.filter(({ network }) => network === layer.network);
      layers.show(ofNetwork.map(({ id, label }) => ({ value: id, name: label.split(" · ").at(-1), about: label })), layer.id);
      const saved = Object.keys(WEIGHTS).filter((value) => state.catalog.some((info) => info.weights.includes(value)));
      const shown = state.catalog[0].weights.includes(view.weights) ? view.weights : used;
      weights.show(saved.map((value) => ({ value, name: WEIGHTS[value], about: "Weights of the generator" })), shown);
      weights.node.hidden = saved.length < 2 || view.source === "recorded";
      const available = Object.entries(READINGS).filter(([value]) => state.causal || value !== "causal");
      readings.forEach(({ show }, all) => {
        const group = available.filter(([, { row }]) => Boolean(all) === (row !== undefined));
        show(group.map(([value, { name, about }]) => ({ value, name, about })), view.reading);
      });
      const { about, keys } = READINGS[view.reading], pool = layer.side / layer.key_side;
      meaning.textContent = `${about}${keys && pool > 1 ? ` Keys are pooled: each stands for ${pool}×${pool} places.` : ""}`;
    },
  };
}
