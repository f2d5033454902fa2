"""Augmentation on the device: horizontal flips, and the differentiable augmentation of Zhao et al. (2020)."""

from __future__ import annotations

import torch
from torch import Tensor

NUMBERS = 8  # uniform random numbers per image


def apply(policy: str, x: Tensor, u: Tensor, real: bool) -> Tensor:
    """Images (B, 3, S, S) augmented as `Config.augment` says: none, flip (real images only) or diffaug (real and fake)."""
    if policy == "diffaug":
        return diffaug(x, u)
    return flip(x, u) if real and policy == "flip" else x


def flip(x: Tensor, u: Tensor) -> Tensor:
    """Images (B, 3, S, S), mirrored where the first of their uniform numbers u (B, NUMBERS) is below 0.5."""
    return torch.where(u[:, 0, None, None, None] < 0.5, x.flip(3), x)


def diffaug(x: Tensor, u: Tensor) -> Tensor:
    """Colour, translation and cutout, differentiable in x; for real and fake images, in D steps and G steps.

    Brightness within +-0.5, saturation within a factor 0 to 2, contrast within 0.5 to 1.5, translation by up to S/8 in each
    direction (zeros move in), and a square of side S/2 set to zero.

    Parameters
    ----------
    x
        (B, 3, S, S) in [-1, 1].
    u
        (B, NUMBERS) uniform in [0, 1): the only randomness, which the caller controls.
    """
    size = x.shape[-1]
    u = u.to(x.dtype)
    brightness, saturation, contrast = (u[:, k, None, None, None] for k in range(3))
    x = x + (brightness - 0.5)
    mean = x.mean(1, keepdim=True)
    x = (x - mean) * (saturation * 2) + mean
    mean = x.mean((1, 2, 3), keepdim=True)
    x = (x - mean) * (contrast + 0.5) + mean

    at = torch.arange(size, device=x.device)
    farthest = size // 8
    dy, dx = ((u[:, k] * (2 * farthest + 1)).long() - farthest for k in (3, 4))
    rows, columns = at[None] - dy[:, None], at[None] - dx[:, None]  # (B, S): the source of each row and column
    inside = _within(rows, size)[:, None, :, None] & _within(columns, size)[:, None, None, :]
    image = torch.arange(len(x), device=x.device)[:, None, None]
    translated = x.permute(0, 2, 3, 1)[image, rows.clamp(0, size - 1)[:, :, None], columns.clamp(0, size - 1)[:, None, :]]
    x = translated.permute(0, 3, 1, 2) * inside

    side = size // 2
    top, left = ((u[:, k] * (size + 1)).long() - side // 2 for k in (5, 6))
    cut = _within(at[None] - top[:, None], side)[:, None, :, None] & _within(at[None] - left[:, None], side)[:, None, None, :]
    return x * ~cut


def _within(index: Tensor, size: int) -> Tensor:
    return (index >= 0) & (index < size)
