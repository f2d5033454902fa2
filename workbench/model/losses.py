"""The hinge version of the adversarial loss (Section 4, Eq. 4)."""

import torch.nn.functional as F
from torch import Tensor


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """L_D = E[relu(1 - D(x, y))] + E[relu(1 + D(G(z), y))], from logits (B,) on real and on fake images; 0-d."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def hinge_generator(fake: Tensor) -> Tensor:
    """L_G = -E[D(G(z), y)], from logits (B,) on fake images; 0-d."""
    return -fake.mean()
