// The foot of the inspector: saves what is shown as a file, which Python writes and the browser downloads.

import { button } from "./controls.js";
import { download, html } from "./dom.js";

const FORMATS = [["png", "Figure (PNG)"], ["svg", "Figure (SVG)"], ["pdf", "Figure (PDF)"], ["html", "Page (HTML)"]];

/** `formats` are those that can be saved (null: all); `viewed()` is the view; `onEnd(problem)` is called after each, with "" if all went well. */
export function exportFoot({ store, formats, viewed, onEnd }) {
  const exported = html("span", { class: "muted", role: "status" }), file = html("a", { hidden: "" });
  const buttons = FORMATS.filter(([format]) => formats?.includes(format) ?? true).map(([format, label]) =>
    button(label, "Save what is shown, as a file", () => save(format)));
  const node = html("div", { class: "row exports" }, html("span", { class: "muted" }, "Save as"), ...buttons, exported, file);

  function disable(on) {
    buttons.forEach((each) => (each.disabled = on));
  }

  async function save(format) {
    let problem = "";
    disable(true);
    exported.textContent = "saving…";
    try {
      const { text, name, buffers } = await store.call({ kind: "export", format, view: viewed() });
      exported.textContent = text;
      download(file, name, buffers[0]);
    } catch (error) {
      exported.textContent = "";
      problem = error.message;
    }
    disable(store.gone);
    onEnd(problem);
  }

  return {
    node,
    draw(hidden) {
      node.hidden = hidden;
      disable(store.gone);
    },
  };
}
