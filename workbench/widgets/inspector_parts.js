// The parts of the inspector's view: controls, the images to pick from, the image with its map, the side view, pins, what-if.

const PIN_COLOURS = ["#ff3b30", "#34c759", "#0a84ff", "#ff9f0a", "#bf5af2", "#00b8c4", "#ff6fb5", "#a2845e"]; // the first three: figures.py

// ------------------------------------------------------------------------------------------------ controls

/** Buttons of which one is pressed. `show(options, value)`; an option is {value, name, about}. */
function segmented(label, onPick) {
  const node = html("div", { class: "segmented", role: "group", "aria-label": label });
  let shown = "";
  return {
    node,
    show(options, value) {
      const text = JSON.stringify(options);
      if (text !== shown) {
        shown = text;
        node.replaceChildren(...options.map((option) => {
          const choice = html("button", { type: "button", title: option.about ?? "", "data-value": option.value }, option.name);
          choice.addEventListener("click", () => onPick(option.value));
          return choice;
        }));
      }
      for (const choice of node.children) choice.setAttribute("aria-pressed", choice.dataset.value === String(value));
    },
  };
}

function toggle(label, about, onPress) {
  const node = html("button", { type: "button", title: about, "aria-pressed": "false" }, label);
  node.addEventListener("click", () => onPress(node.getAttribute("aria-pressed") !== "true"));
  return { node, show: (on) => node.setAttribute("aria-pressed", Boolean(on)) };
}

/** A slider with its value beside it, as `tell` words it. */
function slider(label, { min, max, step, tell }, onInput) {
  const input = html("input", { type: "range", min, max, step, "aria-label": label });
  const output = html("output");
  input.addEventListener("input", () => onInput(Number(input.value)));
  return {
    node: html("label", { class: "row slide" }, html("span", {}, label), input, output),
    show(value, newest = max) {
      input.max = newest;
      if (Number(input.value) !== value) input.value = value;
      output.textContent = tell(value);
      input.setAttribute("aria-valuetext", output.textContent);
    },
  };
}

function numberField(label, onChange) {
  const input = html("input", { type: "number", min: 0, max: 2 ** 31 - 1, step: 1, "aria-label": label });
  input.addEventListener("input", () => input.value && input.checkValidity() && onChange(Number(input.value)));
  return {
    node: html("label", { class: "row" }, html("span", {}, label), input),
    show: (value) => {
      if (input.value !== String(value)) input.value = value;
    },
  };
}

function button(label, about, onClick) {
  const node = html("button", { type: "button", title: about }, label);
  node.addEventListener("click", onClick);
  return node;
}

/** A colour scale: low … high, with a mark at a value to compare with. */
function scaleBar() {
  const canvas = html("canvas", { width: 256, height: 1, "aria-hidden": "true" }), tick = html("i");
  const [low, mark, high] = ["span", "span", "span"].map((tag) => html(tag)), unit = html("p", { class: "muted" });
  const ramp = html("div", { class: "ramp" }, canvas, tick), ends = html("div", { class: "ends" }, low, mark, high);
  const node = html("div", { class: "scale" }, unit, ramp, ends);
  return {
    node,
    show(table, from, to, about, comparison) {
      if (canvas.shown !== table) canvas.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(table.buffer), 256), 0, 0);
      canvas.shown = table;
      unit.textContent = about;
      const short = (value) => format(Number(value.toPrecision(2)));
      [low.textContent, high.textContent] = [short(from), short(to)];
      tick.hidden = !(comparison?.value < to);
      tick.style.left = `${(100 * ((comparison?.value ?? from) - from)) / (to - from || 1)}%`;
      mark.textContent = comparison ? `${tick.hidden ? "" : "▲ "}${comparison.name} ${short(comparison.value)}` : "";
    },
  };
}

// ------------------------------------------------------------------------------------------------ the parts of the view

