import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from records import image_folder, of_folders
from torch import nn

from workbench import Evaluation, ParameterError, WorkbenchError, evaluate, figures, processes, train
from workbench.data import twins
from workbench.evaluation import Samples, best_and_worst_classes, during_training, nearest_real
from workbench.evaluation import checkpoints as evaluation
from workbench.files import StorageError
from workbench.metrics.protocols import protocol, require_comparable
from workbench.model import sampling

QUICK = dict(n=60, reference_n=200)


@pytest.fixture
def run(trained_once):
    return trained_once(run="one", checkpoint_every=2)


def command(*words):
    """Exit status, output and errors of `python -m workbench.evaluation`, in a process of its own."""
    words = [sys.executable, "-m", "workbench.evaluation", *map(str, words)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=200)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def main(monkeypatch, capsys):
    """The same from what it calls, in this process."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["evaluation", *map(str, words)])
        return evaluation.main(), *capsys.readouterr()

    return call


def test_a_run_is_scored_with_the_small_classifier(run):
    (record,) = evaluate(run="one", **QUICK)
    assert record["step"] == 4 and record["n"] == 60 and record["seed"] == 0
    assert record["extractor"]["name"] == "twins" and not record["extractor"]["reference"]
    assert {name.partition("@")[0] for name in record["scores"]} == {
        "cs_twins", "cs_10splits_twins", "fd_twins", "precision_twins", "recall_twins", "density_twins", "coverage_twins",
        "intra_fd_n10_twins", "accuracy_twins", "twins_hue", "twins_size", "twins_height", "twins_angle", "twins_readable",
    }  # fmt: skip
    assert record["settings"]["weights"] == "ema" and "averaged weights" in record["protocol"]
    assert run.evaluations()[-1] == json.loads(json.dumps(record))


def test_what_was_evaluated_is_not_evaluated_again(run, monkeypatch):
    (first,) = evaluate(run="one", scores="fd,cs", **QUICK)
    count, real = [], evaluation.measure
    monkeypatch.setattr(evaluation, "measure", lambda *a, **k: count.append(1) or real(*a, **k))
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
        (dict(n=10**12), r"n=1,000,000,000,000 and reference_n=50,000 need [\d,.]+ GB of memory, and [\d,.]+ GB are free"),
        (dict(reference_n=10**12), r"reference_n=1,000,000,000,000 need [\d,.]+ GB of memory"),
        (dict(reference_n=1), "at least 2 real images"),
        (dict(batch_size=10**9), "batch_size=1000000000 is not in range; allowed: at least 1 and at most 256"),
        (dict(num_processes=10**6), "num_processes=1,000,000 is more than there is work for here"),
        (dict(seed=-1), "seed=-1 is not in range"),
        (dict(truncation=float("nan")), "truncation=nan is not a number"),
        (dict(extractor="sys:exit"), "extractor='sys:exit' is of type builtin_function_or_method"),
        (dict(steps="newest"), 'steps=\'newest\' is not "last", "all", or steps such as 500,1000'),
        (dict(protocol="offical"), "did you mean 'official'"),
        (dict(n=1), "n=1 is not in range; allowed: at least 2"),
        (dict(scores="fid", **QUICK), "scores='fid' is defined by the reference Inception"),
        (dict(scores="kd", **QUICK), "scores='kd' cannot be computed: it takes 1,000 images of either side, and there are 60"),
        (dict(extractor="inception"), "Inception weights are not there, and could not be downloaded"),
        (dict(extractor="incepton"), "is not known; use inception, twins"),
        (dict(weights="emma"), "allowed: one of ema, raw, auto"),
        (dict(samples="x", data="y", run="one"), "samples='x' does not go with run and steps"),
        (dict(samples="x"), "samples='x' needs data"),
        (dict(image_size=64), "image_size=64 goes with samples"),
        (dict(nn=5), "unknown parameter 'nn'; did you mean 'n'"),
        (dict(data="nowhere"), "there is no such folder"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(run, given, says, monkeypatch):
    def no_network(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(WorkbenchError, match=says) as error:
        evaluate(**{"run": "one"} | given if "samples" not in given else given)
    assert "\n" not in str(error.value)
    assert not run.evaluations()


@pytest.mark.parametrize("options", [dict(seed=10**17), dict(truncation=1e-300), dict(truncation=1e300, statistics="running")])
def test_extreme_numbers_that_make_sense_are_taken(run, options):
    (record,) = evaluate(run="one", scores="cs", **QUICK, **options)
    assert all(np.isfinite(value) for value in record["scores"].values())


def test_what_cannot_be_computed_is_said_wherever_scores_are_shown(run, main):
    """KID of fewer than 1,000 images was left out without a word."""
    (record,) = evaluate(run="one", **QUICK)
    assert record["left_out"] == {"kd": "it takes 1,000 images of either side, and there are 60"}
    assert run.evaluations()[-1]["left_out"] == record["left_out"]
    assert any("kd (it takes 1,000" in note for note in figures.score_table([record]).notes)
    code, out, _ = main("-p", "run", "one", "-p", "n", 60, "-p", "reference_n", 200)
    assert code == 0 and "left out: kd (it takes 1,000 images of either side, and there are 60)" in out
    # What was left out is not taken for computed when there is enough for it.
    assert not evaluation._answers(record, 4, 0, record, {"kid"}, SimpleNamespace(reference=False))
    assert evaluation._answers(record, 4, 0, record, {"fid"}, SimpleNamespace(reference=False))


def test_what_cannot_be_computed_is_refused_before_anything_is(run, monkeypatch):
    monkeypatch.setattr(evaluation, "reference", lambda *a, **k: pytest.fail("real images are measured"))
    for scores, says in {"kd": "1,000 images", "fd,intra_fd": "rarest class has 1 of 10 samples"}.items():
        with pytest.raises(ParameterError, match=says):
            evaluate(run="one", scores=scores, n=10, reference_n=200)


def test_the_protocol_says_how_many_real_images_there_were(run, tmp_path):
    (record,) = evaluate(run="one", data=image_folder(tmp_path / "real", 10, 0), scores="fd", n=60)
    assert "against 20 real images" in record["protocol"] and record["reference"]["n"] == 20
    assert "20 real images" not in record["protocol"].partition(": ")[0] and "50,000" not in record["protocol"]
    (other,) = evaluate(run="one", scores="fd", **QUICK)
    assert "against 200 real images" in other["protocol"]
    with pytest.raises(WorkbenchError, match="do not compare"):
        require_comparable([record, other])


def test_an_evaluation_writes_into_a_run_by_its_records_alone(trained_once):
    run = trained_once(run="one", checkpoint_every=2)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    evaluate(run="one", scores="fd", steps="all", **QUICK)
    after = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    assert after.keys() - before.keys() == {run.path / "evaluations.jsonl"} and all(after[path] == before[path] for path in before)


def test_a_full_disk_is_told_and_the_record_is_written_when_there_is_room(run, monkeypatch):
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


def test_json_is_all_that_goes_to_stdout(run, main, monkeypatch, tmp_path):
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


def test_a_run_without_average(tiny):
    train(tiny(run="plain", ema_decay=0))
    (record,) = evaluate(run="plain", scores="fd", **QUICK)
    assert record["settings"]["weights"] == "raw"
    with pytest.raises(WorkbenchError, match="keeps no EMA"):
        evaluate(run="plain", weights="ema", **QUICK)


# ----------------------------------------------------------------------------------------------------- sampling


def test_samples_are_functions_of_their_index(run):
    samples = Samples(run.generator(), protocol("official"), seed=3, batch_size=7)
    x, y = samples(0, 300)
    part, classes = samples(250, 20)
    assert torch.equal(classes, y[250:270]) and (part - x[250:270]).abs().max() < 1e-5
    assert torch.equal(y[:7], torch.tensor([0, 1, 2, 3, 4, 5, 0]))
    z = sampling.latents(300, run.config.z_dim, 3)
    assert (sampling.images(run.generator(), z, y) - x).abs().max() < 1e-5


def test_statistics_and_truncation_are_options_that_change_images(run):
    def images(**changes):
        return Samples(run.generator(), protocol("official", **changes), seed=0, batch_size=64)(0, 64)[0]

    plain = images()
    for changes in (dict(statistics="standing"), dict(statistics="batch"), dict(truncation=0.3)):
        assert (images(**changes) - plain).abs().max() > 1e-3
        assert torch.equal(images(**changes), images(**changes))
    # Batch statistics are those of 64 images, whatever the batch size.
    generator, seen = run.generator(), []
    generator.norm.register_forward_hook(lambda module, inputs, output: seen.append((len(inputs[0]), module.training)))
    Samples(generator, protocol("official", statistics="batch"), seed=0, batch_size=5)(0, 128)
    assert seen == [(64, True)] * 2


def test_truncation_re_estimates_the_statistics_unless_told_otherwise():
    assert Evaluation(truncation=0.5).resolved_protocol(6).statistics == "standing"
    assert Evaluation(truncation=0.5, statistics="running").resolved_protocol(6).statistics == "running"
    assert Evaluation().resolved_protocol(6).statistics == "running"
    assert Evaluation(protocol="biggan", truncation=0.5).resolved_protocol(6).standing_batches == 100


def test_images_per_class_decide_n():
    assert Evaluation(protocol="sngan-projection").resolved_protocol(10).n == 50_000
    assert Evaluation(protocol="sngan-projection").resolved_protocol(1000).n == 5_000_000
    assert Evaluation(protocol="sngan-projection", n=100).resolved_protocol(10).n == 100


# ------------------------------------------------------------------------------------------------- what is looked at


def test_best_and_worst_classes(run):
    settings = Evaluation(run="one", **QUICK)
    (record,) = evaluate(settings)
    rows = best_and_worst_classes(settings, record, count=2, columns=3)
    name = next(name for name in record["per_class"] if name.startswith("intra"))
    order = np.argsort(record["per_class"][name])
    assert [label.partition("\n")[0] for label, _ in rows] == [twins.CLASSES[k] for k in [*order[:2], *order[-2:]]]
    assert all(images.shape == (3, 3, 32, 32) for _, images in rows)


def test_nearest_real_images_are_found(run, monkeypatch):
    """A generator that repeats training images is caught: its samples are their own neighbours, at distance 0."""
    settings = Evaluation(run="one", **QUICK)
    rows, told = nearest_real(settings, count=2, neighbours=3, among=64)
    assert len(rows) == 2 and all(images.shape == (4, 3, 32, 32) for _, images in rows)
    assert "from 64 samples" in told and "of 200 real images" in told

    def repeats(self, start, count):
        x, y = twins.Twins(32).batch(np.arange(start + 5, start + 5 + count))
        return x.float() / 127.5 - 1, y

    monkeypatch.setattr(Samples, "__call__", repeats)
    rows, told = nearest_real(settings, count=2, neighbours=3, among=64)
    for _, images in rows:
        assert (images[0] - images[1]).abs().max() < 0.01 and (images[0] - images[2]).abs().max() > 0.1


# ------------------------------------------------------------------------------------------------- during training


def test_training_evaluates(tiny):
    config = tiny(evaluate_every=2, evaluate_n=30)
    run = train(config, during_training(config))
    assert [record["step"] for record in run.evaluations()] == [2, 4]
    record = run.evaluations()[-1]
    assert {name.partition("@")[0] for name in record["scores"]} >= {"fd_twins", "cs_twins", "twins_hue"}
    # The same numbers as an evaluation of the checkpoint by the same protocol.
    (again,) = evaluate(run=run.name, scores="fd,cs,truth", n=30, reference_n=300)
    for name, value in again["scores"].items():
        assert value == pytest.approx(record["scores"][name], rel=1e-4)


def test_an_extractor_that_is_missing_is_told_before_training(tiny):
    with pytest.raises(ParameterError, match="is not known"):
        during_training(tiny(evaluate_every=2, evaluate_extractor="nothing"))


def test_an_evaluation_that_cannot_work_is_told_before_training(tiny, tmp_path, monkeypatch):
    (tmp_path / "networks_of_mine.py").write_text(
        "import torch\nclass Fails(torch.nn.Module):\n    def forward(self, x): raise SystemExit\n"
        "class Plain(torch.nn.Module):\n    def forward(self, x): return x.mean((2, 3))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(WorkbenchError, match=r"'fails' cannot take images of shape.*SystemExit"):
        during_training(tiny(evaluate_every=2, evaluate_extractor="networks_of_mine:Fails"))
    with pytest.raises(ParameterError, match=r"evaluate_n=1,000,000,000,000 and .* need [\d,.]+ GB of memory"):
        during_training(tiny(evaluate_every=2, evaluate_n=10**12))
    config = tiny(evaluate_every=2, evaluate_n=30, evaluate_extractor="networks_of_mine:Plain")  # which has no logits
    (record,) = [during_training(config)(train(tiny(run="short")).generator(), 4)]
    assert next(iter(record["scores"])).startswith("fd_plain@") and "gives no logits" in record["left_out"]["cs"]


# ------------------------------------------------------------------------------------------------- folders of images


class Mean(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)) / 255


def test_more_images_than_there_are_are_refused_where_they_are_asked_for(run, tmp_path):
    """The protocol's numbers are as many as there are; numbers that were given were cut without a word."""
    a, b = image_folder(tmp_path / "a", 6, 0), image_folder(tmp_path / "b", 7, 1)
    assert (of_folders(a, b)["n"], of_folders(a, b, n=12, reference_n=14)["reference"]["n"]) == (12, 14)
    for given, says in (
        (dict(n=100), "n=100, but samples, a, has 12 images"),
        (dict(reference_n=15), "reference_n=15, but data, b, has 14 images"),
    ):
        with pytest.raises(ParameterError, match=f"^{says}: give at most that"):
            of_folders(a, b, **given)
    with pytest.raises(ParameterError, match=r"^reference_n=1000, but data, b, has 14 images"):
        evaluate(run="one", data=b, n=60, reference_n=1000)
    assert of_folders(a, "twins", n=5, reference_n=100)["reference"]["n"] == 100


