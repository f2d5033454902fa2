"""Images packed once for all runs, in `<data folder>/cache`, which may be deleted at any time."""

from __future__ import annotations

from pathlib import Path

from ..files import UnreadableError, delete_folder, locked, remove_abandoned
from ..messages import say_once
from ..paths import data_dir
from .decode import decode_all
from .listing import Listing
from .packed import Images, open_packed, read_packed
from .packing import identity, pack


def cached(listing: Listing, size: int, progress: bool) -> Images:
    """The images of a listing from the cache, packed first if they are missing or damaged."""
    folder = data_dir() / "cache" / identity(listing, size)
    if images := _usable(folder, listing, size):
        return images
    with locked(folder, f"waiting for the process that packs {listing.name}" if progress else ""):
        if images := _usable(folder, listing, size):  # another process has packed it
            return images
        if folder.exists():
            delete_folder(folder)
        remove_abandoned(folder.parent)  # also for other data, which may never be opened again
        # Unreadable files are skipped here and refused by `open_data`: with skip_unreadable nothing is decoded again.
        pack(listing, size, folder, progress, True, "set WORKBENCH_DATA in the environment to a folder on another disk")
    return open_packed(folder, size)


def _usable(folder: Path, listing: Listing, size: int) -> Images | None:
    """A packed folder of the cache; None if it is missing, damaged or out of date."""
    if not folder.exists():
        return None
    try:
        images = read_packed(folder)
    except UnreadableError as error:
        say_once(f"{error}; {listing.name} is packed again")
        return None
    content = (images.size, images.classes, images.conditional, images.length + len(images.skipped))
    if content != (size, listing.classes, listing.conditional, len(listing.paths)):
        say_once(f"{folder} cannot be read: it holds other images; {listing.name} is packed again")
        return None
    retries = decode_all([f"{listing.root}/{path}" for path in images.skipped], size)
    readable = any(image.pixels is not None for image in retries)  # the user fixed permissions or the disk
    return None if readable else images
