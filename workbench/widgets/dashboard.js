// The live view of a run. dashboard.py reads the run folder and decides what is shown; this module draws it: the head,
// charts (SVG) and the sample grid with its slider.

// ------------------------------------------------------------------------------------------------ sample grids

/** The sample grids that came from the kernel so far, for all views of one widget: they stay when the kernel goes. */
function pictureStore(model) {
  const urls = new Map(); // step, or "preview" -> URL of a blob
  const reasons = new Map(); // step -> why its samples cannot be shown
  const store = new EventTarget();
  store.open = false; // whether the diagnostics are unfolded, and which layers are looked at there, for further views too
  store.layers = {};
  store.chosen = null; // where a further view starts; Jupyter makes a new one when the output of a cell is updated
  const keep = (key, bytes) => {
    if (!bytes?.byteLength) return;
    URL.revokeObjectURL(urls.get(key));
    urls.set(key, URL.createObjectURL(new Blob([bytes])));
    store.dispatchEvent(new Event("picture"));
  };
  const keepPreview = () => keep("preview", model.get("preview"));
  model.on("change:preview", keepPreview);
  model.on("msg:custom", (content, buffers) => {
    if (content.kind !== "sample") return;
    if (content.reason) reasons.set(content.step, content.reason);
    if (content.reason) store.dispatchEvent(new Event("picture"));
    else keep(content.step, buffers[0]);
  });
  keepPreview();
  store.reason = (step) => reasons.get(step);
  store.get = (key) => urls.get(key);
  store.ask = (step) => send(model, { kind: "sample", step });
  store.close = () => urls.forEach((url) => URL.revokeObjectURL(url));
  return store;
}

/**
 * The card with the sample grid: the newest one, until the slider is moved back. `onStep(step or null)` hears of that,
 * `onSize()` of a picture of another size.
 */
function samplesCard(store, onStep, onSize) {
  const caption = html("span", { class: "muted", role: "status" });
  const purpose = "Samples over the whole width";
  const enlarge = html("button", { type: "button", "aria-pressed": "false", "aria-label": purpose, title: purpose }, "⤢");
  const image = html("img", { alt: "" });
  const empty = html("p", { class: "muted" });
  const slider = html("input", { type: "range", min: 0, step: 1, "aria-label": "Step of the samples" });
  const newest = html("button", { type: "button" }, "newest");
  const node = html("section", { class: "card samples", "aria-label": "Samples" },
    html("div", { class: "row" }, html("h3", {}, "Samples"), caption, html("span", { class: "spring" }), enlarge),
    html("div", { class: "picture" }, image, empty), html("div", { class: "row" }, slider, newest));
  let steps = [], chosen = store.chosen, room = 400, timer = 0; // chosen: a step, or null for the newest

  const size = () => {
    // A whole number of device pixels for each pixel of the grid is crispest, unless much room would be left; a grid that is
    // too large is scaled down smoothly.
    const ratio = window.devicePixelRatio || 1;
    const fit = (room * ratio) / (image.naturalWidth || 1);
    const scale = fit > 1 && (fit < 1.5 || fit >= 2) ? Math.floor(fit) : fit;
    image.style.width = `${(image.naturalWidth * scale) / ratio}px`;
    image.style.imageRendering = scale > 1 ? "pixelated" : "auto";
  };
  const show = () => {
    const step = chosen ?? steps.at(-1);
    image.hidden = slider.disabled = newest.disabled = enlarge.disabled = step === undefined;
    empty.hidden = !image.hidden;
    if (step === undefined) return;
    slider.max = steps.length - 1;
    slider.value = chosen === null ? steps.length - 1 : nearest(steps, chosen);
    slider.setAttribute("aria-valuetext", `step ${step}`);
    newest.disabled = chosen === null;
    const exact = store.get(step), url = exact ?? (chosen === null ? store.get("preview") : undefined);
    const at = `step ${step.toLocaleString("en")}`;
    const reason = store.reason(step);
    say(caption, !url ? `${at}: ${reason ?? "waiting for the kernel"}` : chosen === null ? `${at}, the newest` : at);
    image.classList.toggle("stale", !url);
    if (url && image.src !== url) {
      image.src = url;
      image.alt = `Samples of the generator at ${at}`;
      image.dataset.step = step;
    }
    clearTimeout(timer); // a dragged slider asks for the step where it rests
    if (!exact && !reason) timer = setTimeout(() => store.ask(step), 60);
  };
  image.addEventListener("load", () => {
    size();
    onSize();
  });
  const choose = (step) => {
    chosen = store.chosen = step;
    show();
    onStep(step);
  };
  slider.addEventListener("input", () => choose(Number(slider.value) === steps.length - 1 ? null : steps[slider.value]));
  newest.addEventListener("click", () => choose(null));
  store.addEventListener("picture", show);
  return {
    node,
    enlarge,
    update(newSteps, every) {
      steps = newSteps;
      empty.textContent = `no samples yet: they come every ${every} steps`;
      if (chosen === null || steps.includes(chosen)) show();
      else choose(null); // a resumed run has dropped it
    },
    resize(width) {
      room = width;
      size();
    },
    width: () => Math.max(image.clientWidth, 260),
    close: () => store.removeEventListener("picture", show),
  };
}

