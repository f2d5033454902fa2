import errno
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from image_folders import S, cached, opened, opened_folders, pixels, refused, spoil, tree
from PIL import Image

from workbench import files
from workbench.data import cache, describe, packing, prepare
from workbench.data import decode as decoding
from workbench.data.decode import decode
from workbench.data.stored import StoredImages
from workbench.files import new_folder


def test_the_second_opening_decodes_nothing(tmp_path, data_folder, monkeypatch):
    root = tree(tmp_path / "pets", cat=2, dog=2)
    first = opened(root)
    monkeypatch.setattr(cache, "pack", None)
    second = opened(root)
    assert isinstance(second.images, StoredImages) and np.array_equal(first.images, second.images)
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
    assert opened(tmp_path / "a/set").images[0][0, 0, 0] == 10
    assert opened(tmp_path / "b/set").images[0][0, 0, 0] == 20


def test_another_packed_folder_in_the_cache(tmp_path, data_folder, capsys):
    opened(tree(tmp_path / "pets", cat=2, dog=2))
    opened(tree(tmp_path / "cars", bus=2, van=2))
    one, two = sorted((data_folder / "cache").glob("*[0-9a-f]"))
    shutil.rmtree(one)
    shutil.copytree(two, one)
    assert opened(tmp_path / "pets").classes == ["cat", "dog"] and opened(tmp_path / "cars").classes == ["bus", "van"]
    assert "it holds other images" in capsys.readouterr().err


def test_unreadable_files_are_listed_and_skipped_when_asked(tmp_path, monkeypatch):
    root = tree(tmp_path / "pets", cat=3, dog=3)
    bad = spoil(root)
    message = refused(root)
    assert f"4 of 10 files in {root}" in message and "skip_unreadable=True" in message
    for name, reason in zip(bad, ["truncated", "empty file", "No such file", "not an image"], strict=True):
        assert name in message and reason in message
    with monkeypatch.context() as patch:
        patch.setattr(cache, "pack", None)  # what was decoded for the error is used now
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
        broken.setattr(decoding, "decode", lambda file, size: decode(file, size) if len(file) != lost else fail())
        lost = (root / "cat/1.png").stat().st_size
        assert "cat/1.png (Input/output error)" in refused(root)
        assert "cat/1.png (Input/output error)" in refused(root)
    assert opened(root).length == 3


def test_a_data_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / "cache").touch()  # file permissions would not stop root
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path / "place"))
    message = refused(tree(tmp_path / "pets", cat=2))
    assert "WORKBENCH_DATA" in message and str(tmp_path / "place/cache") in message


# ----------------------------------------------------------------------------- interrupts, kills and other processes


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_packing_leaves_nothing(error, tmp_path, data_folder, monkeypatch):
    root = tree(tmp_path / "pets", cat=2)

    def interrupted(path):
        assert cached(data_folder) and not opened_folders(data_folder)  # while it is written, it cannot be opened
        raise error

    monkeypatch.setattr(packing, "synced", interrupted)
    with pytest.raises(error):
        opened(root)
    assert not cached(data_folder)


def leftover(place, name, age=0.0):
    """What a killed packer leaves, `age` seconds ago."""
    folder = place / name
    folder.mkdir(parents=True)
    (folder / "images.npy").write_bytes(b"half")
    os.utime(folder, (time.time() - age,) * 2)
    return folder


def test_what_killed_packers_left_is_deleted(tmp_path, data_folder):
    """Of any data, for nobody may ever ask for these again; but not what is still written, whatever it is, or somebody else's."""
    place = data_folder / "cache"
    dead = [leftover(place, f".{key}.part-1") for key in ("ab12", "cd34")] + [leftover(place, ".ef56.old-1")]
    kept, other = leftover(place, "0123"), leftover(tmp_path, ".neighbour.part-1")
    with new_folder(place / "reference-0a0b") as alive:
        (alive / "features.npy").touch()
        opened(tree(tmp_path / "pets", cat=2))
        assert not any(path.exists() for path in dead) and alive.exists() and kept.exists()
    abandoned = leftover(tmp_path, ".out.part-1")
    prepare(tmp_path / "pets", tmp_path / "out", S, progress=False)
    assert not abandoned.exists() and other.exists()


def test_leftovers_without_locks(tmp_path, data_folder, monkeypatch):
    place = data_folder / "cache"
    young, old = leftover(place, ".ab12.part-1", 3600), leftover(place, ".cd34.part-1", 2 * files.DAY)

    def no_locks(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    opened(tree(tmp_path / "pets", cat=2))
    assert young.exists() and not old.exists()


def test_a_packing_marks_its_folder_as_alive(tmp_path, data_folder, monkeypatch):
    complete = packing._Packing._complete

    def beside_another(self, skip_unreadable):
        complete(self, skip_unreadable)
        files.remove_abandoned(data_folder / "cache")
        assert self.folder.exists()

    monkeypatch.setattr(packing._Packing, "_complete", beside_another)
    assert opened(tree(tmp_path / "pets", cat=2)).length == 2


HALF = """
import sys, time
from workbench.config import Config
from workbench.data import decode as decoding, open_data
decode, count = decoding.decode, iter(range(1000))
def stuck(source, size):
    if next(count) == 40:
        print("half", flush=True)
        time.sleep(600)
    return decode(source, size)
decoding.decode = stuck
open_data(Config.preset("twins32", data=sys.argv[1], batch_size=2))
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
from workbench.config import Config
from workbench.data import decode as decoding, open_data
decode = decoding.decode
def slow(*arguments):
    time.sleep(0.01)
    return decode(*arguments)
decoding.decode = slow
Path(sys.argv[2]).touch()
while len(list(Path(sys.argv[2]).parent.glob("ready*"))) < 2:
    time.sleep(0.001)
print(open_data(Config.preset("twins32", data=sys.argv[1], batch_size=2)).fingerprint)
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
    complete, others = packing._Packing._complete, []

    def write_late(*arguments):
        complete(*arguments)
        if not others:  # another process begins and finishes before this one renames
            others.append(None)
            others.append(opened(root))

    def no_locks(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(packing._Packing, "_complete", write_late)
    monkeypatch.setattr(fcntl, "flock", no_locks)
    data = opened(root)
    assert data.fingerprint == others[1].fingerprint and np.array_equal(data.images, others[1].images)
    assert len(cached(data_folder)) == 1
