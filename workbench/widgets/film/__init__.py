"""A film of a training: samples, attention maps, gamma and curves under one scrub bar, in a notebook, a page, an MP4 or a GIF."""

from .view import FilmView, film

__all__ = ["FilmView", "film"]
