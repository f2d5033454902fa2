// What an attention layer of a generator computes, with and without an intervention, and the statistics of its map. The same as
// attention/interventions.py and attention/readings.py.

import { generate, project } from "./generator.js";

/** Queries (N×d), keys (M×d) and values (M×D) of a feature map, as maps. */
export function projectionsOf({ query, key, value, pooled }, x) {
  const [keys, values] = [key, value].map((kernel) => project(x, kernel));
  return { query: project(x, query), key: pooled ? maxPooled(keys) : keys, value: pooled ? maxPooled(values) : values };
}

function maxPooled({ data, height, width, channels }) {
  const pooled = new Float32Array(data.length / 4);
  for (let y = 0, to = 0; y < height; y += 2) {
    for (let x = 0; x < width; x += 2) {
      for (let c = 0; c < channels; c++, to++) {
        const a = (y * width + x) * channels + c, b = a + width * channels;
        pooled[to] = Math.max(data[a], data[a + channels], data[b], data[b + channels]);
      }
    }
  }
  return { data: pooled, height: height / 2, width: width / 2, channels };
}

/**
 * The weights of a query over the keys. `fixed(query, key)` replaces the learned ones, up to their sum; a key of the set `forbid` gets none, for
 * the `queries` of a set (null: all).
 */
export function weightsOf({ query, key }, q, weights, { fixed, forbid, queries } = {}) {
  const d = key.channels, applies = forbid?.size && (!queries || queries.has(q));
  let most = -Infinity, sum = 0;
  for (let m = 0, k = 0; m < weights.length; m++) {
    let score = 0;
    for (let c = q * d, end = c + d; c < end; c++, k++) score += query.data[c] * key.data[k];
    weights[m] = applies && forbid.has(m) ? -Infinity : score;
    if (weights[m] > most) most = weights[m];
  }
  for (let m = 0; m < weights.length; m++) {
    const kept = weights[m] > -Infinity;
    weights[m] = fixed ? (kept ? fixed(q, m) : 0) : kept ? Math.exp(weights[m] - most) : 0;
    sum += weights[m];
  }
  if (!sum) throw new Error(`forbid leaves query ${q} no key; leave every query at least one`);
  for (let m = 0; m < weights.length; m++) weights[m] /= sum;
  return { most, sum }; // of the learned scores: their log-sum-exp is most + log(sum)
}

/** What the layer adds to its input, (N×C); `each(q, weights, softmax)` sees every query's weights. */
function contribution(operation, projections, intervention = {}, each = null) {
  const { query, key, value } = projections, weights = new Float64Array(key.data.length / key.channels), D = value.channels;
  const weighted = { ...query, channels: D, data: new Float32Array((query.data.length / query.channels) * D) }, sums = new Float64Array(D);
  for (let q = 0; q < query.height * query.width; q++) {
    const softmax = weightsOf(projections, q, weights, intervention);
    each?.(q, weights, softmax);
    sums.fill(0);
    for (let m = 0, v = 0; m < weights.length; m++) {
      const weight = weights[m];
      for (let c = 0; c < D; c++, v++) sums[c] += weight * value.data[v];
    }
    weighted.data.set(sums, q * D);
  }
  const gamma = intervention.gamma ?? operation.gamma;
  return project(weighted, operation.output).data.map((o) => gamma * o);
}

const added = (x, change) => ({ ...x, data: x.data.map((value, i) => value + change[i]) });

/** The output of the layer, under an intervention {gamma, fixed, forbid, queries} if there is one. */
export function attend(operation, x, intervention) {
  return added(x, contribution(operation, projectionsOf(operation, x), intervention));
}

/** How much of the cell of each key lies within `radius` of each position, along one axis: [position][key]. */
function overlap(side, keySide, radius) {
  const cell = side / keySide;
  return Array.from({ length: side }, (_, at) => Float64Array.from({ length: keySide }, (__, key) =>
    Math.max(0, Math.min(at + radius, (key + 1) * cell - 1) - Math.max(at - radius, key * cell) + 1) / cell));
}

/** The map that replaces the learned one: "uniform", or "local", over the 3x3 positions around a query. */
export function fixedMap(name, side, keySide) {
  if (name === "uniform") return () => 1;
  const near = overlap(side, keySide, 1);
  return (q, m) => near[Math.floor(q / side)][Math.floor(m / keySide)] * near[q % side][m % keySide];
}

/** Mean distances in positions from each position to those of each key's cell, by rows and columns between the two. */
function distances(side, keySide) {
  const cell = side / keySide, steps = [...Array(cell).keys()];
  const table = Array.from({ length: 2 * side }, (_, down) => Float64Array.from({ length: 2 * side }, (__, right) =>
    steps.flatMap((i) => steps.map((j) => Math.hypot(down - side + i, right - side + j))).reduce((sum, value) => sum + value) / cell ** 2));
  return (row, column, keyRow, keyColumn) => table[keyRow * cell - row + side][keyColumn * cell - column + side];
}

