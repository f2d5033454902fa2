import errno
import fcntl
import hashlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import threading
import time
import warnings
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from workbench import data as module
from workbench.config import Config
from workbench.data import DataError, Images, batch_indices, decode, describe, loader, main, open_data, prepare
from workbench.twins import Twins

S = 32


@pytest.fixture
def data_folder(folders):
    """The data folder of the test, empty."""
    (folders / "data").mkdir()
    return folders / "data"


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


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return file


# ----------------------------------------------------------------------------------------------------- decoding


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
        saved(Image.fromarray(deep.astype(np.int32)), "TIFF"),
        saved(Image.fromarray(deep), "PPM"),
    ):
        got = decode(file, S)
        assert np.abs(got.astype(float) - deep[..., None] / 65535 * 255).max() <= 1
        assert got.min() == 0 and got.max() == 255
    assert Image.open(saved(Image.fromarray(deep), "PNG")).mode == "I;16"
    assert Image.open(saved(Image.fromarray(deep.astype(np.int32)), "TIFF")).mode == "I"


@pytest.mark.parametrize("scale, expected", [(1, lambda x: x * 255), (300, lambda x: np.minimum(x * 300, 255))])
def test_float_images(scale, expected):
    ramp = np.linspace(0, 1, S * S, dtype=np.float32).reshape(S, S)
    got = decode(saved(Image.fromarray(ramp * scale), "TIFF"), S)
    assert np.abs(got - expected(ramp)[..., None]).max() <= 0.51


def test_float_images_with_gaps_and_negative_values():
    for value, low, expected in ((100, -5, 100), (0.4, 0, 102)):
        values = np.full((S, S), value, dtype=np.float32)
        values[0, 0], values[0, 1] = np.nan, low
        got = decode(saved(Image.fromarray(values), "TIFF"), S)[..., 0]
        assert got[0, 0] == 0 and got[0, 1] == 0 and (got[1:] == expected).all()


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
    wanted = colors[(np.arange(S * S) % 3).reshape(S, S)]
    assert np.array_equal(decode(saved(index, "PNG"), S), wanted)
    file = saved(index, "PNG", transparency=1)
    assert Image.open(file).mode == "P"
    wanted = np.where((np.arange(S * S) % 3 == 1).reshape(S, S, 1), 255, wanted)
    assert np.array_equal(decode(file, S), wanted)


def test_a_transparent_colour():
    image = pixels(0)
    image[:5] = [1, 2, 3]
    got = decode(saved(Image.fromarray(image), "PNG", transparency=(1, 2, 3)), S)
    assert (got[:5] == 255).all() and np.array_equal(got[5:], image[5:])


def test_cmyk():
    inks = np.random.default_rng(0).integers(0, 256, (S, S, 4), dtype=np.uint8)
    file = saved(Image.frombytes("CMYK", (S, S), inks.tobytes()), "TIFF")
    assert Image.open(file).mode == "CMYK"
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


# ----------------------------------------------------------------------------------------------------- folders


def test_a_folder_of_class_folders(tmp_path):
    root = tree(tmp_path / "pets", dog=2, cat=3)
    data = opened(root)
    assert (data.name, data.classes, data.num_classes, data.counts, data.length, data.size) == ("pets", ["cat", "dog"], 2, [3, 2], 5, S)
    x, y = data.batch(np.array([4, 0, 4]))
    assert x.shape == (3, 3, S, S) and x.dtype == torch.uint8 and y.dtype == torch.int64 and y.tolist() == [1, 0, 1]
    for image, file in zip(x, ["dog/1.png", "cat/0.png", "dog/1.png"], strict=True):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(Image.open(root / file)))


def test_train_is_used_where_it_is_a_split(tmp_path):
    root = tree(tmp_path / "pets", **{"train/cat": 2, "train/dog": 1, "test/cat": 5, "test/dog": 5})
    data = opened(root)
    assert data.classes == ["cat", "dog"] and data.counts == [2, 1] and data.name == "pets"
    assert opened(root, num_classes=0).length == 3  # nor is it trained on test images without classes
    tree(root, annotations=0)
    assert opened(root).counts == [2, 1]


def test_train_can_be_a_class(tmp_path):
    data = opened(tree(tmp_path / "vehicles", bus=2, car=1, train=2))
    assert data.classes == ["bus", "car", "train"] and data.counts == [2, 1, 2]


