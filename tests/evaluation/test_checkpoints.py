import errno
import json
import os
from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from records import image_folder

from workbench import Evaluation, ParameterError, WorkbenchError, evaluate, figures, train
from workbench.evaluation import checkpoints, images
from workbench.files import StorageError
from workbench.metrics.protocols import require_comparable

QUICK = dict(n=60, reference_n=200)


def test_a_run_is_scored_with_the_small_classifier(run):
    (record,) = evaluate(run="one", **QUICK)
    assert record["step"] == 4 and record["n"] == 60 and record["seed"] == 0
    assert record["extractor"]["name"] == "twins" and not record["extractor"]["reference"]
    assert {name.partition("@")[0] for name in record["scores"]} == {
        "cs_twins", "cs_10splits_twins", "fd_twins", "precision_twins", "recall_twins", "density_twins", "coverage_twins",
        "intra_fd_n10_twins", "accuracy_twins", "twins_hue", "twins_size", "twins_height", "twins_angle", "twins_readable",
    }  # fmt: skip
    assert record["settings"]["weights"] == "ema" and "EMA weights" in record["protocol"]
    assert run.evaluations()[-1] == json.loads(json.dumps(record))


@pytest.mark.slow
def test_what_was_evaluated_is_not_evaluated_again(run, monkeypatch):
    (first,) = evaluate(run="one", scores="fd,cs", **QUICK)
    count, real = [], checkpoints.measure
    monkeypatch.setattr(checkpoints, "measure", lambda *a, **k: count.append(1) or real(*a, **k))
    assert evaluate(run="one", scores="fd", **QUICK) == [first] and not count
    records = evaluate(run="one", scores="fd", steps="all", **QUICK)
    assert [record["step"] for record in records] == [2, 4] and len(count) == 1  # step 4 is known
    for other in (
        dict(seed=1),
        dict(truncation=0.5),
        dict(weights="raw"),
        dict(scores="fd,truth"),
        dict(again=True),
        dict(protocol="biggan"),
    ):
        before = len(count)
        (record,) = evaluate(**dict(run="one", scores="fd", **QUICK) | other)
        assert len(count) == before + 1 and record["scores"]
    # The same seed gives the same scores, another one others.
    values = [r["scores"] for r in run.evaluations() if r["step"] == 4 and r["settings"] == first["settings"] and r["seed"] == 0]
    name = next(name for name in first["scores"] if name.startswith("fd"))
    assert len(values) == 3 and len({value[name] for value in values}) == 1


