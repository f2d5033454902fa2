// What the inspector computes from the queries and keys of a look, and how it paints it. A look has image (S×S×3 bytes), query (N×d),
// key (M×d), valueNorm (M), lse (N: log-sum-exp of each query's scores) and stats (6×N); positions are in row-major order.

const uniform = (look) => ({ value: 1 / look.key_side ** 2, name: "uniform" });

// `map` computes a reading of one query, `row` is the statistic of all; the causal map has neither and is asked for.
// `mark` is a value to compare with.
const READINGS = {
  outgoing: { name: "Looks at", unit: "attention weight", map: outgoing, mark: uniform,
    about: "Where the chosen place looks: its attention weights over all keys, which sum to 1." },
  incoming: { name: "Seen by", unit: "attention weight", map: incoming, mark: uniform,
    about: "Who looks at the chosen place: the weight that each position gives to it." },
  moved: { name: "Moves", unit: "weight × ‖value‖", map: moved,
    about: "What is carried to the chosen place, and from where: attention weights times the lengths of the values." },
  causal: { name: "Matters", unit: "change of the output",
    about: "What matters to the pinned place: the change of the output when it may not look at a key, for each key in turn." },
  entropy: { name: "Entropy", unit: "nats", row: 0, mark: (look) => ({ value: Math.log(look.key_side ** 2), name: "uniform" }),
    about: "How widely each position looks: the entropy of its attention weights; 0 is a single key." },
  distance: { name: "Distance", unit: "image pixels", row: 1,
    about: "How far each position looks: the mean distance to what it attends to, in pixels of the image." },
  outside_3: { name: "Outside 3×3", unit: "share of the weights", row: 2,
    about: "How far each position looks: the share of its attention that goes outside of the 3×3 positions around it." },
  outside_9: { name: "9×9", unit: "share of the weights", row: 3,
    about: "How far each position looks: the share of its attention that goes outside of the 9×9 positions around it." },
  strength: { name: "Strength", unit: "‖γ·o‖ / ‖x‖", row: 4,
    about: "How much attention changes each position: the length of what it adds, relative to what it is added to." },
  received: { name: "Received", unit: "× the average", row: 5, mark: () => ({ value: 1, name: "average" }),
    about: "Who is looked at: the attention that each position receives from all others; 1 is the average." },
};

// ------------------------------------------------------------------------------------------------ reading a look

/** beta[query, ·]: how much this query looks at each key. */
function outgoing({ d, query, key, lse }, q) {
  const weights = new Float32Array(key.length / d);
  for (let m = 0, k = 0; m < weights.length; m++) {
    let score = -lse[q];
    for (let c = q * d, end = c + d; c < end; c++, k++) score += query[c] * key[k];
    weights[m] = Math.exp(score);
  }
  return weights;
}

/** beta[·, key of the query's place]: how much each query looks here. */
function incoming(look, q) {
  const { d, query, key, lse } = look, first = keyOf(look, q) * d, weights = new Float32Array(lse.length);
  for (let j = 0, i = 0; j < weights.length; j++) {
    let score = -lse[j];
    for (let c = first; c < first + d; c++, i++) score += query[i] * key[c];
    weights[j] = Math.exp(score);
  }
  return weights;
}

function moved(look, q) {
  return outgoing(look, q).map((weight, m) => weight * look.valueNorm[m]);
}

/** The key whose cell contains a query's position. */
function keyOf({ side, key_side }, q) {
  const pool = side / key_side;
  return Math.floor(Math.floor(q / side) / pool) * key_side + Math.floor((q % side) / pool);
}

function statistic({ stats, side }, row) {
  return stats.subarray(row * side ** 2, (row + 1) * side ** 2);
}