def test_hidden_and_other_files_are_ignored_and_counted(tmp_path):
    root = tree(tmp_path / "pets", **{"cat": 2, "dog": 2, ".git": 3, "cat/.thumbs": 1})
    (root / "README.md").touch()
    (root / "cat/.hidden.png").touch()
    for name in ("a.txt", "b.TXT", "film.mpg", "LICENSE"):
        (root / "dog" / name).touch()
    (root / "dog" / "0.png").rename(root / "dog" / "0.PnG")
    data = opened(root)
    assert data.counts == [2, 2]
    assert data.ignored == {".txt": 2, ".md": 1, ".mpg": 1, "without extension": 1}
    (root / "cat" / "c.txt").touch()
    assert opened(root).ignored[".txt"] == 3  # counted afresh, though nothing is packed anew
    assert "3 .txt" in describe(opened(root))


def test_unconditional_data_may_lie_anywhere(tmp_path):
    root = tree(tmp_path / "mixed", **{".": 1, "a": 2, "a/b/c": 1, "empty": 0})
    (root / "loop").symlink_to(root)
    data = opened(root, num_classes=0)
    assert (data.classes, data.num_classes, data.counts, data.conditional) == (["all"], 0, [4], False)
    flat = tree(tmp_path / "flat", **{".": 3})
    assert opened(flat, num_classes=0).length == 3
    conditional = opened(tree(tmp_path / "one", all=2))  # one class that happens to be called so
    assert conditional.num_classes == 1 and opened(tmp_path / "one", num_classes=0).num_classes == 0


def test_links_to_class_folders_are_followed(tmp_path):
    root = tree(tmp_path / "pets", cat=2)
    (root / "dog").symlink_to(tree(tmp_path / "elsewhere", dogs=3) / "dogs")
    assert opened(root).counts == [2, 3]


