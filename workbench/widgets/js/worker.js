// The worker of a living page: it runs the generator, and answers what the kernel answers in a notebook (inspector/answers.py, inspector/requests.py).

import { attend, causalMap, fixedMap, inspectLayer, offsetsOf } from "./attended.js";
import { generate, openNetwork, pixelsOf } from "./generator.js";
import { interpolated, latentSource } from "./random.js";

const SAMPLES = 16; // of which offsets are means
let held = null; // {networks, latentOf, classes, image_size, page}: page samples are in a strip

/** The network of a view's step, and the latent and class of one of its samples. */
function sampleOf(view, sample, towards = null) {
  const { seed, truncation, mix } = view, { networks, latentOf, classes } = held;
  const step = networks.find((network) => network.step === view.steps[0]) ?? networks.at(-1);
  let z = latentOf(seed, sample, truncation);
  if (towards && mix) z = interpolated(z, latentOf(...towards, truncation), mix);
  const label = view.class < 0 || !classes.length ? sample % (classes.length || 1) : view.class;
  return { ...step, z, label };
}

const named = (label, rest) => (held.classes.length ? `${held.classes[label]}, ${rest}` : rest);

/** The image of a sample, and what reached the view's attention layer: {index, x}. */
function followed({ network, z, label }, view) {
  let reached;
  const image = generate(network, z, label, (operation, x) => {
    if (`G/${operation.path}` === view.layer) reached = { index: network.indexOf(operation), x };
    return attend(operation, x);
  });
  return { image, ...reached };
}

/** The intervention of a view on the layer; null if there is none. */
function interventionOf({ gamma0, gamma, replace, forbid, scope, pins }, { side, key_side: keySide }) {
  if (gamma0) return { gamma: 0 };
  const idle = !forbid.length || (scope === "pins" && !pins.length);
  if (gamma == null && !replace && idle) return null;
  return { gamma: gamma ?? undefined, fixed: replace ? fixedMap(replace, side, keySide) : null,
    forbid: idle ? null : new Set(forbid), queries: scope === "pins" ? new Set(pins) : null };
}

const ANSWERS = {
  strip({ view }) {
    const { page, image_size: size } = held, start = Math.floor(view.sample / page) * page, samples = Array.from({ length: page }, (_, i) => start + i);
    const drawn = samples.map((sample) => ({ sample, ...sampleOf(view, sample) }));
    const images = drawn.map(({ network, z, label }) => pixelsOf(generate(network, z, label, attend)));
    const pixels = new Uint8Array(images.length * images[0].length);
    images.forEach((image, i) => pixels.set(image, i * image.length));
    const labels = drawn.map(({ sample, label }) => named(label, `sample ${sample}`));
    return [{ start, count: page, size, height: size, labels }, [pixels]];
  },
  inspection({ view }) {
    const { image_size: size } = held, { seed, sample, towards, mix, truncation } = view, drawn = sampleOf(view, sample, towards);
    const { network, label, step, weights } = drawn, { image, index, x } = followed(drawn, view);
    const walk = towards && mix ? `, ${Math.round(100 * mix)}% towards seed ${towards[0]}, sample ${towards[1]}` : "";
    const about = named(label, `seed ${seed}, sample ${sample}${walk}${truncation ? `, truncation ${truncation}` : ""}`);
    const reply = { size, height: size, logit: null, logit_after: null, after: false, about, step, weights };
    if (!x) return [reply, [pixelsOf(image), ...Array.from({ length: 5 }, () => new Float32Array())]]; // no attention
    const { numbers, parts } = inspectLayer(network[index], x, size), intervention = interventionOf(view, numbers);
    const changed = () => generate(network, attend(network[index], x, intervention), label, attend, index + 1);
    const after = intervention ? [pixelsOf(changed())] : [];
    return [{ ...reply, ...numbers, after: after.length > 0 }, [pixelsOf(image), ...parts, ...after]];
  },
  causal({ view, query }) {
    const drawn = sampleOf(view, view.sample, view.towards), { index, x } = followed(drawn, view);
    return [{}, [causalMap(drawn.network, index, x, drawn.label, query)]];
  },
  offsets({ view }) {
    const sum = Array.from({ length: SAMPLES }, (_, sample) => {
      const drawn = sampleOf(view, sample), { index, x } = followed(drawn, view);
      return offsetsOf(drawn.network[index], x);
    }).reduce((total, offsets) => total.map((value, i) => value + offsets[i]));
    return [{}, [sum.map((value) => value / SAMPLES)]];
  },
  /** Milliseconds of each of `count` images, from the seed to the pixels. */
  time({ view, count }) {
    const milliseconds = Array.from({ length: count }, (_, sample) => {
      const start = performance.now(), { network, z, label } = sampleOf(view, sample);
      pixelsOf(generate(network, z, label, attend));
      return performance.now() - start;
    });
    return [{ milliseconds }, []];
  },
};

onmessage = ({ data: { id, request, state } }) => {
  if (state) {
    const networks = state.networks.map(({ step, weights, ...packed }) => ({ step, weights, network: openNetwork(packed) }));
    held = { ...state, networks, latentOf: latentSource(state.z_dim) };
    return;
  }
  try {
    const [reply, parts] = ANSWERS[request.kind](request), buffers = parts.map(({ buffer }) => buffer);
    postMessage({ id, reply, buffers }, buffers);
  } catch (error) {
    postMessage({ id, error: error.message });
  }
};
