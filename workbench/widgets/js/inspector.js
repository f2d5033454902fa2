// The inspector: its parts, pointer and keys, and drawing. Maps are computed here from the queries and keys that Python sends, so that
// hovering never waits for the kernel.

import { acceptFiles, actionsOf } from "./actions.js";
import { answerStore } from "./answers.js";
import { button, segmented, slider, toggle } from "./controls.js";
import { copyCard } from "./copy.js";
import { html } from "./dom.js";
import { explainCard } from "./explain.js";
import { exportFoot } from "./exports.js";
import { gesturesOf } from "./gestures.js";
import { headCard } from "./head.js";
import { latentCard } from "./latent.js";
import { lineOf } from "./line.js";
import { READINGS, placeOf } from "./maps.js";
import { measureCard } from "./measure.js";
import { clamp } from "./numbers.js";
import { colourTable, crisp } from "./paint.js";
import { overviewCard } from "./overview.js";
import { pinPanel } from "./pins.js";
import { requestsOf } from "./requests.js";
import { scaleOf } from "./scale.js";
import { sideCard } from "./side.js";
import { stageCard } from "./stage.js";
import { PIN_COLOURS, catalogOf, stateOf, stepsOf } from "./state.js";
import { stripCard } from "./strip.js";
import { isDark, onTheme } from "./theme.js";
import { toolbarOf } from "./toolbar.js";
import { toolCard } from "./tools.js";
import { whatIfCard } from "./what_if.js";

const SCALES = [
  { value: "zero", name: "from 0", about: "Colours from 0 to the largest value" },
  { value: "uniform", name: "× uniform", about: "Colours relative to a uniform map, in octaves: what hardly differs from it has the middle colour" },
];
const RANK = { hover: 0, look: 1, click: 2 }; // a painting with several causes is named after the highest
const MARKS = 1000; // in the performance log, for benchmarks/latency.py; then it is emptied
let views = 0; // of all widgets
let paintings = 0;

