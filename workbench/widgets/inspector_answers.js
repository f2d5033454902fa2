// What the inspector asks the kernel for, and what it knows already.

const LIMIT = 64; // answers of the kernel that are kept
const DEBOUNCE = 150; // ms from the last change of the controls until Python hears of it
const STRIP = 8; // images to pick from at a time

const DEFAULTS = {
  layer: "", steps: [], weights: "ema", source: "samples", class: -1, seed: 0, sample: 0, truncation: 0, towards: null, mix: 0,
  reading: "outgoing", pins: [], active: -1, opacity: 0.7, smooth: false, gamma0: false, forbid: [], scope: "all", replace: "", tool: "pin",
};

// ------------------------------------------------------------------------------------------------ what is looked at

/** The catalog; of a page without a kernel, only what it holds. */
function catalogOf(model) {
  const catalog = model.get("catalog");
  if (!model.get("frozen")) return catalog;
  const looks = model.get("answers").map(({ request }) => request).filter(({ kind }) => kind === "look");
  return catalog.map((info, subject) => {
    const mine = looks.filter((look) => (look.subject ?? 0) === subject);
    const has = (name) => (value) => mine.some((look) => look[name] === value);
    return { ...info, steps: info.steps.filter(has("step")), recorded: info.recorded?.filter(has("step")),
      weights: info.weights.filter(has("weights")), layers: info.layers.filter((layer) => has("layer")(layer.id)),
      samples: mine.map((look) => look.sample) };
  });
}

/** The state of the controls as far as it fits the catalog, and the requests that follow from it. */
function sceneOf(catalog, view) {
  const layers = (catalog[0]?.layers ?? []).filter(({ id }) => catalog.every((info) => info.layers.some((layer) => layer.id === id)));
  const layer = layers.find(({ id }) => id === view.layer) ?? layers[0];
  if (!layer) return null;
  const offered = ["samples", ...(catalog.every((info) => info.recorded?.length) ? ["recorded"] : []),
    ...(layer.network === "D" ? [...(catalog[0].real ? ["real"] : []), "dropped"] : [])];
  const source = offered.includes(view.source) ? view.source : "samples";
  const pins = [...new Set(view.pins)].filter((q) => q >= 0 && q < layer.side ** 2).slice(0, PIN_COLOURS.length);
  const active = pins.length ? clamp(view.active, 0, pins.length - 1) : -1;
  const known = READINGS[view.reading] && !(view.reading === "causal" && source === "recorded"); // its network was not kept
  const reading = known ? view.reading : "outgoing";
  const forbid = view.forbid.filter((key) => key >= 0 && key < layer.key_side ** 2);
  const queries = view.scope === "pins" ? pins : null;
  const state = { ...view, layer: layer.id, source, pins, active, reading, forbid };
  const subjects = catalog.map((info, subject) => {
    const steps = source === "recorded" ? info.recorded : info.steps;
    const step = steps.includes(view.steps[subject]) ? view.steps[subject] : steps.at(-1);
    const weights = info.weights.includes(view.weights) ? view.weights : info.weights[0];
    const own = { ...state, subject, step, weights, queries };
    const [look, strip, offsets] = ["look", "strip", "offsets"].map((kind) => normal({ ...own, kind }));
    return { info, steps, step, weights, look, strip, offsets, causal: (query) => normal({ ...own, kind: "causal", query }) };
  });
  return { catalog, layers, layer, offered, state, pins, active, reading, subjects };
}

/** Positions of one layer in the grid of another. */
function movePins(pins, from, to) {
  const place = (i) => Math.floor(((i + 0.5) * to) / from);
  return [...new Set(pins.map((q) => place(Math.floor(q / from)) * to + place(q % from)))];
}

// ------------------------------------------------------------------------------------------------ requests and answers

const PAGED = ["samples", "real"]; // sources that have more images than a strip; of others it shows all
const FOR_D = ["real", "dropped"]; // sources that only D looks at
const SETTING = { subject: 0, step: 0, weights: "ema", class: -1, seed: 0, truncation: 0 };
const PICTURE = { ...SETTING, layer: "", source: "samples", sample: 0, towards: null, mix: 0 };
const FIELDS = {
  strip: { ...SETTING, layer: "", source: "samples", start: 0 },
  look: { ...PICTURE, gamma0: false, forbid: [], queries: null, replace: "" },
  causal: { ...PICTURE, query: 0 },
  offsets: { ...SETTING, layer: "" },
};

/** A request with all its fields, those that do not matter at their neutral values: equal pictures are asked for once. */
function normal(request) {
  const whole = Object.fromEntries(Object.entries(FIELDS[request.kind]).map(([name, neutral]) => [name, request[name] ?? neutral]));
  const given = "source" in whole && whole.source !== "samples"; // the image is not made for this request
  if (given) Object.assign(whole, { seed: 0, truncation: 0, towards: null });
  if (given && (request.kind === "strip" || whole.source !== "dropped")) whole.class = -1; // a dropped image is judged as of a class
  if (whole.source === "recorded") whole.weights = "ema";
  if (request.kind === "strip" && !PAGED.includes(whole.source)) whole.start = 0;
  if (request.kind === "strip" && !FOR_D.includes(whole.source)) whole.layer = ""; // all layers see the same samples
  if ("mix" in whole && !(whole.towards && whole.mix)) Object.assign(whole, { towards: null, mix: 0 });
  if (whole.towards) whole.towards = { seed: whole.towards.seed, sample: whole.towards.sample };
  if (request.kind !== "look") return { kind: request.kind, ...whole };
  if (whole.source === "recorded") Object.assign(whole, { gamma0: false, forbid: [], replace: "" }); // its network was not kept
  if (whole.gamma0) Object.assign(whole, { forbid: [], replace: "" }); // what is not added need not be changed
  if (!whole.forbid.length || whole.queries?.length === 0) Object.assign(whole, { forbid: [], queries: null });
  const sorted = (list) => list && [...list].sort((a, b) => a - b);
  return { kind: "look", ...whole, forbid: sorted(whole.forbid), queries: sorted(whole.queries) };
}