def test_steps(run):
    assert [r["step"] for r in evaluate(run="one", steps="2,4", scores="fd", **QUICK)] == [2, 4]
    assert Evaluation(steps="4, 2,4,").steps == "4,2" and Evaluation(steps=2.0).steps == "2" and Evaluation(steps="0002").steps == "2"
    assert Evaluation(steps=[2, 4]).steps == "2,4" and Evaluation(steps=2).steps == "2" and Evaluation(steps="[2]").steps == "2"
    with pytest.raises(WorkbenchError, match="has no checkpoint at step 3; there are: 2, 4"):
        evaluate(run="one", steps=3, **QUICK)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (dict(run="on"), "there is no run 'on'.*did you mean 'one'"),
        *((dict(steps=steps), "steps=.* is not") for steps in ("", ",", "²", "٣", "-1", "1-3", "2,x", "9" * 400, [], True, "last,2")),
        (dict(steps=10**17), "has no checkpoint at step 100000000000000000"),
        (dict(n=10**12), r"n=1,000,000,000,000 and reference_n=50,000 need [\d,.]+ GB of memory; [\d,.]+ GB are free"),
        (dict(reference_n=10**12), r"reference_n=1,000,000,000,000 need [\d,.]+ GB of memory"),
        (dict(reference_n=1), "at least 2 real images"),
        (dict(batch_size=10**9), "batch_size=1000000000 is not in range; allowed: at least 1 and at most 256"),
        (dict(num_processes=10**6), "num_processes=1,000,000 is too many for this machine"),
        (dict(seed=-1), "seed=-1 is not in range"),
        (dict(truncation=float("nan")), "truncation=nan is not a number"),
        (dict(extractor="sys:exit"), "extractor='sys:exit' is of type builtin_function_or_method"),
        (dict(steps="newest"), 'steps=\'newest\' is not "last", "all", or steps such as 500,1000'),
        (dict(protocol="offical"), "did you mean 'official'"),
        (dict(n=1), "n=1 is not in range; allowed: at least 2"),
        (dict(scores="fid", **QUICK), "scores='fid' is defined by the reference Inception"),
        (dict(scores="kd", **QUICK), "scores='kd' cannot be computed: needs 1,000 images of either side; there are 60"),
        (dict(extractor="inception"), "Inception weights are missing and could not be downloaded"),
        (dict(extractor="incepton"), "is not known; use inception, twins"),
        (dict(weights="emma"), "allowed: one of ema, raw, auto"),
        (dict(samples="x", data="y", run="one"), "samples='x' does not go with run and steps"),
        (dict(samples="x"), "samples='x' needs data"),
        (dict(image_size=64), "image_size=64 goes with samples"),
        (dict(nn=5), "unknown parameter 'nn'; did you mean 'n'"),
        (dict(data="nowhere"), "there is no such folder"),
    ],
)
def test_invalid_parameters_are_refused_in_one_line(run, given, says, monkeypatch):
    def no_network(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(WorkbenchError, match=says) as error:
        evaluate(**{"run": "one"} | given if "samples" not in given else given)
    assert "\n" not in str(error.value)
    assert not run.evaluations()


@pytest.mark.slow
@pytest.mark.parametrize("options", [dict(seed=10**17), dict(truncation=1e-300), dict(truncation=1e300, statistics="running")])
def test_extreme_but_valid_numbers_are_accepted(run, options):
    (record,) = evaluate(run="one", scores="cs", **QUICK, **options)
    assert all(np.isfinite(value) for value in record["scores"].values())


def test_scores_left_out_are_reported_wherever_scores_are_shown(run, main):
    """KID of fewer than 1,000 images, for example."""
    (record,) = evaluate(run="one", **QUICK)
    assert record["left_out"] == {"kd": "needs 1,000 images of either side; there are 60"}
    assert run.evaluations()[-1]["left_out"] == record["left_out"]
    assert any("kd (needs 1,000" in note for note in figures.score_table([record]).notes)
    code, out, _ = main("-p", "run", "one", "-p", "n", 60, "-p", "reference_n", 200)
    assert code == 0 and "left out: kd (needs 1,000 images of either side; there are 60)" in out
    # A score that was left out does not count as computed.
    assert not checkpoints.covers(record, 4, 0, record, {"kid"}, SimpleNamespace(reference=False))
    assert checkpoints.covers(record, 4, 0, record, {"fid"}, SimpleNamespace(reference=False))


def test_requested_scores_that_cannot_be_computed_are_refused_first(run, monkeypatch):
    monkeypatch.setattr(images, "reference", lambda *a, **k: pytest.fail("real images are measured"))
    for scores, says in {"kd": "1,000 images", "fd,intra_fd": "rarest class has 1 of 10 samples"}.items():
        with pytest.raises(ParameterError, match=says):
            evaluate(run="one", scores=scores, n=10, reference_n=200)


def test_the_protocol_names_the_number_of_real_images(run, tmp_path):
    (record,) = evaluate(run="one", data=image_folder(tmp_path / "real", 10, 0), scores="fd", n=60)
    assert "against 20 real images" in record["protocol"] and record["reference"]["n"] == 20
    assert "20 real images" not in record["protocol"].partition(": ")[0] and "50,000" not in record["protocol"]
    (other,) = evaluate(run="one", scores="fd", **QUICK)
    assert "against 200 real images" in other["protocol"]
    with pytest.raises(WorkbenchError, match="cannot be compared"):
        require_comparable([record, other])


def test_an_evaluation_only_writes_records_into_a_run(trained_once):
    run = trained_once(run="one", checkpoint_every=2)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    evaluate(run="one", scores="fd", steps="all", **QUICK)
    after = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    assert after.keys() - before.keys() == {run.path / "evaluations.jsonl"} and all(after[path] == before[path] for path in before)


def test_a_full_disk_is_reported_and_the_record_written_later(run, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(StorageError, match=r"evaluations\.jsonl cannot be written: No space left") as error:
        patch.setattr(os, "write", full)
        evaluate(run="one", scores="fd", **QUICK)
    assert "\n" not in str(error.value) and not run.evaluations()
    assert evaluate(run="one", scores="fd", **QUICK) == run.evaluations()


def test_variables_of_a_cluster_change_nothing(run, monkeypatch, main):
    for name, value in dict(WORLD_SIZE="2", RANK="1", LOCAL_RANK="1", MASTER_ADDR="nowhere", MASTER_PORT="1").items():
        monkeypatch.setenv(name, value)
    code, out, error = main("-p", "run", "one", "-p", "n", 60, "-p", "reference_n", 200, "-p", "scores", "fd")
    assert code == 0 and "fd_twins@" in out, error


def test_only_json_goes_to_stdout(run, main, monkeypatch, tmp_path):
    (tmp_path / "talkative.py").write_text(
        "import torch\nprint('imported')\nclass Mean(torch.nn.Module):\n"
        "    def forward(self, x):\n        print('called')\n        return x.mean((2, 3))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    words = ["-p", "run", "one", "-p", "n", 60, "-p", "reference_n", 50, "-p", "steps", "all", "-p", "extractor", "talkative:Mean"]
    code, out, error = main(*words, "--json")
    assert code == 0 and "called" in error and "60 of 60 images of step 2" in error
    assert [json.loads(line)["step"] for line in out.splitlines()] == [2, 4]


def test_without_a_run():
    with pytest.raises(WorkbenchError, match="there is no run with a checkpoint yet"):
        evaluate()


@pytest.mark.slow
def test_a_run_without_ema(tiny):
    train(tiny(run="plain", ema_decay=0))
    (record,) = evaluate(run="plain", scores="fd", **QUICK)
    assert record["settings"]["weights"] == "raw"
    with pytest.raises(WorkbenchError, match="has no EMA"):
        evaluate(run="plain", weights="ema", **QUICK)


def test_help_explains_every_parameter(main, capsys):
    with pytest.raises(SystemExit) as end:
        main("--help")
    out = capsys.readouterr().out
    assert end.value.code == 0
    for field in fields(Evaluation):
        assert f"\n{field.name} " in out
