"""What drawn data sets share: random numbers by image index, and colours."""

from __future__ import annotations

import numpy as np

SATURATION, VALUE = 0.9, 0.95


def hsv(hue: np.ndarray) -> np.ndarray:
    """RGB colours (B, 3) of hues (B,) at the saturation and value of all drawn sets."""
    k = (np.array([5.0, 3.0, 1.0]) + 6 * hue[:, None]) % 6
    return VALUE * (1 - SATURATION * np.clip(np.minimum(k, 4 - k), 0, 1))


def uniform(index: np.ndarray, seed: int, count: int) -> np.ndarray:
    """Uniform numbers in [0, 1), (count, B) float64: a pure function of (index, seed), by the SplitMix64 hash."""
    with np.errstate(over="ignore"):
        x = (index[None] * np.uint64(count) + np.arange(count, dtype=np.uint64)[:, None] + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        x = x + _mix(np.array([seed], dtype=np.uint64) * np.uint64(0xD1B54A32D192ED03))
        return (_mix(x) >> np.uint64(11)) / 2.0**53


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
