// A pinned query: its map in the frame of its colour, and its numbers.

import { html } from "./dom.js";
import { describe } from "./maps.js";
import { canvasOf, clear, paintHeat } from "./paint.js";
import { FACTS } from "./stage.js";
import { PIN_COLOURS } from "./state.js";

export function pinPanel(i, onPick) {
  const maps = html("span", { class: "maps" }), table = html("span", { class: "numbers" });
  const node = html("button", { type: "button", class: "pinned", style: `--pin: ${PIN_COLOURS[i]}` },
    html("span", { class: "dot" }, String(i + 1)), maps, table);
  node.addEventListener("click", onPick);
  return {
    node,
    /** `drawn`: its map in each run, or null. */
    draw({ view }, inspections, drawn, scale, tables) {
      const query = view.pins[i];
      while (maps.children.length < inspections.length) maps.append(canvasOf("small"));
      drawn.forEach((map, run) => {
        if (map) paintHeat(maps.children[run], map.values, tables[scale.table], scale.at(map), map.side);
        else clear(maps.children[run]);
      });
      const columns = inspections.map((seen) => (seen ? describe(seen, query) : null));
      const short = (text) => text.replace(" nats", "").replace(columns.length > 1 ? " keys" : "", "");
      node.classList.toggle("pair", inspections.length > 1);
      const known = FACTS.slice(1).filter((name) => columns.some((column) => column?.[name] !== undefined));
      table.replaceChildren(html("b", {}, columns.find(Boolean)?.position ?? ""), ...known.flatMap((name) =>
        [html("span", { class: "muted" }, name), ...columns.map((column) => html("span", {}, column ? short(column[name] ?? "–") : "…"))]));
      node.setAttribute("aria-pressed", i === view.active);
      node.setAttribute("aria-label", `Pin ${i + 1}, ${columns.find(Boolean)?.position ?? ""}`);
    },
  };
}
