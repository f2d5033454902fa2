// The living page of a generator without attention: its images.

import { answerStore } from "./answers.js";
import { slider } from "./controls.js";
import { html, say } from "./dom.js";
import { clamp } from "./numbers.js";
import { canvasOf, crisp, paintPicture } from "./paint.js";
import { stripCard } from "./strip.js";
import { isDark, onTheme } from "./theme.js";

/** Show the images in an element, as the inspector does. */
export function showGallery(model, el) {
  const store = answerStore(model), catalog = model.get("catalog"), [info] = catalog, alarm = html("p", { class: "note alarm", role: "alert" });
  let first = 0, strip = null, seen = null;
  const change = (patch) => store.change(patch);
  const picker = stripCard({ change, page: (by) => {
    first = Math.max(0, first + info.page * by);
    update();
  } });
  const step = slider("Step", { min: 0, max: 0, step: 1, write: (i) => info.steps[i].toLocaleString("en") }, (i) => change({ steps: [info.steps[i]] }));
  const picture = canvasOf("image"), stage = html("div", { class: "stage" }, picture), about = html("span", { class: "muted" });
  const card = html("section", { class: "card view" }, html("div", { class: "row title" }, about), step.node, stage);
  const workspace = html("div", { class: "workspace" }, html("div", { class: "centre" }, card), picker.node);
  const header = html("header", {}, html("h2", {}, info.label), html("span", { class: "muted" }, info.about));
  const root = html("div", { class: "wb inspector" }, header, alarm, workspace);
  el.append(root);

  function update() {
    const view = store.view();
    strip = store.ask({ kind: "strip", run: 0, view: { ...view, sample: first } }) ?? strip;
    seen = store.ask({ kind: "inspection", run: 0, view }) ?? seen;
    say(alarm, [...store.errors(), ...(store.gone ? ["The generator has stopped: reload the page."] : [])].join("\n"));
    picker.draw({ view, catalog, sources: ["samples"] }, strip, first, false);
    step.show(Math.max(0, info.steps.indexOf(view.steps[0])), info.steps.length - 1);
    step.node.hidden = info.steps.length < 2;
    if (!seen) return;
    about.textContent = seen.about;
    paintPicture(picture, seen.image);
  }

  new ResizeObserver(() => {
    const beside = root.clientWidth >= 640;
    root.dataset.rail = beside ? "beside" : "above";
    const size = crisp(info.image_size, clamp(root.clientWidth - (beside ? 196 : 0) - 24, 160, 520));
    workspace.style.setProperty("--centre", `${size + 24}px`);
    stage.style.width = stage.style.height = `${size}px`;
  }).observe(root);
  const drawTheme = () => root.toggleAttribute("data-dark", isDark(el));
  onTheme(drawTheme, el);
  drawTheme();
  model.on("change:view", update);
  store.addEventListener("change", update);
  update();
}
