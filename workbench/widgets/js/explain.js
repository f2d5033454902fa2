// The active pin in words.

import { toggle } from "./controls.js";
import { html, say } from "./dom.js";

export function explainCard(change) {
  const button = toggle("Explain this place", "Where the active pin looks, and whether that matters, against chance", (on) => change({ explain: on }));
  const text = html("p", { role: "status" });
  const node = html("div", { class: "explain" }, button.node, text);
  return {
    node,
    /** `answers`: of each run, or null; `lost`: the reason why they will not come. */
    draw({ view, catalog, offers }, answers, lost) {
      node.hidden = !offers("explain");
      const pinned = view.active >= 0, pair = catalog.length > 1;
      button.show(view.explain);
      const words = answers.map((answer, i) => (answer ? `${pair ? `${"ab"[i]}: ` : ""}${answer.sentence}` : lost || "computing what each key changes…"));
      say(text, !view.explain ? "" : pinned ? [...new Set(words)].join("\n") : "Pin a place first.");
    },
  };
}
