"""Publishing a run: a folder with a model card (`folder`, `card`), which opens as a run again, and its upload (`hub`)."""

from .folder import publish

__all__ = ["publish"]
