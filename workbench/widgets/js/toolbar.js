// The row of controls: network, layer, head, tokens, weights and reading.

import { segmented } from "./controls.js";
import { html } from "./dom.js";
import { READINGS } from "./maps.js";

const NETWORKS = { G: "Generator", D: "Discriminator" };
const WEIGHTS = { ema: "EMA", raw: "raw" };

export function toolbarOf({ change, pickLayer, pin }) {
  const networks = segmented("Network", (network) => pickLayer(state.layers.findLast((layer) => layer.network === network).id));
  const layers = segmented("Attention layer", pickLayer);
  const heads = segmented("Head", (head) => change({ head })), tokens = segmented("Token", (token) => pin(token, false));
  const weights = segmented("Weights", (value) => change({ weights: value }));
  const readings = ["one place", "all places"].map((label) => segmented(`Reading, ${label}`, (reading) => change({ reading })));
  const caption = (text, { node }) => html("span", { class: "row" }, html("span", { class: "muted" }, text), node);
  const meaning = html("span", { class: "muted meaning" });
  const [headsNode, tokensNode] = [caption("head", heads), caption("token", tokens)];
  const node = html("div", { class: "row controls" }, networks.node, layers.node, headsNode, tokensNode, weights.node,
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
      const numbers = Array.from({ length: layer.heads }, (_, head) => ({ value: head, name: head, about: `Head ${head} alone` }));
      const choices = [{ value: -1, name: "mean", about: "The mean of the maps of all heads" }, ...numbers];
      heads.show(choices.filter(({ value }) => !state.catalog[0].kinds || value === view.head), view.head); // a page holds one
      headsNode.hidden = layer.heads < 2;
      const named = layer.tokens.map((name, value) => ({ value, name, about: `Pin the ${name} token: it is a query, but no place` }));
      tokens.show(named, view.pins[view.active]);
      tokensNode.hidden = !layer.tokens.length;
      const saved = Object.keys(WEIGHTS).filter((value) => state.catalog.some((info) => info.weights.includes(value)));
      const shown = state.catalog[0].weights.includes(view.weights) ? view.weights : used;
      weights.show(saved.map((value) => ({ value, name: WEIGHTS[value], about: "Weights of the generator" })), shown);
      weights.node.hidden = saved.length < 2 || view.source === "recorded";
      const available = Object.entries(READINGS).filter(([value]) => state.causal || value !== "causal");
      readings.forEach(({ show }, all) => {
        const group = available.filter(([, { row }]) => Boolean(all) === (row !== undefined));
        show(group.map(([value, { name, about }]) => ({ value, name, about })), view.reading);
      });
      const { about, keys } = READINGS[view.reading], [down, across] = [layer.rows / layer.key_rows, layer.side / layer.key_side];
      meaning.textContent = `${about}${keys && down * across > 1 ? ` Keys are pooled: each stands for ${down}×${across} places.` : ""}`;
    },
  };
}
