import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn

from workbench import WorkbenchError, twins
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
    assert found.facts["n"] == found.facts["kept"] == 300 and found.facts["data"] == "twins"


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
    (folders / "data").write_text("a file where a folder should be")
    with pytest.raises(WorkbenchError, match=r"cannot be written to .*WORKBENCH_DATA"):
        reference(twins.Twins(32), 100, Extractor(Corners()), PIXELS)


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
from workbench import twins
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
    (left,) = entries(folders)
    assert ".part-" in left  # nothing that would be taken for statistics
