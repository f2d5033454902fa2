// The view as a line of text, and back: the same as inspector/line.py and views/view_line.py.

const HEAD = ["layer", "steps"]; // entries of the view that are words of their own
const GRIDS = { pins: "side", forbid: "key_side", paint: "key_side" }; // entries that are positions: of square maps without tokens, as runs have
const UNSAFE = /[^\p{L}\p{N}_./:=,+-]|^[-=]/gu;

const hex = (byte) => `%${byte.toString(16).toUpperCase().padStart(2, "0")}`;
const escaped = (text) => text.replace(UNSAFE, (sign) => [...new TextEncoder().encode(sign)].map(hex).join(""));
const withStep = (run, step) => escaped(run) + (step === undefined ? "" : `@${step}`);
const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
const defaultOf = (name, view, defaults) => (name === "active" && view.pins.length ? 0 : defaults[name]);
const layerOf = ([{ layers }], id) => layers.find((layer) => layer.id === id) ?? (id ? null : layers[0]);

/** The line of a view; `defaults` is what it leaves out. */
export function lineOf(view, catalog, defaults) {
  const [a, b] = catalog, layer = layerOf(catalog, view.layer), [first, second] = view.steps;
  const entries = Object.keys(defaults).filter((name) => !HEAD.includes(name) && !same(view[name], defaultOf(name, view, defaults)));
  return [withStep(a.name, first), ...(view.layer ? [escaped(view.layer)] : []), ...(b ? [`beside=${withStep(b.name, second)}`] : []),
    ...entries.map((name) => `${name}=${write(name, view[name], layer, a.classes)}`)].join(" ");
}

/** The run and the view of a line, or of the part of an address after "#". Throws an error of one line. */
export function viewOf(text, catalog, defaults) {
  // A line that was pasted after "#" has its blanks written as %20, as the blanks in a name are.
  const [head, ...words] = text.split(/[&\s]/.test(text) ? /[&\s]+/ : /%20(?=[GD]\/|\w+=)/).filter(Boolean);
  const [run, step] = runOf(head);
  const view = { ...defaults, layer: "", steps: step === null ? [] : [step] };
  if (words[0] && !words[0].includes("=")) view.layer = decoded(words.shift());
  const layer = layerOf(catalog, view.layer);
  if (!layer) throw new Error(`line: there is no attention layer ${view.layer} here`);
  for (const word of words) {
    const at = word.indexOf("="), name = word.slice(0, at), value = word.slice(at + 1);
    if (name === "beside") {
      const [, beside] = runOf(value);
      if (beside !== null && step !== null) view.steps = [step, beside];
    } else if (!(name in defaults) || HEAD.includes(name)) throw new Error(`line: there is no entry ${word}`);
    else view[name] = read(name, value, layer, catalog[0].classes, defaults[name]);
  }
  if (!words.some((word) => word.startsWith("active="))) view.active = defaultOf("active", view, defaults);
  return { run, view };
}

/** A run and its step, or null. */
function runOf(word) {
  const [, name, digits] = /^(.*?)(?:@(\d+))?$/.exec(word ?? "");
  return [decoded(name), digits === undefined ? null : Number(digits)];
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    throw new Error(`line: ${text} is not written as an address is`);
  }
}

function write(name, value, layer, classes) {
  if (GRIDS[name]) return writePositions(value, layer[GRIDS[name]]);
  if (name === "class") {
    const label = classes[value] ?? "";
    return /^[\p{L}_][\p{L}\p{N}_.-]*$/u.test(label) && classes.filter((other) => other === label).length === 1 ? label : String(value);
  }
  if (name === "active") return String(value + 1); // as the pins are numbered
  if (name === "towards") return value.join(":");
  return Array.isArray(value) ? value.join("+") : typeof value === "string" ? escaped(value) : String(value);
}

function read(name, text, layer, classes, empty) {
  const refuse = (right) => {
    throw new Error(`line: ${name}=${text} is not ${right}`);
  };
  const number = (part) => (part && Number.isFinite(Number(part)) ? Number(part) : refuse("a number"));
  if (GRIDS[name]) return [...new Set(readPositions(text, layer[GRIDS[name]], refuse))];
  if (name === "class") {
    const at = /^(-1|\d+)$/.test(text) ? Number(text) : classes.indexOf(decoded(text)); // a number first, as in Python
    return at >= 0 || text === "-1" ? at : refuse("a class");
  }
  if (name === "active") return number(text) - 1;
  if (name === "towards") return /^\d+:\d+$/.test(text) ? text.split(":").map(Number) : refuse("seed:sample");
  if (typeof empty === "boolean") return { true: true, false: false }[text] ?? refuse("true or false");
  if (typeof empty === "number" || empty === null) return number(text); // those without a default are numbers, too
  return Array.isArray(empty) ? text.split("+").filter(Boolean).map(number) : decoded(text);
}

/** "row,column+row,column"; positions that follow each other in a row are "row,first-last". */
function writePositions(positions, side) {
  const parts = [];
  for (const position of positions) {
    const row = Math.floor(position / side), column = position % side, last = parts.at(-1);
    if (last && last[0] === row && last[2] === column - 1) last[2] = column;
    else parts.push([row, column, column]);
  }
  return parts.map(([row, first, last]) => `${row},${first}${last > first ? `-${last}` : ""}`).join("+");
}

function readPositions(text, side, refuse) {
  return text.split("+").filter(Boolean).flatMap((part) => {
    const [, row, first, last = first] = (/^(\d+),(\d+)(?:-(\d+))?$/.exec(part) ?? []).map((digits) => digits && Number(digits));
    if (!(row < side && first <= last && last < side)) refuse(`row,column, each from 0 to ${side - 1}`);
    return Array.from({ length: last - first + 1 }, (_, i) => row * side + first + i);
  });
}
