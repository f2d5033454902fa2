// A view of a widget in a page without a notebook. The page holds the traits as JSON in <script type="application/json" id="wb-state">, with
// {"base64": "..."} in place of bytes, and an empty <main id="wb-view">.

import { widget } from "./inspector.js";

function thaw(key, value) {
  if (typeof value?.base64 !== "string") return value;
  return new DataView(Uint8Array.from(atob(value.base64), (letter) => letter.charCodeAt(0)).buffer);
}

/** The traits that the page holds. */
export const heldState = () => JSON.parse(document.getElementById("wb-state").textContent, thaw);

/** A model of traits without a kernel; `send` takes the messages of the view, and `tell` calls its listeners. */
export function hostedModel(state, send) {
  const listeners = new Map();
  const tell = (event, ...news) => listeners.get(event)?.forEach((callback) => callback(...news));
  return {
    tell,
    get: (name) => state[name],
    set(name, value) {
      state[name] = value;
      tell(`change:${name}`);
    },
    on(names, callback) {
      for (const name of names.split(" ")) listeners.set(name, [...(listeners.get(name) ?? []), callback]);
    },
    off() {}, // the view stays as long as the page
    save_changes() {},
    send,
  };
}

const dark = matchMedia("(prefers-color-scheme: dark)");
function followTheme() {
  document.body.setAttribute("data-jp-theme-light", String(!dark.matches));
  document.body.style.background = dark.matches ? "#111" : "#fff";
}

/** Show a model in the page: the inspector, or `show(model, element)`. */
export function host(model, show = showInspector) {
  dark.addEventListener("change", followTheme);
  followTheme();
  show(model, document.getElementById("wb-view"));
}

function showInspector(model, el) {
  const inspector = widget();
  inspector.initialize({ model });
  inspector.render({ model, el });
}
