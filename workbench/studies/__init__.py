"""Asking whether what the paper claims holds: its experiments and claims, their runs, what attention follows in a trained network, and the
tests and verdicts of all of these."""

from . import correspondence, groups, paper, significance, sweep

__all__ = ["correspondence", "groups", "paper", "significance", "sweep"]
