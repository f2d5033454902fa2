// The attention maps that follow from the queries and keys of an inspection, which has image (S×S×3 bytes), query (N×d), key (M×d), valueNorm (M),
// lse (N: log-sum-exp of each query's scores) and stats (6×N); positions are in row-major order. The same as attention/readings.py.

import { format } from "./numbers.js";

const NOISE = 2 ** -19; // 16 roundings of float32, relative to what is rounded
const uniform = (seen) => ({ value: 1 / seen.key_side ** 2, name: "uniform" });

// `map` computes a reading of one query, `row` is the statistic of all queries; the causal map comes from the kernel. `reference` is a value to
// compare with; values below the `floor` are rounding errors; `keys`: the map is one of keys, not of all places. Names, units, references and floors are the same as in figures/painting.py.
export const READINGS = {
  outgoing: { name: "Looks at", unit: "attention weight", keys: true, map: outgoing, reference: uniform,
    about: "Where the chosen place looks: its attention weights over all keys, which sum to 1." },
  incoming: { name: "Seen by", unit: "attention weight", map: incoming, reference: uniform,
    about: "Who looks at the chosen place: the weight that each position gives to it." },
  value_weighted: { name: "Value-weighted", unit: "weight × ‖value‖", keys: true, map: valueWeighted,
    reference: ({ valueNorm }) => ({ value: mean(valueNorm) / valueNorm.length, name: "uniform, mean value" }),
    about: "What reaches the chosen place, and from where: attention weights times the lengths of the values." },
  causal: { name: "Matters", unit: "change of the output", keys: true,
    floor: ({ logit, size, side }) => NOISE * (logit == null ? (Math.sqrt(3) * size) / side : Math.max(1, Math.abs(logit))),
    about: "What matters to the pinned place: the change of the output when it may not look at a key, for each key in turn." },
  entropy: { name: "Entropy", unit: "nats", row: 0,
    reference: (seen) => ({ value: Math.log(seen.key_side ** 2), name: "uniform" }),
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

/** beta[·, key of the query's position]: how much each query looks here. */
function incoming(seen, q) {
  const { d, query, key, lse } = seen, first = keyOf(seen, q) * d, weights = new Float32Array(lse.length);
  for (let j = 0, i = 0; j < weights.length; j++) {
    let score = -lse[j];
    for (let c = first; c < first + d; c++, i++) score += query[i] * key[c];
    weights[j] = Math.exp(score);
  }
  return weights;
}

function valueWeighted(seen, q) {
  return outgoing(seen, q).map((weight, m) => weight * seen.valueNorm[m]);
}

/** The key whose cell contains a query's position. */
export function keyOf({ side, key_side }, q) {
  const pool = side / key_side;
  return Math.floor(Math.floor(q / side) / pool) * key_side + Math.floor((q % side) / pool);
}

export function statistic({ stats, side }, row) {
  return stats.subarray(row * side ** 2, (row + 1) * side ** 2);
}

/** The statistics of a query as text, also for screen readers. */
export function describe(seen, q) {
  const [entropy, distance, outside3, outside9, strength] = [0, 1, 2, 3, 4].map((row) => statistic(seen, row)[q]);
  const percent = (fraction) => `${format(Number((100 * fraction).toPrecision(2)))} %`;
  const perplexity = Math.exp(entropy);
  return {
    position: `row ${Math.floor(q / seen.side)}, column ${q % seen.side}`,
    entropy: `${entropy.toFixed(2)} nats ≈ ${perplexity < 10 ? perplexity.toFixed(1) : Math.round(perplexity).toLocaleString("en")} places`,
    distance: `${distance.toFixed(1)} px`,
    "outside 3×3": percent(outside3),
    "outside 9×9": percent(outside9),
    strength: format(Number(strength.toPrecision(2))),
  };
}

/** A map at a larger resolution, for a comparison; weights are divided among the cells of a position. */
export function upsample({ values, side, isWeights }, larger) {
  const times = larger / side;
  if (times === 1) return values;
  return Float32Array.from({ length: larger ** 2 }, (_, i) => {
    const value = values[Math.floor(Math.floor(i / larger) / times) * side + Math.floor((i % larger) / times)];
    return isWeights ? value / times ** 2 : value;
  });
}
