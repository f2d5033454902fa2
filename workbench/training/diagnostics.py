"""Diagnostics of a training: gradient norms and D's saturation in `history.jsonl`, singular values of every layer in `spectra.jsonl`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..model import Discriminator, Generator
from ..model.layers import SpectralNorm

LAYERS = nn.Conv2d | nn.Linear | nn.Embedding
FEW = 3  # singular values recorded of each layer


def gradient_norm(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None = None) -> tuple[Tensor, Tensor]:
    """Euclidean norm of the gradients of all parameters of an optimiser, divided by the factor of the loss scaler.

    Returns
    -------
    norm, finite
        0-d: the norm and 1, or 0 and 0 if it is not finite, so that with float16 the step will be skipped.
    """
    # From the optimiser, because collecting the parameters from the modules takes as long as the norms.
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    if scaler:
        norm = norm / scaler.scale(torch.ones_like(norm))
    finite = norm.isfinite()
    return norm.where(finite, 0), finite.to(norm.dtype)


def saturation(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Shares of real images with D(x) >= 1 and of fakes with D(x) <= -1, from logits (B,), in [0, 1]; 0-d.

    The hinge loss of D (Section 4, Eq. 4) is flat at these images: D learns nothing from them.
    """
    return (real >= 1).to(real.dtype).mean(), (fake <= -1).to(fake.dtype).mean()


@torch.no_grad()
def spectra(generator: Generator, discriminator: Discriminator) -> dict[str, dict]:
    """The `spectrum` of every convolution, linear layer and embedding of both networks, by name such as `G/blocks.8.conv1`."""
    nets = dict(G=generator, D=discriminator)
    layers = {f"{letter}/{name}": layer for letter, net in nets.items() for name, layer in net.named_modules() if isinstance(layer, LAYERS)}
    return {name: spectrum(layer) for name, layer in layers.items()}


@torch.no_grad()
def spectrum(layer: nn.Module) -> dict:
    """The largest singular values of a layer's weight as a matrix (out, rest), as in spectral normalization (Miyato et al., 2018).

    For a convolution these are not those of the linear map, which depend on the size of its input.

    Returns
    -------
    dict
        `exact`: the largest singular values, at most `FEW`, descending. `stable_rank`: the sum of all squared singular values over the
        largest, from 1 to the rank. With spectral normalization also `estimate`: u^T W v, by which the layer divides W, with u and v from
        before the last update of W; and `renewed`: the same after the power iteration at the start of the next step. So the largest
        singular value of the weight in use is exact[0] / estimate, or without spectral normalization exact[0]. Numbers have seven digits,
        and are None if weights are not finite.
    """
    norm = next((module for module in layer.modules() if isinstance(module, SpectralNorm)), None)
    weight = layer.parametrizations.weight.original if norm else layer.weight
    matrix = weight.detach().flatten(1).double()
    estimates = {}
    if norm:
        u, v = norm.u.double(), norm.v.double()
        renewed = matrix @ nn.functional.normalize(matrix.T @ u, dim=0)  # its norm is u^T W v for the new u and v
        estimates = dict(estimate=torch.dot(u, matrix @ v), renewed=torch.linalg.vector_norm(renewed))
    # Eigenvalues of the smaller Gram matrix are many times faster than an SVD, and in float64 accurate enough for the largest.
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    finite = bool(gram.isfinite().all())
    squares = torch.linalg.eigvalsh(gram).flip(0).clamp(min=0) if finite else torch.full((min(FEW, len(gram)),), torch.nan)
    exact = [_digits(value) for value in squares[:FEW].sqrt().tolist()]
    rank = _digits((squares.sum() / squares[0]).item()) if finite and squares[0] > 0 else None
    return dict(exact=exact, stable_rank=rank) | {name: _digits(value.item()) for name, value in estimates.items()}


def _digits(number: float) -> float | None:
    """A number rounded to seven digits; None if it is not finite, which JSON cannot express."""
    return float(f"{number:.7g}") if abs(number) < float("inf") else None
