// Answers of the kernel and the state of the controls, for all views of one widget.

import { keepInNotebook } from "./notebook.js";
import { bytesOf } from "./numbers.js";

const LIMIT = 64; // cached answers
const DEBOUNCE = 150; // ms from the last change of the controls to the message to Python

// The entries of the view that an answer depends on, besides the step of its run: its cache key. Python interprets them (requests.py).
const SETTING = ["weights", "class", "seed", "truncation"];
const PICTURE = [...SETTING, "layer", "source", "sample", "towards", "mix", "directions"];
const CHANGED = ["gamma0", "gamma", "forbid", "replace"];
const DEPENDS = {
  strip: [...SETTING, "source", "sample"],
  inspection: [...PICTURE, "head", ...CHANGED],
  causal: PICTURE,
  offsets: [...SETTING, "layer", "head"],
  measure: [...SETTING, "layer", "source", ...CHANGED],
  explain: PICTURE,
  overview: [...SETTING, "source", "sample", "towards", "mix", "directions"],
};
const FOLLOWED = { directions: [], mix: 0, truncation: 0 }; // dragged: until the answer is there, one for other values is shown

/** What a frozen page holds for one value only. */
export const HELD = [...PICTURE.filter((name) => name !== "layer" && name !== "sample"), "head", "gamma0", "gamma", "replace"];

/** Of each, one request is in flight: of a kind and run, and of a column of the overview. */
const slotOf = ({ kind, run, view }) => `${kind} ${run}${kind === "overview" ? ` ${view.steps[run]}` : ""}`;

/** Equal for requests that have the same answer. */
function cacheKey({ kind, run, view, query }) {
  const knockedOutFor = ["inspection", "measure"].includes(kind) && view.forbid.length && view.scope === "pins" ? view.pins : null;
  const painted = kind === "inspection" && view.paint.length ? [view.paint, view.paint_from, view.paint_shift] : null;
  return JSON.stringify([kind, run, view.steps[run], query, knockedOutFor, painted, DEPENDS[kind].map((name) => view[name])]);
}

const nearKey = (request) => cacheKey({ ...request, view: { ...request.view, ...FOLLOWED } });

function unpack(kind, reply, buffers) {
  const parts = buffers.map(bytesOf), floats = (part) => new Float32Array(part);
  if (kind === "strip") {
    const length = reply.size * reply.height * 3;
    return { ...reply, images: Array.from({ length: reply.count }, (_, i) => new Uint8Array(parts[0], i * length, length)) };
  }
  if (kind === "explain" || kind === "measure") return reply;
  if (kind === "overview") {
    const layers = reply.layers.map((layer, i) => [layer.id, { ...layer, query: floats(parts[2 * i + 1]), key: floats(parts[2 * i + 2]) }]);
    return { step: reply.step, image: new Uint8Array(parts[0]), layers: Object.fromEntries(layers) };
  }
  if (kind !== "inspection") return { ...reply, values: floats(parts[0]) };
  const [query, key, valueNorm, lse, stats] = parts.slice(1, 6).map(floats);
  const after = parts[6] ? new Uint8Array(parts[6]) : null;
  return { ...reply, image: new Uint8Array(parts[0]), query, key, valueNorm, lse, stats, after };
}

/** Send a message to Python; false if the kernel is known to be gone. */
function send(model, message, buffers = []) {
  try {
    model.send(message, undefined, buffers);
    return true;
  } catch {
    return false;
  }
}

/**
 * The cache. For each kind and run one request is in flight and only the newest one waits, so a dragged slider does not queue up. Dispatches
 * "change" on news.
 */
