// Where a GAN looks: a click on an image shows the attention of that place. inspector.py sends images, queries and keys; every map
// is computed from them here (inspector_maps.js), so that hovering never waits for the kernel.

const HELP = [
  ["click", "pin a place"], ["shift + click", "add a pin, or remove it"], ["arrow keys", "move over the image"], ["Enter", "pin the place"],
  ["shift + Enter", "add it"], ["1 … 8", "make a pin active"], ["Delete", "remove the active pin"], ["Escape", "remove all pins"],
];
const RANK = { hover: 0, look: 1, click: 2 }; // what a painting is called that has several causes
const MARKS = 1000; // of the browser's performance log, until it is emptied
let views = 0, paintings = 0;

function render({ model, el, store }) {
  const view = ++views, frozen = Boolean(model.get("frozen"));
  let scene = null, looks = [], current = [], stages = [], pinned = [];
  let hovered = null, stroke = null, due = null, start = 0, panel = "map", size = 0, busyTimer = 0, spoken = 0, problem = "";
  let tables;

  // the head
  const name = html("h2"), about = html("span", { class: "muted" }), status = html("span", { class: "muted", role: "status" });
  const help = html("dl", { class: "help", hidden: "" }, ...HELP.flatMap(([key, what]) => [html("dt", {}, key), html("dd", {}, what)]));
  const helper = toggle("?", "Keys and pointer", (on) => {
    help.hidden = !on;
    helper.show(on);
  });
  helper.node.setAttribute("aria-label", "Help");
  const alarm = html("p", { class: "note alarm", role: "alert" }), gone = html("p", { class: "note warning", role: "status" });
  const nothing = html("p", { class: "note" });
  const networks = segmented("Network", (network) => pickLayer(scene.layers.find((layer) => layer.network === network).id));
  const layers = segmented("Attention layer", pickLayer);
  const weights = segmented("Weights", (value) => change({ weights: value }));
  const caption = (text, { node }) => html("span", { class: "row" }, html("span", { class: "muted" }, text), node);
  const readings = ["one place", "all places"].map((label) => segmented(`Reading, ${label}`, (reading) => change({ reading })));
  const meaning = html("span", { class: "muted meaning" });
  const controls = html("div", { class: "row controls" }, networks.node, layers.node, weights.node,
    caption("one place", readings[0]), caption("all places", readings[1]), meaning);

  // the parts
  const strip = stripCard({ change, drop, page: (by) => {
    start = Math.max(0, start + STRIP * by);
    update();
  } });
  const percent = (value) => `${Math.round(100 * value)} %`;
  const opacity = slider("Opacity", { min: 0, max: 1, step: 0.05, tell: percent }, (value) => change({ opacity: value }));
  const smooth = toggle("Smooth", "Blend the cells of the map into each other", (on) => change({ smooth: on }));
  const clearPins = button("Clear pins", "Remove all pins", () => change({ pins: [], active: -1 }));
  const stagesNode = html("div", { class: "stages" });
  const whatIf = whatIfCard({ change });
  const tools = html("div", { class: "row tools" }, opacity.node, smooth.node, clearPins);
  const side = sideCard((value) => {
    panel = value;
    update();
  });
  const pinsNode = html("div", { class: "pins", role: "group", "aria-label": "Pins" });
  const right = html("div", { class: "right" }, side.node, pinsNode);
  const centre = html("div", { class: "centre" }, stagesNode, tools, whatIf.node);
  const workspace = html("div", { class: "workspace" }, strip.node, centre, right);
  const exported = html("span", { class: "muted", role: "status" });
  const exports = [["png", "Figure (PNG)"], ["svg", "Figure (SVG)"], ["html", "Page (HTML)"]].map(([format, label]) =>
    button(label, "Save what is shown, as a file", () => exportAs(format)));
  const footer = html("div", { class: "row exports" }, html("span", { class: "muted" }, "Save as"), ...exports, exported);
  const speech = html("div", { class: "speech", "aria-live": "polite" });
  const root = html("div", { class: "wb inspector", role: "region" },
    html("header", {}, name, about, html("span", { class: "spring" }), status, helper.node),
    help, alarm, gone, nothing, controls, workspace, footer, speech);
  el.append(root);

  // ------------------------------------------------------------------------------ what a user does

  function change(patch) {
    problem = "";
    schedule("click");
    store.change(patch);
  }

  function pickLayer(id) {
    const to = scene.layers.find((layer) => layer.id === id);
    change({ layer: id, pins: movePins(scene.pins, scene.layer.side, to.side), forbid: [] });
  }

  /** Pin a place instead of all others, or with `add` beside them (or no longer). A pinned place becomes active. */
  function pin(query, add) {
    const at = scene.pins.indexOf(query);
    if (add && at >= 0) return unpin(at);
    if (at >= 0) return change({ active: at });
    const pins = add ? [...scene.pins, query].slice(-PIN_COLOURS.length) : [query];
    change({ pins, active: pins.length - 1 });
  }

  function unpin(at) {
    const pins = scene.pins.filter((_, i) => i !== at);
    change({ pins, active: Math.min(scene.active - (at < scene.active), pins.length - 1) });
  }

  function hover(query) {
    if (stroke && query !== null) paintStroke(query);
    if (query === hovered) return;
    hovered = query;
    schedule("hover");
  }

  /** A stroke of the brush forbids keys, or allows them if its first one was forbidden; the kernel hears of it at its end. */
  function press(query) {
    if (scene.state.tool !== "brush") return false;
    const key = keyOf(scene.layer, query), keys = new Set(scene.state.forbid);
    stroke = { keys, erase: keys.has(key) };
    paintStroke(query);
    return true;
  }

  function paintStroke(query) {
    const key = keyOf(scene.layer, query);
    if (stroke.erase) stroke.keys.delete(key);
    else stroke.keys.add(key);
    stages.forEach((stage) => stage.drawForbidden([...stroke.keys]));
  }

  function release() {
    if (!stroke) return;
    const forbid = [...stroke.keys].sort((a, b) => a - b);
    stroke = null;
    change({ forbid });
  }

  function key(event) {
    const { side } = scene.layer, at = hovered ?? scene.pins[scene.active] ?? Math.floor(side / 2) * side + Math.floor(side / 2);
    const [row, column] = [Math.floor(at / side), at % side];
    const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    const digit = /^[1-8]$/.test(event.key) ? Number(event.key) - 1 : -1;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (move && hovered === null) hover(at);
    else if (move) hover(clamp(row + move[0], 0, side - 1) * side + clamp(column + move[1], 0, side - 1));
    else if (event.key === "Enter" || event.key === " ") {
      if (scene.state.tool === "brush") press(at), release();
      else pin(at, event.shiftKey);
    } else if (event.key === "Escape") {
      hover(null);
      change(scene.state.tool === "brush" ? { tool: "pin" } : { pins: [], active: -1 });
    } else if ((event.key === "Delete" || event.key === "Backspace") && scene.active >= 0) unpin(scene.active);
    else if (digit >= 0 && digit < scene.pins.length) {
      hover(null); // or the map would stay that of the place under the cursor
      change({ active: digit });
    } else return;
    event.preventDefault();
  }

  async function drop(file) {
    try {
      const { sample } = await store.call({ kind: "drop", name: file.name }, [await file.arrayBuffer()]);
      store.forget((request) => request.kind === "strip" && request.source === "dropped");
      if (scene.layer.network !== "D") pickLayer(scene.layers.find(({ network }) => network === "D").id);
      change({ source: "dropped", sample });
    } catch (error) {
      problem = error.message;
    }
    update();
  }

  async function exportAs(format) {
    exports.forEach((node) => (node.disabled = true));
    exported.textContent = "saving…";
    try {
      exported.textContent = (await store.call({ kind: "export", format, view: store.view() })).text;
    } catch (error) {
      exported.textContent = "";
      problem = error.message;
    }
    exports.forEach((node) => (node.disabled = store.gone));
    update();
  }

  // ------------------------------------------------------------------------------ what is drawn

  /** Everything but the hot path. Asks for what is not known yet; meanwhile the former picture stays, pale. */
  function update() {
    const catalog = catalogOf(model), next = sceneOf(catalog, store.view()), same = next?.layer.id === scene?.layer.id;
    if (next && next.state.sample !== scene?.state.sample) start = Math.floor(next.state.sample / STRIP) * STRIP;
    if (!same) hovered = null; // a place of another grid
    scene = next;
    drawHead(catalog);
    if (!scene) return;
    const [{ strip: request }] = scene.subjects, { source, sample } = scene.state;
    const images = store.ask(normal({ ...request, start })), absent = source === "dropped" && !(sample < images?.count);
    const found = scene.subjects.map(({ look }) => (absent ? null : store.ask(look)));
    current = found.map(Boolean);
    looks = found.map((look, i) => look ?? (same ? looks[i] : null) ?? null); // the map of another layer would not fit
    if (panel === "offsets" && source === "recorded") panel = "map"; // its network was not kept
    if (panel === "offsets") scene.subjects.forEach(({ offsets }) => store.ask(offsets));
    if (scene.reading === "causal") askCausal();
    drawControls();
    strip.draw(scene, images, start, frozen);
    if (stages.length !== catalog.length) makeStages();
    fit();
    drawPins();
    drawBusy();
    schedule("look");
  }

  /** The causal map of each pin, that of the active one first: what is asked for last waits least. */
  function askCausal() {
    const active = scene.pins[scene.active], order = [...scene.pins].sort((a, b) => (a === active) - (b === active));
    for (const subject of scene.subjects) order.forEach((query) => store.ask(subject.causal(query)));
  }

  function makeStages() {
    const click = (query, add) => scene.state.tool === "pin" && pin(query, add);
    const step = (index, value) => {
      change({ steps: scene.subjects.map((subject, i) => (i === index ? value : subject.step)) });
    };
    stages = scene.catalog.map((_, i) => stageCard(i, `wb-hatch-${view}-${i}`, { hover, press, release, click, key, step }));
    stagesNode.replaceChildren(...stages.map((stage) => stage.node));
  }

  function drawHead(catalog) {
    name.textContent = catalog.map(({ label }) => label).join("  ·  ");
    about.textContent = catalog.length === 1 ? catalog[0].about : "";
    root.setAttribute("aria-label", `Attention of ${catalog.map(({ label }) => label).join(" and ")}`);
    say(alarm, [problem, ...store.errors()].filter(Boolean).join("\n"));
    say(gone, store.gone ? "The kernel of this view is gone; what it sent can still be looked at." : "");
    const none = catalog.length > 1 ? "These runs have no attention layer in common: nothing to compare."
      : "This run has no attention layer: nothing to look at here.";
    say(nothing, scene ? "" : none);
    controls.hidden = workspace.hidden = !scene;
    footer.hidden = !scene || frozen;
    exports.forEach((node) => (node.disabled = store.gone));
  }

  /** A word on what takes its time, once it does. */
  function drawBusy() {
    clearTimeout(busyTimer);
    const since = store.busy(), seconds = since === null ? 0 : (performance.now() - since) / 1000;
    const waiting = seconds >= 15 ? "still waiting: the kernel is busy elsewhere, or gone" : seconds >= 1 ? "the generator runs…" : "";
    const missing = scene && !current.every(Boolean) && (frozen || store.gone);
    root.toggleAttribute("data-busy", since !== null);
    say(status, missing ? `${frozen ? "this page" : "this view"} does not hold this picture` : waiting);
    if (since !== null && seconds < 15) busyTimer = setTimeout(drawBusy, 1000 * ((seconds < 1 ? 1 : 15) - seconds) + 20);
  }

  function drawControls() {
    const { state, layer } = scene, titles = { G: "Generator", D: "Discriminator" };
    const found = [...new Set(scene.layers.map(({ network }) => network))];
    networks.show(found.map((value) => ({ value, name: value, about: titles[value] })), layer.network);
    networks.node.hidden = found.length < 2;
    const ofNetwork = scene.layers.filter(({ network }) => network === layer.network);
    layers.show(ofNetwork.map(({ id, label }) => ({ value: id, name: label.split(" · ").at(-1), about: label })), layer.id);
    const kinds = ["ema", "raw"].filter((kind) => scene.catalog.some((info) => info.weights.includes(kind)));
    const kindNames = { ema: "averaged", raw: "trained" };
    weights.show(kinds.map((value) => ({ value, name: kindNames[value], about: "Weights of the generator" })), scene.subjects[0].weights);
    weights.node.hidden = kinds.length < 2 || state.source === "recorded";
    const askable = !frozen && state.source !== "recorded";
    const offered = Object.entries(READINGS).filter(([value]) => askable || value !== "causal");
    readings.forEach(({ show }, all) => {
      const mine = offered.filter(([, { row }]) => Boolean(all) === (row !== undefined));
      show(mine.map(([value, { name, about }]) => ({ value, name, about })), scene.reading);
    });
    meaning.textContent = READINGS[scene.reading].about;
    opacity.show(state.opacity);
    smooth.show(state.smooth);
    clearPins.disabled = !scene.pins.length;
  }

  function drawPins() {
    while (pinned.length < scene.pins.length) {
      const i = pinned.length;
      pinned.push(pinPanel(i, () => {
        hover(null);
        change({ active: i });
      }));
      pinsNode.append(pinned[i].node);
    }
    pinned.splice(scene.pins.length).forEach(({ node }) => node.remove());
    const perQuery = READINGS[scene.reading].row === undefined ? scene.reading : "outgoing";
    pinned.forEach((one) => one.draw(scene, looks, (look, subject, query) => mapOf(perQuery, look, subject, query), tables.plain));
  }

  /** The map of a reading {values, side}, or null where it is not known (yet). */
  function mapOf(reading, look, subject, query) {
    if (!look) return null;
    const { map, row } = READINGS[reading], spread = reading === "outgoing" || reading === "moved";
    if (row !== undefined) return { values: statistic(look, row), side: look.side };
    if (query === null) return null;
    const values = map ? map(look, query) : store.peek(scene.subjects[subject].causal(query))?.values;
    return values ? { values, side: Math.sqrt(values.length), spread } : null;
  }

  /** At most one painting a frame. */
  function schedule(kind) {
    if (due === null) requestAnimationFrame(paint);
    if (due === null || RANK[kind] > RANK[due]) due = kind;
  }

  function paint() {
    const kind = due;
    due = null;
    if (!scene || !stages.length) return;
    const query = hovered ?? scene.pins[scene.active] ?? null, reading = READINGS[scene.reading];
    const maps = looks.map((look, subject) => mapOf(scene.reading, look, subject, query));
    const high = Math.max(...maps.map((map) => (map ? largest(map.values) : 0))); // one scale for both, or they would not compare
    const hint = !looks.every(Boolean) ? "" : query === null ? "Click a place in the image, or move over it."
      : "Pin this place to compute what matters to it.";
    const told = stages.map((stage, i) => stage.paint(maps[i], query, hovered, high, tables.veil, hint));
    const offsets = scene.subjects.map((subject) => store.peek(subject.offsets)).map((found) =>
      found && { values: found.values, side: Math.sqrt(found.values.length) });
    const map = { unit: reading.unit, mark: looks[0] && reading.mark?.(looks[0]) };
    side.paint({ scene, panel, frozen, looks, maps, offsets, high, tables, map });
    if (++paintings % MARKS === 0) performance.clearMarks("wb-paint");
    performance.mark("wb-paint", { detail: { kind } });
    clearTimeout(spoken);
    spoken = setTimeout(() => {
      const text = told.join("; ");
      if (speech.textContent !== text) speech.textContent = text;
    }, 400);
  }

  /** The images as large as fits: strip, images and side view beside each other, or below where it is narrow. */
  function fit() {
    const width = root.clientWidth, n = scene.catalog.length, gap = 12, chrome = 24; // padding and border of a card
    if (!width) return;
    const rail = width >= (n === 1 ? 940 : 1240) ? 184 + gap : 0, beside = width - rail >= (n === 1 ? 620 : 1000);
    const room = (width - rail - (beside ? 290 + gap : 0) - (n - 1) * gap) / n - chrome;
    size = crisp(scene.catalog[0].image_size, clamp(room, 200, 520));
    root.dataset.rail = rail ? "beside" : "above";
    root.dataset.right = beside ? "beside" : "below";
    workspace.style.setProperty("--centre", `${n * (size + chrome) + (n - 1) * gap}px`);
    stages.forEach((stage, i) => stage.draw(scene, looks[i], current[i], size));
    whatIf.draw(scene, looks, size, frozen);
  }

  function drawTables() {
    const veil = (i) => 100 + Math.round((155 * i) / 255); // above an image: where little is, more of the image shows
    const [palette, diverging] = [model.get("palette"), model.get("diverging")];
    tables = { plain: colourTable(palette), veil: colourTable(palette, veil), diverging: colourTable(diverging) };
  }
  const observer = new ResizeObserver(() => {
    if (!scene) return;
    fit();
    schedule("look");
  });
  root.addEventListener("keydown", (event) => event.ctrlKey || event.metaKey || event.stopPropagation()); // or "dd" deletes the cell
  root.addEventListener("dragover", (event) => {
    const droppable = !frozen && scene?.layers.some(({ network }) => network === "D");
    if (!droppable || !event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    event.stopPropagation(); // or the notebook takes the file
    root.classList.add("dropping");
  });
  root.addEventListener("dragleave", (event) => root.contains(event.relatedTarget) || root.classList.remove("dropping"));
  root.addEventListener("drop", (event) => {
    if (!root.classList.contains("dropping")) return;
    root.classList.remove("dropping");
    event.preventDefault();
    event.stopPropagation();
    if (event.dataTransfer.files[0]) drop(event.dataTransfer.files[0]);
  });
  const onPalette = () => {
    drawTables();
    update();
  };
  const changes = { "change:view change:catalog change:answers": update, "change:palette change:diverging": onPalette };
  for (const [names, callback] of Object.entries(changes)) model.on(names, callback);
  store.addEventListener("change", update);
  drawTables();
  update();
  observer.observe(root);
  return () => {
    clearTimeout(busyTimer);
    clearTimeout(spoken);
    observer.disconnect();
    for (const [names, callback] of Object.entries(changes)) model.off(names, callback);
    store.removeEventListener("change", update);
  };
}

export default function widget() {
  let store; // one per widget, for all its views
  return {
    initialize({ model }) {
      store = answerStore(model);
    },
    render: ({ model, el }) => render({ model, el, store }),
  };
}
