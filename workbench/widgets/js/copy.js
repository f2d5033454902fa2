// The view as a line to copy; in an exported page, as its address with the line after "#".

import { button } from "./controls.js";
import { html } from "./dom.js";

/** `text()` is what to copy. */
export function copyCard(text) {
  const field = html("input", { type: "text", readonly: "", hidden: "", "aria-label": "This view as a line" });
  const said = html("span", { class: "muted", role: "status" });
  const copy = button("Copy this view", "A line of text that opens exactly this view: in a notebook, in a shell, or after the # of a page", async () => {
    field.hidden = false;
    field.value = text();
    try {
      await navigator.clipboard.writeText(field.value);
      said.textContent = "copied";
    } catch { // no permission, or not a secure page
      field.focus();
      field.select();
      said.textContent = document.execCommand("copy") ? "copied" : "selected: copy it by Ctrl or ⌘ and C";
    }
  });
  field.addEventListener("focus", () => field.select());
  return {
    node: html("div", { class: "row line" }, copy, field, said),
    draw() {
      if (field.hidden || field.value === text()) return;
      field.value = text();
      said.textContent = "";
    },
  };
}
