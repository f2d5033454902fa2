// Controls: each is {node, show} and calls a function on input.

import { html, say } from "./dom.js";
import { paintBar } from "./paint.js";

/** Buttons of which one is pressed. `show(options, value)`; an option is {value, name, about}. */
export function segmented(label, onPick) {
  const node = html("div", { class: "segmented", role: "group", "aria-label": label });
  let shown = "";
  return {
    node,
    show(options, value) {
      const text = JSON.stringify(options);
      if (text !== shown) {
        shown = text;
        node.replaceChildren(...options.map((option) => {
          const choice = html("button", { type: "button", title: option.about ?? "", "data-value": option.value }, option.name);
          choice.addEventListener("click", () => onPick(option.value));
          return choice;
        }));
      }
      for (const choice of node.children) choice.setAttribute("aria-pressed", choice.dataset.value === String(value));
    },
  };
}

export function toggle(label, about, onPress) {
  const node = html("button", { type: "button", title: about, "aria-pressed": "false" }, label);
  node.addEventListener("click", () => onPress(node.getAttribute("aria-pressed") !== "true"));
  return { node, show: (on) => node.setAttribute("aria-pressed", Boolean(on)) };
}

/** A slider with its value beside it, as `write` puts it. */
export function slider(label, { min, max, step, write }, onInput) {
  const input = html("input", { type: "range", min, max, step, "aria-label": label });
  const output = html("output");
  input.addEventListener("input", () => onInput(Number(input.value)));
  return {
    node: html("label", { class: "row slide" }, html("span", {}, label), input, output),
    show(value, newest = max) {
      input.max = newest;
      if (Number(input.value) !== value) input.value = value;
      output.textContent = write(value);
      input.setAttribute("aria-valuetext", output.textContent);
    },
  };
}

/** A field for whole numbers; beside another text it says what would be right, as long as that is in the field. */
export function numberField(label, onChange) {
  const most = 2 ** 31 - 1, right = `a whole number from 0 to ${most.toLocaleString("en")}`;
  const input = html("input", { type: "number", min: 0, max: most, step: 1, required: "", "aria-label": label }), hint = html("small", { role: "status" });
  input.addEventListener("input", () => {
    say(hint, input.checkValidity() ? "" : right);
    if (input.validity.valid) onChange(Number(input.value));
  });
  return {
    node: html("div", { class: "number" }, html("label", { class: "row" }, html("span", {}, label), input), hint),
    show: (value) => {
      if (input.matches(":focus:invalid")) return; // it is being typed
      if (input.value !== String(value)) input.value = value;
      say(hint, "");
    },
  };
}

export function button(label, about, onClick) {
  const node = html("button", { type: "button", title: about }, label);
  node.addEventListener("click", onClick);
  return node;
}

/** A colour bar: the ends of a scale, and a mark at a value to compare with. */
export function scaleBar() {
  const canvas = html("canvas", { width: 256, height: 16, "aria-hidden": "true" }), tick = html("i");
  const [low, mark, high] = ["span", "span", "span"].map((tag) => html(tag)), unit = html("p", { class: "muted" });
  const ramp = html("div", { class: "ramp" }, canvas, tick), ends = html("div", { class: "ends" }, low, mark, high);
  const node = html("div", { class: "scale" }, unit, ramp, ends);
  return {
    node,
    /** With an `opacity`, the bar also has the colours over an image. */
    show(scale, tables, opacity = null) {
      paintBar(canvas, tables[scale.table], opacity);
      ramp.classList.toggle("over", opacity !== null);
      ramp.title = opacity === null ? "" : "Above: on its own; below: over dark to light parts of the image";
      unit.textContent = scale.unit;
      [low.textContent, high.textContent] = [scale.low, scale.high];
      tick.hidden = !(scale.mark?.at <= 1);
      tick.style.left = `${100 * (scale.mark?.at ?? 0)}%`;
      mark.textContent = scale.mark ? `${tick.hidden ? "" : "▲ "}${scale.mark.text}` : "";
    },
  };
}
