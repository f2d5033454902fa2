"""What the notebooks call: for each of them its parameters and what its cells show."""

from . import attention, compare, runs, train

__all__ = ["attention", "compare", "runs", "train"]