def test_a_long_value_is_not_printed_in_full():
    for given in (
        dict(samples="x" * 5000),
        dict(samples="x" * 5000, data="y", run="one"),
        dict(protocol="x" * 5000),
        dict(steps="x" * 5000),
    ):
        with pytest.raises(ParameterError) as error:
            Evaluation(**given)
        assert "x..." in str(error.value) and len(str(error.value)) < 500
    for name in ("samples", "extractor", "scores", "data"):
        with pytest.raises(WorkbenchError) as error:
            evaluate(**dict(samples="twins", data="twins", reference_n=50, n=50, extractor="twins") | {name: "x" * 5000})
        assert len(str(error.value)) < 1100, name


def test_a_run_is_scored_against_a_flat_folder(run, tmp_path):
    (tmp_path / "flat").mkdir()
    for k in range(12):
        Image.new("RGB", (40, 40), (k, 0, 0)).save(tmp_path / "flat" / f"{k}.png")
    (record,) = evaluate(run="one", data=str(tmp_path / "flat"), n=60)
    assert (
        "against 12 real images" in record["protocol"] and "of the real images flat has no class folders" in record["left_out"]["intra_fd"]
    )


def test_a_run_is_scored_by_the_names_of_its_classes(tiny, tmp_path):
    given = dict(evaluate_every=0, checkpoint_every=2, steps=2)
    first = image_folder(tmp_path / "a", 8, 0, ("ant", "bee", "cat"))
    run = train(tiny(run="zoo", data=first, num_classes=3, **given))
    options = dict(run="zoo", extractor="twins", n=30)
    assert any(name.startswith("intra_fd") for name in evaluate(**options)[0]["scores"])
    for other in (image_folder(tmp_path / "b", 8, 0, ("bee", "cat", "dog")), image_folder(tmp_path / "c", 8, 0, ("ant", "bee"))):
        (record,) = evaluate(**options, data=other)
        assert "differ" in record["left_out"]["intra_fd"] and not any(name.startswith("intra") for name in record["scores"])
        with pytest.raises(ParameterError, match="scores='intra_fd' cannot be computed: the classes"):
            evaluate(**options, data=other, scores="intra_fd")
    # The data may have changed in its place, too: what counts is what the run was trained with.
    (tmp_path / "a" / "ant").rename(tmp_path / "a" / "dog")
    assert "'ant' of the samples alone" in evaluate(**options)[0]["left_out"]["intra_fd"]
    (run.path / "provenance.json").write_text("{")
    assert "are not known" in evaluate(**options, again=True)[0]["left_out"]["intra_fd"]


