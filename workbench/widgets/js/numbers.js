// Numbers and bytes: how they are written, bounded, and laid out in memory.

export const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** A number as people write it: 1,500 · 0.41 · 2e−4. Numbers of one axis share the size that decides the form. */
export function format(value, size = Math.abs(value)) {
  const text = value && (size < 1e-3 || size >= 1e7) ? Number(value.toPrecision(3)).toExponential().replace("e+", "e")
    : size >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(3)));
  return text.replaceAll("-", "−");
}

export const largest = (values) => values.reduce((a, b) => Math.max(a, b), 0);
export const extent = (values) => values.reduce((a, b) => Math.max(a, Math.abs(b)), 0);

/** A copy of the buffer of a message or a trait: typed arrays need aligned memory. */
export function bytesOf(buffer) {
  return ArrayBuffer.isView(buffer) ? buffer.buffer.slice(buffer.byteOffset, buffer.byteOffset + buffer.byteLength) : buffer.slice(0);
}
