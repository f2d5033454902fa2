import errno
import fcntl
import hashlib
import io
import itertools
import json
import os
import pickle
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import warnings
import zlib
from contextlib import contextmanager, suppress
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from workbench import messages
from workbench.config import Config
from workbench.data import datasets as module
from workbench.data.datasets import DataError, Images, batch_indices, decode, describe, loader, main, open_data, prepare
from workbench.data.twins import Twins
from workbench.tensors import seal

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
        saved(Image.fromarray(deep), "TIFF"),
        saved(Image.fromarray(deep), "PPM"),
    ):
        got = decode(file, S)
        assert np.abs(got.astype(float) - deep[..., None] / 65535 * 255).max() <= 1
        assert got.min() == 0 and got.max() == 255
    assert Image.open(saved(Image.fromarray(deep), "PNG")).mode == "I;16"


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


@pytest.mark.parametrize(
    "train, test", [("Train", "Test"), ("TRAINING", "Testing"), ("train2017", "val2017"), ("training_set", "test_set")]
)
def test_splits_in_other_spellings(train, test, tmp_path):
    root = tree(tmp_path / "pets", **{f"{train}/cat": 2, f"{train}/dog": 1, f"{test}/cat": 5, f"{test}/dog": 5})
    assert opened(root).counts == [2, 1] and opened(root).name == "pets" and opened(root, num_classes=0).length == 3
    flat = tree(tmp_path / "flat", **{train: 2, test: 5})
    assert opened(flat, num_classes=0).length == 2 and f"{flat}/{train}" in refused(flat)


@pytest.mark.parametrize(
    "names, cure",
    [
        ("trainA trainB testA testB", "more than one training split (trainA, trainB)"),
        ("DIV2K_train_HR DIV2K_valid_HR", "set data='{}/DIV2K_train_HR'"),
        ("DIV2K_train_HR DIV2K_valid_HR Set5 Set14 Urban", "splits (DIV2K_train_HR, DIV2K_valid_HR)"),
        ("minitrain minitest", "set data='{}/minitrain'"),
        ("minitrain val", "set data='{}/minitrain'"),
        ("bounding_box_train query gallery", "set data='{}/bounding_box_train'"),
        ("tr te", "set data='{}/tr'"),
        ("обучение тест", "set data='{}/обучение'"),
        ("entraînement validation", "set data='{}/entraînement'"),
        ("训练集 测试集", "set data='{}/训练集'"),
        ("imagesTr imagesTs", "set data='{}/imagesTr'"),
        ("\uff54\uff52\uff41\uff49\uff4eA \uff54\uff45\uff53\uff54A", "set data='{}/\uff54\uff52\uff41\uff49\uff4eA'"),
    ],
)
def test_words_in_names_tell_splits(names, cure, tmp_path):
    for place in ("", "/cat"):  # images, or class folders, in the splits
        root = tree(tmp_path / f"set{len(place)}", **{name + place: 2 for name in names.split()})
        if place and "Set5" in names:
            continue  # a class below a class
        for num_classes in (None, 0):
            message = refused(root, num_classes=num_classes)
            assert cure.format(root) in message and ("num_classes=0" in message) == (
                not place and "set data='" in message and num_classes is None
            )
    training = next(name for name in names.split() if module._kind_of_split(name) == "training")
    assert "class folders of" not in refused(tmp_path / "set0" / training)  # does not suggest the folder of the splits


@pytest.mark.parametrize("folders", [["trainA/cat", "testA/cat"], ["a/testA/cat", "b/trainA/cat"], ["testA/x/cat", "trainA/x/cat"]])
def test_a_test_split_is_never_suggested(folders, tmp_path):
    root = tree(tmp_path / "set", **{f"deep/{name}": 2 for name in folders})
    for place in (root, root / "deep"):
        message = refused(place)
        assert "trainA" in message and "/testA" not in message


@pytest.mark.parametrize(
    "names", ["bus,car,train,test tube", "beaker,test tube", "bullet train,bus", "valley,train station,beach", "a,b,trainA,tests"]
)
def test_classes_with_words_of_splits(names, tmp_path):
    assert opened(tree(tmp_path / "set", **dict.fromkeys(names.split(","), 2))).classes == sorted(names.split(","))


