// What pointer and keys do on the image with the tools that change it: brushes that forbid keys or paint values, and dragging the latent.

import { AMOUNT, moved } from "./latent.js";
import { keyOf } from "./maps.js";

const NUDGES = { ArrowUp: [0, 1], ArrowDown: [0, -1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] };

/**
 * `pin(query)` pins the place whose values are copied; `draw` has {forbid(keys), paint(keys, shift)}, which show a stroke on the images.
 * The kernel gets a stroke at its end, and a dragged latent at once.
 */
export function gesturesOf({ change, pin, draw }) {
  let state = null, stroke = null; // {name, keys, erase, shift}; or {x, y, amounts} of a latent

  const cell = (key) => [Math.floor(key / state.layer.key_side), key % state.layer.key_side]; // only layers without tokens are painted
  const inside = (key, shift) => !shift.some(Boolean) || cell(key).every((at, i) =>
    at + shift[i] >= 0 && at + shift[i] < [state.layer.key_rows, state.layer.key_side][i]);

  /** A stroke of a brush, which erases if it begins on a key that it has already. */
  function begin(name, query, shift = [0, 0]) {
    const key = keyOf(state.layer, query), keys = new Set(state.view[name]);
    stroke = { name, keys, erase: keys.has(key), shift };
    extend(query);
  }

  function extend(query) {
    const key = keyOf(state.layer, query);
    if (stroke.erase) stroke.keys.delete(key);
    else if (inside(key, stroke.shift)) stroke.keys.add(key);
    draw[stroke.name]([...stroke.keys], stroke.shift);
  }

  const begins = {
    brush: (query) => begin("forbid", query),
    paint(query, add) {
      const { view } = state, source = view.pins[view.active];
      if (view.paint_from === null && (add || source === undefined)) return pin(query); // the place to copy from
      const [from, to] = [source ?? query, query].map((at) => cell(keyOf(state.layer, at)));
      const shift = view.paint_from !== null ? [0, 0] : view.paint.length ? view.paint_shift : from.map((at, i) => at - to[i]);
      return begin("paint", query, shift);
    },
    drag(query, add, { clientX: x, clientY: y } = {}) {
      stroke = { x, y, amounts: state.view.directions };
    },
  };

  function release() {
    const { name, keys, shift } = stroke ?? {};
    stroke = null;
    if (name) change({ [name]: [...keys].sort((a, b) => a - b), ...(name === "paint" && { paint_shift: shift }) });
  }

  return {
    show(next) {
      state = next;
    },
    /** Begin at a place; whether the pointer then belongs to the tool. */
    press(query, event) {
      begins[state.view.tool]?.(query, event.shiftKey, event);
      return stroke !== null;
    },
    /** Whether a gesture goes on; `size` is that of the image on the screen. */
    move(query, event, size) {
      if (stroke?.name && query !== null) extend(query);
      else if (stroke && event) {
        const way = [event.clientX - stroke.x, stroke.y - event.clientY];
        change({ directions: moved(stroke.amounts, way.map((part) => (2 * AMOUNT * part) / size)) });
      }
      return stroke !== null;
    },
    release,
    /** Whether a key belongs to the tool; `at` is the place below the cursor. */
    key(event, at) {
      const { tool, directions } = state.view, nudge = NUDGES[event.key];
      if (tool === "drag" && nudge) change({ directions: moved(directions, nudge.map((way) => way * (event.shiftKey ? 0.5 : 0.1))) });
      else if (["brush", "paint"].includes(tool) && ["Enter", " "].includes(event.key)) {
        begins[tool](at, event.shiftKey);
        release();
      } else return false;
      return true;
    },
  };
}
