"""Folders of images for the tests of data, and how they are opened or refused."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from workbench.config import Config
from workbench.data import DataError, Images, open_data

S = 32


def pixels(seed, height=S, width=S):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def tree(root, **images):
    """Folders of PNG files: `cat=2` makes cat/0.png and cat/1.png, every image another; "/" in a name makes deeper folders."""
    for number, (name, count) in enumerate(images.items()):
        folder = Path(root, name)
        folder.mkdir(parents=True, exist_ok=True)
        for index in range(count):
            Image.fromarray(pixels([number, index])).save(folder / f"{index}.png")
    return Path(root)


def config(root, **changes):
    return Config.preset("twins32", **{"data": str(root), "batch_size": 2, **changes})


def opened(root, **changes):
    return open_data(config(root, **changes), progress=False)


def refused(root, **changes):
    """The message with which these data are refused: always one line."""
    with pytest.raises(DataError) as caught:
        opened(root, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def cached(folder):
    """What there is in the cache, locks left out."""
    return sorted(path.name for path in (folder / "cache").glob("*") if path.suffix != ".lock")


def opened_folders(data_folder):
    return [name for name in cached(data_folder) if not name.startswith(".")]


def saved(image, kind, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def spoil(root):
    """Files that cannot be read, of every kind."""
    whole = saved(Image.fromarray(pixels(0, 200, 200)), "JPEG")
    (root / "cat/cut.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "cat/empty.jpg").touch()
    (root / "dog/text.png").write_text("not a picture")
    (root / "dog/link.png").symlink_to("nowhere.png")
    return ["cat/cut.jpg", "cat/empty.jpg", "dog/link.png", "dog/text.png"]


def in_memory(counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    images = np.stack([np.full((S, S, 3), index % 256, dtype=np.uint8) for index in range(len(labels))])
    return Images("made", [f"c{index}" for index in range(len(counts))], S, "0123456789abcdef" * 4, images, labels)
