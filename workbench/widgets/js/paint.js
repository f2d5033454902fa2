// Pixels on canvases: images, heat, differences.

import { html } from "./dom.js";
import { bytesOf, clamp } from "./numbers.js";

/** Pixel i of RGB bytes as a word of an image's memory. */
const word = (rgb, i, alpha) => (alpha << 24) + (rgb[3 * i + 2] << 16) + (rgb[3 * i + 1] << 8) + rgb[3 * i];

/** 256 colours as the words of an image's memory, from RGB bytes. */
export function colourTable(view) {
  const rgb = view?.byteLength === 768 ? new Uint8Array(bytesOf(view)) : Uint8Array.from({ length: 768 }, (_, i) => i / 3);
  return Uint32Array.from({ length: 256 }, (_, i) => word(rgb, i, 255));
}

export const canvasOf = (name) => html("canvas", { class: name, width: 1, height: 1, "aria-hidden": "true" });

/** Put pixels (one word each) on a canvas of exactly as many pixels, in rows of `columns`; CSS enlarges it. */
function put(canvas, words, columns) {
  const rows = words.length / columns;
  if (canvas.width !== columns || canvas.height !== rows) [canvas.width, canvas.height] = [columns, rows];
  // Faster in a browser without a GPU.
  canvas.getContext("2d", { willReadFrequently: true }).putImageData(new ImageData(new Uint8ClampedArray(words.buffer), columns), 0, 0);
}

/** Paint values by a colour table; `at` gives their places in it, from 0 to 1. By default they are a square. */
export function paintHeat(canvas, values, table, at, columns = Math.sqrt(values.length)) {
  const words = new Uint32Array(values.length);
  for (let i = 0; i < words.length; i++) words[i] = table[clamp(Math.round(255 * at(values[i])), 0, 255)];
  put(canvas, words, columns);
}

export function paintPicture(canvas, rgb, columns = Math.sqrt(rgb.length / 3)) {
  if (canvas.shown === rgb) return;
  canvas.shown = rgb;
  put(canvas, Uint32Array.from({ length: rgb.length / 3 }, (_, i) => word(rgb, i, 255)), columns);
}

/** The colours of a table from left to right; with an opacity, in the lower half over the greys of an image, from black down to white. */
export function paintBar(canvas, table, opacity) {
  if (canvas.shown === table && canvas.opacity === opacity) return;
  [canvas.shown, canvas.opacity] = [table, opacity];
  const line = html("canvas", { width: 256, height: 1 }), context = canvas.getContext("2d"), { width, height } = canvas;
  line.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(table.buffer), 256), 0, 0);
  context.drawImage(line, 0, 0, width, height);
  if (opacity === null) return;
  const greys = context.createLinearGradient(0, height / 2, 0, height);
  greys.addColorStop(0, "black");
  greys.addColorStop(1, "white");
  context.fillStyle = greys;
  context.fillRect(0, height / 2, width, height / 2);
  context.globalAlpha = opacity;
  context.drawImage(line, 0, height / 2, width, height / 2);
  context.globalAlpha = 1;
}

export function clear(canvas) {
  canvas.getContext("2d", { willReadFrequently: true }).clearRect(0, 0, canvas.width, canvas.height);
}

/** b − a on grey, amplified by a power of two as far as it fits. */
export function difference(a, b) {
  let most = 0;
  for (let i = 0; i < a.length; i++) most = Math.max(most, Math.abs(b[i] - a[i]));
  const factor = most ? 2 ** Math.max(0, Math.floor(Math.log2(127 / most))) : 1;
  return { rgb: a.map((value, i) => clamp(128 + factor * (b[i] - value), 0, 255)), factor, most };
}

/** The width of a picture of `size` pixels in `room` CSS pixels: whole device pixels for each of its pixels, where that fits. */
export function crisp(size, room) {
  const ratio = window.devicePixelRatio || 1, scale = Math.floor((room * ratio) / size);
  return scale < 1 || (scale * size) / ratio < 0.72 * room ? room : (scale * size) / ratio;
}
