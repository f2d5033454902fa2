// The attention maps that follow from the queries and keys of an inspection, which has image (height×size×3 bytes), for each head query (N×d),
// key (M×d), valueNorm (M) and lse (N: log-sum-exp of each query's scores), and stats (6×N). Queries and keys are tokens, then positions in
// row-major order: `rows` of `side` queries, `key_rows` of `key_side` keys. Maps are the mean of the heads. The same as attention/readings.py.

import { format } from "./numbers.js";

const NOISE = 2 ** -19; // 16 roundings of float32, relative to what is rounded
const uniform = (seen) => ({ value: 1 / keysOf(seen), name: "uniform" });

/** Numbers of queries and of keys, of a layer or an inspection, with tokens. */
export const queriesOf = ({ rows, side, tokens }) => tokens.length + rows * side;
export const keysOf = ({ key_rows, key_side, tokens }) => tokens.length + key_rows * key_side;

// `map` computes a reading of one query, `row` is the statistic of all queries; the causal map comes from the kernel. `reference` is a value to
// compare with; values below the `floor` are rounding errors; `keys`: the map is one of keys, not of all places. Names, units, references and floors are the same as in figures/painting.py.
export const READINGS = {
  outgoing: { name: "Looks at", unit: "attention weight", keys: true, map: outgoing, reference: uniform,
    about: "Where the chosen place looks: its attention weights over all keys, which sum to 1." },
  incoming: { name: "Seen by", unit: "attention weight", map: incoming, reference: uniform,
    about: "Who looks at the chosen place: the weight that each position gives to it." },
  value_weighted: { name: "Value-weighted", unit: "weight × ‖value‖", keys: true, map: valueWeighted,
    reference: (seen) => ({ value: mean(seen.valueNorm) / keysOf(seen), name: "uniform, mean value" }),
    about: "What reaches the chosen place, and from where: attention weights times the lengths of the values." },
  causal: { name: "Matters", unit: "change of the output", keys: true,
    floor: ({ logit, size, height, side, rows }) =>
      NOISE * (logit == null ? Math.sqrt((3 * size * height) / (side * rows)) : Math.max(1, Math.abs(logit))),
    about: "What matters to the pinned place: the change of the output when it may not look at a key, for each key in turn." },
  entropy: { name: "Entropy", unit: "nats", row: 0,
    reference: (seen) => ({ value: Math.log(keysOf(seen)), name: "uniform" }),
    about: "How widely each position looks: the entropy of its attention weights; 0 is a single key." },
  distance: { name: "Distance", unit: "image pixels", row: 1,
    about: "How far each position looks: the mean distance to what it attends to, in pixels of the image." },
  outside_3: { name: "Outside 3×3", unit: "fraction of the weights", row: 2,
    about: "How far each position looks: the fraction of its attention that goes outside of the 3×3 positions around it." },
  outside_9: { name: "9×9", unit: "fraction of the weights", row: 3,
    about: "How far each position looks: the fraction of its attention that goes outside of the 9×9 positions around it." },
  strength: { name: "Strength", unit: "‖γ·o‖ / ‖x‖", row: 4, floor: () => NOISE,
    about: "How much attention changes each position: the length of what it adds, relative to what it is added to." },
  received: { name: "Received", unit: "× the average", row: 5, reference: () => ({ value: 1, name: "average" }),
    about: "Who is looked at: the attention that each position receives from all others; 1 is the average." },
};

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** beta[query, ·]: how much this query looks at each key; with norms, times those of the values. */
function outgoing(seen, q, norms) {
  const { d, query, key, lse, heads } = seen, count = queriesOf(seen), weights = new Float32Array(keysOf(seen));
  for (let h = 0, k = 0, j = q; h < heads; h++, j += count) {
    for (let m = 0; m < weights.length; m++) {
      let score = -lse[j];
      for (let c = j * d, end = c + d; c < end; c++, k++) score += query[c] * key[k];
      weights[m] += (Math.exp(score) * (norms ? norms[h * weights.length + m] : 1)) / heads;
    }
  }
  return weights;
}

/** beta[·, key of the query's position]: how much each query looks here. */
function incoming(seen, q) {
  const { d, query, key, lse, heads } = seen, at = keyOf(seen, q), weights = new Float32Array(queriesOf(seen));
  for (let h = 0, i = 0; h < heads; h++) {
    const first = (h * keysOf(seen) + at) * d;
    for (let j = 0; j < weights.length; j++) {
      let score = -lse[h * weights.length + j];
      for (let c = first; c < first + d; c++, i++) score += query[i] * key[c];
      weights[j] += Math.exp(score) / heads;
    }
  }
  return weights;
}

function valueWeighted(seen, q) {
  return outgoing(seen, q, seen.valueNorm);
}

/** Row and column of a query, or null for a token. */
export function placeOf({ side, tokens }, q) {
  const at = q - tokens.length;
  return at < 0 ? null : [Math.floor(at / side), at % side];
}

/** The key whose cell contains a query's position, or the token itself. */
export function keyOf(layer, q) {
  const place = placeOf(layer, q), { rows, side, key_rows, key_side, tokens } = layer;
  return place ? tokens.length + Math.floor((place[0] * key_rows) / rows) * key_side + Math.floor((place[1] * key_side) / side) : q;
}

export function statistic(seen, row) {
  const count = queriesOf(seen);
  return seen.stats.subarray(row * count, (row + 1) * count);
}

/** The statistics of a query as text, also for screen readers. */
export function describe(seen, q) {
  const [entropy, distance, outside3, outside9, strength] = [0, 1, 2, 3, 4].map((row) => statistic(seen, row)[q]);
  const percent = (fraction) => `${format(Number((100 * fraction).toPrecision(2)))} %`;
  const perplexity = Math.exp(entropy), place = placeOf(seen, q), { tokens } = seen;
  const common = {
    position: place ? `row ${place[0]}, column ${place[1]}` : `${tokens[q]} token`,
    entropy: `${entropy.toFixed(2)} nats ≈ ${perplexity < 10 ? perplexity.toFixed(1) : Math.round(perplexity).toLocaleString("en")} keys`,
    ...(tokens.length && { "to tokens": tokenWords(tokens, outgoing(seen, q), percent) }),
    strength: format(Number(strength.toPrecision(2))),
  };
  return place === null ? common : {
    ...common,
    distance: `${distance.toFixed(1)} px`,
    "outside 3×3": percent(outside3),
    "outside 9×9": percent(outside9),
  };
}

/** The weights of tokens, which are no places of a map: of each of two, else of the first and of the others together. */
function tokenWords(tokens, weights, percent) {
  const rest = tokens.length > 2 ? [["the others", tokens.slice(1).reduce((sum, _, i) => sum + weights[i + 1], 0)]] : [];
  const alone = rest.length ? [[tokens[0], weights[0]]] : tokens.map((name, i) => [name, weights[i]]);
  return [...alone, ...rest].map(([name, weight]) => `${name} ${percent(weight)}`).join(", ");
}

/** A map at a larger resolution, for a comparison; weights are divided among the cells of a position. */
export function upsample({ values, side, rows, isWeights }, larger) {
  const across = larger.side / side, down = larger.rows / rows;
  if (across * down === 1) return values;
  return Float32Array.from({ length: larger.side * larger.rows }, (_, i) => {
    const value = values[Math.floor(Math.floor(i / larger.side) / down) * side + Math.floor((i % larger.side) / across)];
    return isWeights ? value / (across * down) : value;
  });
}
