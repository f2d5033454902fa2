"""Self-attention over a feature map (Zhang et al., 2019, Section 3).

Shapes: B images, C channels, H x W positions, N = H * W queries, M keys (N, or N / 4 where keys are pooled).
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..messages import ParameterError
from .layers import conv


class SelfAttention(nn.Module):
    """Self-attention over a feature map, added to it with a learned weight gamma that starts at 0.

    For positions i and j of a feature map x and 1x1 convolutions f (`key`), g (`query`), h (`value`) and v (`output`):

        s_ij    = f(x_i)^T g(x_j)
        beta_ji = exp(s_ij) / sum_i exp(s_ij)     (Eq. 1)   how much position j attends to position i
        o_j     = v(sum_i beta_ji h(x_i))         (Eq. 2)
        y_j     = gamma o_j + x_j                 (Eq. 3)

    Parameters
    ----------
    channels
        C, channels of the feature map; at least 8.
    variant
        "official": the released code; values have C/2 channels, keys and values are max-pooled 2x2 (N/4 keys).
        "paper": the formula of the paper; values have C/8 channels, N keys.

    Attributes
    ----------
    query, key, value, output
        1x1 convolutions without biases. The networks add spectral normalization to them.
    gamma
        0-d parameter.
    """

    def __init__(self, channels: int, variant: str = "official"):
        super().__init__()
        if variant not in ("official", "paper"):
            raise ParameterError(f"variant={variant!r} is not one of official, paper")
        if channels < 8:
            raise ParameterError(f"channels={channels} is too few for self-attention, which divides them by 8; at least 8")
        self.variant = variant
        inner = channels // 8
        width = channels // 2 if variant == "official" else inner
        self.query = conv(channels, inner, 1, sn=False, bias=False)
        self.key = conv(channels, inner, 1, sn=False, bias=False)
        self.value = conv(channels, width, 1, sn=False, bias=False)
        self.output = conv(width, channels, 1, sn=False, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, N, C/8), keys (B, M, C/8) and values (B, M, D) of a feature map (B, C, H, W); D value channels."""
        query, key, value = self.query(x), self.key(x), self.value(x)  # (B, C/8 or D, H, W)
        if self.variant == "official":
            key, value = F.max_pool2d(key, 2), F.max_pool2d(value, 2)  # (B, C/8 or D, H/2, W/2)
        return _positions(query), _positions(key), _positions(value)  # (B, N or M, C/8 or D)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.project(x)  # x: (B, C, H, W)
        o = fused_attention(query, key, value)  # (B, N, D), Eq. 1 and the sum of 2
        o = o.transpose(1, 2).unflatten(2, x.shape[2:])  # (B, D, H, W)
        return x + self.gamma * self.output(o)  # (B, C, H, W), Eq. 2 and 3


def _positions(x: Tensor) -> Tensor:
    """(B, D, H, W) -> (B, H * W, D), contiguous, which the fused kernel requires on a CPU."""
    return x.flatten(2).transpose(1, 2).contiguous()


def fused_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(query key^T) value by torch's fused kernel, which never stores the (N, M) map.

    Parameters
    ----------
    query, key, value
        (B, N, C/8), (B, M, C/8) and (B, M, D).

    Returns
    -------
    Tensor
        (B, N, D).
    """
    # The kernel needs equal widths: zero padding leaves the dot products unchanged.
    pad, dtype = (0, value.shape[-1] - query.shape[-1]), value.dtype
    query, key, value = F.pad(query, pad)[:, None], F.pad(key, pad)[:, None], value[:, None]  # one head
    half_on_cpu = query.device.type == "cpu" and torch.is_autocast_enabled("cpu")
    if half_on_cpu:  # there the kernel's backward pass takes several times as long as in float32
        query, key, value = query.float(), key.float(), value.float()
    with torch.autocast("cpu", enabled=False) if half_on_cpu else nullcontext():
        # The scale is 1: SAGAN does not divide by the square root of the width.
        return F.scaled_dot_product_attention(query, key, value, scale=1.0)[:, 0].to(dtype)


class ResidualBlock(nn.Module):
    """Residual block that replaces self-attention in Table 1 of the paper, with as many parameters (not counting gamma).

    ReLU, conv3x3 to c channels, ReLU, conv1x1 back to C. c is chosen so that its 10 * C * c weights match those of the attention.
    """

    def __init__(self, channels: int, variant: str = "official"):
        super().__init__()
        attention = SelfAttention(channels, variant)
        weights = sum(p.numel() for p in attention.parameters()) - 1
        inner = max(1, round(weights / (10 * channels)))
        self.conv1 = conv(channels, inner, 3, sn=False, bias=False)
        self.conv2 = conv(inner, channels, 1, sn=False, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))
