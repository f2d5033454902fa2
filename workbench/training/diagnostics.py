"""What tells why a training goes well or badly: gradient norms, D's saturation, and the singular values of every layer.

Gradient norms and saturation cost next to nothing: the steps gather them as tensors, and `history.jsonl` has them. The singular
values, at every sample grid, are in `spectra.jsonl`. All of it looks at what the training computes anyway and changes none of it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..model import Discriminator, Generator
from ..model.layers import SpectralNorm

LAYERS = nn.Conv2d | nn.Linear | nn.Embedding
FEW = 3  # singular values that are kept of each layer

# ------------------------------------------------------------------------------------------------ in every step


def gradient_norm(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None = None) -> tuple[Tensor, Tensor]:
    """Euclidean norm of the gradients of all parameters of an optimiser, taken together, as it is about to see them.

    Parameters
    ----------
    optimizer
        Its own lists of parameters are at hand; walking over the modules of a network takes as long as the norms do.
    scaler
        What multiplied the loss, and so the gradients; its factor is taken out.

    Returns
    -------
    norm, finite
        0-d: the norm and 1, or 0 and 0 where it is not finite: with float16 such a step is not taken.
    """
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    if scaler:
        norm = norm / scaler.scale(torch.ones_like(norm))
    finite = norm.isfinite()
    return norm.where(finite, 0), finite.to(norm.dtype)


def saturation(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Shares of real images with D(x) >= 1 and of fakes with D(x) <= -1, from logits (B,), in [0, 1]; 0-d.

    The hinge loss of D is flat there (Section 4, Eq. 4): these images teach D nothing.
    """
    return (real >= 1).to(real.dtype).mean(), (fake <= -1).to(fake.dtype).mean()


# ------------------------------------------------------------------------------------------------- now and then


@torch.no_grad()
def spectra(generator: Generator, discriminator: Discriminator) -> dict[str, dict]:
    """The spectrum of every convolution, linear layer and embedding of both networks, as they are now.

    Returns
    -------
    dict
        By layer, such as `G/blocks.8.conv1`, in the order of `named_modules`; what each holds, see `spectrum`.
    """
    nets = dict(G=generator, D=discriminator)
    layers = {f"{letter}/{name}": layer for letter, net in nets.items() for name, layer in net.named_modules() if isinstance(layer, LAYERS)}
    return {name: spectrum(layer) for name, layer in layers.items()}


@torch.no_grad()
def spectrum(layer: nn.Module) -> dict:
    """The spectrum of a layer's weight, as the matrix (out, rest) that spectral normalization sees (Miyato et al., 2018).

    Of a convolution this is not the norm of the whole map, which depends on the size of its input too.

    Returns
    -------
    dict
        `exact`: the largest singular values, at most `FEW`, descending. `stable_rank`: sum of their squares over that of the largest,
        from 1 to the rank. With spectral normalization also `estimate`: u^T W v, what the layer divides W by as it stands, with u and v
        from before the last update of W; and `renewed`: the same after one more power iteration, with which the next step begins. So the
        largest singular value that the layer works with is exact[0] / estimate, without spectral normalization exact[0]. Numbers have
        seven digits; they are null where weights are not finite.
    """
    norm = next((module for module in layer.modules() if isinstance(module, SpectralNorm)), None)
    weight = layer.parametrizations.weight.original if norm else layer.weight
    matrix = weight.detach().flatten(1).double()
    estimates = {}
    if norm:
        u, v = norm.u.double(), norm.v.double()
        renewed = matrix @ nn.functional.normalize(matrix.T @ u, dim=0)  # its length is u^T W v for the new u and v
        estimates = dict(estimate=torch.dot(u, matrix @ v), renewed=torch.linalg.vector_norm(renewed))
    # Eigenvalues of the smaller Gram matrix: in float64 the largest lose no digit that counts, and this is many times quicker than an SVD.
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    finite = bool(gram.isfinite().all())
    squares = torch.linalg.eigvalsh(gram).flip(0).clamp(min=0) if finite else torch.full((min(FEW, len(gram)),), torch.nan)
    exact = [_digits(value) for value in squares[:FEW].sqrt().tolist()]
    rank = _digits((squares.sum() / squares[0]).item()) if finite and squares[0] > 0 else None
    return dict(exact=exact, stable_rank=rank) | {name: _digits(value.item()) for name, value in estimates.items()}


def _digits(number: float) -> float | None:
    """Seven digits; None for what is not finite, which JSON does not have."""
    return float(f"{number:.7g}") if abs(number) < float("inf") else None
