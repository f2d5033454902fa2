"""Decode untrusted image files: no file starts a program or blocks, and an intact picture with damaged metadata is still read."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import struct
import warnings
import zlib
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from io import BytesIO
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from ..files import open_regular
from ..messages import one_line

# The only formats that are opened, whatever the extension. Pillow's other formats start programs (EPS: Ghostscript), open embedded files
# (IPTC), or hold no picture. TGA is last, because its files have no signature.
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "AVIF", "BMP", "DIB", "TIFF", "JPEG2000", "PPM", "QOI", "PCX", "PSD", "SGI", "SUN", "TGA")
LARGEST = 8 * 178_956_970  # bytes of the largest image that Pillow opens, uncompressed, with 16 bits in each of 4 channels

PHOTOMETRIC, BITS_PER_SAMPLE, SAMPLE_FORMAT = 262, 258, 339  # tags of TIFF
PICTURE_TAGS = {256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325, 338, 339, 347, 530, 532}

logging.getLogger("PIL").addHandler(logging.NullHandler())  # keeps its messages off stderr


@cache
def suffixes() -> frozenset[str]:
    """Extensions of image files, in lower case."""
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in _formats())


def open_image(file: BinaryIO) -> Image.Image:
    """Pillow's `Image.open`, which ignores the name, for `FORMATS` only."""
    return Image.open(file, formats=_formats())


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(kind for kind in FORMATS if kind in Image.OPEN)  # not every Pillow has AVIF


class Decoded(NamedTuple):
    """A decoded image file, or why it cannot be read."""

    pixels: np.ndarray | None  # (S, S, 3) uint8
    sha256: str = ""  # of its content
    error: str = ""  # one line


def decode_all(items: Sequence, size: int, threads: int | None = None) -> Generator[Decoded, None, None]:
    """Decode many images, paths, contents of files or (N, h, w, 3) uint8, in order, with as many threads as there are cores, at most 16, if not told otherwise.

    Threads do, because Pillow releases the GIL, unless images are tiny or cores many: `packing` then has several processes.
    """
    workers, chunk = threads or min(os.cpu_count() or 1, 16), 16
    Image.init()  # here, because several threads must not load plugins
    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        warnings.simplefilter("ignore")  # about odd metadata, and large images
        pending: deque = deque()  # short, since the decoded images of a large data set do not fit into memory
        try:
            for start in range(0, len(items), chunk):
                pending.append(pool.submit(lambda part: [_try_to_decode(item, size) for item in part], items[start : start + chunk]))
                if len(pending) > 2 * workers:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _try_to_decode(item: str | bytes | np.ndarray, size: int) -> Decoded:
    try:
        if isinstance(item, np.ndarray):
            return Decoded(decode(item, size), hashlib.sha256(item.tobytes()).hexdigest())
        content = item if isinstance(item, bytes) else _read(item)
        return Decoded(decode(content, size), hashlib.sha256(content).hexdigest())
    except UnidentifiedImageError:
        return Decoded(None, error="not an image" if content else "empty file")
    except Exception as error:  # Pillow raises almost anything on a broken file
        return Decoded(None, error=one_line(error))


def _read(path: str) -> bytes:
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > LARGEST:
            raise OSError(errno.EFBIG, f"more than {LARGEST / 1e9:.1f} GB, which no image takes")
        return file.read(LARGEST)


def decode(source: bytes | np.ndarray, size: int) -> np.ndarray:
    """The content of an image file, or RGB pixels (h, w, 3) uint8, as (size, size, 3) uint8.

    Turned upright (by EXIF or XMP, if readable), converted to 8-bit RGB on white, resized to a shorter side of `size` (antialiased;
    unchanged if it has that already), cropped at the centre. An animation gives its first frame. Unsigned integers of up to 16 bits are
    scaled by the largest value of their depth, floats by 1.

    Raises
    ------
    Exception
        If the range of the values is unknown (32-bit or signed integers, floats outside of 0 to 1). Pillow may raise any exception on a
        broken file.
    """
    image = _upright(source) if isinstance(source, bytes) else Image.fromarray(source)
    short = min(image.size)
    left, top = ((side - short) // 2 for side in image.size)  # whole pixels: without resizing, no interpolation
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS, box=(left, top, left + short, top + short)))


def _upright(content: bytes) -> Image.Image:
    """The content of an image file, turned upright, as 8-bit RGB."""
    try:
        return _draw(content)
    except Exception:
        bare = _without_metadata(content)
        if bare == content:
            raise
        return _draw(bare)


