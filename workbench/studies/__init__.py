"""Do the paper's claims hold? Its experiments, sweeps over their runs, studies of attention, and the tests behind the verdicts."""

from . import groups, long_range, paper, patching, shape, significance, sweep

__all__ = ["groups", "long_range", "paper", "patching", "shape", "significance", "sweep"]
