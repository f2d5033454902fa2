// A generator of plain operations (model/folding.py), in typed arrays. Feature maps are {data, height, width, channels}, in the order H, W, C.

/** The networks of a page: tensors in place of where they are in the page's bytes. */
export function openNetwork({ operations, half, single }) {
  const tensor = ({ at, shape, scale }) => {
    const count = shape.reduce((product, size) => product * size, 1);
    if (scale === undefined) return { shape, data: new Float32Array(single, at, count) };
    return { shape, data: Float32Array.from(new Uint16Array(half, at, count), (bits) => scale * float16(bits)) };
  };
  const open = (part) => (part?.shape ? tensor(part) : part instanceof Object
    ? Object.fromEntries(Object.entries(part).map(([name, inner]) => [name, open(inner)])) : part);
  return operations.map((operation) => PREPARE[operation.kind](open(operation)));
}

function float16(bits) {
  const exponent = (bits >> 10) & 31, fraction = bits & 1023;
  const size = exponent ? 2 ** (exponent - 25) * (1024 + fraction) : 2 ** -24 * fraction;
  return bits & 0x8000 ? -size : size;
}

// Each operation as it runs: kernels are in the layout of `convolve`.
const PREPARE = {
  linear: ({ weight, bias, ...rest }) => ({ ...rest, weight: weight.data, bias: bias.data }),
  block: ({ conv1, conv2, shortcut, ...rest }) => ({ ...rest, conv1: doubling(conv1), conv2: kernelOf(conv2), shortcut: kernelOf(shortcut) }),
  attention: ({ query, key, value, output, ...rest }) => ({ ...rest,
    ...Object.fromEntries(Object.entries({ query, key, value, output }).map(([name, { shape, data }]) =>
      [name, kernelOf({ weight: { shape: [1, 1, ...shape], data } })])) }),
  residual: ({ conv1, conv2, ...rest }) => ({ ...rest, conv1: kernelOf(conv1), conv2: kernelOf(conv2) }),
  output: ({ conv, ...rest }) => ({ ...rest, conv: kernelOf(conv) }),
};

/** A kernel (rows, columns, inputs, outputs) in fours of outputs: for each, all inputs of all places, with their four weights together. */
function kernelOf({ weight: { shape: [rows, columns, inputs, outputs], data }, bias }) {
  const fours = Math.ceil(outputs / 4), length = rows * columns * inputs, packed = new Float32Array(fours * length * 4);
  for (let i = 0; i < length; i++) {
    for (let o = 0; o < outputs; o++) packed[((o >> 2) * length + i) * 4 + (o & 3)] = data[i * outputs + o];
  }
  return { rows, columns, inputs, outputs, packed, bias: Float32Array.from({ length: 4 * fours }, (_, o) => bias?.data[o] ?? 0) };
}

/**
 * Nearest x2 and a 3x3 kernel as four 2x2 kernels, one for each place of a pixel in its square: rows (and columns) of the 3x3 kernel that see
 * the same pixel are added.
 */
function doubling({ weight: { shape: [,, inputs, outputs], data }, bias }) {
  const size = inputs * outputs, sees = [[[0], [1, 2]], [[0, 1], [2]]]; // rows of the 3x3 kernel, by parity and row of the 2x2 kernel
  return [0, 1].flatMap((down) => [0, 1].map((right) => {
    const sum = new Float32Array(4 * size);
    for (const [row, column] of [[0, 0], [0, 1], [1, 0], [1, 1]]) {
      for (const y of sees[down][row]) {
        for (const x of sees[right][column]) {
          for (let i = 0; i < size; i++) sum[(2 * row + column) * size + i] += data[(3 * y + x) * size + i];
        }
      }
    }
    return { ...kernelOf({ weight: { shape: [2, 2, inputs, outputs], data: sum }, bias }), down, right };
  }));
}

const mapOf = (height, width, channels) => ({ data: new Float32Array(height * width * channels), height, width, channels });

/** relu(gain x + bias) of a class (without a norm: relu(x)), with a border of zeros of one place. */
function activated({ data, height, width, channels }, norm, label) {
  const padded = mapOf(height + 2, width + 2, channels), row = norm && norm.gain.shape[0] > 1 ? label * channels : 0;
  for (let y = 0, from = 0; y < height; y++) {
    for (let to = ((y + 1) * (width + 2) + 1) * channels, end = to + width * channels; to < end;) {
      for (let c = 0; c < channels; c++, from++, to++) {
        const value = norm ? norm.gain.data[row + c] * data[from] + norm.bias.data[row + c] : data[from];
        if (value > 0) padded.data[to] = value;
      }
    }
  }
  return padded;
}

