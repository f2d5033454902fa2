"""Training: one D step, one G step (`steps`), the loop around them (`loop`), and starting it in a separate process (`launcher`)."""

from .launcher import launch
from .loop import train

__all__ = ["launch", "train"]