def _draw(content: bytes) -> Image.Image:
    with open_image(BytesIO(content)) as image:
        _keep_orientation(image)
        image.load()
        upright = _to_8_bits(image)
        ImageOps.exif_transpose(upright, in_place=True)  # copies nothing if it is upright
        return _to_rgb(upright)


def _keep_orientation(image: Image.Image) -> None:
    """Reduce the EXIF of an image to its orientation: Pillow fails if it cannot read or rewrite other tags."""
    with suppress(Exception):
        image.getexif()
    exif = image.getexif()  # its readable part
    for tag in list(exif):
        if tag != ExifTags.Base.Orientation:
            del exif[tag]
    for name in ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"):
        image.info.pop(name, None)


# ----------------------------------------------------------------------------------------------------- colours


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Grey values of any depth as 8 bits; Pillow's conversion would clip more than 8 bits to white."""
    tags = getattr(image, "tag_v2", {})  # of TIFF
    if set(tags.get(SAMPLE_FORMAT, ())) & {2, 5, 6}:
        raise ValueError("signed values, whose range is unknown: save them as unsigned integers of 8 or 16 bits")
    if image.mode == "F":
        values, top = np.asarray(image), 1
        if not (values.min() >= 0 and values.max() <= 1):  # nor NaN
            raise ValueError(f"floats from {values.min():g} to {values.max():g}, expected 0 to 1")
    elif image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        values, top = np.asarray(image, dtype=np.float32), 2 ** tags.get(BITS_PER_SAMPLE, (16,))[0] - 1
    elif image.mode == "I":
        raise ValueError("32-bit integers, whose range is unknown: save them as unsigned integers of 8 or 16 bits")
    else:
        return image
    values = values / top * 255
    if tags.get(PHOTOMETRIC) == 0:  # 0 is white, which Pillow considers only up to 8 bits
        values = 255 - values
    grey = Image.fromarray(np.rint(values).astype(np.uint8))
    grey.getexif().update(image.getexif())
    return grey


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any mode as 8-bit RGB on white; Pillow's conversion would show the colours of transparent pixels."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it


# ----------------------------------------------------------------------------------------------------- metadata


def _without_metadata(content: bytes) -> bytes:
    """An image file without its metadata, except a valid orientation. Formats other than PNG, JPEG, TIFF and AVIF are unchanged.

    Pillow refuses files with an intact picture and a damaged colour profile, comment or EXIF.
    """
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return _bare_png(content)
    if content.startswith(b"\xff\xd8"):
        return _bare_jpeg(content)
    if content[:4] in (b"II*\0", b"MM\0*"):
        return _bare_tiff(content)
    if content[4:8] == b"ftyp":  # AVIF: items of metadata get an unknown type, which is ignored
        return re.sub(rb"(infe[\2\3]\0\0[\0\1].{4,6}?)(Exif|mime)", rb"\1skip", content, flags=re.DOTALL)
    return content


def _bare_png(content: bytes) -> bytes:
    parts, at = [content[:8]], 8
    while at < len(content):
        kind, end = content[at + 4 : at + 8], at + 12 + int.from_bytes(content[at : at + 4], "big")
        intact = zlib.crc32(content[at + 4 : end - 4]) == int.from_bytes(content[end - 4 : end], "big")
        if kind[:1].isupper() or kind == b"tRNS" or (kind == b"eXIf" and intact):  # upper case: critical chunks
            parts.append(content[at:end])
        at = end
    return b"".join(parts)


def _bare_jpeg(content: bytes) -> bytes:
    parts, at = [content[:2]], 2
    while content[at : at + 1] == b"\xff" and content[at + 1 : at + 2] not in (b"", b"\xda"):  # up to the start of the scan
        marker, end = content[at + 1], at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        segment = content[at:end]
        adobe = marker == 0xEE and len(segment) >= 16  # names the colour space
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE) or adobe or segment[4:8] == b"Exif":
            parts.append(segment)
        at = end
    return b"".join([*parts, content[at:]])


def _bare_tiff(content: bytes) -> bytes:
    bare, order = bytearray(content), "<" if content[:1] == b"I" else ">"
    with suppress(struct.error):  # the file is truncated
        (start,) = struct.unpack_from(f"{order}L", content, 4)
        (count,) = struct.unpack_from(f"{order}H", content, start)
        for at in range(start + 2, start + 2 + 12 * count, 12):
            if struct.unpack_from(f"{order}H", content, at)[0] not in PICTURE_TAGS:
                struct.pack_into(f"{order}H", bare, at + 2, 0)  # an unknown type: the tag is ignored
    return bytes(bare)
