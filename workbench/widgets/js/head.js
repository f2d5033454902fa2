// The head: names of the runs, the status of the kernel, help, and notes.

import { toggle } from "./controls.js";
import { html, say } from "./dom.js";

const HELP = [
  ["click", "pin a place"], ["shift + click", "add a pin, or remove it"], ["arrow keys", "move over the image"], ["Enter", "pin the place"],
  ["shift + Enter", "add it"], ["1 … 8", "make a pin active"], ["Delete", "remove the active pin"], ["Escape", "put the tool away, or remove all pins"],
  ["Ctrl + Z", "take back a change of the latent or the attention"],
];

export function headCard() {
  const name = html("h2"), about = html("span", { class: "muted" }), status = html("span", { class: "muted", role: "status" });
  const help = html("dl", { class: "help", hidden: "" }, ...HELP.map(([key, what]) => html("div", {}, html("dt", {}, key), html("dd", {}, what))));
  const helper = toggle("?", "Keys and pointer", (on) => {
    help.hidden = !on;
    helper.show(on);
  });
  helper.node.setAttribute("aria-label", "Help");
  const alarm = html("p", { class: "note alarm", role: "alert" }), gone = html("p", { class: "note warning", role: "status" });
  const nothing = html("p", { class: "note" });
  const header = html("header", {}, name, about, html("span", { class: "spring" }), status, helper.node);
  let timer = 0;

  /** `missing` is said at once, else a status once the kernel is slow. */
  function drawStatus(store, missing) {
    clearTimeout(timer);
    const since = store.busy(), seconds = since === null ? 0 : (performance.now() - since) / 1000;
    const waiting = seconds >= 15 ? "still waiting: the kernel is busy elsewhere, or gone" : seconds >= 1 ? "the generator runs…" : "";
    say(status, missing || waiting);
    if (since !== null && seconds < 15) timer = setTimeout(() => drawStatus(store, missing), 1000 * ((seconds < 1 ? 1 : 15) - seconds) + 20);
  }

  return {
    nodes: [header, help, alarm, gone, nothing],
    drawStatus,
    draw(catalog, errors, kernelGone, empty) {
      name.textContent = catalog.map(({ label }) => label).join("  ·  ");
      about.textContent = catalog.length === 1 ? catalog[0].about : "";
      say(alarm, errors.filter(Boolean).join("\n"));
      say(gone, kernelGone ? "The kernel of this view is gone; loaded data stays interactive. Run the cell again for the rest." : "");
      const none = catalog.length > 1 ? "These runs have no attention layer in common: nothing to compare."
        : "This run has no attention layer: nothing to show.";
      say(nothing, empty ? none : "");
    },
    stop: () => clearTimeout(timer),
  };
}