// ------------------------------------------------------------------------------------------------ charts

/** Round numbers from low to high, about `count` of them. */
function ticks(low, high, count) {
  const raw = (high - low) / count;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((factor) => factor * unit >= raw) * unit;
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) found.push(k * step + 0); // no −0
  return found;
}

/** Round numbers from low to high for a logarithmic axis: 1, 2, 5, 10, ..., fewer where there are many decades. */
function logTicks(low, high, count) {
  if (high / low < 8) return ticks(low, high, count);
  const decades = Math.log10(high / low), factors = decades < 2 ? [1, 2, 5] : [1], every = Math.ceil(decades / count);
  const found = [];
  for (let k = Math.floor(Math.log10(low)); 10 ** k <= high; k++) {
    if (k % every === 0) found.push(...factors.map((factor) => Number((factor * 10 ** k).toPrecision(6))));
  }
  return found.filter((tick) => tick >= low && tick <= high);
}

/** A curve without what a logarithmic axis has no place for. */
function positive(curve) {
  const there = curve.steps.map((_, i) => i).filter((i) => curve.values[i] > 0);
  return { ...curve, steps: there.map((i) => curve.steps[i]), values: there.map((i) => curve.values[i]) };
}

/** The curves of one layer of a chart, in the form of its other curves. */
function layerCurves(chart, layer) {
  return layer.curves.map(({ name, values }) => {
    const there = chart.steps.map((_, i) => i).filter((i) => values[i] !== null && (!chart.log || values[i] > 0));
    return { name, colour: layer.colour, steps: there.map((i) => chart.steps[i]), values: there.map((i) => values[i]) };
  });
}

const CHROME = 24; // padding and border of a card, both sides
const MARGIN = { left: 46, right: 8, top: 14, bottom: 19 };

/**
 * A chart with a legend that tells the newest values, or those at the cursor. `onCursor(step or null)` hears of pointer and keys.
 * Where a chart has layers, one of them is shown with its legend, by default that of the largest value, and the others are pale.
 * `chosen` keeps which, by the chart's title.
 */
