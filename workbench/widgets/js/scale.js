// Scales: the place of a value among the 256 colours of a table, and the words of the colour bar. The same as figures/painting.py.

import { extent, format, largest } from "./numbers.js";

/** Two digits. */
export const short = (value) => format(Number(value.toPrecision(2)));

/**
 * One scale for maps of a reading; null entries are maps that are not known yet. From 0 to the largest value, but at least to the floor,
 * below which values are rounding errors; or `relative` to the reference of each map, logarithmic, and at least from a half to twice of it.
 */
export function scaleOf(maps, unit, relative) {
  const known = maps.filter(Boolean), reference = known[0]?.reference;
  if (relative && reference) {
    const octaves = Math.max(1, ...known.map((map) => Math.log2(largest(map.values) / map.reference.value)));
    const at = (map) => (value) => 0.5 + Math.log2(value / map.reference.value) / (2 * octaves);
    const mark = { at: 0.5, text: `${reference.name} ${short(reference.value)}` }, times = short(2 ** octaves);
    return { table: "diverging", at, low: `÷ ${times}`, high: `× ${times}`, mark, unit: `${unit}, relative to ${reference.name}` };
  }
  const top = Math.max(0, ...known.map(({ values }) => largest(values))), floor = Math.max(0, ...known.map((map) => map.floor ?? 0));
  const high = Math.max(top, floor), mark = reference && { at: reference.value / high, text: `${reference.name} ${short(reference.value)}` };
  const words = top < floor ? `${unit}: no more than rounding` : unit;
  return { table: "plain", at: () => (value) => value / (high || 1), low: "0", high: short(high), mark, unit: words };
}

/** The scale of differences: 0 in the middle, and at least to a thousandth of the values, below which they are rounding errors. */
export function differenceScale(values, maps, unit) {
  const most = Math.max(extent(values), largest(maps.map((map) => largest(map.values))) / 1000);
  return { table: "diverging", at: () => (value) => 0.5 + value / (2 * most || 1), low: short(-most), high: short(most), unit };
}