/** What is told about a query, as it is read aloud. */
function numbers(look, q) {
  const [entropy, distance, outside3, outside9, strength] = [0, 1, 2, 3, 4].map((row) => statistic(look, row)[q]);
  const percent = (share) => `${format(Number((100 * share).toPrecision(2)))} %`;
  const places = Math.exp(entropy);
  return {
    place: `row ${Math.floor(q / look.side)}, column ${q % look.side}`,
    entropy: `${entropy.toFixed(2)} nats ≈ ${places < 10 ? places.toFixed(1) : Math.round(places).toLocaleString("en")} places`,
    distance: `${distance.toFixed(1)} px`,
    "outside 3×3": percent(outside3),
    "outside 9×9": percent(outside9),
    strength: format(Number(strength.toPrecision(2))),
  };
}

/** A map of another resolution, for a comparison with a larger one; weights are spread over the cells that a position becomes. */
function enlarge({ values, side }, larger, spread) {
  const times = larger / side;
  if (times === 1) return values;
  return Float32Array.from({ length: larger ** 2 }, (_, i) => {
    const value = values[Math.floor(Math.floor(i / larger) / times) * side + Math.floor((i % larger) / times)];
    return spread ? value / times ** 2 : value;
  });
}

const largest = (values) => values.reduce((a, b) => Math.max(a, b), 0);
const extent = (values) => values.reduce((a, b) => Math.max(a, Math.abs(b)), 0);

// ------------------------------------------------------------------------------------------------ painting

/** Pixel i of RGB bytes as a word of an image's memory. */
const word = (rgb, i, alpha) => (alpha << 24) + (rgb[3 * i + 2] << 16) + (rgb[3 * i + 1] << 8) + rgb[3 * i];

/** 256 colours as the words of an image's memory, from RGB bytes. */
function colourTable(view, alpha = () => 255) {
  const rgb = view?.byteLength === 768 ? new Uint8Array(bytes(view)) : Uint8Array.from({ length: 768 }, (_, i) => i / 3);
  return Uint32Array.from({ length: 256 }, (_, i) => word(rgb, i, alpha(i)));
}

const canvasOf = (name) => html("canvas", { class: name, width: 1, height: 1, "aria-hidden": "true" });

/** Put pixels (one word each) on a canvas of exactly as many pixels; CSS enlarges it. */
function put(canvas, words) {
  const side = Math.sqrt(words.length);
  if (canvas.width !== side) canvas.width = canvas.height = side;
  // A browser without a GPU writes such a canvas without a detour.
  canvas.getContext("2d", { willReadFrequently: true }).putImageData(new ImageData(new Uint8ClampedArray(words.buffer), side), 0, 0);
}

function paintHeat(canvas, values, table, low, high) {
  const words = new Uint32Array(values.length), scale = 255 / (high - low || 1);
  for (let i = 0; i < words.length; i++) words[i] = table[clamp(Math.round((values[i] - low) * scale), 0, 255)];
  put(canvas, words);
}

function paintPicture(canvas, rgb) {
  if (canvas.shown === rgb) return;
  canvas.shown = rgb;
  put(canvas, Uint32Array.from({ length: rgb.length / 3 }, (_, i) => word(rgb, i, 255)));
}

function clear(canvas) {
  canvas.getContext("2d", { willReadFrequently: true }).clearRect(0, 0, canvas.width, canvas.height);
}

/** b − a on grey, amplified by a power of two as far as it fits. */
function difference(a, b) {
  let most = 0;
  for (let i = 0; i < a.length; i++) most = Math.max(most, Math.abs(b[i] - a[i]));
  const factor = most ? 2 ** Math.max(0, Math.floor(Math.log2(127 / most))) : 1;
  return { rgb: a.map((value, i) => clamp(128 + factor * (b[i] - value), 0, 255)), factor, most };
}

/** The width of a picture of `size` pixels in `room` CSS pixels: whole device pixels for each of its pixels, where that fits. */
function crisp(size, room) {
  const ratio = window.devicePixelRatio || 1, scale = Math.floor((room * ratio) / size);
  return scale < 1 || (scale * size) / ratio < 0.72 * room ? room : (scale * size) / ratio;
}
