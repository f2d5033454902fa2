// Outputs of cells that the kernel replaces. A kernel's own message finds an output only in the page that ran its cell; this finds it by
// an id in its metadata, also when the page was reloaded, or was closed meanwhile. And the view that a page scrolls to.

import { keepInNotebook } from "./notebook.js";

const SAVES = [1000, 4000, 12000, 30000]; // milliseconds after which the notebook is saved, while cells below still run
const SETTLED = [0, 400, 1200, 3000, 6000]; // milliseconds after which the view is scrolled to, while cells above it still change their heights
const STARTS = 500; // milliseconds that a key which runs cells takes
const user = { watched: Infinity, moved: 0, stop() {} }; // since when, and when last

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

/** Notice what the user does, from now on. */
function watch() {
  if (user.watched < Infinity) return;
  user.watched = Date.now();
  for (const moved of ["wheel", "pointerdown", "touchstart", "keydown"]) {
    addEventListener(moved, () => {
      user.moved = Date.now();
      user.stop();
    }, { capture: true, passive: true });
  }
}

/** The cell with an id in the notebook of a model, if that notebook is on the screen. */
function shownCell(model, id) {
  const cells = [...(model.widget_manager?.context?.model?.cells ?? [])], index = cells.findIndex((cell) => cell.id === id);
  const panels = [...document.querySelectorAll(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook")];
  const notebook = panels.find((panel) => panel.querySelectorAll(".jp-Notebook-cell").length === cells.length);
  return notebook?.querySelector(`[data-windowed-list-index="${index}"]`);
}

/** Scroll to the output of a cell that was started at `since`, unless the user has scrolled since then, and until the user does something. */
function reveal(cell, since) {
  const notebook = cell.closest(".jp-Notebook"), scroller = notebook.querySelector(".jp-WindowedPanel-outer") ?? notebook;
  const view = scroller.getBoundingClientRect(), active = notebook.querySelector(".jp-mod-active")?.getBoundingClientRect();
  const away = active && (active.bottom < view.top || active.top > view.bottom); // running cells leaves the last one in sight
  if (user.watched < since ? user.moved > since + STARTS : away) return;
  const scroll = () => {
    const output = cell.querySelector(".jp-Cell-outputWrapper").getBoundingClientRect();
    const start = notebook.querySelector(".jp-Notebook-cell").getBoundingClientRect().top; // of all cells
    scroller.scrollTop = output.bottom - start <= view.height ? 0 : scroller.scrollTop + output.top - view.top;
  };
  const timers = SETTLED.map((wait) => setTimeout(scroll, wait));
  user.stop = () => timers.forEach(clearTimeout);
}

export default () => ({
  initialize({ model }) {
    watch();
    fill(model);
    model.on("change:contents", () => fill(model));
    model.on("msg:custom", ({ kind, cell, since }) => {
      if (kind === "keep") keepInNotebook(model);
      if (kind !== "reveal") return;
      for (const wait of SAVES) setTimeout(() => save(model), wait);
      const node = shownCell(model, cell);
      if (node) reveal(node, since);
    });
  },
});
