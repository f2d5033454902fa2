// The script of an exported page: a model without a kernel, and a view of it. The page holds the traits as JSON in
// <script type="application/json" id="wb-state">, with {"base64": "..."} in place of bytes, and an empty <main id="wb-view">.

import { widget } from "./inspector.js";

function frozenModel(state) {
  const listeners = new Map();
  return {
    get: (name) => state[name],
    set(name, value) {
      state[name] = value;
      listeners.get(`change:${name}`)?.forEach((callback) => callback());
    },
    on(names, callback) {
      for (const name of names.split(" ")) listeners.set(name, [...(listeners.get(name) ?? []), callback]);
    },
    off() {}, // the view stays as long as the page
    save_changes() {},
    send() {
      throw new Error("a page has no kernel");
    },
  };
}

function thaw(key, value) {
  if (typeof value?.base64 !== "string") return value;
  return new DataView(Uint8Array.from(atob(value.base64), (letter) => letter.charCodeAt(0)).buffer);
}

const dark = matchMedia("(prefers-color-scheme: dark)");
function followTheme() {
  document.body.setAttribute("data-jp-theme-light", String(!dark.matches));
  document.body.style.background = dark.matches ? "#111" : "#fff";
}
dark.addEventListener("change", followTheme);
followTheme();

const model = frozenModel({ ...JSON.parse(document.getElementById("wb-state").textContent, thaw), frozen: true });
const inspector = widget();
inspector.initialize({ model });
inspector.render({ model, el: document.getElementById("wb-view") });