function chartCard(onCursor, chosen) {
  const title = html("h3"), unit = html("p", { class: "unit" });
  const legend = html("span", { class: "legend" });
  const plot = svg("svg", { class: "plot", tabindex: 0, role: "img" });
  const head = html("div", { class: "row" }, title, html("span", { class: "spring" }), legend);
  const what = html("span"), layers = html("select", { "aria-label": "Layer" });
  unit.append(what, " ", layers);
  const node = html("section", { class: "card chart" }, head, unit, plot);
  const overlay = svg("g");
  let chart, first, last, width, height, x, y, values, cursor = null, shown = [];

  function draw(newChart, domain) {
    [chart, [first, last], width, height] = [newChart, domain, plot.clientWidth || 300, plot.clientHeight || 112];
    title.textContent = chart.title;
    what.textContent = chart.unit;
    unit.title = chart.note ?? "";
    const pale = pickLayer();
    const drawn = shown.filter((curve) => curve.steps.length);
    const right = width - MARGIN.right, bottom = height - MARGIN.bottom;
    legend.replaceChildren();
    if (!drawn.length) {
      plot.replaceChildren(svg("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, chart.empty));
      plot.setAttribute("aria-label", `${chart.title}: ${chart.empty}`);
      return;
    }
    const all = [...drawn, ...pale].flatMap((curve) => curve.values);
    let low = all.reduce((a, b) => Math.min(a, b), chart.zero ? 0 : Infinity);
    let high = all.reduce((a, b) => Math.max(a, b), chart.zero ? 0 : -Infinity);
    const pad = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
    if (chart.log) {
      const factor = (high / low) ** 0.06 || 1;
      [low, high] = factor > 1.0001 ? [low / factor, high * factor] : [low * 0.9, high * 1.1];
    } else {
      low -= low === 0 && chart.zero ? 0 : pad;
      high += high === 0 && chart.zero ? 0 : pad;
    }
    const scale = chart.log ? Math.log : Number;
    x = (step) => MARGIN.left + ((step - first) / (last - first || 1)) * (right - MARGIN.left);
    y = (value) => bottom - ((scale(value) - scale(low)) / (scale(high) - scale(low))) * (bottom - MARGIN.top);

    const marks = [svg("text", { x: 0, y: height - 4 }, "step")];
    for (const tick of (chart.log ? logTicks : ticks)(low, high, clamp((bottom - MARGIN.top) / 18, 3, 6))) {
      const label = format(Number(tick.toPrecision(12)), Math.max(high, -low));
      marks.push(svg("line", { class: label === "0" ? "zero" : "grid", x1: MARGIN.left, x2: right, y1: y(tick), y2: y(tick) }),
        svg("text", { x: MARGIN.left - 6, y: y(tick) + 4, "text-anchor": "end" }, label));
    }
    for (const tick of ticks(first, Math.max(last, first + 1), Math.max(2, Math.floor(width / 90)))) {
      if (tick > last || !Number.isInteger(tick)) continue;
      const anchor = x(tick) > right - 14 ? "end" : "middle";
      marks.push(svg("text", { x: x(tick), y: height - 4, "text-anchor": anchor }, tick.toLocaleString("en")));
    }
    for (const curve of pale) {
      const d = `M${curve.steps.map((step, i) => `${x(step).toFixed(1)},${y(curve.values[i]).toFixed(1)}`).join("L")}`;
      marks.push(svg("path", { class: "pale", style: `stroke: var(--${curve.colour})`, d }));
    }
    const seen = {}, dashes = ["", "5 3", "2 2", "8 3 2 3"]; // further curves of one colour are dashed
    values = drawn.map((curve) => {
      const colour = `var(--${curve.colour})`, value = html("b");
      seen[curve.colour] = (seen[curve.colour] ?? -1) + 1;
      const stroke = { class: "curve", style: `stroke: ${colour}`, "stroke-dasharray": dashes[seen[curve.colour] % 4] };
      const points = curve.steps.map((step, i) => [x(step).toFixed(1), y(curve.values[i]).toFixed(1)]);
      marks.push(svg("path", { ...stroke, d: `M${points.join("L")}` }));
      if (points.length <= 12) marks.push(...points.map(([cx, cy]) => svg("circle", { cx, cy, r: 2.5, style: `fill: ${colour}` })));
      const swatch = svg("svg", { width: 14, height: 4 }, svg("path", { ...stroke, d: "M0 2H14" }));
      legend.append(html("span", {}, swatch, `${curve.name} `, value));
      return { curve, value };
    });
    plot.replaceChildren(...marks, overlay);
  }

  /** Decide which curves are shown with a legend; the pale ones of other layers. */
  function pickLayer() {
    layers.hidden = !chart.layers?.length;
    shown = chart.curves.map((curve) => (chart.log ? positive(curve) : curve));
    if (layers.hidden) return [];
    const names = chart.layers.map((layer) => layer.name);
    if (names.join() !== [...layers.options].map((option) => option.value).join()) {
      layers.replaceChildren(...names.map((name) => html("option", { value: name }, name)));
    }
    const newest = (layer) => layer.curves[0]?.values.at(-1) ?? 0;
    const largest = chart.layers.reduce((a, b) => (newest(b) > newest(a) ? b : a));
    const layer = chart.layers.find(({ name }) => name === chosen[chart.title]) ?? largest;
    if (layers.value !== layer.name) layers.value = layer.name;
    shown = layerCurves(chart, layer);
    return chart.layers.filter((other) => other !== layer).flatMap((other) => layerCurves(chart, other).slice(0, 1))
      .filter((curve) => curve.steps.length);
  }

  /** Show the values at `step` (null: the newest), and a dashed line at the step of the samples shown. */
  function point(step, sample) {
    cursor = step;
    if (!shown.some((curve) => curve.steps.length)) return;
    const bottom = height - MARGIN.bottom;
    const line = (at, kind) => svg("line", { class: kind, x1: x(at), x2: x(at), y1: MARGIN.top, y2: bottom });
    overlay.replaceChildren();
    if (sample !== null && sample >= first && sample <= last) overlay.append(line(sample, "sample"));
    if (step !== null) overlay.append(line(step, "cursor"));
    const told = values.map(({ curve, value }) => {
      const i = step === null ? curve.steps.length - 1 : nearest(curve.steps, step);
      value.textContent = format(curve.values[i]);
      const dot = { class: "dot", cx: x(curve.steps[i]), cy: y(curve.values[i]), r: 4, style: `fill: var(--${curve.colour})` };
      if (step !== null) overlay.append(svg("circle", dot));
      return `${curve.name} ${value.textContent}`;
    });
    if (step !== null) {
      const place = x(step) > width * 0.7 ? { x: x(step) - 5, "text-anchor": "end" } : { x: x(step) + 5 };
      overlay.append(svg("text", { ...place, y: 9 }, `step ${step.toLocaleString("en")}`));
    }
    const at = step === null ? "the newest step" : `step ${step}`;
    const of = layers.hidden ? chart.unit : `${chart.unit} ${layers.value}`;
    plot.setAttribute("aria-label", `${chart.title}, ${of}, at ${at}: ${told.join(", ")}`);
  }

  const moveTo = (step) => first <= last && onCursor(Math.round(clamp(step, first, last))); // no chart has values: no cursor
  plot.addEventListener("pointermove", (event) => {
    const inside = event.clientX - plot.getBoundingClientRect().left - MARGIN.left;
    moveTo(first + (inside / (width - MARGIN.left - MARGIN.right)) * (last - first));
  });
  layers.addEventListener("change", () => {
    chosen[chart.title] = layers.value;
    draw(chart, [first, last]);
    onCursor(cursor);
  });
  plot.addEventListener("pointerleave", () => onCursor(null));
  plot.addEventListener("blur", () => onCursor(null));
  plot.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (move) moveTo((cursor ?? last) + (move * (last - first)) / 50);
    if (event.key === "Escape") onCursor(null);
  });
  return { node, draw, point };
}

