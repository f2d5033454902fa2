import io
import os
import resource
import struct
import tempfile
import time
import warnings
import zlib
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_folders import S, opened, pixels, refused, saved, tree
from PIL import Image, features

from workbench.data import decode as decoding
from workbench.data.decode import decode


def test_rgb_of_the_right_size_is_untouched():
    assert np.array_equal(decode(saved(Image.fromarray(pixels(0)), "PNG"), S), pixels(0))
    assert np.array_equal(decode(pixels(0), S), pixels(0))


@pytest.mark.parametrize("height, width", [(S, S + 9), (S + 9, S), (S, 3 * S)])
def test_the_centre_is_cropped_without_interpolation(height, width):
    top, left = (height - S) // 2, (width - S) // 2
    assert np.array_equal(decode(pixels(1, height, width), S), pixels(1, height, width)[top : top + S, left : left + S])


def test_the_shorter_side_is_resized_antialiased():
    image = np.zeros((256, 512, 3), dtype=np.uint8)
    image[::2, ::2] = image[1::2, 1::2] = 255  # a chessboard: 0 or 255 without antialiasing
    image[:, :100] = image[:, -100:] = [255, 0, 0]  # outside of the centre
    small = decode(image, S)
    assert small.shape == (S, S, 3) and small.dtype == np.uint8
    assert np.abs(small.astype(int) - 127.5).max() < 3
    assert decode(pixels(0, 8, 11), S).shape == (S, S, 3)


def test_sixteen_bits_are_scaled_not_clipped():
    deep = np.linspace(0, 65535, S * S).astype(np.uint16).reshape(S, S)
    for file in (
        saved(Image.fromarray(deep), "PNG"),
        saved(Image.fromarray(deep), "TIFF"),
        saved(Image.fromarray(deep), "PPM"),
    ):
        got = decode(file, S)
        assert np.abs(got.astype(float) - deep[..., None] / 65535 * 255).max() <= 1
        assert got.min() == 0 and got.max() == 255
    assert Image.open(io.BytesIO(saved(Image.fromarray(deep), "PNG"))).mode == "I;16"


def test_floats_go_from_0_to_1():
    ramp = np.linspace(0, 1, S * S, dtype=np.float32).reshape(S, S)
    assert np.abs(decode(saved(Image.fromarray(ramp), "TIFF"), S) - ramp[..., None] * 255).max() <= 0.51


RANGES = {  # grey values whose white nobody knows, and what is said
    "int32": (np.full((S, S), 200, np.int32), "unknown"),
    "large int32": (np.full((S, S), 2**31 - 1, np.int32), "unknown"),
    "float of 8 bits": (np.linspace(0, 255, S * S, dtype=np.float32), "floats from 0 to 255, expected 0 to 1"),
    "dark float of 8 bits": (np.linspace(0, 2, S * S, dtype=np.float32), "floats from 0 to 2"),
    "negative": (np.linspace(-1, 1, S * S, dtype=np.float32), "floats from -1 to 1"),
    "nan": (np.array([np.nan] + [0.5] * (S * S - 1), np.float32), "floats from nan"),
    "infinity": (np.array([np.inf] + [0.5] * (S * S - 1), np.float32), "floats from 0.5 to inf"),
}


@pytest.mark.parametrize("case", RANGES)
def test_grey_of_unknown_range_is_refused(case, tmp_path):
    values, message = RANGES[case]
    with pytest.raises(ValueError, match=message):
        decode(saved(Image.fromarray(values.reshape(S, S)), "TIFF"), S)
    root = tree(tmp_path / "pets", cat=1)
    Image.fromarray(values.reshape(S, S)).save(root / "cat/grey.tif")
    assert "grey.tif" in refused(root) and message in refused(root)


