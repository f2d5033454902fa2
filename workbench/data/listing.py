"""What packing needs to know of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Listing:
    """The images of a data set before they are packed."""

    name: str
    root: Path
    classes: list[str]
    paths: list[str]  # relative to the root
    labels: Sequence[int]
    items: Sequence  # to decode: (N,) paths, contents of files (bytes), or (N, h, w, 3) uint8
    identity: list  # for JSON: whatever the images depend on; if it changes, they are packed again
    conditional: bool = True
    ignored: dict[str, int] = field(default_factory=dict)  # other files, see `Images.ignored`
