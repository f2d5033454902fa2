import errno
import itertools
import json
import os
import resource
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from image_folders import S, cached, config, opened, opened_folders, refused, tree

from workbench import messages
from workbench.data import DataError, open_data, packed, packing, prepare
from workbench.tensors import seal

# -------------------------------------------------------------------------------------------------- unreadable files


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


# -------------------------------------------------------------------------------------------------------- full disks


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
    """There is one line, and the next try succeeds and leaves nothing else: what was complete waits for it."""
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
        assert opened(root).length == 2 and cached(data_folder) == opened_folders(data_folder)
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


# ------------------------------------------------------------------------------------------------------------ damage


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
        messages._printed.clear()
        packed = shutil.copytree(folder, tmp_path / f"own-{name}", dirs_exist_ok=True)
        DAMAGES[damage](packed / name)
        file = "" if (damage, name) == ("flipped bit", "SHA256SUMS") else name  # else the file that it no longer fits
        message = refused(packed)
        assert f"{packed}/{file}" in message and " cannot be read: " in message and "pack it again" in message
        DAMAGES[damage](folder / name)
        data = opened(root)
        assert np.array_equal(data.images, first.images) and data.fingerprint == first.fingerprint
        error = capsys.readouterr().err
        assert f"{folder}/{file}" in error and " cannot be read: " in error and "pets is packed again" in error and error.count("\n") == 1
    assert cached(data_folder) == [folder.name]


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
    assert f"{out}/{name} cannot be read: " in refused(out)
    monkeypatch.setattr(packed, "CHECKED", 4096)  # what is large is not compared with its SHA-256, but has to fit
    assert f"{out}/{name} cannot be read: " in refused(out)


def test_large_images_are_compared_by_size(tmp_path, monkeypatch):
    out = tmp_path / "out"
    prepare(tree(tmp_path / "pets", cat=2, dog=2), out, S, progress=False)
    monkeypatch.setattr(packed, "CHECKED", 4096)
    DAMAGES["flipped bit"](out / "images.npy")
    assert opened(out).length == 4
    os.truncate(out / "images.npy", (out / "images.npy").stat().st_size - 1)
    assert f"{out}/images.npy cannot be read: " in refused(out)
    with open(out / "labels.npy", "ab") as file:
        file.truncate(10**12)  # without a byte on the disk
    assert f"{out}/labels.npy cannot be read: more than" in refused(out)


def test_another_version_packs_anew(tmp_path, data_folder, monkeypatch):
    root = tree(tmp_path / "pets", cat=2)
    prepare(root, tmp_path / "out", S, progress=False)
    opened(root)
    version = packed.VERSION + 1
    monkeypatch.setattr(packed, "VERSION", version)
    monkeypatch.setattr(packing, "VERSION", version)
    assert opened(root).length == 2 and len(cached(data_folder)) == 2
    assert f"{tmp_path}/out/meta.json cannot be read: from another version" in refused(tmp_path / "out") and "pack it again" in refused(
        tmp_path / "out"
    )


def test_progress_is_told_on_stderr(tmp_path, capsys):
    root = tree(tmp_path / "pets", cat=2)
    open_data(config(root), progress=False)
    assert capsys.readouterr() == ("", "")
    open_data(config(root, image_size=64))
    out, err = capsys.readouterr()
    assert (
        out == ""
        and "packing 2 images of pets at 64x64 into" in err
        and "2 of 2 images of pets decoded in 0:00" in err
        and err.count("\n") == 2
    )
    open_data(config(root, image_size=64))
    assert capsys.readouterr() == ("", "")
