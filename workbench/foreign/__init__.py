"""Checkpoints of other SAGAN code bases, opened as runs: start with `opening`, then `layouts`."""

from .opening import open_checkpoint

__all__ = ["open_checkpoint"]
