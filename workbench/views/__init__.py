"""What the notebooks call: for each a module with its parameters and views."""

from . import across_runs, attention, compare, train

__all__ = ["across_runs", "attention", "compare", "train"]