// ------------------------------------------------------------------------------------------------ the whole view

function render({ model, el, store }) {
  const name = html("h2"), about = html("span", { class: "muted" });
  const badge = html("span", { class: "badge", role: "status" });
  const freeing = "A cell waits for the end of the training: end that cell now; the training and this view go on";
  const free = html("button", { type: "button", class: "free", title: freeing }, "Let other cells run");
  const stop = html("button", { type: "button", class: "stop", title: "Save a checkpoint and stop the training" }, "■ Stop");
  const bar = html("i");
  const progress = html("div", { class: "bar", role: "progressbar", "aria-label": "Steps", "aria-valuemin": 0 }, bar);
  const facts = html("div", { class: "facts" });
  const alarm = html("div", { class: "note alarm", role: "alert" });
  const message = html("p", { class: "note", role: "status" });
  const farewell = html("p", { class: "note farewell" });
  const log = html("pre"), logBox = html("details", {}, html("summary", {}, "last lines of the log"), log);
  const more = html("div", { class: "body" });
  const moreBox = html("details", { class: "more" }, html("summary", {}, "Diagnostics: gradients, saturation of D, singular values of every layer"), more);
  moreBox.open = store.open;
  let cursor = null, sampleStep = store.chosen, asked = false, wide = false;
  const cards = [], moreCards = [];

  const observer = new ResizeObserver((entries) => (entries.some((entry) => entry.target === root) ? resize() : drawCharts()));
  const point = () => [...cards, ...moreCards].forEach((card) => card.point(cursor, sampleStep));
  const samples = samplesCard(store, (step) => {
    sampleStep = step;
    point();
  }, () => resize());
  const body = html("div", { class: "body" }, samples.node);
  const root = html("div", { class: "wb", role: "region" },
    html("header", {}, name, about, badge, html("span", { class: "spring" }), free, stop),
    progress, facts, alarm, message, farewell, logBox, body, moreBox);
  el.append(root);

  function drawHead() {
    const head = model.get("summary");
    name.textContent = head.name;
    about.textContent = head.about;
    root.setAttribute("aria-label", `Training of ${head.name}`);
    root.toggleAttribute("data-active", head.active);
    asked &&= head.state === "running" || head.state === "starting"; // from the click until Python says so itself
    badge.dataset.state = asked ? "stopping" : head.state;
    say(badge, asked ? "stopping…" : head.badge);
    stop.disabled = !head.active || head.state === "stopping" || asked;
    free.hidden = !model.get("waiting") || !head.active;
    bar.style.width = `${(100 * head.step) / (head.steps || 1)}%`;
    progress.setAttribute("aria-valuenow", head.step);
    progress.setAttribute("aria-valuemax", head.steps);
    facts.replaceChildren(...head.facts.map(([value, unit]) => html("span", {}, html("b", {}, value), ` ${unit}`)));
    say(alarm, head.alarms.join("\n"));
    say(message, head.message);
    const again = `await Dashboard("${head.name}").follow()`;
    farewell.textContent = `The kernel of this view is gone; the training goes on without it. To watch it again: ${again}`;
    logBox.hidden = !head.log;
    log.textContent = head.log;
    samples.update(model.get("samples"), head.sample_every);
  }

  function drawCharts() {
    const charts = model.get("charts"), further = model.get("diagnostics");
    moreBox.hidden = !further.length;
    const drawn = [...charts, ...further].flatMap((chart) => chart.curves).filter((curve) => curve.steps.length);
    const ends = drawn.flatMap((curve) => [curve.steps[0], curve.steps.at(-1)]);
    ends.push(...further.flatMap((chart) => (chart.layers.length ? [chart.steps[0], chart.steps.at(-1)] : [])));
    const domain = [Math.min(...ends), Math.max(...ends)];
    drawGroup(body, cards, charts, domain);
    drawGroup(more, moreCards, moreBox.open ? further : [], domain); // what is folded away costs nothing
    point();
  }

  function drawGroup(where, group, charts, domain) {
    while (group.length < charts.length) {
      const card = chartCard((step) => {
        cursor = step;
        point();
      }, store.layers);
      group.push(card);
      where.append(card.node);
      observer.observe(card.node);
    }
    group.splice(charts.length).forEach((card) => card.node.remove());
    group.forEach((card, i) => card.draw(charts[i], domain));
  }

  /** The samples on the left and charts beside and below them, or all below each other where it is narrow. */
  function resize() {
    const width = root.clientWidth, stacked = width < 820 || wide;
    samples.resize(stacked ? width - CHROME : Math.min(width - 360, 760)); // leaves room for a column of charts
    const columns = Math.max(1, Math.floor((stacked ? width : width - samples.width() - CHROME) / 320));
    body.style.gridTemplateColumns = `${stacked ? "" : "max-content "}repeat(${columns}, minmax(0, 1fr))`;
    more.style.gridTemplateColumns = `repeat(${Math.max(1, Math.floor(width / 320))}, minmax(0, 1fr))`;
    samples.node.style.gridArea = stacked ? "auto / 1 / auto / -1" : `span ${columns > 1 ? 2 : 3} / 1`;
    drawCharts();
  }

  stop.addEventListener("click", () => {
    asked = send(model, { kind: "stop" });
    root.classList.toggle("orphan", !asked);
    drawHead();
  });
  free.addEventListener("click", () => send(model, { kind: "free" }));
  samples.enlarge.addEventListener("click", () => {
    wide = !wide;
    samples.enlarge.setAttribute("aria-pressed", wide);
    resize();
  });
  root.addEventListener("keydown", (event) => event.ctrlKey || event.metaKey || event.stopPropagation()); // or "dd" deletes the cell
  model.on("change:summary change:samples change:waiting", drawHead);
  model.on("change:charts change:diagnostics", drawCharts);
  moreBox.addEventListener("toggle", () => {
    store.open = moreBox.open;
    drawCharts();
  });
  model.on("comm_live_update", () => root.classList.add("orphan")); // the kernel was restarted, and knows of no widget
  observer.observe(root);
  drawHead();
  return () => {
    observer.disconnect();
    samples.close();
  };
}

export default () => {
  let store; // one per widget, for all its views
  return {
    initialize({ model }) {
      store = pictureStore(model);
      model.on("change:summary", () => model.get("summary").active || keepInNotebook(model));
      return store.close;
    },
    render: ({ model, el }) => render({ model, el, store }),
  };
};