@pytest.mark.slow
def test_a_folder_is_scored_against_another_from_the_command_line(tmp_path, inception_file, main):
    a, b = image_folder(tmp_path / "a", 6, 0), image_folder(tmp_path / "b", 7, 1)
    words = ["-p", "samples", a, "-p", "data", b, "-p", "protocol", "torch-fidelity", "-p", "weights_file", inception_file]
    code, out, error = main(*words)
    assert code == 2 and error.startswith("WorkbenchError: ") and "is not the reference Inception" in error and error.count("\n") == 1
    code, out, error = command(*words, "-p", "verify_weights", "false", "--json")
    assert code == 0, error
    record = json.loads(out.splitlines()[-1])
    assert record["n"] == 12 and record["reference"]["n"] == 14
    scores = {name.partition("@")[0]: value for name, value in record["scores"].items()}
    assert scores["fd_inception"] > 0 and 1 <= scores["cs_inception"] < 1008 and scores["intra_fd_n6_inception"] > 0
    code, out, error = main(*words, "-p", "verify_weights", "false", "-p", "scores", "fd")
    assert code == 0 and "fd_inception@" in out and "torch-fidelity (but n=12)" in out


def test_a_folder_is_scored_in_an_order_of_its_own(tmp_path, monkeypatch):
    """Class by class, splits of the class score would hold one class each."""
    a = image_folder(tmp_path / "a", 20, 0)
    seen = []
    real = evaluation.measure
    monkeypatch.setattr(evaluation, "measure", lambda images_of, *r, **k: seen.append(images_of(0, 40)[1]) or real(images_of, *r, **k))
    (record,) = evaluate(samples=a, data=image_folder(tmp_path / "b", 4, 1), extractor="twins", scores="cs")
    assert record["n"] == 40 and 5 < seen[0][:20].sum() < 15 and seen[0].sum() == 20


