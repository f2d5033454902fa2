"""Looking at attention: maps recomputed on demand, at no cost when nobody looks."""

from __future__ import annotations

from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .model import SelfAttention


@contextmanager
def _watch(module: nn.Module, read):
    """Context manager giving a dict: path of each attention layer -> `read(query, key)` of its latest forward."""
    found: dict = {}

    def watch(name):
        @torch.no_grad()
        def hook(layer, inputs, output):
            with torch.autocast(inputs[0].device.type, enabled=False):
                query, key, _ = layer.project(inputs[0].to(layer.gamma.dtype))
                found[name] = read(query.float(), key.float())

        return hook

    handles = [layer.register_forward_hook(watch(name)) for name, layer in module.named_modules() if isinstance(layer, SelfAttention)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def capture(module: nn.Module):
    """Context manager giving a dict: `named_modules` path -> attention map (B, queries, keys), float32, of the latest forward.

    The maps are recomputed from what each layer was given; outputs do not change. Rows sum to 1. Queries are positions in row-major
    order; keys too, of the 2x2-pooled map in the official variant.
    """
    return _watch(module, attention_map)


def capture_projections(module: nn.Module):
    """The same, giving path -> (queries (B, N, d), keys (B, M, d)), float32: small where maps are large, and enough to make them."""
    return _watch(module, lambda query, key: (query, key))


def attention_map(query: Tensor, key: Tensor) -> Tensor:
    """beta (B, N, M): softmax over the keys of <query, key> (Eq. 1), from queries (B, N, d) and keys (B, M, d)."""
    return torch.softmax(query @ key.transpose(1, 2), dim=-1)