/** The images to pick from, and where they come from. */
function stripCard({ change, drop, page }) {
  const sources = segmented("Source of the images", (source) => change({ source, sample: 0 }));
  const classes = html("select", { "aria-label": "Class" });
  const seed = numberField("Seed", (value) => change({ seed: value }));
  const tellTruncation = (value) => (value ? value.toFixed(2) : "none");
  const truncation = slider("Truncation", { min: 0, max: 2, step: 0.05, tell: tellTruncation }, (value) => change({ truncation: value }));
  const walking = "Walk from this latent to that of another seed; the map follows";
  const walk = toggle("Interpolate", walking, (on) =>
    change({ towards: on ? { seed: state.seed + 1, sample: state.sample } : null, mix: on ? 0.5 : 0 }));
  const target = numberField("To seed", (value) => change({ towards: { ...state.towards, seed: value } }));
  const mix = slider("Mix", { min: 0, max: 1, step: 0.02, tell: (value) => value.toFixed(2) }, (value) => change({ mix: value }));
  const latent = html("div", { class: "latent" }, seed.node, truncation.node, walk.node, target.node, mix.node);
  const file = html("input", { type: "file", accept: "image/*", "aria-label": "Image file", hidden: "" });
  const open = html("div", { class: "open" }, button("Open an image…", "Or drop one onto this view", () => file.click()), file);
  const thumbs = html("div", { class: "thumbs", role: "group", "aria-label": "Images" }), empty = html("p", { class: "muted" });
  const back = button("‹", "Earlier images", () => page(-1)), on = button("›", "Further images", () => page(1));
  const at = html("span", { class: "muted" }), pages = html("div", { class: "row pages" }, back, at, on);
  const node = html("section", { class: "card strip", "aria-label": "Images" }, sources.node, classes, latent, open, thumbs, empty, pages);
  let state, shownClasses;
  classes.addEventListener("change", () => change({ class: Number(classes.value) }));
  file.addEventListener("change", () => {
    if (file.files[0]) drop(file.files[0]);
    file.value = ""; // the same file may be opened again
  });

  function thumb() {
    const node = html("button", { type: "button" }, canvasOf("thumb"), html("span"));
    node.addEventListener("click", () => {
      const sample = Number(node.dataset.sample);
      change({ sample, ...(state.towards && { towards: { ...state.towards, sample } }) });
    });
    return node;
  }

  function drawClasses(names) {
    if (shownClasses === names) return;
    shownClasses = names;
    classes.replaceChildren(...["every class in turn", ...names].map((name, i) => html("option", { value: i - 1 }, name)));
  }

  return {
    node,
    draw(scene, strip, start, frozen) {
      state = scene.state;
      const info = scene.catalog[0], drawn = state.source === "samples";
      const names = { samples: "samples", recorded: "recorded", real: "real", dropped: "yours" };
      const kinds = { recorded: "What the training wrote down on its way: more steps than checkpoints", dropped: "Images of your own" };
      sources.show(scene.offered.map((value) => ({ value, name: names[value], about: kinds[value] })), state.source);
      sources.node.hidden = frozen || scene.offered.length < 2;
      drawClasses(info.classes);
      classes.options[0].textContent = drawn ? "every class in turn" : "no class";
      classes.value = state.class;
      classes.hidden = frozen || !info.classes.length || !["samples", "dropped"].includes(state.source);
      latent.hidden = frozen || !drawn;
      seed.show(state.seed);
      truncation.show(state.truncation);
      walk.show(state.towards);
      target.node.hidden = mix.node.hidden = !state.towards;
      target.show(state.towards?.seed ?? 0);
      mix.show(state.mix);
      open.hidden = frozen || state.source !== "dropped";
      pages.hidden = frozen || !PAGED.includes(state.source);
      back.disabled = start === 0;
      on.disabled = state.source === "real" && start + STRIP >= info.real;
      at.textContent = `${start} – ${start + (strip?.count ?? STRIP) - 1}`;
      empty.hidden = strip?.count !== 0;
      empty.textContent = "No image yet: open one, or drop it anywhere here.";
      thumbs.classList.toggle("stale", !strip);
      if (!strip) return;
      while (thumbs.children.length < strip.count) thumbs.append(thumb());
      [...thumbs.children].forEach((thumb, i) => {
        const sample = PAGED.includes(state.source) ? start + i : i, label = strip.labels[i] ?? "";
        thumb.hidden = i >= strip.count || Boolean(info.samples && !info.samples.includes(sample));
        if (thumb.hidden) return;
        thumb.dataset.sample = sample;
        thumb.setAttribute("aria-pressed", sample === state.sample);
        thumb.setAttribute("aria-label", `Image ${sample}${label && `, ${label}`}`);
        paintPicture(thumb.firstChild, strip.images[i]);
        thumb.title = label;
        thumb.lastChild.textContent = label.split(",")[0];
      });
    },
  };
}

const TOLD = ["place", "entropy", "distance", "outside 3×3", "outside 9×9", "strength"];

