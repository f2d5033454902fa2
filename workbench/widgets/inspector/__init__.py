"""The attention inspector: click on an image, and see where each layer looked from there, and what that does.

The front end (`js/`) gets the queries and keys of an image and takes the softmax itself, so that hovering asks nobody. What needs a network
is asked of the kernel: `requests` works out what is asked for, `answers` answers it, `export` writes pages that need no kernel.
"""

from .widget import AttentionInspector

__all__ = ["AttentionInspector"]
