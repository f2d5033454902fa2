"""The attention inspector: click a position in an image to see where a layer attends from there, and what changes without that.

The front end (`widgets/js/inspector.js`) gets the queries and keys of an image and computes the softmax, so hovering needs no kernel. The kernel
answers what needs a network: `requests` reads messages, `answers` replies, `export` writes pages that need no kernel. `figure` saves what is
shown, by the scales and colours of `figures.painting`, which are those of the front end.
"""

from .widget import AttentionInspector

__all__ = ["AttentionInspector"]
