// Interventions on the attention of the layer: the controls, and the images before and after.

import { button, segmented, slider, toggle } from "./controls.js";
import { html } from "./dom.js";
import { keysOf } from "./maps.js";
import { format } from "./numbers.js";
import { canvasOf, crisp, difference, paintPicture } from "./paint.js";

/** `measured` is a node below the results. */
export function whatIfCard({ change }, measured) {
  const gamma0 = toggle("γ = 0", "Switch attention off: the layer returns its input", (on) => change({ gamma0: on, gamma: null }));
  const writeGamma = (value) => (value == null ? "" : format(Number(value.toPrecision(2))));
  const gamma = slider("γ", { min: -4, max: 4, step: 0.05, write: writeGamma }, (value) => change({ gamma0: false, gamma: value }));
  const learned = button("learned γ", "The γ of the training", () => change({ gamma0: false, gamma: null }));
  const map = segmented("Attention map", (replace) => change({ replace }));
  const scope = segmented("Knocked out for", (value) => change({ scope: value }));
  const clearAll = button("Clear", "Allow all places again", () => change({ forbid: [] })), summary = html("span", { class: "muted" });
  const controls = html("div", { class: "row controls" },
    html("h3", {}, "What if"), gamma0.node, gamma.node, learned, map.node, scope.node, clearAll, summary);
  const results = html("div", { class: "results" });
  const node = html("section", { class: "card what-if", "aria-label": "What if" }, controls, results, measured);
  const replacements = [
    { value: "", name: "learned map", about: "Attend as learned" },
    { value: "uniform", name: "uniform", about: "Every place looks at all places alike" },
    { value: "local", name: "local", about: "Every place looks only at the 3×3 places around it, alike" },
  ];
  const scopes = [
    { value: "all", name: "for all places", about: "No place may look there" },
    { value: "pins", name: "for the pins", about: "Only the pinned places may not look there" },
  ];

  function triple() {
    const figures = ["before", "after", "difference"].map((name) => html("figure", {}, canvasOf(name), html("figcaption")));
    return { node: html("div", { class: "triple" }, html("p"), ...figures), figures };
  }
  const triples = [];

  function drawTriple({ node, figures }, seen, label, width) {
    node.style.width = `${width}px`;
    const title = [label, seen.logit_after == null ? "" : `logit ${format(seen.logit)} → ${format(seen.logit_after)}`];
    node.firstChild.textContent = title.filter(Boolean).join(": ");
    figures.forEach((figure) => (figure.hidden = !seen.after));
    if (!seen.after) return;
    const change = difference(seen.image, seen.after);
    const captions = ["before", "after", change.most ? `difference × ${change.factor}` : "no difference"];
    [seen.image, seen.after, change.rgb].forEach((rgb, i) => {
      const canvas = figures[i].firstChild;
      paintPicture(canvas, rgb, seen.size);
      canvas.style.width = `${crisp(seen.size, (width - 16) / 3)}px`;
      figures[i].lastChild.textContent = captions[i];
    });
  }

  return {
    node,
    draw(state, inspections, width, frozen) {
      const { view } = state;
      const on = view.gamma0 || view.gamma != null || view.replace || view.forbid.length || view.paint.length;
      controls.hidden = frozen;
      node.hidden = (frozen && !on) || view.source === "recorded";
      gamma0.show(view.gamma0);
      gamma.show(view.gamma0 ? 0 : view.gamma ?? inspections[0]?.gamma);
      learned.hidden = view.gamma == null;
      map.show(replacements, view.replace);
      scope.show(scopes, view.scope);
      scope.node.hidden = clearAll.hidden = !view.forbid.length;
      const keys = view.forbid.length, idle = keys && view.scope === "pins" && !view.pins.length;
      const count = `${keys} of ${keysOf(state.layer)} keys`;
      summary.textContent = idle ? "pin a place first" : keys ? `knocked out: ${count}` : "";
      results.hidden = !on;
      if (!on) return;
      const pair = state.catalog.length > 1;
      inspections.forEach((seen, i) => {
        triples[i] ??= triple();
        if (!triples[i].node.isConnected) results.append(triples[i].node);
        triples[i].node.hidden = !seen || (!seen.after && seen.logit_after == null);
        if (!triples[i].node.hidden) drawTriple(triples[i], seen, pair ? `${"ab"[i]} · ${state.catalog[i].label}` : "", width);
      });
    },
  };
}
