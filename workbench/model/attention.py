"""Self-attention over a feature map (Zhang et al., 2019, Section 3): the layer that everything here is about.

Shapes: B images, C channels, H x W positions, N = H * W queries, M keys (N, or N / 4 where keys are pooled).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..parameters import ParameterError
from .layers import conv


class SelfAttention(nn.Module):
    """Self-attention over a feature map: y = x + gamma * o, gamma a learned scalar that starts at 0 (Section 3, Eq. 1-3).

    beta_{j,i} = softmax_i(<query_j, key_i>) is how much position j attends to position i; o_j = W_o sum_i beta_{j,i} value_i.

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
        1x1 convolutions without biases. Alone they have no spectral normalization; the networks add it.
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
        """Queries (B, N, C/8), keys (B, M, C/8) and values (B, M, D) of a feature map (B, C, H, W); M keys, D value channels."""
        key, value = self.key(x), self.value(x)
        if self.variant == "official":
            key, value = F.max_pool2d(key, 2), F.max_pool2d(value, 2)
        return _positions(self.query(x)), _positions(key), _positions(value)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.project(x)
        # Zero-padding query and key to the value's width changes no product, and lets the fused kernel run, which never
        # writes the (N, M) map. The scale is 1: SAGAN does not divide by the square root of the width.
        pad = (0, value.shape[-1] - query.shape[-1])
        o = F.scaled_dot_product_attention(F.pad(query, pad)[:, None], F.pad(key, pad)[:, None], value[:, None], scale=1.0)
        o = o[:, 0].transpose(1, 2).unflatten(2, x.shape[2:])  # (B, N, D) -> (B, D, H, W)
        return x + self.gamma * self.output(o)


def _positions(x: Tensor) -> Tensor:
    """(B, D, H, W) -> (B, H * W, D), each position's D numbers side by side: else the fused kernel does not run on a CPU."""
    return x.flatten(2).transpose(1, 2).contiguous()


class ResidualBlock(nn.Module):
    """What Table 1 of the paper puts in attention's place: a residual block of as many parameters (but for gamma).

    ReLU, conv3x3 to c channels, ReLU, conv1x1 back, with 10 * C * c weights equal to those of the attention.
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
