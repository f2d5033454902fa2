// Layers × checkpoints: the map of one place in every attention layer, at steps of the training, on one scale.

import { scaleBar, toggle } from "./controls.js";
import { html, say } from "./dom.js";
import { largest } from "./numbers.js";
import { canvasOf, clear, paintHeat, paintPicture } from "./paint.js";
import { scaleOf, short } from "./scale.js";
import { movePins, stepsOf } from "./state.js";

const UNIFORM = { value: 1, name: "uniform" };
const CLIPPED = 0.75; // share of the maps that fit the scale from 0, as in figures/overview.py
const PACE = 40; // ms between paintings while the pointer moves

/** Weights of a query relative to a uniform map, and their entropy as a share of its entropy. */
function timesOf({ query, key, d }, q) {
  const values = new Float32Array(key.length / d);
  for (let m = 0, k = 0; m < values.length; m++) for (let c = q * d, end = c + d; c < end; c++, k++) values[m] += query[c] * key[k];
  const top = values.reduce((a, b) => Math.max(a, b), -Infinity);
  let sum = 0, entropy = 0;
  for (let m = 0; m < values.length; m++) sum += values[m] = Math.exp(values[m] - top);
  for (let m = 0; m < values.length; m++) {
    const weight = values[m] / sum;
    entropy -= weight && weight * Math.log(weight);
    values[m] = weight * values.length;
  }
  return { values, side: Math.sqrt(values.length), reference: UNIFORM, entropy: entropy / Math.log(values.length) };
}

/** From 0 to the maximum of three maps in four, so that a few sharp maps do not leave the others dark; or in octaves around uniform. */
function scaleOfTimes(maps, relative) {
  if (relative || !maps.length) return scaleOf(maps, "weight × number of keys", relative);
  const maxima = maps.map(({ values }) => largest(values)).sort((a, b) => a - b), most = maxima.at(-1);
  const high = maxima[Math.ceil(CLIPPED * (maxima.length - 1))], mark = { at: 1 / high, text: "uniform 1" };
  const unit = `× uniform${most > high ? `, the brightest up to ${short(most)}` : ""}`;
  return { table: "plain", at: () => (value) => value / high, low: "0", high: short(high), mark, unit };
}

/** The steps of the columns: evenly chosen by Python, and the one that is shown. */
export function columnsOf(state) {
  const even = state.catalog[0].columns[state.view.source === "recorded" ? "recorded" : "samples"], { shown } = stepsOf(state, 0);
  return [...new Set([...even, ...(shown === undefined ? [] : [shown])])].sort((a, b) => a - b);
}