function render({ model, el, store }) {
  const serial = ++views, frozen = Boolean(model.get("frozen")), now = () => state;
  let state = null, inspections = [], current = [], images = null, stages = [];
  let hovered = null, due = null, first = 0, size = 0, spoken = 0, problem = "", several = false, tables;
  const pinned = [], report = (text) => {
    problem = text;
  };
  const { change, undo, undoable, pickLayer, openAddress, pin, unpin, drop } = actionsOf({ model, store, now, update, report, painted: () => schedule("click") });
  const { request, explanation, askCausal, columns, offsets, mapOf } = requestsOf({ model, store, now });

  const head = headCard(), toolbar = toolbarOf({ change, pickLayer, pin });
  const picker = stripCard({ change, drop, page: (by) => {
    first = Math.max(0, first + state.catalog[0].page * by);
    update();
  } });
  const percent = (value) => `${Math.round(100 * value)} %`;
  const opacity = slider("Opacity", { min: 0, max: 1, step: 0.05, write: percent }, (value) => change({ opacity: value }));
  const smooth = toggle("Smooth", "Blend the cells of the map into each other", (on) => change({ smooth: on }));
  const scales = segmented("Scale of the colours", (scale) => change({ scale }));
  const clearPins = button("Clear pins", "Remove all pins", () => change({ pins: [], active: -1 }));
  const adding = toggle("Add pins", "Each touch pins one more place, or removes a pin", (on) => {
    several = on;
    adding.show(on);
  });
  adding.node.classList.add("touch");
  const stagesNode = html("div", { class: "stages" });
  const measured = measureCard({ store, change, onNews: update, onError: report });
  const whatIf = whatIfCard({ change }, measured.node), latent = latentCard({ change }), toolset = toolCard({ change, undo });
  const draw = {
    forbid: (keys) => stages.forEach((stage) => stage.drawForbidden(keys)),
    paint: (keys, shift) => stages.forEach((stage) => stage.drawPainted(keys, shift)),
  };
  const gestures = gesturesOf({ change, pin: (query) => pin(query, false), draw });
  const tools = html("div", { class: "row tools" }, opacity.node, scales.node, smooth.node, adding.node, clearPins);
  const side = sideCard((panel) => change({ panel }), (cell, map) => stages.forEach((stage) => stage.frameCell(cell, map)));
  const pinsScale = html("p", { class: "muted" });
  const pinsNode = html("div", { class: "pins", role: "group", "aria-label": "Pins" }, pinsScale);
  const explaining = explainCard(change), overview = overviewCard({ change, enter: (id, step) => pickLayer(id, { steps: [step, ...state.view.steps.slice(1)] }) });
  const right = html("div", { class: "right" }, side.node, pinsNode);
  const centre = html("div", { class: "centre" }, stagesNode, toolset.node, tools, explaining.node);
  const workspace = html("div", { class: "workspace" }, centre, right, picker.node, overview.node);
  const foot = exportFoot({ store, formats: model.get("formats"), viewed: () => state.view, onEnd: (text) => {
    report(text);
    update();
  } });
  const copying = copyCard(() => {
    const { view, catalog } = state, steps = catalog.map((_, run) => stepsOf(state, run).shown);
    const line = lineOf({ ...view, steps }, catalog, model.get("defaults"));
    return frozen ? `${location.href.split("#")[0]}#${line.replaceAll(" ", "&")}` : line;
  });
  const speech = html("div", { class: "speech", "aria-live": "polite" });
  // The image comes first for the keyboard; the order on the screen is that of the style sheet.
  const root = html("div", { class: "wb inspector", role: "region" }, ...head.nodes, workspace, toolbar.node, copying.node, foot.node, speech);
  el.append(root);

  // ------------------------------------------------------------------------------ pointer and keys

  function hover(query, event, across) {
    if (gestures.move(query, event, across) && state.view.tool === "drag") query = null; // the map is that of the pin
    if (query === hovered) return;
    hovered = query;
    schedule("hover");
  }

  function key(event) {
    const { side, rows, tokens } = state.layer, middle = [rows, side].map((count) => Math.floor(count / 2));
    const [row, column] = placeOf(state.layer, hovered ?? state.view.pins[state.view.active] ?? -1) ?? middle;
    const queryAt = (y, x) => tokens.length + y * side + x, at = queryAt(row, column);
    const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    const digit = /^[1-8]$/.test(event.key) ? Number(event.key) - 1 : -1;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (gestures.key(event, at)) return event.preventDefault();
    if (move && hovered === null) hover(at);
    else if (move) hover(queryAt(clamp(row + move[0], 0, rows - 1), clamp(column + move[1], 0, side - 1)));
    else if (event.key === "Enter" || event.key === " ") pin(at, event.shiftKey);
    else if (event.key === "Escape") {
      hover(null);
      change(state.view.tool === "pin" ? { pins: [], active: -1 } : { tool: "pin" });
    } else if ((event.key === "Delete" || event.key === "Backspace") && state.view.active >= 0) unpin(state.view.active);
    else if (digit >= 0 && digit < state.view.pins.length) {
      hover(null); // else the map of the hovered position would stay
      change({ active: digit });
    } else return;
    event.preventDefault();
  }

  // ------------------------------------------------------------------------------ drawing

  /** Draw everything but what follows the pointer. Requests missing answers; until they come, the former picture stays, pale. */
  function update() {
    const catalog = catalogOf(model), next = stateOf(catalog, store.view()), same = next?.layer.id === state?.layer.id;
    if (next && next.view.sample !== state?.view.sample) showInStrip(next.view.sample);
    if (!same) hovered = null; // the other layer has another grid
    state = next;
    head.draw(catalog, [problem, ...store.errors()], store.gone, !state);
    root.setAttribute("aria-label", `Attention of ${catalog.map(({ label }) => label).join(" and ")}`);
    toolbar.node.hidden = workspace.hidden = !state;
    copying.node.hidden = !state?.offers("copy");
    foot.draw(!state || frozen);
    if (!state) return;
    const { source, sample } = state.view, strip = store.ask({ kind: "strip", run: 0, view: { ...state.view, sample: first } });
    images = strip ?? images;
    const absent = source === "dropped" && !(sample < strip?.count);
    const seen = (asked) => store.ask(asked) ?? store.near(asked);
    const answers = catalog.map((_, run) => (absent ? null : seen(request("inspection", run))));
    current = answers.map(Boolean);
    inspections = answers.map((answer, i) => answer ?? (same ? inspections[i] : null) ?? null); // the map of another layer does not fit
    if (state.view.panel === "offsets") catalog.forEach((_, run) => store.ask(request("offsets", run)));
    if (state.view.reading === "causal") askCausal();
    const explanations = catalog.map((_, run) => (state.view.explain && state.view.active >= 0 ? store.ask(explanation(run)) : null));
    toolbar.draw(state, inspections[0]?.weights);
    opacity.show(state.view.opacity);
    scales.show(SCALES, state.view.scale);
    scales.node.hidden = !READINGS[state.view.reading].reference;
    smooth.show(state.view.smooth);
    clearPins.disabled = !state.view.pins.length;
    picker.draw(state, strip, first, frozen);
    gestures.show(state);
    toolset.draw(state, images, undoable(), frozen);
    latent.draw(state, frozen);
    measured.draw(state, catalog.map((_, run) => request("measure", run)), frozen);
    if (stages.length !== catalog.length) makeStages();
    fit();
    drawPins();
    const known = columns();
    overview.draw(state, known, tables, frozen, known.some(({ answer }) => answer));
    explaining.draw(state, explanations, frozen ? "This page holds the words for the pins that it opened with." : store.failure(explanation(0)));
    if (!copying.node.hidden) copying.draw();
    root.toggleAttribute("data-busy", store.busy() !== null);
    const missing = !current.every(Boolean) && (frozen || store.gone);
    head.drawStatus(store, missing && `${frozen ? "this page" : "this view"} does not hold this picture`);
    schedule("look");
  }

  /** Page the strip to an image, unless it shows that. */
  function showInStrip(sample) {
    if (!(images && sample >= images.start && sample < images.start + images.count)) first = sample;
  }

  function makeStages() {
    const { press, release } = gestures, click = (query, add) => state.view.tool === "pin" && pin(query, add || several);
    const step = (index, value) => {
      change({ steps: state.catalog.map((_, i) => (i === index ? value : state.view.steps[i])) });
    };
    stages = state.catalog.map((_, i) => stageCard(i, `wb-hatch-${serial}-${i}`, { hover, press, release, click, key, step }));
    stagesNode.replaceChildren(...stages.map((stage) => stage.node));
  }

  function drawPins() {
    while (pinned.length < state.view.pins.length) {
      const i = pinned.length;
      pinned.push(pinPanel(i, () => {
        hover(null);
        change({ active: i });
      }));
      pinsNode.append(pinned[i].node);
    }
    pinned.splice(state.view.pins.length).forEach(({ node }) => node.remove());
    const perQuery = READINGS[state.view.reading].row === undefined ? state.view.reading : "outgoing";
    const maps = state.view.pins.map((query) => inspections.map((seen, run) => mapOf(perQuery, seen, run, query)));
    const scale = scaleOf(maps.flat(), READINGS[perQuery].unit, state.relative);
    pinned.forEach((panel, i) => panel.draw(state, inspections, maps[i], scale, tables));
    pinsScale.hidden = !maps.flat().some(Boolean);
    pinsScale.textContent = `Pins on one scale, ${scale.low} to ${scale.high}: ${scale.unit}`;
  }

  /** At most one painting a frame. */
  function schedule(kind) {
    if (due === null) requestAnimationFrame(paint);
    if (due === null || RANK[kind] > RANK[due]) due = kind;
  }

  function paint() {
    const kind = due;
    due = null;
    if (!state || !stages.length) return;
    const query = hovered ?? state.view.pins[state.view.active] ?? null, reading = READINGS[state.view.reading];
    const maps = inspections.map((seen, run) => mapOf(state.view.reading, seen, run, query));
    const sequential = scaleOf(maps, reading.unit, state.relative); // one scale, so that both compare
    const hint = !inspections.every(Boolean) ? "" : query === null ? "Click a place in the image, or move over it."
      : frozen ? "This page holds what matters to the pins that it opened with." : "Pin this place to compute what matters to it.";
    const readouts = stages.map((stage, i) => stage.paint(maps[i], query, hovered, sequential, tables, hint));
    overview.paint(query, PIN_COLOURS[hovered === null ? Math.max(0, state.view.active) : 0]);
    side.paint({ state, inspections, maps, offsets: offsets(), sequential, tables });
    if (++paintings % MARKS === 0) performance.clearMarks("wb-paint");
    performance.mark("wb-paint", { detail: { kind } });
    clearTimeout(spoken);
    spoken = setTimeout(() => {
      const text = readouts.join("; ");
      if (speech.textContent !== text) speech.textContent = text;
    }, 400);
  }

  /** The images as large as fits: strip, images and side view beside each other, or below where it is narrow. */
  function fit() {
    const width = root.clientWidth, n = state.catalog.length, gap = 12, chrome = 24; // padding and border of a card
    if (!width) return;
    const rail = width >= (n === 1 ? 940 : 1240) ? 184 + gap : 0, beside = width - rail >= (n === 1 ? 620 : 1000);
    const besideMap = beside && n === 1; // what an intervention changes is seen while the brush is on the image
    place(latent.node, beside ? side.node : stagesNode);
    place(whatIf.node, besideMap ? latent.node : tools);
    const free = width - rail - (beside ? 290 + gap : 0), across = (free - gap) / 2 - chrome < 160 ? 1 : n; // two images one above the other
    size = crisp(state.catalog[0].image_size, clamp((free - (across - 1) * gap) / across - chrome, 160, 520));
    root.dataset.rail = rail ? "beside" : "above";
    root.dataset.right = beside ? "beside" : "below";
    workspace.style.setProperty("--centre", `${across * (size + chrome) + (across - 1) * gap}px`);
    stages.forEach((stage, i) => stage.draw(state, inspections[i], current[i], size));
    whatIf.draw(state, inspections, besideMap ? Math.min(width - rail - size - 2 * chrome - gap, 520) : size, frozen);
  }

  /** Put a node after another one, wherever that is. */
  const place = (node, other) => node.previousSibling === other || other.after(node);

  function drawTables() {
    tables = { plain: colourTable(model.get("palette")), diverging: colourTable(model.get("diverging")) };
  }
  const drawTheme = () => root.toggleAttribute("data-dark", isDark(el));
  const endTheme = onTheme(drawTheme, el);
  const observer = new ResizeObserver(() => {
    drawTheme(); // only now is the view in the page
    if (!state) return;
    fit();
    schedule("look");
  });
  root.addEventListener("keydown", (event) => {
    const command = event.ctrlKey || event.metaKey, undone = command && event.key === "z" && !event.target.matches("input[type=number]");
    if (undone) {
      event.preventDefault();
      undo();
    }
    if (!command || undone) event.stopPropagation(); // else "dd" would delete the cell
  });
  acceptFiles(root, () => !frozen && state?.layers.some(({ network }) => network === "D"), drop);
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
  if (frozen && state?.offers("copy")) {
    openAddress();
    addEventListener("hashchange", openAddress);
  }
  return () => {
    head.stop();
    overview.stop();
    clearTimeout(spoken);
    observer.disconnect();
    endTheme();
    for (const [names, callback] of Object.entries(changes)) model.off(names, callback);
    store.removeEventListener("change", update);
  };
}

export function widget() {
  let store; // one per widget, for all its views
  return {
    initialize({ model }) {
      store = answerStore(model);
    },
    render: ({ model, el }) => render({ model, el, store }),
  };
}
