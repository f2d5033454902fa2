"""The benchmark of decoding, on tiny sizes."""

import json

import numpy as np
import pytest

from benchmarks import decoding
from benchmarks.decoding import Timed
from workbench.data.decode import decode


def run(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["bench", *words])
    return decoding.main()


def test_photos_have_the_shape_of_imagenet(tmp_path):
    paths = decoding.write_photos(tmp_path, 14)
    sizes = [(tmp_path / path).stat().st_size for path in paths]
    assert np.mean(sizes) == pytest.approx(110_000, rel=0.05) and len(set(sizes)) == 14


def test_pillow_does_the_same_work(tmp_path, monkeypatch):
    (path,) = decoding.write_photos(tmp_path, 1)
    seen = []
    monkeypatch.setattr(decoding.np, "asarray", lambda image: seen.append(np.array(image)))
    decoding.with_pillow([path], 32)
    monkeypatch.undo()
    assert np.array_equal(seen[0], decode((tmp_path / path).read_bytes(), 32))


def test_figures_are_those_of_the_timings(monkeypatch):
    """A method that takes twice the time of a core, in half the time, is half as good and twice as fast."""
    times = {"plain Pillow": Timed(4, 4), "1 thread": Timed(5, 5), "2 threads": Timed(2.5, 8), "2 processes": Timed(1, 2)}
    monkeypatch.setattr(decoding, "in_turn", lambda timers, rounds: {name: [times[name]] for name in timers})
    monkeypatch.setattr(decoding, "ProcessPoolExecutor", lambda *_: NoPool())
    results = decoding.decoding(["a.jpg"] * 20, 64, 2, 1)
    assert results["2 threads"] == dict(images_per_second=8, images_per_core_second=2.5, ratio=0.5, speed_up=2)
    assert results["2 processes"]["images_per_core_second"] == 10 and results["plain Pillow"]["ratio"] == 1


class NoPool:
    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def map(self, *arguments):
        return []


@pytest.mark.slow
def test_it_prints_ratios_and_writes_a_record(tmp_path, monkeypatch, capsys):
    words = ["--images", "2", "--rounds", "1", "--sizes", "64", "--workers", "2", "--json", str(tmp_path / "record.json")]
    assert run(monkeypatch, *words) == 0
    results = json.loads((tmp_path / "record.json").read_text())["sizes"]["64"]
    assert list(results) == ["plain Pillow", "1 thread", "2 threads", "2 processes"]
    assert all(0.05 < result["ratio"] < 5 and result["images_per_core_second"] > 0 for result in results.values())
    printed = capsys.readouterr().out
    assert f"2 processes   {results['2 processes']['images_per_core_second']:5.0f} images/s a core" in printed and "core-minutes" in printed


def test_what_does_not_fit(monkeypatch, capsys):
    assert run(monkeypatch, "--workers", "0") == 2 and "must be at least 1" in capsys.readouterr().err