def grey_tiff(values, bits, photometric=1, sample_format=1):
    """A TIFF of grey values (S, S) as no library here writes it: packed bytes, and the tags that say what they are."""
    tags = [(256, 3, S), (257, 3, S), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 8), (277, 3, 1), (278, 3, S)]
    tags += [(279, 4, len(values)), (339, 3, sample_format)]
    directory = b"".join(struct.pack("<HHLL", tag, kind, 1, value) for tag, kind, value in tags)
    return struct.pack("<2sHL", b"II", 42, 8 + len(values)) + values + struct.pack("<H", len(tags)) + directory + bytes(4)


def test_grey_tiffs_of_other_depths():
    half = np.full(S * S, 2048, np.uint16)
    twelve = np.stack([half >> 4, (half & 15) << 4 | half >> 8, half & 255], -1)[::2].astype(np.uint8)  # two values in three bytes
    assert (decode(grey_tiff(twelve.tobytes(), 12), S) == 128).all()
    assert (decode(grey_tiff(np.full(S * S, 0x4000, "<u2").tobytes(), 16), S) == 64).all()
    assert (decode(grey_tiff(np.full(S * S, 0x4000, "<u2").tobytes(), 16, photometric=0), S) == 191).all()  # 0 is white
    assert (decode(grey_tiff(np.full(S * S, 0.25, "<f4").tobytes(), 32, photometric=0, sample_format=3), S) == 191).all()
    for values, bits, sample_format in ((np.ones(S * S, "<u4"), 32, 1), (np.ones(S * S, "<i2"), 16, 2), (np.ones(S * S, "i1"), 8, 2)):
        with pytest.raises(ValueError, match="unknown"):
            decode(grey_tiff(values.tobytes(), bits, sample_format=sample_format), S)


def test_grey_and_one_bit():
    grey = pixels(0)[..., 0]
    assert np.array_equal(decode(saved(Image.fromarray(grey), "PNG"), S), np.stack([grey] * 3, -1))
    one = Image.fromarray(grey > 127)
    assert one.mode == "1"
    assert np.array_equal(decode(saved(one, "PNG"), S)[..., 1], np.where(grey > 127, 255, 0))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_composited_on_white(mode):
    color = pixels(0) if mode == "RGBA" else pixels(0)[..., :1]
    alpha = np.broadcast_to(np.linspace(0, 255, S).astype(np.uint8)[:, None, None], (S, S, 1))
    image = Image.fromarray(np.concatenate([color, alpha], -1))
    assert image.mode == mode
    share = alpha / 255.0
    assert np.abs(decode(saved(image, "PNG"), S) - (color * share + 255 * (1 - share))).max() <= 1


def test_palettes():
    index = Image.fromarray((np.arange(S * S) % 3).astype(np.uint8).reshape(S, S)).convert("P")
    index.putpalette([200, 10, 20, 30, 220, 40, 50, 60, 240])
    colors = np.array([[200, 10, 20], [30, 220, 40], [50, 60, 240]])
    expected_pixels = colors[(np.arange(S * S) % 3).reshape(S, S)]
    assert np.array_equal(decode(saved(index, "PNG"), S), expected_pixels)
    file = saved(index, "PNG", transparency=1)
    assert Image.open(io.BytesIO(file)).mode == "P"
    expected_pixels = np.where((np.arange(S * S) % 3 == 1).reshape(S, S, 1), 255, expected_pixels)
    assert np.array_equal(decode(file, S), expected_pixels)


def test_a_transparent_colour():
    image = pixels(0)
    image[:5] = [1, 2, 3]
    got = decode(saved(Image.fromarray(image), "PNG", transparency=(1, 2, 3)), S)
    assert (got[:5] == 255).all() and np.array_equal(got[5:], image[5:])


def test_cmyk():
    inks = np.random.default_rng(0).integers(0, 256, (S, S, 4), dtype=np.uint8)
    file = saved(Image.frombytes("CMYK", (S, S), inks.tobytes()), "TIFF")
    assert Image.open(io.BytesIO(file)).mode == "CMYK"
    paper = 1 - inks / 255.0
    assert np.abs(decode(file, S) - 255 * paper[..., :3] * paper[..., 3:]).max() <= 2


