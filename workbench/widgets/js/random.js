// Latents by seed and number, as `sampling.latents` draws them: NumPy's SeedSequence, torch's Mersenne Twister and Box-Muller transform.

import { clamp } from "./numbers.js";

const CHUNK = 256; // latents are drawn in chunks of this many

/** A whole number as the 32-bit words that NumPy makes of it, the lowest first. */
function wordsOf(number) {
  const words = [number >>> 0];
  for (let rest = Math.floor(number / 2 ** 32); rest; rest = Math.floor(rest / 2 ** 32)) words.push(rest >>> 0);
  return words;
}

/** The seed of torch's generator for a key of whole numbers: `sampling.rng`, of whose seed the Mersenne Twister takes 32 bits. */
function seedOf(...key) {
  const entropy = [key.length, ...key].flatMap(wordsOf), pool = new Uint32Array(4);
  let factor = 0x43b0d7e5;
  const hash = (value) => {
    let word = value ^ factor;
    factor = Math.imul(factor, 0x931e8875);
    word = Math.imul(word, factor);
    return (word ^ (word >>> 16)) >>> 0;
  };
  const mix = (x, y) => {
    const word = Math.imul(0xca01f9dd, x) - Math.imul(0x4973f715, y);
    return (word ^ (word >>> 16)) >>> 0;
  };
  for (let i = 0; i < 4; i++) pool[i] = hash(entropy[i] ?? 0);
  for (let from = 0; from < 4; from++) {
    for (let to = 0; to < 4; to++) if (from !== to) pool[to] = mix(pool[to], hash(pool[from]));
  }
  for (const word of entropy.slice(4)) for (let to = 0; to < 4; to++) pool[to] = mix(pool[to], hash(word));
  let state = 0x8b51f9dd;
  const [low, high] = [0, 1].map((i) => {
    let word = pool[i] ^ state;
    state = Math.imul(state, 0x58f38ded);
    word = Math.imul(word, state);
    return (word ^ (word >>> 16)) >>> 0;
  });
  return ((low >>> 1) | (high << 31)) >>> 0;
}

/** The Mersenne Twister MT19937: a function that returns the next 32 bits. */
function twister(seed) {
  const state = new Uint32Array(624);
  state[0] = seed;
  for (let i = 1; i < 624; i++) state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i;
  let at = 624;
  return () => {
    if (at === 624) {
      for (let i = 0; i < 624; i++) {
        const y = (state[i] & 0x80000000) | (state[(i + 1) % 624] & 0x7fffffff);
        state[i] = state[(i + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
      }
      at = 0;
    }
    let y = state[at++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  };
}

/** Normal numbers as torch's `randn` draws them on a CPU: in sixteens, two from each pair of uniform ones. */
function normals(count, seed) {
  const next = twister(seed), values = Float32Array.from({ length: count }, () => (next() & 0xffffff) / 2 ** 24);
  for (let i = 0; i < count; i += 16) {
    for (let j = i; j < i + 8; j++) {
      const radius = Math.sqrt(-2 * Math.log(1 - values[j])), angle = 2 * Math.PI * values[j + 8];
      values[j] = radius * Math.cos(angle);
      values[j + 8] = radius * Math.sin(angle);
    }
  }
  return values;
}

/** The latent number `sample` of a seed: `sampling.latents`. The latest chunk is kept: samples come in order. */
export function latentSource(size) {
  let kept = null;
  return (seed, sample, truncation) => {
    const chunk = Math.floor(sample / CHUNK), at = (sample % CHUNK) * size;
    if (kept?.seed !== seed || kept.chunk !== chunk) kept = { seed, chunk, values: normals(CHUNK * size, seedOf(seed, 1, chunk)) };
    return truncated(kept.values.slice(at, at + size), truncation);
  };
}

/** The logarithm of the normal distribution function at x <= 0, and its derivative. */
function logTail(x) {
  const density = Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI);
  let tail;
  if (x > -3) { // a power series (Marsaglia, 2004)
    let sum = x, term = x;
    for (let k = 3; Math.abs(term) > 1e-17 * Math.abs(sum); k += 2) sum += term *= (x * x) / k;
    tail = 0.5 + density * sum;
  } else { // a continued fraction, from its end
    let fraction = -x;
    for (let k = 80; k > 0; k--) fraction = k / fraction - x;
    tail = density / fraction;
  }
  return { value: Math.log(tail), slope: density / tail };
}

/** `sampling.truncate`: each number at the same quantile of the normal distribution on [-threshold, threshold]. */
function truncated(z, threshold) {
  if (!threshold) return z;
  const outside = Math.exp(logTail(-threshold).value);
  return z.map((value) => {
    const size = Math.abs(value), quantile = Math.log(outside + Math.exp(logTail(-size).value) * (1 - 2 * outside));
    let x = -Math.sqrt(Math.max(0, -2 * quantile)); // below the root of a concave function: Newton's steps rise to it
    for (let k = 0; k < 50; k++) {
      const { value: at, slope } = logTail(x), step = (quantile - at) / slope;
      x = Math.min(0, x + step);
      if (Math.abs(step) < 1e-14) break;
    }
    return Math.sign(value) * Math.min(-x, threshold, size);
  });
}

/** `sampling.interpolate`: from latent a to b on the sphere. */
export function interpolated(a, b, t) {
  const dot = (x, y) => x.reduce((sum, value, i) => sum + value * y[i], 0);
  const norms = Math.sqrt(dot(a, a) * dot(b, b)), angle = norms ? Math.acos(clamp(dot(a, b) / norms, -1, 1)) : 0, sine = Math.sin(angle);
  const [forA, forB] = sine > 1e-6 ? [Math.sin((1 - t) * angle) / sine, Math.sin(t * angle) / sine] : [1 - t, t];
  return a.map((value, i) => forA * value + forB * b[i]);
}
