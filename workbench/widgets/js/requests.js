// What the view requests of the kernel (inspector/requests.py), and the maps that follow from the answers.

import { READINGS, statistic } from "./maps.js";
import { columnsOf } from "./overview.js";

/** `now()` is the state that is shown. */
export function requestsOf({ model, store, now }) {
  const frozen = Boolean(model.get("frozen")), opened = { ...model.get("view") };

  /** The request for an answer to the current view. What a page holds was knocked out for the pins that it opened with. */
  const request = (kind, run, more) => ({ kind, run, view: frozen ? { ...now().view, pins: opened.pins } : now().view, ...more });

  const explanation = (run) => request("explain", run, { query: now().view.pins[now().view.active] });

  /** Request the causal map of each pin, of the active pin last: the last request waits least. */
  function askCausal() {
    const { catalog, view: { pins, active } } = now(), order = [...pins].sort((a, b) => (a === pins[active]) - (b === pins[active]));
    for (const run of catalog.keys()) order.forEach((query) => store.ask(request("causal", run, { query })));
  }

  function causal(run, query) {
    const asked = request("causal", run, { query });
    return store.peek(asked) ?? store.near(asked);
  }

  /** The columns of the overview. Missing ones are requested one by one, when nothing else is: the kernel stays free for other requests. */
  function columns() {
    const { view } = now(), asked = columnsOf(now()).map((step) => ({ kind: "overview", run: 0, view: { ...view, steps: [step, ...view.steps.slice(1)] } }));
    const known = asked.map((column) => ({ step: column.view.steps[0], answer: store.peek(column), error: store.failure(column) }));
    const missing = known.findIndex(({ answer, error }) => !answer && !error);
    if (view.overview && missing >= 0 && store.busy() === null) store.ask(asked[missing]);
    return known;
  }

  /** The maps by offset, or null. */
  function offsets() {
    const { catalog, layer: { rows, side } } = now(), reference = { value: 1 / (rows * side), name: "uniform" };
    return catalog.map((_, run) => store.peek(request("offsets", run)))
      .map((known) => known && { values: known.values, rows: 2 * rows - 1, side: 2 * side - 1, reference });
  }

  /**
   * The map of a reading {values, rows, side (columns), ...}, or null if it is not known yet; `isWeights`: its weights are divided among the
   * cells of a position.
   */
  function mapOf(reading, seen, run, query) {
    const { map, row, keys, reference, floor } = READINGS[reading];
    if (!seen || (row === undefined && query === null)) return null;
    const values = row !== undefined ? statistic(seen, row) : map ? map(seen, query) : causal(run, query)?.values;
    const { rows, side, key_rows, key_side, tokens } = seen, grid = keys ? { rows: key_rows, side: key_side } : { rows, side };
    const known = { isWeights: Boolean(keys && map), reference: reference?.(seen), floor: floor?.(seen) };
    return values ? { values: values.subarray(tokens.length), ...grid, ...known } : null; // tokens have no place
  }

  return { request, explanation, askCausal, columns, offsets, mapOf };
}
