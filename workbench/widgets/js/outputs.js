// Outputs of cells that the kernel replaces. A kernel's own message finds an output only in the page that ran its cell; this finds it by
// an id in its metadata, also when the page was reloaded, or was closed meanwhile.

import { keepInNotebook } from "./notebook.js";

const SAVES = [1000, 4000, 12000, 30000]; // milliseconds after which the notebook is saved, while cells below still run
const SETTLED = [0, 400, 1200, 3000, 6000]; // milliseconds after which the view is scrolled to, while cells above it still change their heights

/** Replace the outputs whose id is in `contents`, unless they have that content already. */
function fill(model) {
  const cells = model.widget_manager?.context?.model?.cells ?? [], contents = model.get("contents") ?? {}; // a saved notebook has none
  for (const { outputs } of cells) {
    for (let k = 0; k < (outputs?.length ?? 0); k++) {
      const { data, metadata } = outputs.get(k).toJSON(), content = contents[metadata?.workbench];
      if (!content || JSON.stringify(content.data) === JSON.stringify(data)) continue;
      outputs.set(k, { output_type: "display_data", data: content.data, metadata: { ...metadata, ...content.metadata } });
    }
  }
}

/** Save the notebook: a reload finds only what was saved, and JupyterLab does that after minutes. */
function save(model) {
  const context = model.widget_manager?.context;
  if (context?.model?.dirty && context.contentsModel?.writable) context.save();
}

export default () => ({
  initialize({ model }) {
    fill(model);
    model.on("change:contents", () => fill(model));
    model.on("msg:custom", (content) => content.kind === "keep" && keepInNotebook(model));
  },
  render({ model, el }) {
    if (!model.get("reveal")) return;
    model.set("reveal", false); // once, and not when the page is reloaded
    model.save_changes();
    for (const wait of SAVES) setTimeout(() => save(model), wait);
    const scroll = () => el.closest(".wb-dashboard")?.scrollIntoView({ block: "start" });
    const timers = SETTLED.map((wait) => setTimeout(scroll, wait));
    for (const moved of ["wheel", "pointerdown", "keydown"]) {
      addEventListener(moved, () => timers.forEach(clearTimeout), { once: true, capture: true });
    }
  },
});