/** All that an inspection of the layer needs, and its output: see `pack` in inspector/answers.py. */
export function inspectLayer(operation, x, imageSize) {
  const projections = projectionsOf(operation, x), { query, key, value } = projections;
  const side = x.width, keySide = key.width, keys = keySide ** 2, places = side ** 2, { channels } = x;
  const stats = new Float32Array(6 * places), lse = new Float32Array(places), received = new Float64Array(keys);
  const near = [1, 4].map((radius) => overlap(side, keySide, radius)), distance = distances(side, keySide);
  const change = contribution(operation, projections, {}, (q, weights, { most, sum }) => {
    const row = Math.floor(q / side), column = q % side, inside = [0, 0];
    let entropy = 0, far = 0;
    weights.forEach((weight, m) => {
      const keyRow = Math.floor(m / keySide), keyColumn = m % keySide;
      if (weight > 0) entropy -= weight * Math.log(weight);
      far += weight * distance(row, column, keyRow, keyColumn);
      for (let r = 0; r < 2; r++) inside[r] += weight * near[r][row][keyRow] * near[r][column][keyColumn];
      received[m] += weight;
    });
    lse[q] = most + Math.log(sum);
    [entropy, (far * imageSize) / side, 1 - inside[0], 1 - inside[1]].forEach((number, i) => (stats[i * places + q] = Math.max(0, number)));
  });
  const lengths = (data, size) => Float32Array.from({ length: data.length / size }, (_, i) =>
    Math.hypot(...data.subarray(i * size, (i + 1) * size)));
  const [before, adds] = [x.data, change].map((data) => lengths(data, channels)), floor = 1e-6 * before.reduce((a, b) => Math.max(a, b));
  for (let q = 0; q < places; q++) {
    const cell = side / keySide, m = Math.floor(Math.floor(q / side) / cell) * keySide + Math.floor((q % side) / cell);
    stats[4 * places + q] = adds[q] / (Math.max(before[q], floor) || 1);
    stats[5 * places + q] = received[m] / cell ** 2;
  }
  const numbers = { side, key_side: keySide, rows: side, key_rows: keySide, tokens: [], heads: 1, d: key.channels, gamma: operation.gamma };
  return { numbers, parts: [query.data, key.data, lengths(value.data, value.channels), lse, stats], output: added(x, change) };
}

/** Mean weight by offset of a position from the query, (2 side - 1)²: `relative_offsets` of one image. */
export function offsetsOf(operation, x) {
  const projections = projectionsOf(operation, x), { width: side } = x, keySide = projections.key.width, cell = side / keySide;
  const across = 2 * side - 1, total = new Float64Array(across ** 2), weights = new Float64Array(keySide ** 2);
  for (let q = 0; q < side ** 2; q++) {
    weightsOf(projections, q, weights);
    const top = side - 1 - Math.floor(q / side), left = side - 1 - (q % side);
    for (let y = 0; y < side; y++) {
      for (let column = 0, to = (top + y) * across + left; column < side; column++, to++) {
        total[to] += weights[Math.floor(y / cell) * keySide + Math.floor(column / cell)] / cell ** 2;
      }
    }
  }
  const queries = (at) => side - Math.abs(at - side + 1); // for how many of a row this offset is inside
  return Float32Array.from(total, (sum, i) => sum / (queries(Math.floor(i / across)) * queries(i % across)));
}

/** The part of a map within `reach` of a position, and where the position is in it. */
function around({ data, height, width, channels }, at, reach) {
  const row = Math.floor(at / width), column = at % width, top = Math.max(0, row - reach), left = Math.max(0, column - reach);
  const [bottom, right] = [Math.min(height, row + reach + 1), Math.min(width, column + reach + 1)];
  const part = { data: new Float32Array((bottom - top) * (right - left) * channels), height: bottom - top, width: right - left, channels };
  for (let y = top; y < bottom; y++) {
    part.data.set(data.subarray((y * width + left) * channels, (y * width + right) * channels), (y - top) * part.width * channels);
  }
  return { part, at: (row - top) * part.width + column - left };
}

/**
 * How much the image at a query depends on each key: `causal_map`. After its last attention layer a generator needs only the 5x5 positions
 * around the query.
 */
export function causalMap(network, index, x, label, query) {
  const operation = network[index], projections = projectionsOf(operation, x), keys = projections.key.width ** 2, { channels } = x;
  const last = !network.slice(index + 1).some(({ kind }) => kind === "attention");
  const { part, at } = around(attend(operation, x), query, last ? 2 : x.width), one = { height: 1, width: 1 };
  const ofQuery = { ...projections, query: { ...one, channels: projections.query.channels,
    data: projections.query.data.slice(query * projections.query.channels, (query + 1) * projections.query.channels) } };
  const before = { ...one, channels, data: x.data.subarray(query * channels, (query + 1) * channels) };
  const pixelsWithout = (forbid) => {
    const variant = { ...part, data: part.data.slice() };
    variant.data.set(added(before, contribution(operation, ofQuery, { forbid })).data, at * channels);
    const image = generate(network, variant, label, attend, index + 1), scale = image.width / part.width, pixels = [];
    for (let y = 0; y < scale; y++) {
      const from = ((Math.floor(at / part.width) * scale + y) * image.width + (at % part.width) * scale) * 3;
      pixels.push(...image.data.subarray(from, from + 3 * scale));
    }
    return pixels;
  };
  const whole = pixelsWithout(new Set());
  return Float32Array.from({ length: keys }, (_, m) => Math.hypot(...pixelsWithout(new Set([m])).map((value, i) => value - whole[i])));
}
