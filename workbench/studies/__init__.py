"""Do the paper's claims hold? Its experiments and claims, sweeps over their runs, what attention follows in a trained network, and the
tests and verdicts of all of these."""

from . import groups, long_range, paper, patching, shape, significance, sweep

__all__ = ["groups", "long_range", "paper", "patching", "shape", "significance", "sweep"]