# ------------------------------------------------------------------------------------------------- many processes


@pytest.mark.slow
def test_several_processes_give_the_same_scores(run):
    (one,) = evaluate(run="one", n=600, reference_n=600)
    for path in (run.path.parent.parent / "data" / "cache").glob("reference-*"):
        path.unlink() if path.is_file() else [f.unlink() for f in path.iterdir()] and path.rmdir()  # statistics are made again
    (two,) = evaluate(run="one", n=600, reference_n=600, num_processes=2, again=True)
    assert two["scores"].keys() == one["scores"].keys()
    for name, value in two["scores"].items():
        assert value == pytest.approx(one["scores"][name], rel=1e-9, abs=1e-12)
    assert len(run.evaluations()) == 2
    with pytest.raises(WorkbenchError, match="scores='fid' is defined by the reference Inception") as error:
        evaluate(run="one", num_processes=2, scores="fid")
    assert "\n" not in str(error.value)


NETWORKS = """
import os, signal, sys, time, torch
class Network(torch.nn.Module):
    seen = 0
    def forward(self, x):
        self.seen += len(x)
        if self.seen > 20 and os.environ.get("RANK") == os.environ["FAILING"]: {deed}
        return x.mean((2, 3))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("deed", "failing", "says"),
    [
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            "1",
            "process 1 of 2 .* was ended by SIGKILL; if nobody did that, there was no memory left",
        ),
        ("raise SystemExit(0)", "1", "extractor 'network' cannot take images of shape .*: SystemExit"),
    ],
)
def test_why_a_process_failed_is_told_in_one_line(run, deed, failing, says, tmp_path, monkeypatch):
    (tmp_path / "failing.py").write_text(NETWORKS.format(deed=deed))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("FAILING", failing)
    with pytest.raises(WorkbenchError, match=says) as error:
        evaluate(run="one", extractor="failing:Network", num_processes=2, n=600, reference_n=600)
    assert "\n" not in str(error.value) and "gloo" not in str(error.value).lower()


@pytest.mark.slow
def test_an_interrupt_ends_all_processes(run, tmp_path, monkeypatch):
    (tmp_path / "slow_one.py").write_text(NETWORKS.format(deed="pass").replace("return", "time.sleep(600); return"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("FAILING", "")
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(processes.subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[0])

    def interrupt():
        while not started or len(psutil.Process(started[0].pid).children(recursive=True)) < 2:
            time.sleep(0.1)
        time.sleep(1)
        children.extend(psutil.Process(started[0].pid).children(recursive=True))
        os.kill(os.getpid(), signal.SIGINT)

    children = []
    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        evaluate(run="one", extractor="slow_one:Network", num_processes=2, n=600, reference_n=600)
    assert len(children) >= 2 and not psutil.wait_procs(children, timeout=5)[1]


def test_help_explains_every_parameter(main, capsys):
    with pytest.raises(SystemExit) as end:
        main("--help")
    out = capsys.readouterr().out
    assert end.value.code == 0
    for name in Evaluation.__dataclass_fields__:
        assert f"\n{name} " in out
