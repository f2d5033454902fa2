"""What the notebooks call: for each of them its parameters and what its cells show."""

from . import attention, compare, maps, runs, train

__all__ = ["attention", "compare", "maps", "runs", "train"]
