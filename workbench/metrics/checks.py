"""Checks of features and logits: a row per sample, as a tensor on any device or a NumPy array, of any float type."""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from torch import Tensor

from ..messages import ParameterError

LARGEST = 1e50  # feature: the scores' squares, products and cubes of larger ones overflow in float64


def pair(x: Tensor | np.ndarray, x_name: str, y: Tensor | np.ndarray, y_name: str, rows: int = 1) -> tuple[Tensor, Tensor]:
    """x (n, d) and y (m, d), not copied; a ParameterError unless n and m are at least `rows` and the widths are equal."""
    x, y = matrix(x, x_name, rows), matrix(y, y_name, rows)
    if x.shape[1] != y.shape[1]:
        raise ParameterError(f"{x_name} has {x.shape[1]} features per sample and {y_name} {y.shape[1]}; they must be equal")
    return x, y


def matrix(x: Tensor | np.ndarray, name: str, rows: int = 1) -> Tensor:
    """x (n, d), not copied; a ParameterError unless n is at least `rows`, and d at least 1."""
    x = as_tensor(x)
    if x.ndim != 2 or len(x) < rows or not x.shape[1]:
        raise ParameterError(f"{name} has shape {tuple(x.shape)}; it must be a matrix with a row per sample, at least {rows}")
    return x


def as_tensor(x: Tensor | np.ndarray) -> Tensor:
    """x as a tensor with the same memory; of a memory-mapped array, only the indexed rows are read."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # its memory is never written
        return torch.as_tensor(x)


def float64(x: Tensor, name: str, largest: float = LARGEST) -> Tensor:
    """x in float64; a ParameterError if it holds NaN, infinity, or values beyond `largest`."""
    x = x.to(torch.float64)
    if x.numel():
        low, high = (value.item() for value in x.aminmax())  # needs no temporary of the size of x
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ParameterError(f"{name} holds NaN or infinity; all values must be finite")
        if max(-low, high) > largest:
            raise ParameterError(
                f"{name} holds {max(-low, high):.3g}; beyond {largest:.0e} scores overflow in float64: scale the features down"
            )
    return x
