"""Main directions of the latents of a generator."""

from __future__ import annotations

import torch
from torch import Tensor

from ..messages import WorkbenchError
from .networks import Generator


@torch.no_grad()
def main_directions(generator: Generator) -> Tensor:
    """The directions of z along which the first layer varies most, most first: (z_dim, z_dim), orthonormal rows, float32.

    The eigenvectors of W^T W, as in SeFa (Shen & Zhou, 2021), for the weight W of the first linear layer. They are also the principal
    components of its outputs W z over z ~ N(0, I), as in GANSpace (Härkönen et al., 2020), without sampling. Signs are fixed: the entry of
    each direction that is largest in size is positive.

    The standard deviation of z along each is 1, so that z + a d moves by `a` standard deviations.

    Raises
    ------
    WorkbenchError
        If the weight is not finite.
    """
    weight = generator.linear.weight.double().cpu()  # (outputs, z_dim)
    if not weight.isfinite().all():
        raise WorkbenchError("the first layer of G has weights that are not finite, and so no main directions; the network has diverged")
    directions = torch.linalg.eigh(weight.T @ weight).eigenvectors.T.flip(0)
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    return (directions * largest.sign()).float()
