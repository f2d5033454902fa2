import errno
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn

from workbench import WorkbenchError
from workbench.data import twins
from workbench.files import StorageError
from workbench.metrics import references
from workbench.metrics.extractors import Extractor
from workbench.metrics.protocols import PROTOCOLS
from workbench.metrics.references import reference

PIXELS = PROTOCOLS["official"].to_pixels


class Corners(nn.Module):
    """Four pixels of an image as its features; counts how many images it saw."""

    def __init__(self):
        super().__init__()
        self.scale, self.seen = nn.Parameter(torch.ones(12)), 0

    def forward(self, x):
        self.seen += len(x)
        return x[:, :, [0, -1]][..., [0, -1]].flatten(1) * self.scale


class Listed:
    """A data set of 600 images in the order of their classes."""

    name, length, size, fingerprint = "listed", 600, 32, "abc"

    def batch(self, indices):
        return torch.stack([torch.full((3, 32, 32), i % 256, dtype=torch.uint8) for i in indices]), torch.as_tensor(
            np.asarray(indices) // 100
        )


def entries(folder):
    return sorted(path.name for path in (folder / "data" / "cache").glob("reference-*") if not path.name.endswith(".lock"))


def test_statistics_are_those_of_the_features():
    data, extractor = twins.Twins(32), Extractor(Corners())
    found = reference(data, 300, extractor, PIXELS)
    features = extractor(PIXELS(data.batch(np.arange(300))[0]))[0].double().numpy()
    assert found.moments.n == 300
    assert np.allclose(found.moments.mean, features.mean(0), rtol=1e-12)
    assert np.allclose(found.moments.covariance, np.cov(features, rowvar=False), rtol=1e-10)
    assert np.allclose(found.factor @ found.factor.T, found.moments.covariance, atol=1e-6)
    assert np.array_equal(found.features, features.astype(np.float32))
    assert np.array_equal(found.labels, data.batch(np.arange(300))[1]) and np.array_equal(found.indices, np.arange(300))
    assert found.facts["n"] == len(found.features) == 300 and found.facts["data"] == "twins"


def test_it_is_computed_once_for_each_extractor_data_size_number_and_treatment(folders):
    extractor = Extractor(Corners())
    reference(twins.Twins(32), 100, extractor, PIXELS)
    reference(twins.Twins(32), 100, extractor, PIXELS)
    assert extractor.network.seen == 100 and len(entries(folders)) == 1
    other = Corners()
    other.scale.data *= 2
    for data, n, by, pixels in (
        (twins.Twins(64), 100, extractor, PIXELS),
        (twins.Twins(32, seed=1), 100, extractor, PIXELS),
        (twins.Twins(32), 101, extractor, PIXELS),
        (twins.Twins(32), 100, Extractor(other), PIXELS),
        (twins.Twins(32), 100, extractor, PROTOCOLS["torch-fidelity"].to_pixels),
    ):
        before = len(entries(folders))
        reference(data, n, by, pixels)
        assert len(entries(folders)) == before + 1
    # What comes to the same is the same.
    reference(twins.Twins(32), 100, extractor, PROTOCOLS["biggan"].to_pixels)
    assert len(entries(folders)) == 6


