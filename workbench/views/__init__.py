"""What the notebooks call: for each of them its parameters and what its cells show."""

from . import across_runs, attention, compare, train

__all__ = ["across_runs", "attention", "compare", "train"]