export function answerStore(model) {
  const store = new EventTarget();
  const given = new Map(), cache = new Map(); // key -> answer; those of the saved state are never evicted
  const flights = new Map(), waiting = new Map(), failures = new Map(); // by kind and run
  const latest = new Map(); // near key -> the latest answer
  const calls = new Map(); // id -> promise of the reply
  const client = Math.random().toString(36).slice(2); // another browser on the same kernel gets these replies, too
  let count = 0, unsaved = {}, saving = 0, keeping = 0;
  store.gone = false;

  const changed = () => store.dispatchEvent(new Event("change"));
  const keep = () => {
    clearTimeout(keeping);
    if (!model.get("frozen")) keeping = setTimeout(() => keepInNotebook(model), 1000);
  };
  const lose = () => {
    store.gone = true;
    flights.clear();
    waiting.clear();
    calls.forEach(({ reject }) => reject(new Error("the kernel is gone")));
    calls.clear();
    changed();
  };
  const dispatch = (slot, request, key) => {
    const id = `${client}-${++count}`;
    flights.set(slot, { id, request, key, since: performance.now() });
    if (!send(model, { id, request })) lose();
  };
  const remember = (key, answer, map = cache) => {
    map.delete(key); // the map is in order of use
    map.set(key, answer);
    if (map.size > LIMIT) map.delete(map.keys().next().value);
  };
  const load = () => {
    given.forEach((answer, key) => remember(key, answer)); // keep former answers
    given.clear();
    for (const answer of model.get("answers") ?? []) given.set(cacheKey(answer), unpack(answer.kind, answer.reply, answer.buffers));
    changed();
  };

  function receive({ id, reply, error }, buffers) {
    const call = calls.get(id);
    if (call) {
      calls.delete(id);
      if (error) call.reject(new Error(error));
      else call.resolve({ ...reply, buffers });
      return changed();
    }
    const [slot, flight] = [...flights].find(([, candidate]) => candidate.id === id) ?? [];
    if (!flight) return;
    flights.delete(slot);
    if (error) failures.set(slot, { key: flight.key, error });
    else {
      const answer = unpack(flight.request.kind, reply, buffers);
      remember(flight.key, answer);
      remember(nearKey(flight.request), answer, latest);
      keep();
    }
    const next = waiting.get(slot);
    waiting.delete(slot);
    if (next) dispatch(slot, next, cacheKey(next));
    changed();
  }

  /** The cached answer, or null. A request is {kind, run, view} and the arguments of its kind (requests.py). */
  store.peek = (request) => {
    const key = cacheKey(request), known = cache.get(key);
    if (known) remember(key, known);
    return known ?? given.get(key) ?? null;
  };
  /** The cached answer, or null and a request to the kernel. */
  store.ask = (request) => {
    const key = cacheKey(request), slot = slotOf(request), known = store.peek(request);
    if (known || store.gone || model.get("frozen") || failures.get(slot)?.key === key) return known;
    failures.delete(slot);
    waiting.delete(slot);
    if (!flights.has(slot)) dispatch(slot, request, key);
    else if (flights.get(slot).key !== key) waiting.set(slot, request);
    return null;
  };
  /** While the answer is on its way: the latest one for other values of what is being dragged, or null. */
  store.near = (request) => (store.gone || model.get("frozen") ? null : latest.get(nearKey(request)) ?? null);
  /** Keep the reply to a command as the answer to a request. */
  store.put = (request, reply) => remember(cacheKey(request), reply);
  /** Equal for requests that have the same answers. */
  store.keyOf = (requests) => requests.map(cacheKey).join();
  /** Send a command; a promise of the reply, with its binary parts as `buffers`. */
  store.call = (request, buffers) => new Promise((resolve, reject) => {
    const id = `${client}-${++count}`;
    calls.set(id, { resolve, reject, since: performance.now() });
    if (!send(model, { id, request }, buffers)) lose();
    changed();
  });
  /** Forget the answers of a kind. */
  store.forget = (kind) => {
    [...cache.keys()].filter((key) => JSON.parse(key)[0] === kind).forEach((key) => cache.delete(key));
    failures.clear(); // the cause may be gone
  };
  /** Why there is no answer to a request; undefined if that is not known. */
  store.failure = (request) => {
    const failure = failures.get(slotOf(request));
    return failure?.key === cacheKey(request) ? failure.error : undefined;
  };
  store.errors = () => [...new Set([...failures].filter(([slot]) => !slot.startsWith("overview")).map(([, { error }]) => error))];
  /** The start of the oldest pending request, or null. */
  store.busy = () => [...flights.values(), ...calls.values()].reduce((least, { since }) => Math.min(least ?? since, since), null);

  // Unsaved changes come last: a state that Python sends must not reset a slider that is being dragged.
  store.view = () => ({ ...model.get("view"), ...unsaved });
  store.change = (patch) => {
    Object.assign(unsaved, patch);
    model.set("view", store.view());
    clearTimeout(saving);
    saving = setTimeout(() => {
      model.set("view", store.view());
      unsaved = {};
      try {
        model.save_changes();
        keep();
      } catch {
        lose();
      }
    }, DEBOUNCE);
  };

  model.on("msg:custom", receive);
  model.on("change:answers", load);
  model.on("change:answers", keep);
  model.on("comm_live_update", lose); // the kernel was restarted
  load();
  return store;
}