/**
 * A kernel over a map: to[·, y * stride + down, x * stride + right] from the places that begin at (y + top, x + left). Two places and four
 * outputs at a time, whose sums fit into registers.
 */
function convolve(from, { rows, columns, inputs, outputs, packed, bias, down = 0, right = 0 }, to, { stride = 1, top = 0, left = 0 } = {}) {
  const { data } = from, line = from.width * from.channels, across = columns * inputs;
  const height = to.height / stride, width = to.width / stride, count = height * width;
  const start = (i) => (Math.floor(i / width) + top) * line + ((i % width) + left) * inputs;
  const end = (i) => ((Math.floor(i / width) * stride + down) * to.width + (i % width) * stride + right) * outputs;
  for (let i = 0; i < count; i += 2) {
    const j = Math.min(i + 1, count - 1), p = start(i), q = start(j), toP = end(i), toQ = end(j);
    for (let o = 0, w = 0; o < outputs; o += 4) {
      let p0 = bias[o], p1 = bias[o + 1], p2 = bias[o + 2], p3 = bias[o + 3], q0 = p0, q1 = p1, q2 = p2, q3 = p3;
      for (let row = 0; row < rows; row++) {
        const offset = q - p;
        for (let k = p + row * line, last = k + across; k < last; k++, w += 4) {
          const a = data[k], b = data[k + offset], w0 = packed[w], w1 = packed[w + 1], w2 = packed[w + 2], w3 = packed[w + 3];
          p0 += a * w0;
          p1 += a * w1;
          p2 += a * w2;
          p3 += a * w3;
          q0 += b * w0;
          q1 += b * w1;
          q2 += b * w2;
          q3 += b * w3;
        }
      }
      const sums = Math.min(4, outputs - o);
      to.data[toP + o] = p0;
      to.data[toQ + o] = q0;
      if (sums > 1) [to.data[toP + o + 1], to.data[toQ + o + 1]] = [p1, q1];
      if (sums > 2) [to.data[toP + o + 2], to.data[toQ + o + 2]] = [p2, q2];
      if (sums > 3) [to.data[toP + o + 3], to.data[toQ + o + 3]] = [p3, q3];
    }
  }
  return to;
}

/** A 1x1 kernel over a map. */
export const project = (x, kernel) => convolve(x, kernel, mapOf(x.height, x.width, kernel.outputs));

const RUN = {
  linear({ weight, bias }, z) {
    const data = Float64Array.from(bias);
    z.forEach((value, i) => {
      for (let o = 0, w = i * data.length; o < data.length; o++, w++) data[o] += value * weight[w];
    });
    return { data: Float32Array.from(data), height: 4, width: 4, channels: data.length / 16 };
  },
  block({ norm1, conv1, norm2, conv2, shortcut }, x, label) {
    const first = activated(x, norm1, label), inner = mapOf(2 * x.height, 2 * x.width, conv2.inputs);
    for (const kernel of conv1) convolve(first, kernel, inner, { stride: 2, top: kernel.down, left: kernel.right });
    const y = convolve(activated(inner, norm2, label), conv2, mapOf(inner.height, inner.width, conv2.outputs)), beside = project(x, shortcut);
    for (let i = 0, place = 0; place < y.height * y.width; place++) {
      const from = ((place / y.width) >> 1) * x.width + ((place % y.width) >> 1);
      for (let c = from * y.channels, end = c + y.channels; c < end; c++, i++) y.data[i] += beside.data[c];
    }
    return y;
  },
  residual({ conv1, conv2 }, x) {
    const inner = convolve(activated(x), conv1, mapOf(x.height, x.width, conv1.outputs));
    const change = project({ ...inner, data: inner.data.map((value) => Math.max(0, value)) }, conv2);
    return { ...x, data: x.data.map((value, i) => value + change.data[i]) };
  },
  output({ norm, conv }, x) {
    const image = convolve(activated(x, norm, 0), conv, mapOf(x.height, x.width, conv.outputs));
    return { ...image, data: image.data.map(Math.tanh) };
  },
};

/**
 * The image of a latent and a class, in [-1, 1]; or from a feature map, by the operations from number `first` on. `attention(operation, x)` is
 * the output of an attention layer.
 */
export function generate(network, x, label, attention, first = 0) {
  return network.slice(first).reduce((y, operation) =>
    (operation.kind === "attention" ? attention(operation, y) : RUN[operation.kind](operation, y, label)), x);
}

/** An image as RGB bytes: halves go to the even number, as torch rounds. */
export function pixelsOf({ data }) {
  return Uint8Array.from(data, (value) => {
    const shade = (Math.min(Math.max(value, -1), 1) + 1) * 127.5, low = Math.floor(shade);
    return shade - low === 0.5 ? low + (low & 1) : Math.round(shade);
  });
}
