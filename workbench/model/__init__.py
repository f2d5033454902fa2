"""The networks of SAGAN: start with `attention`, then `networks`."""

from .attention import SelfAttention
from .networks import Discriminator, Generator

__all__ = ["Discriminator", "Generator", "SelfAttention"]