@pytest.mark.parametrize("folders", [dict(cat=2, dog=2, test=2), {"a": 2, "train/a": 2}, dict(test=2, val=2)])
def test_unconditional_data_are_not_test_images_by_mistake(folders, tmp_path):
    assert "splits" in refused(tree(tmp_path / "set", **folders), num_classes=0)


def test_train_can_be_a_class(tmp_path, capsys):
    data = opened(tree(tmp_path / "vehicles", bus=2, car=1, train=2))
    assert data.classes == ["bus", "car", "train"] and data.counts == [2, 1, 2]
    assert f"{tmp_path}/vehicles/train is taken as a class" in capsys.readouterr().err


def test_what_systems_put_beside_images_is_left_out_and_counted(tmp_path):
    names = ["@eaDir", "__MACOSX", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found", "@Recently-Snapshot"]
    root = tree(tmp_path / "pets", cat=2, dog=2, **{name: 2 for name in names}, **{f"cat/{name}/deeper": 2 for name in names})
    tree(root, **{".thumbnails": 2})
    Image.fromarray(pixels(0)).save(root / "cat/._0.png")
    for name in ("Thumbs.db", "desktop.ini"):
        (root / "dog" / name).touch()
    for num_classes in (None, 0):
        data = opened(root, num_classes=num_classes)
        assert data.length == 4 and data.num_classes == (2 if num_classes is None else 0)
        assert data.ignored == dict.fromkeys(names, 2) | {"hidden": 2, ".db": 1, ".ini": 1}
        assert "2 @eaDir" in describe(data) and "2 hidden" in describe(data)
    (tmp_path / "pets" / "dog").rename(tmp_path / "pets" / "val")
    assert "splits (val)" in refused(root)


@pytest.mark.parametrize(
    "name",
    [
        "thumbs",
        "Thumbs",
        "thumbnails",
        "_thumbs",
        "@appstore",
        "@__thumb",
        "Previews.lrdata",
        "My Smart Previews.LRDATA",
        "cache",
        "CaptureOne",
    ],
)
def test_folders_of_photo_tools_are_left_out_and_counted(name, tmp_path):
    root = tree(tmp_path / "pets", **{"cat": 2, "dog": 2, name: 2, f"cat/{name}/deeper": 2})
    for num_classes in (None, 0):
        data = opened(root, num_classes=num_classes)
        assert data.length == 4 and data.ignored == {name: 2}


def test_thumbnails_are_not_to_be_moved_up(tmp_path):
    message = refused(tree(tmp_path / "pets", **{"cat": 2, "cat/thumbs_200px": 2}))
    assert "move them up" not in message and "thumbnails" in message


def test_class_gestures_are_no_thumbnails(tmp_path):
    assert opened(tree(tmp_path / "hands", **{"thumb": 1, "thumbs up": 1})).num_classes == 2


@pytest.mark.parametrize("sign", "\u202e\u200b\u2066\ufeff\u00ad")
def test_invisible_characters_are_printed_as_escapes(sign, tmp_path):
    data = opened(tree(tmp_path / f"pe{sign}ts", **{f"c{sign}at": 1, "dog": 1}))
    assert sign not in describe(data) and f"c{sign.encode('unicode_escape').decode()}at 1" in describe(data)
    message = refused(tmp_path / f"pe{sign}ts", num_classes=5)
    assert sign not in message and "(c\\" in message


@pytest.mark.parametrize(
    "names", ["cat c\u200bat", "cat \u202ecat", "caf\u00e9 cafe\u0301", "cat \uff43\uff41\uff54", "caf\u00e9 cafe\u200d\u0301"]
)
def test_classes_that_look_the_same_are_refused(names, tmp_path):
    message = refused(tree(tmp_path / "pets", **dict.fromkeys(names.split(), 1)))
    assert "look the same" in message and message.isascii() and all(ascii(name) in message for name in names.split())


def test_names_that_cannot_be_printed(tmp_path):
    """Of files they do no harm, whether these can be read or not."""
    root = tree(tmp_path / "pe\nts", cat=2)
    for name in (b"new\nline", b"not UTF-8 \xff\xfe", b"escape \x1b[2J", "ネコ".encode()):
        shutil.copy(root / "cat/0.png", os.fsdecode(os.fsencode(root / "cat") + b"/" + name + b".png"))
        with open(os.fsencode(root / "cat") + b"/bad " + name + b".jpg", "wb") as file:
            file.write(b"no")
    message = refused(root)
    assert "bad new\\nline.jpg" in message and "\\udcff\\udcfe.jpg" in message and "\\x1b[2J.jpg" in message and "bad ネコ.jpg" in message
    data = opened(root, skip_unreadable=True)
    assert data.length == 6 and data.name == "pe\\nts"
    describe(data).encode()  # which lone surrogates cannot be
    assert "\x1b" not in describe(data) and describe(data).count("\n") == 2
    assert opened(root, skip_unreadable=True).fingerprint == data.fingerprint


def test_many_classes_and_a_deep_folder(tmp_path):
    root = tree(tmp_path / "many", **{f"{index:04d}": 0 for index in range(300)})
    content = saved(Image.fromarray(pixels(0)), "PNG").getvalue()
    for index in range(300):
        (root / f"{index:04d}/a.png").write_bytes(content)
    assert opened(root).num_classes == 300
    here, deep = os.getcwd(), tmp_path / "deep"
    deep.mkdir()
    try:
        os.chdir(deep)
        for _ in range(30):  # a path of more than 4096 characters, which nothing can open from outside
            os.mkdir("d" * 200)
            os.chdir("d" * 200)
        Path("a.png").write_bytes(content)
    finally:
        os.chdir(here)
    for num_classes in (None, 0):
        assert "File name too long" in refused(deep, num_classes=num_classes)


def test_hidden_and_other_files_are_ignored_and_counted(tmp_path):
    root = tree(tmp_path / "pets", **{"cat": 2, "dog": 2, ".git": 3, "cat/.thumbs": 1})
    (root / "README.md").touch()
    (root / "cat/.hidden.png").touch()
    for name in ("a.txt", "b.TXT", "film.mpg", "LICENSE"):
        (root / "dog" / name).touch()
    (root / "dog" / "0.png").rename(root / "dog" / "0.PnG")
    data = opened(root)
    assert data.counts == [2, 2]
    assert data.ignored == {"hidden": 3, ".txt": 2, ".md": 1, ".mpg": 1, "without extension": 1}
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
    "splits in other spellings, without classes": ({"Test_Images": 2, "VAL2017": 2}, "", ["Test_Images, VAL2017", "splits, not classes"]),
    "splits of class folders, none for training": ({"Val/cat": 2, "Test/cat": 2}, "", ["Test, Val", "splits, not classes", "one of them"]),
    "two training splits": ({"train/cat": 2, "Training/cat": 2}, "", ["{}/set ", "Training, train", "one of them"]),
    "a split beside class folders": ({"cat": 2, "dog": 2, "test": 2}, "", ["{}/set ", "cat, dog", "splits (test)", "rename test"]),
    "splits beside class folders": ({"cat": 2, "Train/cat": 2, "Val/cat": 2}, "", ["class folders (cat)", "splits (Train, Val)"]),
    "a train of class folders beside them": ({"cat": 2, "dog": 2, "train/cat": 2}, "", ["cat, dog", "splits (train)"]),
    "a deep split beside class folders": ({"cat": 2, "valid/2020/a": 2}, "", ["cat", "splits (valid)"]),
    "a class whose name cannot be printed": ({"cat": 2, "do\ng\x1b[2J": 2}, "", ["do\\ng\\x1b[2J", "{}/set ", "rename"]),
    "a class whose name is not UTF-8": ({"cat": 2, os.fsdecode(b"d\xffg"): 2}, "", ["d\\udcffg", "{}/set ", "rename"]),
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
    """A disk or permissions that failed once: names, sizes and times are the same when it is fixed."""
    root = tree(tmp_path / "pets", cat=3)

    def fail(*arguments):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(module, "decode", lambda file, size: decode(file, size) if len(file) != lost else fail())
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
        assert "no image is left of dog" in message and "dog/bad.jpg" in message and "fix or delete" in message
    assert not cached(data_folder)


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


# ----------------------------------------------------------------------------------------------------- hostile files


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


def test_what_is_no_regular_file_is_unreadable(tmp_path):
    root = tree(tmp_path / "pets", cat=2)
    os.mkfifo(root / "cat/fifo.png")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(root / "cat")  # the names of sockets are short
        server.bind("socket.png")
        os.chdir(here)
    (root / "cat/link.png").symlink_to("fifo.png")
    (root / "cat/zero.png").symlink_to("/dev/zero")
    (root / "cat/loop.png").symlink_to("loop.png")
    (root / "loop").symlink_to("loop")
    message = refused(root)
    assert "5 of 7" in message and "loop.png (Too many levels of symbolic links)" in message
    for name, reason in dict.fromkeys(("fifo", "link", "zero"), "not a regular file").items() | {("socket", "No such device or address")}:
        assert f"cat/{name}.png ({reason})" in message
    assert module.short_sides(root) == {S: 2}
    assert opened(root, skip_unreadable=True).length == opened(root, skip_unreadable=True, num_classes=0).length == 2


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


def test_folders_that_cannot_be_read(tmp_path, monkeypatch):
    root, scandir = tree(tmp_path / "pets", cat=1, dog=1), os.scandir

    def denied(path):  # permissions would not stop root
        if str(path).endswith("dog"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    assert f"the folder {root}/dog cannot be read (Permission denied): fix its permissions" in refused(root)
    assert "fix its permissions" in refused(root, num_classes=0)
    assert "images directly in it" in refused(root / "cat")  # beside which dog lies


# ----------------------------------------------------------------------------------------------------- metadata


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
    content = saved(Image.fromarray(pixels(0)), "PNG").getvalue()
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
    content = saved(Image.fromarray(pixels(0)), "JPEG").getvalue()
    for length in (0, 1, 5):
        segment = bytes([0xFF, marker]) + struct.pack(">H", len(start) + length + 2) + start + bytes(range(length))
        assert np.array_equal(decode(content[:2] + segment + content[2:], S), decode(content, S)), (marker, start, length)


def test_a_tiff_with_damaged_texts():
    content = bytearray(saved(Image.fromarray(pixels(0)), "TIFF", exif=camera_exif(3)).getvalue())
    place = content.index(struct.pack("<HHL", 0x010F, 2, 6))
    content[place + 2 : place + 12] = b"\xff" * 10
    assert np.array_equal(decode(bytes(content), S), pixels(0)[::-1, ::-1])


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_an_avif_with_a_damaged_exif():
    content = saved(Image.fromarray(colours()), "AVIF", quality=100, subsampling="4:4:4", exif=camera_exif(1)).getvalue()
    place = max(content.find(b"II*\0"), content.find(b"MM\0*"))
    assert np.abs(decode(content[:place] + b"zzzz" + content[place + 4 :], S).astype(int) - colours()).max() < 12


# ----------------------------------------------------------------------------------------------------- properties


def small(kind):
    return saved(Image.fromarray(colours()), kind).getvalue()


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
        ((got, told),) = module._decode_all([file.name], S)
    assert isinstance(told, str) and told
    assert got is None or (got.shape == (S, S, 3) and got.dtype == np.uint8)


@contextmanager
def limited_memory():
    """A header of a few bytes may stand for 179 million pixels: here, a thousandth of these are enough."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
        yield


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


def leftover(cache, name, age=0.0):
    """What a killed packer leaves, `age` seconds ago."""
    folder = cache / name
    folder.mkdir(parents=True)
    (folder / "images.npy").write_bytes(b"half")
    os.utime(folder, (time.time() - age,) * 2)
    return folder


def test_what_killed_packers_left_is_deleted(tmp_path, data_folder):
    """Of any data, for nobody may ever ask for these again; but not what is still written, or somebody else's."""
    cache = data_folder / "cache"
    dead = [leftover(cache, f".{key}.part-1") for key in ("ab12", "cd34")] + [leftover(cache, ".ef56.old-1")]
    alive, kept = leftover(cache, ".0a0b.part-1"), leftover(cache, "0123")
    other = leftover(tmp_path, ".neighbour.part-1")
    with module._held(alive):
        opened(tree(tmp_path / "pets", cat=2))
        assert not any(path.exists() for path in dead) and alive.exists() and kept.exists()
    mine = leftover(tmp_path, ".out.part-1")
    prepare(tmp_path / "pets", tmp_path / "out", S, progress=False)
    assert not mine.exists() and other.exists()


def test_leftovers_without_locks(tmp_path, data_folder, monkeypatch):
    cache = data_folder / "cache"
    young, old = leftover(cache, ".ab12.part-1", 3600), leftover(cache, ".cd34.part-1", 2 * module.DAY)

    def no_locks(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    opened(tree(tmp_path / "pets", cat=2))
    assert young.exists() and not old.exists()


def test_a_packing_marks_its_folder_as_alive(tmp_path, data_folder, monkeypatch):
    write = module._write_packed

    def beside_another(listing, size, folder, *rest):
        write(listing, size, folder, *rest)
        module._remove_abandoned(data_folder / "cache" / "another")
        assert folder.exists()

    monkeypatch.setattr(module, "_write_packed", beside_another)
    assert opened(tree(tmp_path / "pets", cat=2)).length == 2


def opened_folders(data_folder):
    return [name for name in cached(data_folder) if not name.startswith(".")]


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


@pytest.mark.slow
def test_an_interrupt_leaves_nothing(tmp_path, data_folder):
    root = tree(tmp_path / "pets", cat=30, dog=30)
    script = HALF.replace("time.sleep(600)", "time.sleep(2)")
    with subprocess.Popen(
        [sys.executable, "-c", script, str(root)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout.readline() == "half\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) != 0
    assert not cached(data_folder)


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


def failing_from(function, first):
    calls = itertools.count()

    def full(*arguments, **named):
        if next(calls) >= first:
            raise OSError(errno.ENOSPC, "No space left on device")
        return function(*arguments, **named)

    return full


@pytest.mark.parametrize("name", ["mkdir", "fsync", "rename"])
def test_a_disk_that_is_full_from_any_step_on(name, tmp_path, data_folder, monkeypatch):
    """There is one line, nothing is left half-done, and the next try succeeds."""
    root, failures = tree(tmp_path / "pets", cat=2), 0
    for first in range(20):
        shutil.rmtree(data_folder / "cache", ignore_errors=True)
        with monkeypatch.context() as patch:
            patch.setattr(os, name, failing_from(getattr(os, name), first))
            try:
                opened(root)
                break
            except DataError as error:
                failures += 1
                assert "No space left on device" in str(error) and "WORKBENCH_DATA" in str(error) and "\n" not in str(error)
        assert cached(data_folder) == opened_folders(data_folder) and opened(root).length == 2
    assert failures


@pytest.mark.parametrize("limit", [0, 1000, 6200])
def test_files_that_cannot_grow(limit, tmp_path, data_folder):
    root = tree(tmp_path / "pets", cat=2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        for out in (None, tmp_path / "out"):
            with pytest.raises(DataError, match=r"cannot be written: File too large; the disk of .*(WORKBENCH_DATA|another folder)"):
                prepare(root, out, S, progress=False) if out else opened(root)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert not cached(data_folder) and sorted(path.name for path in tmp_path.iterdir()) == ["data", "pets"]
    assert opened(root).length == 2


def test_a_data_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / "cache").touch()  # file permissions would not stop root
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path / "place"))
    message = refused(tree(tmp_path / "pets", cat=2))
    assert "WORKBENCH_DATA" in message and str(tmp_path / "place/cache") in message


PACKED = ("SHA256SUMS", "images.npy", "labels.npy", "meta.json")
DAMAGES = {
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "flipped bit": lambda path: path.write_bytes(path.read_bytes()[:-9] + bytes([path.read_bytes()[-9] ^ 1]) + path.read_bytes()[-8:]),
    "not UTF-8": lambda path: path.write_bytes(b"\xff\xfe" * 40),
    "other": lambda path: path.write_text('{"a": [1]}'),
    "missing": Path.unlink,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_packed_folders(damage, tmp_path, data_folder, capsys):
    """In the cache they are packed again, with one line; of the user's own, the file is named."""
    root = tree(tmp_path / "pets", cat=2, dog=2)
    first = opened(root)
    (folder,) = (data_folder / "cache").glob("*[0-9a-f]")
    for name in PACKED:
        messages._said.clear()
        own = shutil.copytree(folder, tmp_path / f"own-{name}", dirs_exist_ok=True)
        DAMAGES[damage](own / name)
        told = "" if (damage, name) == ("flipped bit", "SHA256SUMS") else name  # else the file that it no longer fits
        assert f"unreadable: {own}/{told}" in refused(own) and "pack it again" in refused(own)
        DAMAGES[damage](folder / name)
        data = opened(root)
        assert np.array_equal(data.images, first.images) and data.fingerprint == first.fingerprint
        error = capsys.readouterr().err
        assert f"unreadable: {folder}/{told}" in error and "pets is packed again" in error and error.count("\n") == 1
    assert cached(data_folder) == [folder.name]


def test_another_packed_folder_in_the_cache(tmp_path, data_folder, capsys):
    opened(tree(tmp_path / "pets", cat=2, dog=2))
    opened(tree(tmp_path / "cars", bus=2, van=2))
    one, two = sorted((data_folder / "cache").glob("*[0-9a-f]"))
    shutil.rmtree(one)
    shutil.copytree(two, one)
    assert opened(tmp_path / "pets").classes == ["cat", "dog"] and opened(tmp_path / "cars").classes == ["bus", "van"]
    assert "(of other images)" in capsys.readouterr().err


def repacked(folder, **changes):
    """Change a packed folder as somebody would who also knows of its checksums."""
    meta = json.loads((folder / "meta.json").read_text())
    for name, value in changes.items():
        if name in ("images", "labels"):
            np.save(folder / f"{name}.npy", value, allow_pickle=True)
        elif value is None:
            del meta[name]
        else:
            meta[name] = value
    (folder / "meta.json").write_text(json.dumps(meta))
    seal(folder)


MISFITS = {  # what does not fit, and the file that is named
    "float images": (dict(images=np.zeros((4, S, S, 3), np.float32)), "images.npy"),
    "signed images": (dict(images=np.zeros((4, S, S, 3), np.int8)), "images.npy"),
    "channels first": (dict(images=np.zeros((4, 3, S, S), np.uint8)), "images.npy"),
    "grey images": (dict(images=np.zeros((4, S, S), np.uint8)), "images.npy"),
    "other sizes": (dict(images=np.zeros((4, S, S + 1, 3), np.uint8)), "images.npy"),
    "too few images": (dict(images=np.zeros((3, S, S, 3), np.uint8)), "images.npy"),
    "too many images": (dict(images=np.zeros((5, S, S, 3), np.uint8)), "images.npy"),
    "pickled images": (dict(images=np.array([None] * 4)), "images.npy"),
    "pickled labels": (dict(labels=np.array([0, 0, 1, None])), "labels.npy"),
    "labels out of range": (dict(labels=np.array([0, 0, 1, 2])), "labels.npy"),
    "negative labels": (dict(labels=np.array([0, 0, 1, -1])), "labels.npy"),
    "float labels": (dict(labels=np.array([0, 0, 1, 1.0])), "labels.npy"),
    "one-hot labels": (dict(labels=np.eye(2, dtype=np.int64)[[0, 0, 1, 1]]), "labels.npy"),
    "no labels": (dict(labels=np.zeros(0, np.int64)), "labels.npy"),
    "a class without images": (dict(labels=np.zeros(4, np.int64)), "labels.npy"),
    "more classes": (dict(classes=["cat", "dog", "emu"]), "labels.npy"),
    "fewer classes": (dict(classes=["cat"]), "labels.npy"),
    "equal classes": (dict(classes=["cat", "cat"]), "meta.json"),
    "classes that are numbers": (dict(classes=[1, 2]), "meta.json"),
    "classes as a text": (dict(classes="ab"), "meta.json"),
    "no classes": (dict(classes=[]), "meta.json"),
    "another size": (dict(size=64), "images.npy"),
    "a size as text": (dict(size="32"), "meta.json"),
    "a truth value as size": (dict(size=True), "meta.json"),
    "no fingerprint": (dict(fingerprint=None), "meta.json"),
    "a short fingerprint": (dict(fingerprint="abc"), "meta.json"),
    "a number as name": (dict(name=3), "meta.json"),
    "classes of unconditional images": (dict(conditional=False), "meta.json"),
    "a conditional that is a number": (dict(conditional=1), "meta.json"),
    "a list of skipped": (dict(skipped=["a"]), "meta.json"),
    "ignored without numbers": (dict(ignored={".txt": "2"}), "meta.json"),
    "an unknown entry": (dict(images_of="cats"), "meta.json"),
    "another version": (dict(version=99), "meta.json"),
    "no version": (dict(version=None), "meta.json"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_packed_folders_that_do_not_fit(case, tmp_path, monkeypatch):
    changes, name = MISFITS[case]
    (tmp_path / "out").mkdir()
    out = prepare(tree(tmp_path / "pets", cat=2, dog=2), tmp_path / "out", S, progress=False) and tmp_path / "out"
    repacked(out)
    assert opened(out).counts == [2, 2]
    repacked(out, **changes)
    assert f"unreadable: {out}/{name} (" in refused(out)
    monkeypatch.setattr(module, "CHECKED", 4096)  # what is large is not compared with its SHA-256, but has to fit
    assert f"unreadable: {out}/{name} (" in refused(out)


def test_large_images_are_compared_by_size(tmp_path, monkeypatch):
    out = tmp_path / "out"
    prepare(tree(tmp_path / "pets", cat=2, dog=2), out, S, progress=False)
    monkeypatch.setattr(module, "CHECKED", 4096)
    DAMAGES["flipped bit"](out / "images.npy")
    assert opened(out).length == 4
    os.truncate(out / "images.npy", (out / "images.npy").stat().st_size - 1)
    assert f"unreadable: {out}/images.npy (" in refused(out)
    with open(out / "labels.npy", "ab") as file:
        file.truncate(10**12)  # without a byte on the disk
    assert f"unreadable: {out}/labels.npy (more than" in refused(out)


def test_another_version_packs_anew(tmp_path, data_folder, monkeypatch):
    root = tree(tmp_path / "pets", cat=2)
    prepare(root, tmp_path / "out", S, progress=False)
    opened(root)
    monkeypatch.setattr(module, "VERSION", module.VERSION + 1)
    assert opened(root).length == 2 and len(cached(data_folder)) == 2
    assert f"{tmp_path}/out/meta.json (from another version" in refused(tmp_path / "out") and "pack it again" in refused(tmp_path / "out")


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


def test_names_that_the_terminal_cannot_show(tmp_path, monkeypatch):
    written = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", written)
    assert main(["prepare", str(tree(tmp_path / "pets", 猫=2)), str(tmp_path / "out"), "--size", "32"]) == 0
    assert b"\\u732b 2" in written.buffer.getvalue()


def test_prepare_refuses(tmp_path, capsys):
    root = tree(tmp_path / "pets", cat=2, dog=2)
    spoil(root)
    cases = {
        "cannot be read": (root, tmp_path / "out", "--size", "32"),
        "image_size=33": (root, tmp_path / "out", "--size", "33"),
        "no such folder": (tmp_path / "pest", tmp_path / "out", "--size", "32"),
        "lies in the data": (root, root / "out", "--size", "32"),
        "needs no packing": ("twins", tmp_path / "out", "--size", "32"),
        "out='' is no folder": (root, "", "--size", "32"),
        "data='' is not": ("", tmp_path / "out", "--size", "32"),
        "cannot be written": (root, "/proc/none/out", "--size", "32", "--skip-unreadable"),
        "File name too long": (root, tmp_path / ("x" * 300), "--size", "32", "--skip-unreadable"),
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
    for unconditional in (opened("cifar10", num_classes=0), prepare("cifar10", data_folder / "all", S, unconditional=True, progress=False)):
        assert unconditional.length == 20 and unconditional.num_classes == 0 and unconditional.classes == ["all"]
        assert np.array_equal(unconditional.images, images) and not unconditional.labels.any()
    assert opened(data_folder / "all").num_classes == 0 and prepare("cifar10", data_folder / "ten", S, progress=False).num_classes == 10
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
    unconditional = prepare("imagenet", data_folder / "all", S, unconditional=True, progress=False)
    assert unconditional.num_classes == 0 and unconditional.length == opened("imagenet", num_classes=0).length == 7
    assert module.short_sides("imagenet") == {S: 7}
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