LAYOUTS = {  # what is wrong: folders, root that is given, what the message must say ({} is the folder of the test)
    "images in no class": ({".": 2}, "", ["{}/set", "0.png", "class folders", "num_classes=0"]),
    "images beside the class folders": ({".": 1, "cat": 2, "dog": 2}, "", ["{}/set ", "0.png", "{}/set/<class>/*"]),
    "one level too low": ({"cat": 2, "dog": 2}, "cat", ["{}/set/cat", "cat, dog", "data='{}/set'", "num_classes=0"]),
    "too low, and with thumbnails": ({"cat": 2, "cat/thumbs": 2, "dog": 2}, "cat", ["data='{}/set'"]),
    "one level too high": ({"pets/cat": 2, "pets/dog": 2}, "", ["{}/set ", "data='{}/set/pets'"]),
    "too high above a split": ({"pets/test/cat": 1, "pets/train/cat": 1, "pets/train/dog": 1}, "", ["data='{}/set/pets/train'"]),
    "two levels too high": ({"a/b/pets/cat": 2, "a/b/pets/dog": 2}, "", ["data='{}/set/a/b/pets'"]),
    "a class below a class": ({"cat": 2, "dog/husky": 2}, "", ["{}/set/dog/husky", "{}/set/dog ", "move them up"]),
    "far below a class": ({"cat": 2, "cat/more/of/them": 2}, "", ["{}/set/cat/more/of/them", "move them up"]),
    "an empty class": ({"cat": 2, "dog": 0, "emu": 0}, "", ["2 of the 3 class folders of {}/set ", "dog, emu", "add images, or delete"]),
    "nothing": ({"cat": 0, "dog": 0}, "", ["no images in {}/set", "{}/set/<class>/*"]),
    "nothing at all": ({".": 0}, "", ["no images in {}/set"]),
    "splits without classes": ({"test": 2, "val": 2}, "", ["{}/set", "test, val", "splits, not classes", "num_classes=0"]),
    "a train without classes": ({"train": 2, "test": 2}, "", ["{}/set/train", "num_classes=0"]),
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_wrong_layouts_are_refused(case, tmp_path, data_folder):
    folders, root, parts = LAYOUTS[case]
    message = refused(tree(tmp_path / "set", **folders) / root)
    for part in parts:
        assert part.format(tmp_path) in message
    assert not (data_folder / "cache").exists()


def test_a_split_without_classes_does_not_suggest_its_parent(tmp_path):
    assert "class folders of" not in refused(tree(tmp_path / "set", train=2, test=2))


def test_a_folder_of_other_files_says_which(tmp_path):
    root = tree(tmp_path / "set", cat=0)
    for name in ("a.npz", "b.npz", "c.heic"):
        (root / "cat" / name).touch()
    assert "2 .npz, 1 .heic" in refused(root)
    assert "2 .npz, 1 .heic" in refused(root, num_classes=0)


def test_a_path_that_is_no_folder(tmp_path, data_folder):
    tree(tmp_path / "flowers", rose=2)
    tree(data_folder / "birds", jay=2)
    message = refused(tmp_path / "flower")
    assert f"data='{tmp_path}/flower'" in message and f"did you mean '{tmp_path}/flowers'" in message
    assert "built in: twins, cifar10, imagenet" in message
    assert f"did you mean '{data_folder}/birds'" in refused("bird")
    assert "did you mean 'cifar10'" in refused("CIFAR-10")
    assert "did you mean" not in refused(tmp_path / "no/such/place/xyzzy")
    (tmp_path / "pets.zip").touch()
    assert "is a file" in refused(tmp_path / "pets.zip")


def test_the_number_of_classes_must_be_that_of_the_data(tmp_path):
    root = tree(tmp_path / "pets", ant=1, bee=1, cat=1, dog=1, emu=1, fox=1)
    message = refused(root, num_classes=7)
    assert "num_classes=7" in message and "6 classes (ant, bee, cat, dog, emu, ...)" in message
    assert opened(root, num_classes=6).num_classes == opened(root, num_classes=None).num_classes == 6


def test_less_than_a_batch_is_refused(tmp_path):
    root = tree(tmp_path / "pets", cat=3, dog=2)
    message = refused(root, batch_size=6)
    assert "5 images" in message and "batch_size=6" in message
    assert opened(root, batch_size=5).length == 5


# ----------------------------------------------------------------------------------------------------- unreadable files


def spoil(root):
    """Files that cannot be read, of every kind."""
    whole = saved(Image.fromarray(pixels(0, 200, 200)), "JPEG").getvalue()
    (root / "cat/cut.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "cat/empty.jpg").touch()
    (root / "dog/text.png").write_text("not a picture")
    (root / "dog/link.png").symlink_to("nowhere.png")
    return ["cat/cut.jpg", "cat/empty.jpg", "dog/link.png", "dog/text.png"]


def test_unreadable_files_are_listed_and_skipped_when_asked(tmp_path, monkeypatch):
    root = tree(tmp_path / "pets", cat=3, dog=3)
    bad = spoil(root)
    message = refused(root)
    assert f"4 of 10 files in {root}" in message and "skip_unreadable=True" in message
    for name, reason in zip(bad, ["truncated", "empty file", "No such file", "not an image"], strict=True):
        assert name in message and reason in message
    with monkeypatch.context() as patch:
        patch.setattr(module, "_pack", None)  # what was decoded for the error is used now
        data = opened(root, skip_unreadable=True)
    assert data.counts == [3, 3] and list(data.skipped) == bad and data.images.shape == (6, S, S, 3)
    assert "4 files (cat/cut.jpg" in describe(data)
    for index, file in enumerate(["cat/0.png", "cat/1.png", "cat/2.png", "dog/0.png", "dog/1.png", "dog/2.png"]):
        assert np.array_equal(data.images[index], np.asarray(Image.open(root / file))), file
    for name in bad:
        (root / name).unlink()
    assert opened(root, data=str(root)).fingerprint == data.fingerprint  # the same images


def test_files_that_are_mended_without_a_trace(tmp_path, monkeypatch):
    """A disk or permissions that failed once: names, sizes and times are the same when it is mended."""
    root = tree(tmp_path / "pets", cat=3)

    def fail(*arguments):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(module, "decode", lambda file, size: decode(file, size) if len(file.getvalue()) != lost else fail())
        lost = (root / "cat/1.png").stat().st_size
        assert "cat/1.png (Input/output error)" in refused(root)
        assert "cat/1.png (Input/output error)" in refused(root)
    assert opened(root).length == 3


def test_many_unreadable_files_are_counted(tmp_path):
    root = tree(tmp_path / "pets", cat=3)
    for index in range(25):
        (root / f"cat/bad{index:02d}.jpg").write_bytes(b"no")
    message = refused(root)
    assert "25 of 28" in message and "bad09.jpg" in message and "bad10.jpg" not in message and "15 more" in message


def test_a_class_with_no_readable_image_is_an_error_in_any_case(tmp_path, data_folder):
    root = tree(tmp_path / "pets", cat=3, dog=0)
    (root / "dog/bad.jpg").write_bytes(b"no")
    for skip in (False, True):
        message = refused(root, skip_unreadable=skip)
        assert "no image is left of dog" in message and "dog/bad.jpg" in message and "mend or delete" in message
    assert not cached(data_folder)


@pytest.mark.parametrize("limit", [S * S // 3, S * S - 1])  # Pillow would raise at the first, and only warn at the second
def test_a_huge_image_is_unreadable(limit, tmp_path, monkeypatch):
    root = tree(tmp_path / "pets", cat=2)
    for name in ("a", "b"):
        Image.fromarray(pixels(0, 8, 8)).save(root / f"cat/{name}.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        message = refused(root)
        assert "2 of 4" in message and "exceeds limit" in message
        assert opened(root, skip_unreadable=True).length == 2


# ----------------------------------------------------------------------------------------------------- packing


def test_decoding_does_not_run_far_ahead(monkeypatch):
    """A large data set would fill the memory."""
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    decoded = []
    monkeypatch.setattr(module, "decode", lambda source, size: decoded.append(source) or source)
    images = np.zeros((2000, 1), dtype=np.uint8)
    results = module._decode_all(images, S)
    next(results)
    time.sleep(0.1)
    assert len(decoded) < 100
    assert len(list(results)) == 1999


def test_the_second_opening_decodes_nothing(tmp_path, data_folder, monkeypatch):
    root = tree(tmp_path / "pets", cat=2, dog=2)
    first = opened(root)
    monkeypatch.setattr(module, "_pack", None)
    second = opened(root)
    assert isinstance(second.images, np.memmap) and np.array_equal(first.images, second.images)
    assert second.fingerprint == first.fingerprint and len(cached(data_folder)) == 1


def test_what_is_decoded_anew(tmp_path, data_folder):
    root = tree(tmp_path / "pets", cat=2, dog=2)
    seen = {opened(root).fingerprint}
    changes = [
        lambda: Image.fromarray(pixels(99)).save(root / "cat/0.png"),
        lambda: (root / "cat/1.png").rename(root / "cat/2.png"),
        lambda: (root / "cat/2.png").rename(root / "dog/2.png"),
        lambda: (root / "cat").rename(root / "lynx"),
        lambda: tree(root, emu=1),
    ]
    for number, change in enumerate(changes, 1):
        change()
        seen.add(opened(root).fingerprint)
        assert len(seen) == number + 1 == len(cached(data_folder))
    seen.add(opened(root, num_classes=0).fingerprint)
    seen.add(opened(root, image_size=64).fingerprint)
    assert len(seen) == 8
    assert opened(root, image_size=64).images.shape[1:] == (64, 64, 3)


def test_another_place_is_the_same_data(tmp_path):
    root = tree(tmp_path / "pets", cat=2, dog=2)
    first = opened(root)
    (tmp_path / "moved").mkdir()
    second = opened(shutil.move(root, tmp_path / "moved/animals/train") and tmp_path / "moved/animals")
    assert second.fingerprint == first.fingerprint and second.name == "animals"
    expected = hashlib.sha256(json.dumps([["cat", "dog"], S]).encode())
    for path in ("cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"):
        content = (tmp_path / "moved/animals/train" / path).read_bytes()
        expected.update(json.dumps([path, hashlib.sha256(content).hexdigest()]).encode())
    assert first.fingerprint == expected.hexdigest()


def test_folders_that_differ_in_content_only(tmp_path):
    """Equal names, sizes and times, as of uncompressed files out of an archive without times."""
    for place, value in (("a", 10), ("b", 20)):
        folder = tmp_path / place / "set/cat"
        folder.mkdir(parents=True)
        for name in ("0.ppm", "1.ppm"):
            Image.new("RGB", (S, S), (value, 0, 0)).save(folder / name)
            os.utime(folder / name, (0, 0))
    assert opened(tmp_path / "a/set").images[0, 0, 0, 0] == 10
    assert opened(tmp_path / "b/set").images[0, 0, 0, 0] == 20


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

    monkeypatch.setattr(module, "decode", slow_at_first)
    assert opened(root).images[:, 0, 0, 0].tolist() == list(range(150))


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_packing_leaves_nothing(error, tmp_path, data_folder, monkeypatch):
    root = tree(tmp_path / "pets", cat=2)

    def interrupted(path):
        assert cached(data_folder) and not opened_folders(data_folder)  # while it is written, it cannot be opened
        raise error

    monkeypatch.setattr(module, "synced", interrupted)
    with pytest.raises(error):
        opened(root)
    assert not cached(data_folder)


def opened_folders(data_folder):
    return [name for name in cached(data_folder) if ".part-" not in name]


HALF = """
import sys, time
from workbench import data
from workbench.config import Config
decode, count = data.decode, iter(range(1000))
def stuck(source, size):
    if next(count) == 40:
        print("half", flush=True)
        time.sleep(600)
    return decode(source, size)
data.decode = stuck
data.open_data(Config.preset("twins32", data=sys.argv[1], batch_size=2))
"""


@pytest.mark.slow
def test_a_killed_packing_leaves_nothing_that_opens(tmp_path, data_folder):
    root = tree(tmp_path / "pets", cat=30, dog=30)
    with subprocess.Popen([sys.executable, "-c", HALF, str(root)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout.readline() == "half\n"
        process.kill()
    assert len(cached(data_folder)) == 1 and not opened_folders(data_folder)
    data = opened(root)
    assert data.counts == [30, 30] and np.array_equal(data.images[59], np.asarray(Image.open(root / "dog/9.png")))
    assert cached(data_folder) == opened_folders(data_folder)  # what the dead process left is gone


TOGETHER = """
import sys, time
from pathlib import Path
from workbench import data
from workbench.config import Config
decode = data.decode
def slow(*arguments):
    time.sleep(0.01)
    return decode(*arguments)
data.decode = slow
Path(sys.argv[2]).touch()
while len(list(Path(sys.argv[2]).parent.glob("ready*"))) < 2:
    time.sleep(0.001)
print(data.open_data(Config.preset("twins32", data=sys.argv[1], batch_size=2)).fingerprint)
"""


@pytest.mark.slow
def test_two_processes_pack_once(tmp_path, data_folder):
    root = tree(tmp_path / "pets", cat=40, dog=40)
    commands = [[sys.executable, "-c", TOGETHER, str(root), str(tmp_path / f"ready{number}")] for number in range(2)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for command in commands]
    (one, told_one), (two, told_two) = (process.communicate(timeout=60) for process in processes)
    assert one.strip() == two.strip() == opened(root).fingerprint
    assert sorted([told_one.count("packing 80 images"), told_two.count("packing 80 images")]) == [0, 1]
    assert "waiting for the process that packs pets" in told_one + told_two
    assert cached(data_folder) == opened_folders(data_folder)


def test_without_locks_the_first_to_finish_wins(tmp_path, data_folder, monkeypatch):
    root = tree(tmp_path / "pets", cat=2, dog=2)
    write, others = module._write_packed, []

    def write_late(*arguments):
        write(*arguments)
        if not others:  # another process begins and finishes before this one renames
            others.append(None)
            others.append(opened(root))

    def no_locks(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(module, "_write_packed", write_late)
    monkeypatch.setattr(fcntl, "flock", no_locks)
    data = opened(root)
    assert data.fingerprint == others[1].fingerprint and np.array_equal(data.images, others[1].images)
    assert len(cached(data_folder)) == 1


def test_too_little_room(tmp_path, data_folder, monkeypatch):
    root = tree(tmp_path / "pets", cat=2)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2 * S * S * 3 - 1))
    message = refused(root)
    assert "GB" in message and str(data_folder) in message and "WORKBENCH_DATA" in message
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2 * S * S * 3))
    assert opened(root).length == 2


def test_a_disk_that_fills_up(tmp_path, data_folder, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    message = refused(tree(tmp_path / "pets", cat=2))
    assert "No space left on device" in message and str(data_folder / "cache") in message and not cached(data_folder)


def test_a_data_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    (tmp_path / "file").touch()  # file permissions would not stop root
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path / "file"))
    message = refused(tree(tmp_path / "pets", cat=2))
    assert "WORKBENCH_DATA" in message and str(tmp_path / "file/cache") in message


def test_a_damaged_cache_says_what_to_delete(tmp_path, data_folder):
    root = tree(tmp_path / "pets", cat=2)
    opened(root)
    folder = data_folder / "cache" / cached(data_folder)[0]
    (folder / "images.npy").write_bytes(b"half")
    assert f"{folder} cannot be used" in refused(root) and "delete the folder" in refused(root)


def test_another_version_packs_anew(tmp_path, data_folder, monkeypatch):
    root = tree(tmp_path / "pets", cat=2)
    prepare(root, tmp_path / "out", S, progress=False)
    opened(root)
    monkeypatch.setattr(module, "VERSION", module.VERSION + 1)
    assert opened(root).length == 2 and len(cached(data_folder)) == 2
    assert f"{tmp_path}/out cannot be used" in refused(tmp_path / "out") and "pack it again" in refused(tmp_path / "out")


def test_progress_is_told_on_stderr(tmp_path, capsys):
    root = tree(tmp_path / "pets", cat=2)
    open_data(config(root), progress=False)
    assert capsys.readouterr() == ("", "")
    open_data(config(root, image_size=64))
    out, told = capsys.readouterr()
    assert out == "" and "packing 2 images of pets at 64x64 into" in told and "packed in 0 s" in told and told.count("\n") == 2
    open_data(config(root, image_size=64))
    assert capsys.readouterr() == ("", "")


# ----------------------------------------------------------------------------------------------------- prepare


@pytest.mark.slow
def test_prepare_on_the_command_line(tmp_path, capsys):
    root, out = tree(tmp_path / "pets", cat=2, dog=2), tmp_path / "new/packed"
    command = [sys.executable, "-m", "workbench.data", "prepare", str(root), str(out), "--size", "64"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(module.__file__).parent.parent)
    assert done.returncode == 0 and "Warning" not in done.stderr
    assert "pets: 4 images of 64x64" in done.stdout and "cat 2, dog 2" in done.stdout
    assert sorted(path.name for path in out.parent.iterdir()) == ["packed"]
    data = opened(out, image_size=64)
    original = opened(root, image_size=64)
    assert data.fingerprint == original.fingerprint and np.array_equal(data.images, original.images) and data.name == "pets"
    message = refused(out)
    assert "packed at 64x64" in message and "image_size is 32" in message and "--size 32" in message
    assert main(command[3:]) == 2
    assert capsys.readouterr().err == f"DataError: {out} exists and is not empty: give another folder to pack into\n"


def test_prepare_refuses(tmp_path, capsys):
    root = tree(tmp_path / "pets", cat=2, dog=2)
    spoil(root)
    cases = {
        "cannot be read": (root, tmp_path / "out", "--size", "32"),
        "image_size=33": (root, tmp_path / "out", "--size", "33"),
        "no such folder": (tmp_path / "pest", tmp_path / "out", "--size", "32"),
        "lies in the data": (root, root / "out", "--size", "32"),
        "needs no packing": ("twins", tmp_path / "out", "--size", "32"),
    }
    for part, arguments in cases.items():
        assert main(["prepare", *map(str, arguments)]) == 2
        told = capsys.readouterr().err.splitlines()[-1]
        assert part in told and "Error: " in told
        assert not (tmp_path / "out").exists() and not list(tmp_path.glob("out.part-*"))


def test_prepare_with_skips_and_without_classes(tmp_path):
    root = tree(tmp_path / "pets", cat=2, dog=2)
    bad = spoil(root)
    (tmp_path / "empty").mkdir()
    data = prepare(root, tmp_path / "empty", S, skip_unreadable=True, progress=False)
    assert list(data.skipped) == bad and opened(tmp_path / "empty").counts == [2, 2]  # need not be asked for again
    prepare(root, tmp_path / "all", S, skip_unreadable=True, unconditional=True, progress=False)
    for num_classes in (None, 0):
        data = opened(tmp_path / "all", num_classes=num_classes)
        assert data.num_classes == 0 and data.length == 4
    assert "set num_classes=0" in refused(tmp_path / "all", num_classes=2)
    assert opened(tmp_path / "empty", num_classes=0).length == 4


def test_help_explains_every_argument(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["prepare", "--help"])
    told = capsys.readouterr().out
    assert ended.value.code == 0 and all(word in told for word in ("SOURCE", "OUT", "--size", "--skip-unreadable", "--unconditional"))


# ----------------------------------------------------------------------------------------------------- built-in data


def test_twins():
    data = open_data(config("twins", image_size=64))
    assert isinstance(data, Twins) and data.size == 64 and data.length is None
    assert "endless images of 64x64" in describe(data) and "6 classes: disc, " in describe(data)
    assert "num_classes=5" in refused("twins", num_classes=5)


def cifar10_files(folder, monkeypatch):
    """CIFAR-10 as it is distributed, with 4 images per batch; returns pixels and labels of the training part."""
    from torchvision.datasets import CIFAR10

    names = [f"class{index}" for index in range(10)]
    content = {"batches.meta": {"label_names": names}}
    images = np.stack([pixels([7, index]) for index in range(24)])
    labels = [(3 * index) % 10 for index in range(24)]
    for index, (name, _) in enumerate(CIFAR10.train_list + CIFAR10.test_list):
        part = slice(4 * index, 4 * index + 4)
        content[name] = {"data": images[part].transpose(0, 3, 1, 2).reshape(4, -1), "labels": labels[part]}
    folder.mkdir(parents=True)
    for name, value in content.items():
        (folder / name).write_bytes(pickle.dumps(value))
    hashed = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in content}
    monkeypatch.setattr(CIFAR10, "train_list", [[name, hashed[name]] for name, _ in CIFAR10.train_list])
    monkeypatch.setattr(CIFAR10, "test_list", [[name, hashed[name]] for name, _ in CIFAR10.test_list])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": hashed["batches.meta"]})
    return images[:20], labels[:20]


def test_cifar10(data_folder, monkeypatch):
    images, labels = cifar10_files(data_folder / "cifar-10-batches-py", monkeypatch)
    data = opened("cifar10")
    assert data.name == "cifar10" and data.classes == [f"class{index}" for index in range(10)] and data.num_classes == 10
    assert np.array_equal(data.images, images) and data.labels.tolist() == labels
    assert opened("cifar10", image_size=64).images.shape == (20, 64, 64, 3)
    assert opened("cifar10", num_classes=0).length == 20
    monkeypatch.setattr(module, "_pack", None)
    assert opened("cifar10").fingerprint == data.fingerprint


class Server(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


def test_cifar10_is_downloaded(tmp_path, data_folder, monkeypatch):
    from torchvision.datasets import CIFAR10

    images, _ = cifar10_files(tmp_path / "server/cifar-10-batches-py", monkeypatch)
    archive = tmp_path / "server" / CIFAR10.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "server/cifar-10-batches-py", "cifar-10-batches-py")
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setenv("no_proxy", "*")
    with HTTPServer(("127.0.0.1", 0), partial(Server, directory=tmp_path / "server")) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{server.server_port}/missing.tar.gz")
        message = refused("cifar10")
        assert (
            str(data_folder / "cifar-10-batches-py") in message and "404" in message and f"fetch {CIFAR10.url} and put it into" in message
        )
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{server.server_port}/{CIFAR10.filename}")
        assert np.array_equal(opened("cifar10").images, images)
        server.shutdown()


def test_imagenet(data_folder, monkeypatch):
    message = refused("imagenet", num_classes=3)
    assert str(data_folder / "imagenet") in message and "ILSVRC2012_img_train.tar" in message and "devkit" in message
    wnids = {"n03126707": ("crane",), "n02012849": ("crane",), "n01440764": ("tench", "Tinca tinca")}
    root = tree(data_folder / "imagenet", **{f"train/{wnid}": 2 for wnid in wnids}, **{"val/n01440764": 1})
    for file in root.rglob("*.png"):
        file.rename(file.with_suffix(".JPEG"))
    torch.save((wnids, []), root / "meta.bin")
    data = opened("imagenet", num_classes=3)
    assert data.classes == ["tench", "crane (n02012849)", "crane (n03126707)"] and data.counts == [2, 2, 2] and data.name == "imagenet"
    assert np.array_equal(data.images[0], np.asarray(Image.open(root / "train/n01440764/0.JPEG")))
    shutil.copy(root / "train/n01440764/0.JPEG", root / "train/n01440764/2.JPEG")
    assert opened("imagenet", num_classes=3).counts == [3, 2, 2]
    assert "num_classes=1000" in refused("imagenet") and "has 3 classes" in refused("imagenet")


# ----------------------------------------------------------------------------------------------------- describe


def packed(counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    images = np.stack([np.full((S, S, 3), index % 256, dtype=np.uint8) for index in range(len(labels))])
    return Images("made", [f"c{index}" for index in range(len(counts))], S, "0123456789abcdef" * 4, images, labels)


def test_describe():
    assert describe(packed([2, 3])).splitlines() == ["made: 5 images of 32x32, fingerprint 0123456789ab", "2 classes: c0 2, c1 3"]
    assert "c19 1" in describe(packed([1] * 20))
    assert describe(packed([1, 4] * 11)).splitlines()[1] == "22 classes of 1 to 4 images: c0 1, c1 4, c2 1, c3 4, c4 1, ..."
    assert describe(packed([1500])).splitlines() == ["made: 1,500 images of 32x32, fingerprint 0123456789ab", "1 class: c0 1,500"]


# ----------------------------------------------------------------------------------------------------- the order of the data


def test_every_epoch_is_a_permutation_of_its_own():
    epochs = [batch_indices(50, 3, 50 * epoch, 50) for epoch in range(4)]
    assert all(sorted(epoch.tolist()) == list(range(50)) and epoch.dtype == np.int64 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4 and all(epoch.tolist() != list(range(50)) for epoch in epochs)
    assert batch_indices(50, 4, 0, 50).tolist() != epochs[0].tolist()


@pytest.mark.parametrize("length, count", [(50, 8), (50, 50), (7, 16), (1, 3)])
def test_batches_are_pieces_of_one_stream(length, count):
    stream = []
    for epoch in range(30):
        stream += np.random.default_rng([5, epoch, 0xDA7A]).permutation(length).tolist()
    rng = np.random.default_rng(0)
    for position in [0, *rng.integers(0, len(stream) - count, 50)]:
        assert batch_indices(length, 5, int(position), count).tolist() == stream[position : position + count]


def test_what_is_served_can_be_changed_without_harm():
    first = batch_indices(50, 0, 0, 10)
    kept = first.copy()
    first[:] = -1
    assert batch_indices(50, 0, 0, 10).tolist() == kept.tolist()


def test_endless_data_is_served_in_order():
    assert batch_indices(None, 9, 1000, 4).tolist() == [1000, 1001, 1002, 1003]


class Indices:
    """Data whose images are their indices."""

    def __init__(self, length):
        self.length, self.served, self.fail_at = length, [], None

    def batch(self, indices):
        self.served.append(indices)
        if len(self.served) == self.fail_at:
            raise RuntimeError("the disk is gone")
        return torch.from_numpy(indices), torch.from_numpy(indices) % 3


def steps(data, count, *arguments, **changes):
    batches = loader(data, config("twins", **changes), *arguments)
    taken = [next(batches) for _ in range(count)]
    batches.close()
    return taken


@pytest.mark.parametrize("length", [100, None])
def test_shares_make_up_the_global_batch(length):
    changes = dict(batch_size=24, d_steps=2, gradient_accumulation=3, batch_norm_group=8, seed=1)
    shares = [steps(Indices(length), 6, 0, rank, 4, **changes) for rank in range(4)]
    for step in range(6):
        for k in range(2):
            parts = [shares[rank][step][1][k][a] for a in range(3) for rank in range(4)]  # micro-batch by micro-batch
            assert all(x.shape == y.shape == (2,) for x, y in parts)
            whole = batch_indices(length, 1, (2 * step + k) * 24, 24)
            assert torch.cat([x for x, _ in parts]).tolist() == whole.tolist()
            assert torch.cat([y for _, y in parts]).tolist() == (whole % 3).tolist()
    assert [step for step, _ in shares[0]] == list(range(6))


def test_steps_follow_one_another_without_gaps():
    flat = torch.cat([x for _, step in steps(Indices(40), 10, batch_size=8, d_steps=2) for ((x, _),) in step])
    assert [sorted(epoch.tolist()) for epoch in flat.split(40)] == [list(range(40))] * 4


def test_starting_late_is_skipping():
    changes = dict(batch_size=8, d_steps=3, gradient_accumulation=2, batch_norm_group=4)
    whole, late = steps(Indices(30), 9, **changes), steps(Indices(30), 5, 4, **changes)
    assert [step for step, _ in late] == [4, 5, 6, 7, 8]
    assert str(whole[4:]) == str(late)


def loader_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("loader")]


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_one_step_is_prepared_ahead():
    data = Indices(100)
    batches = loader(data, config("twins", batch_size=4))
    next(batches)
    wait_for(lambda: len(data.served) == 2)
    time.sleep(0.05)
    assert len(data.served) == 2  # and no more than one
    assert loader_threads()
    batches.close()
    assert not loader_threads()


def test_errors_in_the_thread_surface():
    data = Indices(100)
    data.fail_at = 3
    batches = loader(data, config("twins", batch_size=4))
    assert [next(batches)[0], next(batches)[0]] == [0, 1]
    with pytest.raises(RuntimeError, match="the disk is gone"):
        next(batches)
    assert not loader_threads()


def test_the_loader_serves_packed_images():
    data = packed([30, 34])
    ((_, (((x, y),),)),) = steps(data, 1, batch_size=16)
    indices = batch_indices(64, 0, 0, 16)
    assert x.shape == (16, 3, S, S) and x[:, 0, 0, 0].tolist() == indices.tolist() and y.tolist() == data.labels[indices].tolist()


# ----------------------------------------------------------------------------------------------------- sizes, by header


def test_short_sides(tmp_path):
    root = tree(tmp_path / "pets", cat=2)
    Image.fromarray(pixels(0, 40, 70)).save(root / "cat/wide.png")
    Image.fromarray(pixels(0, 90, 70)).save(root / "high.png")  # in no class, among class folders
    (root / "cat/text.png").write_text("not a picture")
    (root / "cat/cut.png").write_bytes((root / "high.png").read_bytes()[:100])  # its header is whole
    assert module.short_sides(root) == module.short_sides(str(root)) == {S: 2, 40: 1, 70: 2}
    assert module.short_sides("twins") == {32: 1} and module.short_sides("cifar10") == {32: 50_000}
    (root / "high.png").unlink()
    prepare(root, tmp_path / "out", 64, skip_unreadable=True, progress=False)
    assert module.short_sides(tmp_path / "out") == {64: 3}
    with pytest.raises(DataError, match="no such folder"):
        module.short_sides(tmp_path / "nowhere")
