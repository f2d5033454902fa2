"""Training: one D step, one G step (`steps`), the loop around them (`loop`), and starting it
here (`start`) or in a separate process (`launcher`)."""

from .launcher import launch
from .start import train

__all__ = ["launch", "train"]