def test_exif_orientations():
    upright = pixels(0)
    stored = {  # what a camera stores so that it is shown upright, for each orientation of the EXIF standard
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.swapaxes(0, 1),
        6: np.rot90(upright), 7: upright[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(upright, -1),
    }  # fmt: skip
    for orientation, image in stored.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        for kind in ("PNG", "TIFF"):
            file = saved(Image.fromarray(np.ascontiguousarray(image)), kind, exif=exif)
            assert np.array_equal(decode(file, S), upright), (orientation, kind)


def test_the_first_frame_of_an_animation():
    frames = [Image.new("RGB", (S, S), color) for color in ("red", "blue")]
    for kind in ("GIF", "PNG"):
        assert (decode(saved(frames[0], kind, save_all=True, append_images=frames[1:]), S) == [255, 0, 0]).all()


# -------------------------------------------------------------------------------------------------------- many files


def test_decoding_does_not_run_far_ahead(monkeypatch):
    """A large data set would fill the memory."""
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    decoded = []
    monkeypatch.setattr(decoding, "decode", lambda source, size: decoded.append(source) or source)
    images = np.zeros((2000, 1), dtype=np.uint8)
    results = decoding.decode_all(images, S)
    next(results)
    time.sleep(0.1)
    assert len(decoded) < 100
    assert len(list(results)) == 1999


def test_order_is_kept_over_many_threads(tmp_path, monkeypatch):
    """More images than are decoded at once, the first ones slowest."""
    root = tree(tmp_path / "pets", cat=0)
    for index in range(150):
        Image.new("RGB", (S, S), (index, 0, 0)).save(root / f"cat/{index:03d}.bmp")
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    started = iter(range(10**6))

    def slow_at_first(source, size):
        time.sleep(0.02 if next(started) < 20 else 0)
        return decode(source, size)

    monkeypatch.setattr(decoding, "decode", slow_at_first)
    assert opened(root).images[:][:, 0, 0, 0].tolist() == list(range(150))


# ----------------------------------------------------------------------------------------------------- hostile files


def test_a_huge_image_is_unreadable(tmp_path, monkeypatch):
    root = tree(tmp_path / "pets", cat=2)
    for name in ("a", "b"):
        Image.fromarray(pixels(0, 8, 8)).save(root / f"cat/{name}.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", S * S // 3)
        message = refused(root)
        assert "2 of 4" in message and "exceeds limit" in message
        assert opened(root, skip_unreadable=True).length == 2
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", S * S - 1)  # Pillow only warns
        assert opened(root).length == 4


def ghostscript(folder, monkeypatch):
    """A `gs` that would be started from the PATH, and the file that it then makes."""
    program = folder / "bin/gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {folder}/started\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # what was found before does not count
    return folder / "started"


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\n/DeviceRGB setcolorspace\nshowpage\n%%EOF\n"


def test_no_image_starts_a_program(tmp_path, monkeypatch):
    started = ghostscript(tmp_path, monkeypatch)
    with suppress(Exception):
        Image.open(io.BytesIO(EPS)).load()
    assert started.exists()  # by Pillow on its own
    started.unlink()
    root = tree(tmp_path / "pets", cat=2)
    iptc = b"\x1c\x03\x3c\0\2\1\0" + b"\x1c\x03\x14\0\1\x20" + b"\x1c\x03\x1e\0\1\x20" + b"\x1c\x08\x0a" + struct.pack(">H", len(EPS)) + EPS
    for name, content in {
        "a.png": EPS,
        "b.jpg": EPS,
        "c.eps": EPS,
        "d.png": iptc,
        "e.iim": iptc,
        "f.tif": b"\xc5\xd0\xd3\xc6" + EPS,
    }.items():
        (root / "cat" / name).write_bytes(content)
    message = refused(root)
    assert "4 of 6" in message and "a.png (not an image)" in message and "d.png (not an image)" in message
    assert opened(root, skip_unreadable=True).ignored == {".eps": 1, ".iim": 1}
    assert not started.exists()


def test_a_file_of_100_gigabytes_is_not_read(tmp_path):
    root = tree(tmp_path / "pets", cat=1)
    content = (root / "cat/0.png").read_bytes()
    for name in ("a.png", "b.png"):
        with open(root / "cat" / name, "wb") as file:
            file.write(content if name == "a.png" else b"")
            file.truncate(100 * 10**9)  # without a byte on the disk
    monitor = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "a.png (more than 1.4 GB" in refused(root) and "b.png (more than 1.4 GB" in refused(root)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - monitor < 200_000  # kB


def small(kind):
    return saved(Image.fromarray(colours()), kind)


KINDS = ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "JPEG2000", "PPM", "PCX", "SGI", "TGA"]


STARTS = [
    EPS,
    b"\x1c\x03\x3c\0\2\1\0",
    b"8BPS\0\1",
    b"qoif",
    b"P6 32 32 65535\n",
    b"Pf 32 32 -1\n",
    b"P2 9 9 9 ",
    b"II+\0",
    b"\0\0\0\x1cftypavif",
    b"\x59\xa6\x6a\x95",
]


@pytest.mark.slow
@given(data=st.data())
@settings(max_examples=150)
def test_whatever_is_in_a_file_it_is_decoded_or_told(data):
    """Damaged images of every format, and bytes behind the marks of formats: pixels, or a reason in one line."""
    content = bytearray(small(data.draw(st.sampled_from(KINDS))))
    if data.draw(st.integers(0, 3)) == 0:
        content = bytearray(data.draw(st.sampled_from(STARTS)) + data.draw(st.binary(max_size=200)))
    for place, value in data.draw(st.lists(st.tuples(st.integers(0, min(len(content), 300) - 1), st.integers(0, 255)), max_size=6)):
        content[place] = value
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    with tempfile.NamedTemporaryFile(suffix=".png") as file, limited_memory():
        Path(file.name).write_bytes(content)
        ((got, sha256, error),) = decoding.decode_all([file.name], S)
    assert bool(error) == (got is None) and bool(sha256) == (got is not None) and "\n" not in error
    assert got is None or (got.shape == (S, S, 3) and got.dtype == np.uint8)


@contextmanager
def limited_memory():
    """A header of a few bytes may stand for 179 million pixels: here, a thousandth of these are enough."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
        yield


# ---------------------------------------------------------------------------------------------------------- metadata


def colours():
    """An image whose orientation shows, the same after any compression."""
    image = np.zeros((S, S, 3), np.uint8)
    image[: S // 2, : S // 2], image[: S // 2, S // 2 :], image[S // 2 :, : S // 2] = [255, 0, 0], [0, 255, 0], [0, 0, 255]
    return image


def camera_exif(orientation):
    exif = Image.Exif()
    exif.update({0x010F: "Maker", 0x0112: orientation, 0x011A: 72.0, 0x0128: 2})
    exif.get_ifd(0x8769).update({0x9003: "2020:01:01 00:00:00", 0x829A: (1, 100)})
    exif.get_ifd(0x8825).update({1: "N", 2: (1.0, 2.0, 3.0)})
    return exif.tobytes()


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


OPTIONS = {"PNG": {}, "JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}


@given(kind=st.sampled_from(sorted(OPTIONS)), data=st.data())
@settings(max_examples=150)
def test_no_exif_costs_a_good_image(kind, data):
    """Whatever its bytes are, the picture is there: upright, or, where the orientation is lost, as it is stored, or turned by mistake."""
    exif = bytearray(camera_exif(data.draw(st.integers(0, 9))))
    if data.draw(st.booleans()):
        exif = bytearray(b"Exif\0\0" + data.draw(st.binary(min_size=1, max_size=80)))
    for place, value in data.draw(st.lists(st.tuples(st.integers(0, len(exif) - 1), st.integers(0, 255)), max_size=4)):
        exif[place] = value
    del exif[data.draw(st.integers(1, len(exif))) :]
    extra = {"xmp": XMP} if data.draw(st.booleans()) else {}
    file = saved(
        Image.fromarray(colours()), kind, exif=bytes(exif), icc_profile=data.draw(st.binary(max_size=20)), **extra, **OPTIONS[kind]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = decode(file, S).astype(int)
    turned = [np.rot90(image, k) for k in range(4) for image in (colours(), colours()[::-1])]
    assert min(np.abs(got - image).max() for image in turned) <= 12


def chunk(kind, content, flip=0):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content) ^ flip)


CHUNKS = {
    "a cut profile": chunk(b"iCCP", b"sRGB"), "an unknown compression": chunk(b"zTXt", b"a\0\7b"), "short numbers": chunk(b"cHRM", b"123"),
    "a short size": chunk(b"pHYs", b"1"), "an empty gamma": chunk(b"gAMA", b""), "a wrong checksum": chunk(b"iTXt", b"a\0b", flip=1),
    "a large text": chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2_000_000))), "a large profile": chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2_000_000))),
    "a text that is called transparency": chunk(b"tEXt", b"transparency\0yes"), "an EXIF of text": chunk(b"tEXt", b"exif\0yes"),
    "a raw EXIF of no digits": chunk(b"tEXt", b"Raw profile type exif\0\nexif\n zz\nqq"), "a cut animation": chunk(b"acTL", b"1"),
    "a wrong checksum of the EXIF": chunk(b"eXIf", camera_exif(6)[6:], flip=1),
}  # fmt: skip


@pytest.mark.parametrize("case", CHUNKS)
def test_no_chunk_beside_the_picture_costs_it(case):
    content = saved(Image.fromarray(pixels(0)), "PNG")
    assert np.array_equal(decode(content[:33] + CHUNKS[case] + content[33:], S), pixels(0))
    upright = chunk(b"eXIf", camera_exif(3)[6:])  # is followed all the same
    assert np.array_equal(decode(content[:33] + CHUNKS[case] + upright + content[33:], S), pixels(0)[::-1, ::-1])


@pytest.mark.filterwarnings("ignore:Image appears to be a malformed MPO file")
@pytest.mark.parametrize("marker", [0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xFE])
@pytest.mark.parametrize(
    "start",
    [b"", b"JFIF\0", b"Exif\0\0", b"ICC_PROFILE\0", b"MPF\0", b"Adobe", b"Photoshop 3.0\x008BIM", b"http://ns.adobe.com/xap/1.0/\0"],
)
def test_no_segment_beside_the_picture_costs_it(marker, start):
    content = saved(Image.fromarray(pixels(0)), "JPEG")
    for length in (0, 1, 5):
        segment = bytes([0xFF, marker]) + struct.pack(">H", len(start) + length + 2) + start + bytes(range(length))
        assert np.array_equal(decode(content[:2] + segment + content[2:], S), decode(content, S)), (marker, start, length)


def test_a_tiff_with_damaged_texts():
    content = bytearray(saved(Image.fromarray(pixels(0)), "TIFF", exif=camera_exif(3)))
    place = content.index(struct.pack("<HHL", 0x010F, 2, 6))
    content[place + 2 : place + 12] = b"\xff" * 10
    assert np.array_equal(decode(bytes(content), S), pixels(0)[::-1, ::-1])


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_an_avif_with_a_damaged_exif():
    content = saved(Image.fromarray(colours()), "AVIF", quality=100, subsampling="4:4:4", exif=camera_exif(1))
    place = max(content.find(b"II*\0"), content.find(b"MM\0*"))
    assert np.abs(decode(content[:place] + b"zzzz" + content[place + 4 :], S).astype(int) - colours()).max() < 12
