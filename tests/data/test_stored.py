import gc
import os

import numpy as np
import pytest
from image_folders import S, pixels

from workbench.data.stored import StoredImages
from workbench.files import UnreadableError


def files(folder, *counts):
    """Files of different images, and all of their images."""
    images = [np.stack([pixels([number, index]) for index in range(count)]) for number, count in enumerate(counts)]
    paths = [folder / f"{number}.npy" for number in range(len(counts))]
    for path, part in zip(paths, images, strict=True):
        np.save(path, part)
    return paths, np.concatenate(images)


@pytest.mark.parametrize("counts", [(9,), (1, 1), (4, 3, 2)])
def test_indexing_is_that_of_an_array(counts, tmp_path):
    paths, array = files(tmp_path, *counts)
    images = StoredImages(paths)
    assert images.shape == array.shape and len(images) == len(array) and np.array_equal(images, array)
    indices = np.random.default_rng(0).integers(0, len(array), 50)
    assert np.array_equal(images[indices], array[indices]) and images[indices[:0]].shape == (0, S, S, 3)
    for index in (0, -1, np.int64(1), slice(1, None), slice(None, None, -2), slice(5, 3)):
        assert np.array_equal(images[index], array[index])
    for index in (len(array), -len(array) - 1, np.array([0, len(array)])):
        with pytest.raises(IndexError):
            images[index]


def test_an_empty_file_among_others(tmp_path):
    paths, array = files(tmp_path, 2, 3)
    np.save(tmp_path / "none.npy", array[:0])
    assert np.array_equal(StoredImages([paths[0], tmp_path / "none.npy", paths[1]]), array)


def test_a_file_that_is_cut_while_it_is_open(tmp_path):
    paths, array = files(tmp_path, 2, 3)
    images = StoredImages(paths)
    os.truncate(paths[1], paths[1].stat().st_size - 1)
    assert np.array_equal(images[:4], array[:4])
    with pytest.raises(UnreadableError, match=r"1\.npy cannot be read: it ends before image 2$"):
        images[4]


def test_what_is_no_file_of_images(tmp_path):
    good, array = files(tmp_path, 2)
    for number, other in enumerate([array[..., 0], array[:, :-1], array[:, :16, :16], array.astype(np.int8), np.asfortranarray(array)]):
        np.save(tmp_path / f"bad{number}.npy", other)
        with pytest.raises(UnreadableError, match=rf"bad{number}\.npy cannot be read: .*expected uint8"):
            StoredImages([*good, tmp_path / f"bad{number}.npy"])
    with pytest.raises(UnreadableError, match="nowhere"):
        StoredImages([*good, tmp_path / "nowhere.npy"])


def memory() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="no Linux")
def test_memory_does_not_grow_with_what_is_read(tmp_path):
    count = 10**9 // (128 * 128 * 3)
    with open(tmp_path / "images.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (count, 128, 128, 3)})
        file.truncate(file.tell() + count * 128 * 128 * 3)  # 1 GB without a byte on the disk

    def grown(images) -> int:
        before = memory()
        for start in range(0, count // 4, 64):
            images[np.arange(start, start + 64) * 4 % count]
        return memory() - before

    assert grown(StoredImages([tmp_path / "images.npy"])) < 2e7
    assert grown(np.load(tmp_path / "images.npy", mmap_mode="r")) > 1e8  # a memory map fails this test


def test_files_are_closed_with_the_images(tmp_path):
    paths, _ = files(tmp_path, 1, 1, 1)
    gc.collect()
    before = len(os.listdir("/dev/fd"))
    images = StoredImages(paths)
    assert len(os.listdir("/dev/fd")) == before + 3
    del images
    gc.collect()
    assert len(os.listdir("/dev/fd")) == before