/** A buffer of a message or a trait as memory of its own: typed arrays need it aligned. */
function bytes(buffer) {
  return ArrayBuffer.isView(buffer) ? buffer.buffer.slice(buffer.byteOffset, buffer.byteOffset + buffer.byteLength) : buffer.slice(0);
}

function unpack(kind, reply, buffers) {
  const parts = buffers.map(bytes), floats = (part) => new Float32Array(part);
  if (kind === "strip") {
    const length = reply.size ** 2 * 3;
    return { ...reply, images: Array.from({ length: reply.count }, (_, i) => new Uint8Array(parts[0], i * length, length)) };
  }
  if (kind !== "look") return { ...reply, values: floats(parts[0]) };
  const [query, key, valueNorm, lse, stats] = parts.slice(1, 6).map(floats);
  const after = parts[6] ? new Uint8Array(parts[6]) : null;
  return { ...reply, image: new Uint8Array(parts[0]), query, key, valueNorm, lse, stats, after };
}

/**
 * What the kernel answered so far, and the state of the controls, for all views of one widget. One request of a kind is under way,
 * and only the newest one waits behind it: a dragged slider does not queue up. Says "change" whenever there is something new.
 */
function answerStore(model) {
  const store = new EventTarget();
  const given = new Map(), cache = new Map(); // request as text -> answer; what was given from the start never makes room
  const flights = new Map(), waiting = new Map(), failures = new Map(); // by kind and subject
  const calls = new Map(); // id -> what waits for the reply
  const client = Math.random().toString(36).slice(2); // a second browser on the same kernel hears our replies, too
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
  const remember = (key, answer) => {
    cache.set(key, answer);
    if (cache.size > LIMIT) cache.delete(cache.keys().next().value);
  };
  const load = () => {
    given.forEach((answer, key) => remember(key, answer)); // what was seen can be seen again
    given.clear();
    for (const { request, reply, buffers } of model.get("answers") ?? []) {
      given.set(JSON.stringify(normal(request)), unpack(request.kind, reply, buffers));
    }
    changed();
  };

  function receive({ id, reply, error }, buffers) {
    const call = calls.get(id);
    if (call) {
      calls.delete(id);
      if (error) call.reject(new Error(error));
      else call.resolve(reply);
      return changed();
    }
    const [slot, flight] = [...flights].find(([, candidate]) => candidate.id === id) ?? [];
    if (!flight) return;
    flights.delete(slot);
    if (error) failures.set(slot, { key: flight.key, error });
    else {
      remember(flight.key, unpack(flight.request.kind, reply, buffers));
      keep();
    }
    const next = waiting.get(slot);
    waiting.delete(slot);
    if (next) dispatch(slot, next, JSON.stringify(next));
    changed();
  }

  /** The answer, or null where it is not known yet. */
  store.peek = (request) => {
    const key = JSON.stringify(request), known = cache.get(key);
    if (known) cache.delete(key), cache.set(key, known); // the order of the cache is that of use
    return known ?? given.get(key) ?? null;
  };
  /** The same, and ask the kernel if need be. */
  store.ask = (request) => {
    const key = JSON.stringify(request), slot = `${request.kind} ${request.subject}`, known = store.peek(request);
    if (known || store.gone || model.get("frozen") || failures.get(slot)?.key === key) return known;
    failures.delete(slot);
    waiting.delete(slot);
    if (!flights.has(slot)) dispatch(slot, request, key);
    else if (flights.get(slot).key !== key) waiting.set(slot, request);
    return null;
  };
  /** Ask for something to be done; a promise of the reply. */
  store.call = (request, buffers) => new Promise((resolve, reject) => {
    const id = `${client}-${++count}`;
    calls.set(id, { resolve, reject, since: performance.now() });
    if (!send(model, { id, request }, buffers)) lose();
    changed();
  });
  store.forget = (matches) => {
    [...cache.keys()].filter((key) => matches(JSON.parse(key))).forEach((key) => cache.delete(key));
    failures.clear(); // what was not there may be there now
  };
  store.errors = () => [...new Set([...failures.values()].map(({ error }) => error))];
  /** Since when the kernel works for us, or null. */
  store.busy = () => [...flights.values(), ...calls.values()].reduce((least, { since }) => Math.min(least ?? since, since), null);

  // A state that Python sends while a slider is dragged must not take it back, hence the changes that it has not heard of.
  store.view = () => ({ ...DEFAULTS, ...model.get("view"), ...unsaved });
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
  model.on("comm_live_update", lose); // the kernel was restarted, and knows of no widget
  load();
  return store;
}