def test_of_a_longer_data_set_a_fixed_draw_is_taken():
    found = reference(Listed(), 200, Extractor(Corners()), PIXELS)
    assert len(set(found.indices)) == 200 and (np.diff(found.indices) > 0).all() and found.indices.max() > 500
    assert np.array_equal(found.labels, found.indices // 100)
    assert reference(Listed(), 0, Extractor(Corners()), PIXELS).facts["n"] == 600


def test_features_of_a_part_are_kept_unless_all_are_needed(monkeypatch):
    monkeypatch.setattr(references, "KEPT", 300)
    part, everything = (reference(Listed(), 0, Extractor(Corners()), PIXELS, keep_all=keep) for keep in (False, True))
    assert (len(part.features), len(everything.features)) == (300, 600) and part.moments.n == everything.moments.n == 600
    assert np.array_equal(part.features, everything.features[part.indices]) and np.array_equal(part.labels, part.indices // 100)
    assert torch.equal(part.moments.mean, everything.moments.mean)


def test_too_few_images():
    with pytest.raises(WorkbenchError, match="reference_n=601, but listed has 600 images"):
        reference(Listed(), 601, Extractor(Corners()), PIXELS)
    with pytest.raises(WorkbenchError, match="twins has no end"):
        reference(twins.Twins(32), 0, Extractor(Corners()), PIXELS)


def test_a_cache_that_cannot_be_written(folders):
    (folders / "data").mkdir()
    (folders / "data" / "cache").write_text("a file where a folder should be")
    with pytest.raises(WorkbenchError, match=r"cannot be written: .*WORKBENCH_DATA"):
        reference(twins.Twins(32), 100, Extractor(Corners()), PIXELS)


def damages():
    """Ways to damage a file at random places, by name."""
    return {
        "cut": lambda content: content[: len(content) // 2],
        "empty": lambda content: b"",
        "zeroed": lambda content: bytes(len(content)),
        "flipped": lambda content: content[:-3] + bytes([content[-3] ^ 4]) + content[-2:],
        "other": lambda content: b"something else",
        "longer": lambda content: content + b"\0",
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *((name, damage) for name in ("SHA256SUMS", "features.npy") for damage in (*damages(), "deleted", "folder", "fifo")),
        *((name, damage) for name in sorted(references.FILES - {"features.npy"}) for damage in ("flipped", "deleted")),
        ("SHA256SUMS", "a line less"),
    ],
)
def test_a_damaged_cache_is_computed_again_and_that_is_said(name, damage, folders, capsys):
    extractor = Extractor(Corners())
    first = reference(twins.Twins(32), 20, extractor, PIXELS)
    whole = {path.name: path.read_bytes() for path in first.folder.iterdir()}
    path = first.folder / name
    if damage in damages():
        path.write_bytes(damages()[damage](whole[name]))
    elif damage == "a line less":  # a list that is cut between two lines is a list of fewer files
        path.write_bytes(b"".join(whole[name].splitlines(keepends=True)[:-1]))
    else:
        path.unlink()
        if damage != "deleted":
            path.mkdir() if damage == "folder" else os.mkfifo(path)
    again = reference(twins.Twins(32), 20, extractor, PIXELS)
    assert {path.name: path.read_bytes() for path in again.folder.iterdir()} == whole and extractor.network.seen == 40
    told = capsys.readouterr().err
    assert (
        told.startswith(str(first.folder))
        and " cannot be read: " in told
        and told.endswith("are computed again\n")
        and told.count("\n") == 1
    )
    assert len(entries(folders)) == 1


def test_something_else_in_the_place_of_the_cache_is_replaced(folders, tmp_path):
    extractor = Extractor(Corners())
    folder = reference(twins.Twins(32), 20, extractor, PIXELS).folder
    (tmp_path / "own").mkdir()
    for put in (lambda: folder.write_text("a file"), lambda: folder.symlink_to("nowhere"), lambda: folder.symlink_to(tmp_path / "own")):
        shutil.rmtree(folder) if not folder.is_symlink() else folder.unlink()
        put()
        assert reference(twins.Twins(32), 20, extractor, PIXELS).moments.n == 20
    assert (tmp_path / "own").is_dir() and len(entries(folders)) == 1 and not list((folders / "data" / "cache").glob(".*"))


def test_a_full_disk_is_told_in_one_line_and_leaves_nothing(folders, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in ("write_array_header_1_0", "save"):
        with monkeypatch.context() as patch, pytest.raises(StorageError, match=r"No space left on device.*make room") as error:
            patch.setattr(np.lib.format if name != "save" else np, name, full)
            reference(twins.Twins(32), 20, Extractor(Corners()), PIXELS)
        assert "\n" not in str(error.value) and entries(folders) == []


def test_all_processes_are_told_once_what_to_do(monkeypatch):
    """The folder may appear between two looks at it: then one process would measure and the others not."""
    told = []
    monkeypatch.setattr(references, "everywhere", lambda value: told.append(value) or value)
    extractor = Extractor(Corners())
    reference(twins.Twins(32), 20, extractor, PIXELS)
    reference(twins.Twins(32), 20, extractor, PIXELS)
    assert told == [False, True]
    looks = iter([False, True])
    monkeypatch.setattr(references, "_is_intact", lambda folder, name: next(looks))
    reference(twins.Twins(32), 20, extractor, PIXELS)
    assert told[2:] == [False] and extractor.network.seen == 40  # it measured, as it told the others


def test_an_error_half_way_leaves_nothing(folders):
    class Breaking(Corners):
        def forward(self, x):
            if self.seen > 300:
                raise KeyboardInterrupt
            return super().forward(x)

    with pytest.raises(KeyboardInterrupt):
        reference(twins.Twins(32), 600, Extractor(Breaking()), PIXELS)
    assert entries(folders) == []


SLOW = """
import time, torch
from torch import nn
from workbench.data import twins
from workbench.metrics.extractors import Extractor
from workbench.metrics.references import reference
class Slow(nn.Module):
    def forward(self, x):
        print(len(x), flush=True)
        time.sleep(0.2)
        return x.mean((2, 3))
reference(twins.Twins(32), 5000, Extractor(Slow()), lambda x: x.float())
"""


@pytest.mark.slow
def test_killed_half_way_leaves_no_half_cache(folders):
    process = subprocess.Popen([sys.executable, "-c", SLOW], stdout=subprocess.PIPE, text=True)
    for _ in range(6):
        assert process.stdout.readline()
    process.kill()
    process.wait()
    time.sleep(0.1)
    (left,) = (folders / "data" / "cache").glob(".reference-*.part-*")
    assert left.is_dir() and entries(folders) == []  # nothing that would be taken for statistics
