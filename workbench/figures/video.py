"""Pictures as an MP4 or GIF file, written one by one: memory does not grow with their number."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from ..files import flush, replacing
from ..messages import WorkbenchError

FASTEST = {".mp4": 30, ".gif": 20}  # pictures a second
SLOWEST = 10  # of an MP4: players handle fewer badly, so pictures are repeated
BT709, LIMITED = 1, 1  # the colours of high definition, by H.264's numbers


def write_video(path: Path, pictures: Iterable[Image.Image], sample: Sequence[Image.Image], count: int, seconds: float) -> None:
    """Write pictures to a file that ends in .mp4 (H.264) or .gif (endless); complete, or not at all.

    Parameters
    ----------
    pictures
        RGB, all of one size, of even width and height.
    sample
        Some of them, from which a GIF takes its 256 colours.
    count, seconds
        Number of pictures, and the duration of all.

    Raises
    ------
    WorkbenchError
        If the encoder is not installed, or the file cannot be written.
    """
    try:
        import av
    except ImportError:
        raise WorkbenchError("films are encoded by PyAV, which is not installed in this environment: pip install av") from None
    with replacing(path) as temporary:
        (_write_gif if path.suffix == ".gif" else _write_mp4)(av, temporary, pictures, sample, Fraction(seconds) / count)
        flush(temporary)


def _write_mp4(av, path: Path, pictures: Iterable[Image.Image], sample: Sequence[Image.Image], each: Fraction) -> None:
    times = max(1, math.ceil(SLOWEST * each))
    with av.open(path, "w", format="mp4", options={"movflags": "faststart"}) as file:
        stream = file.add_stream("libx264", rate=(times / each).limit_denominator(1000), options=dict(crf="17"))
        (stream.width, stream.height), stream.pix_fmt = sample[0].size, "yuv420p"
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED
        for number, picture in enumerate(pictures):
            rgb = av.VideoFrame.from_image(picture)
            frame = rgb.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
            for repeat in range(times):
                frame.pts, frame.time_base = number * times + repeat, 1 / stream.codec_context.framerate
                file.mux(stream.encode(frame))
        file.mux(stream.encode())


def _write_gif(av, path: Path, pictures: Iterable[Image.Image], sample: Sequence[Image.Image], each: Fraction) -> None:
    palette = Image.fromarray(np.concatenate([np.asarray(picture) for picture in sample])).quantize(256, Image.Quantize.FASTOCTREE)
    with av.open(path, "w", format="gif", options={"final_delay": str(round(100 * each))}) as file:
        stream = file.add_stream("gif")
        (stream.width, stream.height), stream.pix_fmt = sample[0].size, "pal8"
        stream.codec_context.time_base = Fraction(1, 100)
        for number, picture in enumerate(pictures):
            frame = _indexed(av, picture, palette)
            frame.pts, frame.time_base = round(100 * each * number), Fraction(1, 100)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


def _indexed(av, picture: Image.Image, palette: Image.Image):
    """A picture as indices of the colours of `palette`, without dithering, which would flicker."""
    indices = np.asarray(picture.quantize(palette=palette, dither=Image.Dither.NONE))
    colours = np.full((256, 4), 255, np.uint8)  # alpha, red, green, blue
    rgb = np.array(palette.getpalette(), np.uint8).reshape(-1, 3)
    colours[: len(rgb), 1:] = rgb
    return av.VideoFrame.from_ndarray((indices, colours), format="pal8")
