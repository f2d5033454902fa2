import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import psutil
import pytest
from image_folders import S, opened, spoil, tree

from workbench.data import DataError, packing, prepare
from workbench.data import decode as decoding
from workbench.data.decode import decode


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of five images."""
    monkeypatch.setattr(packing, "PART_IMAGES", 5)
    monkeypatch.setattr(packing, "PART_BYTES", 1)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_parts_hold_what_one_file_would(tmp_path, small_parts, monkeypatch):
    root = tree(tmp_path / "pets", cat=7, dog=6)
    bad = spoil(root)
    one = opened(root, skip_unreadable=True)
    assert [path.name for path in one.images.paths] == ["images-000.npy", "images-001.npy", "images-002.npy", "images-003.npy"]
    monkeypatch.undo()
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path / "other"))
    other = opened(root, skip_unreadable=True)
    assert [path.name for path in other.images.paths] == ["images.npy"] and np.load(other.images.paths[0]).shape == (13, S, S, 3)
    assert np.array_equal(one.images, other.images) and np.array_equal(one.labels, other.labels) and one.fingerprint == other.fingerprint
    assert list(one.skipped) == list(other.skipped) == bad
    x, y = one.batch(np.array([12, 0, 5, 5]))
    assert np.array_equal(x.permute(0, 2, 3, 1), np.asarray(other.images)[[12, 0, 5, 5]]) and y.tolist() == [1, 0, 0, 0]
    assert len(os.listdir(one.images.paths[0].parent)) == 7  # no record is left


def test_folders_that_were_packed_before_there_were_parts(tmp_path):
    """Skipped files had unused rows at the end of `images.npy`."""
    root = tree(tmp_path / "pets", cat=2, dog=2)
    spoil(root)
    data = prepare(root, tmp_path / "out", S, skip_unreadable=True, progress=False)
    np.save(tmp_path / "out/images.npy", np.concatenate([data.images, np.zeros((4, S, S, 3), np.uint8)]))
    packing.seal(tmp_path / "out")
    again = opened(tmp_path / "out")
    assert again.images.shape == (4, S, S, 3) and np.array_equal(again.images, data.images)


def decoded(monkeypatch):
    """The files that are decoded from now on."""
    paths = []
    attempt = decoding._try_to_decode
    monkeypatch.setattr(decoding, "_try_to_decode", lambda item, size: paths.append(item) or attempt(item, size))
    return paths


@pytest.mark.parametrize("place", ["cache", "prepare"])
def test_finished_parts_are_not_decoded_again(place, tmp_path, data_folder, small_parts, monkeypatch, capsys):
    root = tree(tmp_path / "pets", cat=7, dog=6)

    def pack_it():
        return opened(root) if place == "cache" else prepare(root, tmp_path / "out", S)

    def fails_at_12(source, size):
        if source == (root / "dog/4.png").read_bytes():
            raise KeyboardInterrupt
        return decode(source, size)

    with monkeypatch.context() as patch:
        patch.setattr(decoding, "decode", fails_at_12)
        with pytest.raises(KeyboardInterrupt):
            pack_it()
    (left,) = [path for path in (*tmp_path.glob(".out*"), *data_folder.glob("cache/.*")) if path.is_dir()]
    assert sorted(path.name for path in left.iterdir()) == [f"images-00{k}.{kind}" for k in (0, 1) for kind in ("json", "npy")]
    capsys.readouterr()
    paths = decoded(monkeypatch)
    data = pack_it()
    assert sorted(paths) == [f"{root}/dog/{index}.png" for index in (3, 4, 5)] and not left.exists()
    assert place == "cache" or (
        "packing 13 images of pets at 32x32 into" in (error := capsys.readouterr().err) and ", of which 10 are" in error
    )
    monkeypatch.undo()
    assert data.fingerprint == prepare(root, tmp_path / "whole", S, progress=False).fingerprint
    assert np.array_equal(data.images, opened(tmp_path / "whole").images)


def test_other_images_do_not_go_on(tmp_path, small_parts, monkeypatch):
    """Of other files, or another size, what was left is deleted."""
    root = tree(tmp_path / "pets", cat=7, dog=6)
    (root / "dog/bad.png").write_text("no")
    with pytest.raises(DataError, match="1 of 14 files"):
        prepare(root, tmp_path / "out", S, progress=False)
    assert len(list(tmp_path.glob(".out.unfinished-*"))) == 1
    paths = decoded(monkeypatch)
    assert prepare(root, tmp_path / "skipping", S, skip_unreadable=True, progress=False).length == 13 and len(paths) == 14
    paths.clear()
    assert prepare(root, tmp_path / "out", S, skip_unreadable=True, progress=False).length == 13
    assert paths == [f"{root}/dog/bad.png"]  # in case that it can be read now
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(DataError, match="1 of 14 files"):
        prepare(root, tmp_path / "out", S, progress=False)
    (root / "dog/bad.png").unlink()
    paths.clear()
    assert prepare(root, tmp_path / "out", S, progress=False).length == 13 and len(paths) == 13
    assert not list(tmp_path.glob(".out*"))


def test_a_part_that_is_missing_or_damaged(tmp_path, small_parts):
    root = tree(tmp_path / "pets", cat=7, dog=6)
    for damage in (os.unlink, lambda path: os.truncate(path, 100), lambda path: np.save(path, np.zeros((5, S, S, 3), np.uint8))):
        prepare(root, tmp_path / "out", S, progress=False)
        damage(tmp_path / "out/images-001.npy")
        with pytest.raises(DataError, match=r"out/images-001\.npy cannot be read"):
            opened(tmp_path / "out")
        shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize("removed", [0, 2, 3])
def test_a_packing_killed_before_its_folder_gets_its_name(removed, tmp_path, small_parts, monkeypatch):
    """When images, labels and checksums are complete, and some or all records removed."""
    root = tree(tmp_path / "pets", cat=7, dog=6)
    (root / "dog/bad.png").write_text("no")

    def killed(self):
        for k in range(removed):
            self._record(k).unlink()
        os._exit(9)

    if not (child := os.fork()):
        monkeypatch.setattr(packing._Packing, "_remove_records", killed)
        prepare(root, tmp_path / "out", S, skip_unreadable=True, progress=False)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    paths = decoded(monkeypatch)
    data = prepare(root, tmp_path / "out", S, skip_unreadable=True, progress=False)
    assert not paths and data.length == 13 and list(data.skipped) == ["dog/bad.png"]
    assert len(os.listdir(tmp_path / "out")) == 6 and not list(tmp_path.glob(".out*"))


def test_a_part_that_is_written_again_is_not_finished_meanwhile(tmp_path, monkeypatch):
    """Its old record, from before a file could be read, would stand beside half of the images."""
    root = tree(tmp_path / "pets", cat=5)
    record = tmp_path / "images-000.json"
    record.write_text("old")
    monkeypatch.setattr(packing, "replace_text", lambda path, text: pytest.fail("killed"))
    with pytest.raises(pytest.fail.Exception):
        packing._write_part([f"{root}/cat/{index}.png" for index in range(5)], S, record.with_suffix(".npy"))
    assert not record.exists()


SCRIPT = """
import sys
from workbench.data import packing, prepare
packing.PART_IMAGES, packing.PART_BYTES = 5, 1
if __name__ == "__main__":
    prepare(sys.argv[1], sys.argv[2], 32, processes=2)