/** One subject's image with the map above it: the place for pointer and keys. `actions` hears of both. */
function stageCard(index, hatch, actions) {
  const label = html("h3"), about = html("span", { class: "muted" });
  const gamma = html("span", { class: "gamma", title: "The learned strength of this layer" });
  let steps = [], layer, size = 0, look = null;
  const tellStep = (i) => steps[i]?.toLocaleString("en") ?? "";
  const step = slider("Step", { min: 0, max: 0, step: 1, tell: tellStep }, (i) => actions.step(index, steps[i]));
  const picture = canvasOf("image"), heat = canvasOf("heat"), pins = svg("g"), forbidden = svg("path", { fill: `url(#${hatch})` });
  const cursor = svg("g", { class: "cursor", visibility: "hidden" }, svg("rect", { class: "outer" }), svg("rect", { class: "inner" }));
  const pattern = svg("pattern", { id: hatch, width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
    svg("rect", { width: 6, height: 6, fill: "rgb(0 0 0 / 45%)" }), svg("rect", { width: 2, height: 6, fill: "white" }));
  const overlay = svg("svg", { class: "overlay", "aria-hidden": "true" }, svg("defs", {}, pattern), forbidden, cursor, pins);
  const stage = html("div", { class: "stage", tabindex: 0, role: "application" }, picture, heat, overlay);
  const hint = html("span", { class: "muted" }), told = TOLD.map((name) => html("span", {}, name === "place" ? "" : `${name} `, html("b")));
  const readout = html("p", { class: "readout", "aria-hidden": "true" }, hint, ...told);
  const node = html("section", { class: "card view" }, html("div", { class: "row title" }, label, gamma, about), step.node, stage, readout);

  const at = (event) => {
    const cell = (offset) => clamp(Math.floor((offset / size) * layer.side), 0, layer.side - 1);
    return cell(event.offsetY) * layer.side + cell(event.offsetX);
  };
  stage.addEventListener("pointermove", (event) => actions.hover(at(event)));
  stage.addEventListener("pointerleave", () => actions.hover(null));
  stage.addEventListener("blur", () => actions.hover(null));
  stage.addEventListener("pointerdown", (event) => {
    if (event.button === 0 && actions.press(at(event))) stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointerup", actions.release);
  stage.addEventListener("pointercancel", actions.release);
  stage.addEventListener("click", (event) => actions.click(at(event), event.shiftKey));
  stage.addEventListener("keydown", actions.key);

  /** The square of a cell, in CSS pixels. */
  const square = (cell, side) => {
    const width = size / side;
    return { x: (cell % side) * width, y: Math.floor(cell / side) * width, width, height: width };
  };

  function drawPins(queries, active) {
    pins.replaceChildren(...queries.map((query, i) => {
      const { x, y, width } = square(query, layer.side), [cx, cy] = [x + width / 2, y + width / 2];
      const style = `--pin: ${PIN_COLOURS[i]}`, name = { class: i === active ? "pin active" : "pin", "data-query": query, style };
      return svg("g", name, svg("circle", { cx, cy, r: i === active ? 10 : 8 }), svg("text", { x: cx, y: cy + 4 }, String(i + 1)));
    }));
  }

  function drawForbidden(keys) {
    forbidden.setAttribute("d", keys.map((key) => {
      const { x, y, width } = square(key, layer.key_side);
      return `M${x} ${y}h${width}v${width}h${-width}z`;
    }).join(""));
  }

  return {
    node,
    drawForbidden,
    draw(scene, newLook, current, newSize) {
      const { info, step: chosen } = scene.subjects[index], { state } = scene;
      [layer, size, look, steps] = [scene.layer, newSize, newLook, scene.subjects[index].steps];
      label.hidden = scene.catalog.length < 2;
      label.textContent = `${"ab"[index]} · ${info.label}`;
      label.title = info.about;
      gamma.textContent = look ? (info.gamma0 ? "γ set to 0" : `γ ${format(Number(look.gamma.toPrecision(3)))}`) : "";
      about.textContent = look ? [...(look.logit == null ? [] : [`logit ${format(look.logit)}`]), look.about].join(" · ") : "";
      about.title = about.textContent;
      step.show(steps.indexOf(chosen), steps.length - 1);
      step.node.hidden = steps.length < 2;
      node.style.width = `${size + 24}px`;
      readout.style.height = `${1.35 * (size >= 470 ? 2 : size >= 370 ? 3 : 4)}em`; // lines: the view must not jump while the pointer moves
      stage.style.width = stage.style.height = `${size}px`;
      stage.classList.toggle("stale", !current);
      stage.classList.toggle("brush", state.tool === "brush");
      stage.setAttribute("aria-label", `${info.label}, ${layer.label}: arrow keys move over its places, Enter pins one`);
      overlay.setAttribute("viewBox", `0 0 ${size} ${size}`);
      heat.style.opacity = state.opacity;
      heat.classList.toggle("smooth", state.smooth);
      if (look) paintPicture(picture, look.image);
      drawPins(scene.pins, scene.active);
      drawForbidden(state.forbid);
    },
    /** The hot path: a map, its query, and the cell under the pointer. */
    paint(map, query, hovered, high, table, hintText) {
      [heat.values, heat.query] = [map?.values ?? null, query];
      if (map) paintHeat(heat, map.values, table, 0, high);
      else clear(heat);
      cursor.setAttribute("visibility", hovered === null ? "hidden" : "visible");
      if (hovered !== null) for (const rect of cursor.children) fill(rect, square(hovered, layer.side), []);
      const values = look && query !== null ? numbers(look, query) : null;
      hint.hidden = Boolean(values) && map !== null;
      hint.textContent = hintText;
      told.forEach((span, i) => {
        span.hidden = !values;
        if (values) span.lastChild.textContent = values[TOLD[i]];
      });
      return values ? TOLD.map((name) => `${name === "place" ? "" : name} ${values[name]}`).join(", ") : "";
    },
  };
}

const OFFSETS = { value: "offsets", name: "By offset", about: "Where the places of these samples look on average, relative to themselves" };
const PANELS = [[{ value: "map", name: "Map" }, OFFSETS], [{ value: "map", name: "Maps" }, { value: "images", name: "Images" }, OFFSETS]];

/** The map without the image below it and its colour scale; in a comparison, what differs. */
function sideCard(onPanel) {
  const tabs = segmented("What the side view shows", onPanel);
  const canvas = canvasOf("plain"), note = html("p", { class: "muted" }), scale = scaleBar(), other = scaleBar();
  const mapsScale = html("div", { class: "maps-scale" }, html("h3", {}, "Maps on the images"), other.node);
  const title = html("h3", {}, "Difference b − a");
  const node = html("section", { class: "card side", "aria-label": "Side view" }, title, tabs.node,
    html("div", { class: "split" }, canvas, html("div", { class: "legends" }, scale.node, note, mapsScale)));

  /** One map, or the difference of two, and its scale. */
  function paintMaps(maps, { plain: sequential, diverging }, high, unit, mark) {
    const side = Math.max(...maps.map((map) => map.side)), [a, b] = maps.map((map) => enlarge(map, side, map.spread));
    if (!b) {
      paintHeat(canvas, a, sequential, 0, high);
      return scale.show(sequential, 0, high, unit, mark);
    }
    const values = b.map((value, i) => value - a[i]), most = extent(values);
    paintHeat(canvas, values, diverging, -most || -1, most || 1); // where nothing differs, all has the middle colour
    scale.show(diverging, -most, most, unit);
    if (!most) note.textContent = "No difference.";
  }

  return {
    node,
    paint({ scene, panel, frozen, looks, maps, offsets, high, tables, map: { unit, mark } }) {
      const pair = scene.catalog.length > 1;
      title.hidden = !pair;
      const askable = frozen ? offsets.every(Boolean) : scene.state.source !== "recorded";
      const options = PANELS[Number(pair)].filter((option) => option !== OFFSETS || askable);
      tabs.show(options, panel);
      tabs.node.hidden = options.length < 2;
      canvas.classList.toggle("smooth", scene.state.smooth && panel === "map");
      const ready = { map: maps, images: looks, offsets }[panel].every(Boolean);
      canvas.classList.toggle("stale", !ready);
      scale.node.hidden = !ready || panel === "images";
      mapsScale.hidden = !pair || !maps.every(Boolean);
      if (!mapsScale.hidden) other.show(tables.plain, 0, high, unit, mark);
      note.textContent = panel !== "offsets" ? "" : ready ? "The centre is the place itself." : "averaging over samples…";
      if (!ready) return;
      if (panel === "map") paintMaps(maps, tables, high, unit, mark);
      else if (panel === "offsets") paintMaps(offsets, tables, largest(offsets[0].values), "mean weight by offset of the key");
      else {
        const { rgb, factor } = difference(looks[0].image, looks[1].image);
        paintPicture(canvas, rgb);
        note.textContent = `difference of the images × ${factor}, on grey`;
      }
      if (panel !== "images") canvas.shown = null;
    },
  };
}

/** A pinned query: its map in the frame of its colour, and its numbers. */
function pinPanel(i, onPick) {
  const maps = html("span", { class: "maps" }), table = html("span", { class: "numbers" });
  const node = html("button", { type: "button", class: "pinned", style: `--pin: ${PIN_COLOURS[i]}` },
    html("span", { class: "dot" }, String(i + 1)), maps, table);
  node.addEventListener("click", onPick);
  return {
    node,
    draw(scene, looks, mapsOf, table256) {
      const query = scene.pins[i];
      while (maps.children.length < looks.length) maps.append(canvasOf("small"));
      const drawn = looks.map((look, subject) => mapsOf(look, subject, query));
      const high = Math.max(...drawn.map((map) => (map ? largest(map.values) : 0)));
      drawn.forEach((map, subject) => {
        if (map) paintHeat(maps.children[subject], map.values, table256, 0, high);
        else clear(maps.children[subject]);
      });
      const columns = looks.map((look) => (look ? numbers(look, query) : null));
      const short = (text) => text.replace(" nats", "").replace(columns.length > 1 ? " places" : "", "");
      node.classList.toggle("pair", looks.length > 1);
      table.replaceChildren(html("b", {}, columns.find(Boolean)?.place ?? ""), ...TOLD.slice(1).flatMap((name) =>
        [html("span", { class: "muted" }, name), ...columns.map((column) => html("span", {}, column ? short(column[name]) : "…"))]));
      node.setAttribute("aria-pressed", i === scene.active);
      node.setAttribute("aria-label", `Pin ${i + 1}, ${columns.find(Boolean)?.place ?? ""}`);
    },
  };
}

/** What the layer's output would be if it attended otherwise: the controls, and the images before and after. */
function whatIfCard({ change }) {
  let state;
  const gamma0 = toggle("γ = 0", "Switch attention off: the layer passes on what it was given", (on) => change({ gamma0: on }));
  const map = segmented("Attention map", (replace) => change({ replace }));
  const painting = "Paint over places that may not be looked at; paint again to allow them";
  const brush = toggle("✎ Knock out", painting, (on) => change({ tool: on ? "brush" : "pin" }));
  const scope = segmented("Knocked out for", (value) => change({ scope: value }));
  const clearAll = button("Clear", "Allow all places again", () => change({ forbid: [] })), told = html("span", { class: "muted" });
  const controls = html("div", { class: "row controls" },
    html("h3", {}, "What if"), gamma0.node, map.node, brush.node, scope.node, clearAll, told);
  const results = html("div", { class: "results" });
  const node = html("section", { class: "card what-if", "aria-label": "What if" }, controls, results);
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

  function drawTriple({ node, figures }, look, label, width) {
    node.style.width = `${width}px`;
    const title = [label, look.logit_after == null ? "" : `logit ${format(look.logit)} → ${format(look.logit_after)}`];
    node.firstChild.textContent = title.filter(Boolean).join(": ");
    figures.forEach((figure) => (figure.hidden = !look.after));
    if (!look.after) return;
    const change = difference(look.image, look.after);
    const captions = ["before", "after", change.most ? `difference × ${change.factor}` : "no difference"];
    [look.image, look.after, change.rgb].forEach((rgb, i) => {
      const canvas = figures[i].firstChild;
      paintPicture(canvas, rgb);
      canvas.style.width = `${crisp(look.size, (width - 16) / 3)}px`;
      figures[i].lastChild.textContent = captions[i];
    });
  }

  return {
    node,
    draw(scene, looks, width, frozen) {
      state = scene.state;
      const on = state.gamma0 || state.replace || state.forbid.length;
      controls.hidden = frozen;
      node.hidden = (frozen && !on) || state.source === "recorded";
      gamma0.show(state.gamma0);
      map.show(replacements, state.replace);
      brush.show(state.tool === "brush");
      scope.show(scopes, state.scope);
      scope.node.hidden = clearAll.hidden = !state.forbid.length;
      const keys = state.forbid.length, idle = keys && state.scope === "pins" && !scene.pins.length;
      const count = `${keys} of ${scene.layer.key_side ** 2} places`;
      told.textContent = idle ? "pin a place first" : keys ? count : state.tool === "brush" ? "paint on the image" : "";
      results.hidden = !on;
      if (!on) return;
      const pair = scene.catalog.length > 1;
      looks.forEach((look, i) => {
        triples[i] ??= triple();
        if (!triples[i].node.isConnected) results.append(triples[i].node);
        triples[i].node.hidden = !look || (!look.after && look.logit_after == null);
        if (!triples[i].node.hidden) drawTriple(triples[i], look, pair ? `${"ab"[i]} · ${scene.catalog[i].label}` : "", width);
      });
    },
  };
}
