"""The front ends of the widgets: plain ES modules and style sheets, without a build step."""

from pathlib import Path


def source(name: str) -> str:
    """The text of a widget's `.js` or `.css`: what all widgets share, its parts (`name_*.js`), and the file itself, in one module."""
    folder, (stem, _, ending) = Path(__file__).parent, name.partition(".")
    parts = sorted(folder.glob(f"{stem}_*.{ending}"))
    return "\n".join(part.read_text(encoding="utf-8") for part in (folder / f"common.{ending}", *parts, folder / name))