"""


@pytest.mark.slow
def test_several_processes_pack_the_same(tmp_path):
    root = tree(tmp_path / "pets", cat=7, dog=6)
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), str(root), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": os.getcwd()})
    assert done.returncode == 0 and "13 of 13 images of pets decoded" in done.stderr, done.stderr
    one = prepare(root, tmp_path / "one", S, progress=False)
    data = opened(tmp_path / "out")
    assert len(data.images.paths) == 3 and data.fingerprint == one.fingerprint and np.array_equal(data.images, one.images)


STUCK = """
import time
from workbench.data import packing
write = packing._write_part
def stuck(items, size, path, **options):
    if path.name != "images-000.npy":
        path.touch()
        time.sleep(600)
    return write(items, size, path, **options)
packing._write_part = stuck
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_processes_end_with_the_packing(number, tmp_path):
    """At once: an interrupt does not wait until their parts are finished. Finished parts stay."""
    root = tree(tmp_path / "pets", cat=7, dog=6)
    (tmp_path / "script.py").write_text(STUCK + SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), str(root), str(tmp_path / "out")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": os.getcwd()}) as process:
        (folder,) = wait_for(lambda: list(tmp_path.glob(".out.unfinished-*")))
        wait_for(lambda: {"images-000.json", "images-001.npy"} <= {path.name for path in folder.iterdir()})
        workers = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        assert process.wait(10) != 0
    gone, alive = psutil.wait_procs(workers, 10)
    assert not alive and len(gone) >= 2
    left = sorted(path.name for path in folder.iterdir())
    assert left[:2] == ["images-000.json", "images-000.npy"] and (number == signal.SIGKILL or len(left) == 2)


def test_a_process_that_is_killed(tmp_path, small_parts, monkeypatch):
    class Broken(ThreadPoolExecutor):
        def submit(self, *arguments, **options):
            return super().submit(lambda: (_ for _ in ()).throw(BrokenProcessPool("terminated abruptly")))

    monkeypatch.setattr(packing, "ProcessPoolExecutor", lambda processes, *_: Broken(processes))
    with pytest.raises(DataError, match=r"perhaps killed for lack of memory: start it again, which goes on"):
        prepare(tree(tmp_path / "pets", cat=7, dog=6), tmp_path / "out", S, progress=False, processes=2)


def wait_for(condition):
    end = time.monotonic() + 60
    while not (result := condition()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return result


def test_a_set_has_at_most_256_files():
    class Listing:
        paths, identity = range(10**8), []

    parts = packing._Packing(Listing, 32, packing.Path("x")).parts
    assert len(parts) == 256 and parts[0].start == 0 and parts[-1].stop == 10**8
    Listing.paths = range(1_281_167)  # ImageNet
    assert len(packing._Packing(Listing, 128, packing.Path("x")).parts) == 79
    Listing.paths = range(50_000)  # CIFAR-10
    assert [path.name for path in packing._Packing(Listing, 32, packing.Path("x")).images] == ["images.npy"]
