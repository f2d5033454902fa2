"""The benchmark of the metrics; its figures are not judged here, but that it measures what it says."""

import json

import pytest

from benchmarks import metrics


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(metrics, "DIMENSION", 32)


@pytest.mark.slow
def test_it_prints_ratios_and_writes_a_record(tmp_path, capsys, monkeypatch):
    words = f"bench --repeats 1 --batch 2 --classes 3 --samples 2000 --json {tmp_path / 'record.json'}"
    monkeypatch.setattr("sys.argv", words.split())
    assert metrics.main() == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in printed] == [
        "memory", "features at 32 px", "features at 128 px", "Fréchet distance, cached reference",
        "intra-FID of 3 classes, 1300 real and 50 generated each",
    ]  # fmt: skip
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["extraction_32"]["relative_difference"] < 1e-5 and record["frechet"]["relative_difference"] < 1e-6
    assert record["extraction_32"]["ratio"] > 0.3 and record["memory"]["n"] == 2000 and record["versions"]["torch"]


def test_what_does_not_fit(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["bench", "--repeats", "0"])
    assert metrics.main() == 2 and "must be at least 1" in capsys.readouterr().err


def test_both_are_timed_in_turn():
    calls = []
    result = metrics.compare(lambda: calls.append("ours"), lambda: calls.append("theirs"), 3)
    assert calls == ["ours", "theirs"] * 4 and result["repeats"] == 3 and result["ratio"] > 0
