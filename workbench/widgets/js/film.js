// A film of a training. Every <div class="wb film" data-film> of the page gets its view; its first script holds the film as JSON:
// steps, and for each step samples, maps (pictures) and numbers; dots on the maps, panels of the chart, and the duration in seconds.

import { button, slider } from "./controls.js";
import { html } from "./dom.js";
import { isDark, onTheme } from "./theme.js";

const KEYS = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, Home: -Infinity, End: Infinity };
const percent = (share) => `${100 * share}%`;

function show(node) {
  const film = JSON.parse(node.querySelector("script").textContent), last = film.steps.length - 1;
  const step = html("h2"), numbers = html("p"), title = html("p", { class: "muted" }, film.title);
  const samples = html("img", { alt: "Samples", class: "samples", decoding: "sync" });
  const maps = html("img", { alt: "An image with dots, and where each dot looks", decoding: "sync" });
  const dots = film.dots.map(([x, y, colour]) => html("i", { style: `left: ${percent(x)}; top: ${percent(y)}; background: ${colour}` }));
  const strip = html("div", { class: "maps" }, maps, ...dots), chart = html("div", { class: "chart" });
  chart.append(document.importNode(new DOMParser().parseFromString(film.chart, "image/svg+xml").documentElement, true));
  const panels = film.panels.map(({ left, right, top, bottom }) => html("div", { class: "panel", title: "Click: go to this step",
    style: `left: ${percent(left)}; top: ${percent(top)}; width: ${percent(right - left)}; height: ${percent(bottom - top)}` }, html("b")));
  const play = button("", "", () => run(!timer));
  const bar = slider("Step", { min: 0, max: last, step: 1, write: (k) => film.steps[k].toLocaleString("en") }, (k) => seek(k));
  let at = last, timer = null;
  samples.addEventListener("load", () => samples.classList.toggle("smooth", samples.naturalWidth > 500)); // small ones have pixels to be seen

  function draw() {
    step.textContent = `step ${film.steps[at].toLocaleString("en")}`;
    numbers.textContent = film.numbers[at];
    samples.src = film.samples[at];
    if (film.maps[at]) maps.src = film.maps[at];
    bar.show(at, last);
    panels.forEach((panel, k) => {
      const { first, last: end } = film.panels[k];
      panel.firstChild.style.left = percent(Math.min(1, Math.max(0, (film.steps[at] - first) / (end - first))));
    });
    const words = timer ? "Pause" : "Play";
    play.textContent = timer ? "❚❚" : "▶";
    play.title = `${words} (space bar)`;
    play.setAttribute("aria-label", words);
  }

  function run(on) {
    clearInterval(timer);
    timer = on ? setInterval(() => (at < last && node.isConnected ? go(at + 1) : run(false)), (1000 * film.seconds) / (last + 1)) : null;
    if (on && at === last) at = 0;
    draw();
  }

  function go(k) {
    at = Math.min(last, Math.max(0, k));
    draw();
  }

  function seek(k) {
    run(false);
    go(k);
  }

  /** Go to the step nearest to the pointer. */
  function point(event, panel, { first, last: end }) {
    const { left, width } = panel.getBoundingClientRect(), wanted = first + ((event.clientX - left) / width) * (end - first);
    const away = film.steps.map((known) => Math.abs(known - wanted));
    seek(away.indexOf(Math.min(...away)));
  }
  panels.forEach((panel, k) => {
    panel.addEventListener("pointerdown", (event) => {
      panel.setPointerCapture(event.pointerId);
      point(event, panel, film.panels[k]);
    });
    panel.addEventListener("pointermove", (event) => event.buttons && point(event, panel, film.panels[k]));
  });
  node.addEventListener("keydown", (event) => {
    if (event.key === " ") run(!timer);
    else if (event.key in KEYS) seek(at + KEYS[event.key]);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });

  node.replaceChildren(
    html("header", {}, step, numbers, html("span", { class: "spring" }), title),
    html("div", { class: "scenes" }, html("div", { class: "pictures" }, samples, ...(film.maps[last] ? [strip] : [])), chart),
    html("div", { class: "row bar" }, play, bar.node),
    html("p", { class: "muted caption" }, film.caption),
  );
  chart.append(...panels);
  node.tabIndex = 0;
  node.setAttribute("role", "group");
  node.setAttribute("aria-label", `Film of ${film.title}; space bar: play or pause, arrow keys: steps`);
  const theme = () => node.toggleAttribute("data-dark", isDark(node.parentElement));
  theme();
  onTheme(theme, node.parentElement);
  draw();
}

for (const node of document.querySelectorAll(".wb.film[data-film]")) {
  node.removeAttribute("data-film");
  show(node);
}