/** `enter(layer, step)` goes to a cell. */
export function overviewCard({ change, enter }) {
  const about = "The map of this place in every attention layer, at steps of the training";
  const opener = toggle("Layers × checkpoints", about, (on) => change({ overview: on }));
  const note = html("p", { class: "muted", role: "status" }), scale = scaleBar(), lanes = html("div", { class: "lanes" });
  const body = html("div", { class: "body" }, lanes, html("div", { class: "legends" }, scale.node, note));
  const node = html("section", { class: "card overview", "aria-label": "Layers and checkpoints" }, html("div", { class: "row" }, opener.node), body);
  let built = "", cells = [], heads = [], state, columns, query = null, tables, frozen, due = 0;

  function build(layers, steps) {
    const lane = (name, content) => html("div", { class: "lane" }, html("h3", {}, name), html("div", { class: "cells" }, ...content));
    heads = steps.map((step) => {
      const canvas = canvasOf("thumb"), caption = html("figcaption", {}, step.toLocaleString("en"));
      return { canvas, caption, step, node: html("figure", {}, canvas, caption) };
    });
    cells = layers.flatMap((layer) => steps.map((step, column) => {
      const canvas = canvasOf("glance"), spot = html("i"), words = html("span", { class: "words" });
      const small = html("span", { class: "step muted" }, step.toLocaleString("en"));
      const button = html("button", { type: "button" }, html("span", { class: "picture" }, canvas, spot), small, words);
      button.addEventListener("click", () => enter(layer.id, step));
      return { layer, step, column, canvas, spot, words, node: button };
    }));
    const rows = layers.map((layer) => lane(layer.label, cells.filter((cell) => cell.layer === layer).map((cell) => cell.node)));
    lanes.replaceChildren(lane("step", heads.map((head) => head.node)), ...rows);
    lanes.style.setProperty("--columns", steps.length);
  }

  lanes.addEventListener("keydown", (event) => {
    const at = cells.findIndex((cell) => cell.node === event.target), across = heads.length;
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across }[event.key];
    if (at < 0 || !by) return;
    event.preventDefault();
    cells[at + by]?.node.focus();
  });

  function words() {
    if (query === null) return "Pin a place, or move over the image.";
    const whose = state.catalog.length > 1 ? `Of a, ${state.catalog[0].label}, alone. ` : "";
    const errors = columns.filter(({ error }) => error).map(({ step, error }) => ` Step ${step.toLocaleString("en")}: ${error}.`).join("");
    return `${whose}Where this place looks, with γ and the entropy of its weights, as a share of a uniform map's.${errors}`;
  }

  function paint() {
    due = 0;
    if (lanes.hidden || body.hidden) return;
    const maps = cells.map(({ layer, column }) => {
      const answer = columns[column].answer?.layers[layer.id];
      return answer && query !== null ? { ...timesOf(answer, movePins([query], state.layer, layer)[0]), gamma: answer.gamma } : null;
    });
    const known = maps.filter(Boolean), shared = scaleOfTimes(known, state.relative);
    cells.forEach((cell, i) => {
      const map = maps[i], { layer, step, column } = cell;
      if (map) paintHeat(cell.canvas, map.values, tables[shared.table], shared.at(map));
      else clear(cell.canvas);
      const [at] = query === null ? [0] : movePins([query], state.layer, layer);
      cell.spot.hidden = !map;
      cell.spot.style.left = `${(100 * ((at % layer.side) + 0.5)) / layer.side}%`;
      cell.spot.style.top = `${(100 * (Math.floor(at / layer.side) + 0.5)) / layer.side}%`;
      const [gamma, share] = map ? [short(map.gamma), `${Math.round(100 * map.entropy)} %`] : [];
      const missing = columns[column].error ? "unreadable" : columns[column].answer ? "–" : "…";
      cell.words.replaceChildren(...(map ? [`γ ${gamma}`, share] : [missing]).map((text) => html("span", {}, text)));
      const about = map ? `γ ${gamma}, entropy ${share} of a uniform map's, at most ${short(largest(map.values))} times uniform` : missing;
      cell.node.setAttribute("aria-label", `${layer.label}, step ${step.toLocaleString("en")}: ${about}`);
    });
    scale.node.hidden = !known.length;
    if (known.length) scale.show(shared, tables);
    say(note, words());
  }

  return {
    node,
    /** `next`: the columns, {step, answer, error}; `held`: whether an exported page has any of them. */
    draw(nextState, next, nextTables, isFrozen, held) {
      [state, columns, tables, frozen] = [nextState, next, nextTables, isFrozen];
      const { view } = state, lost = frozen && !held, { shown, offered } = stepsOf(state, 0);
      node.hidden = !state.offers("overview");
      opener.show(view.overview);
      body.hidden = !view.overview;
      if (!view.overview) return;
      const layers = state.layers.filter(({ network }) => network === "D" || view.source === "samples" || view.source === "recorded");
      const steps = columns.map(({ step }) => step), layout = JSON.stringify([layers.map(({ id }) => id), steps]);
      if (built !== layout) build(layers, steps);
      built = layout;
      heads.forEach(({ canvas, step, node }, i) => {
        if (columns[i].answer) paintPicture(canvas, columns[i].answer.image);
        node.classList.toggle("stale", !columns[i].answer);
        node.title = columns[i].error ?? "";
        node.toggleAttribute("data-shown", step === shown);
      });
      for (const { layer, step, node, column } of cells) {
        const current = layer.id === state.layer.id && step === shown;
        node.setAttribute("aria-current", current);
        node.tabIndex = current ? 0 : -1;
        node.disabled = frozen && !offered.includes(step);
        node.title = columns[column].error ?? (node.disabled ? "This page holds no pictures of this step" : "Go to this layer and step");
      }
      lanes.hidden = scale.node.hidden = lost;
      if (lost) say(note, "This page does not hold the layers × checkpoints of this image.");
    },
    /** Follow a place of the shown layer, in the colour of its pin; at its own pace, since the map of the image goes first. */
    paint(at, colour) {
      query = at;
      if (!state?.view.overview) return;
      lanes.style.setProperty("--pin", colour);
      due ||= setTimeout(paint, PACE);
    },
    stop: () => clearTimeout(due),
  };
}
