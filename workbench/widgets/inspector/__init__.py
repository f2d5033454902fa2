"""The attention inspector: click on an image, and see where each layer looked from there, and what that does.

The front end (`js/`) gets the queries and keys of an image and computes the softmax itself, so hovering needs no kernel. The kernel computes
whatever needs a network: `requests` reads messages, `answers` replies, `export` writes pages without a kernel.
"""

from .widget import AttentionInspector

__all__ = ["AttentionInspector"]
