// The state to draw: the view, restricted to what the catalog offers.

import { READINGS, keysOf, placeOf, queriesOf } from "./maps.js";
import { clamp } from "./numbers.js";
import { toolsFor } from "./tools.js";

export const PIN_COLOURS = ["#ff3b30", "#34c759", "#0a84ff", "#ff9f0a", "#bf5af2", "#00b8c4", "#ff6fb5", "#a2845e"]; // as in figures/images.py

/** The catalog; in an exported page, only the choices with an answer. */
export function catalogOf(model) {
  const catalog = model.get("catalog");
  if (!model.get("frozen")) return catalog;
  const answers = model.get("answers").filter(({ kind }) => kind === "inspection");
  return catalog.map((info, number) => {
    const ofRun = answers.filter(({ run }) => run === number);
    const replied = (name) => (value) => ofRun.some(({ reply }) => reply[name] === value);
    return { ...info, steps: info.steps.filter(replied("step")), recorded: info.recorded.filter(replied("step")),
      weights: info.weights.filter(replied("weights")), layers: info.layers.filter(({ id }) => ofRun.some(({ view }) => view.layer === id)),
      samples: ofRun.map(({ view }) => view.sample), kinds: [...new Set(model.get("answers").map(({ kind }) => kind))] };
  });
}

/** Null if the runs have no layer in common. */
export function stateOf(catalog, saved) {
  const layers = (catalog[0]?.layers ?? []).filter(({ id }) => catalog.every((info) => info.layers.some((layer) => layer.id === id)));
  const layer = layers.find(({ id }) => id === saved.layer) ?? layers[0];
  if (!layer) return null;
  const sources = ["samples", ...(catalog.every((info) => info.recorded.length) ? ["recorded"] : []),
    ...(layer.network === "D" ? [...(catalog[0].real ? ["real"] : []), "dropped"] : [])];
  const source = sources.includes(saved.source) ? saved.source : "samples";
  const pins = [...new Set(saved.pins)].filter((q) => q >= 0 && q < queriesOf(layer)).slice(0, PIN_COLOURS.length);
  const active = pins.length ? clamp(saved.active, 0, pins.length - 1) : -1;
  const obtainable = (kind) => source !== "recorded" && catalog.every(({ kinds }) => !kinds || kinds.includes(kind)); // snapshots keep no network
  const [causal, offsets] = ["causal", "offsets"].map(obtainable);
  const known = READINGS[saved.reading] && (causal || saved.reading !== "causal");
  const panel = { offsets: offsets && "offsets", images: catalog.length > 1 && "images" }[saved.panel] || "map";
  const [forbid, paint] = [saved.forbid, saved.paint].map((keys) => keys.filter((key) => key >= 0 && key < keysOf(layer)));
  const { value: tool } = toolsFor(source, catalog[0]).find(({ value }) => value === saved.tool) ?? { value: "pin" };
  const head = layer.heads > 1 && saved.head < layer.heads ? saved.head : -1, reading = known ? saved.reading : "outgoing";
  const offers = (name) => catalog[0].tools.includes(name), [explain, overview] = ["explain", "overview"].map((name) => saved[name] && offers(name));
  const view = { ...saved, layer: layer.id, source, pins, active, reading, forbid, paint, panel, tool, head, explain, overview };
  return { offers, catalog, layers, layer, sources, view, causal, offsets, relative: view.scale === "uniform" };
}

/** The steps to choose from, and the shown one, of a run: as Python takes an unknown step (requests.py). */
export function stepsOf({ catalog, view }, run) {
  const offered = view.source === "recorded" ? catalog[run].recorded : catalog[run].steps, step = view.steps[run];
  return { offered, shown: offered.includes(step) ? step : offered.at(-1) };
}

/** Queries of one layer in the grid of another; tokens stay where the other has them. */
export function movePins(pins, from, to) {
  const moved = (i, old, count) => Math.floor(((i + 0.5) * count) / old), first = to.tokens.length;
  return [...new Set(pins.flatMap((q) => {
    const place = placeOf(from, q);
    if (!place) return q < first ? [q] : [];
    return [first + moved(place[0], from.rows, to.rows) * to.side + moved(place[1], from.side, to.side)];
  }))];
}
