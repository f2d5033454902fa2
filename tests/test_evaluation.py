import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from workbench import Evaluation, ParameterError, WorkbenchError, evaluate, evaluation, sampling, train, twins
from workbench.evaluation import Samples, best_and_worst_classes, during_training, nearest_real
from workbench.metrics.protocols import protocol

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
    assert Evaluation(steps=[2, 4]).steps == "2,4" and Evaluation(steps=2).steps == "2" and Evaluation(steps="[2]").steps == "2"
    with pytest.raises(WorkbenchError, match="has no checkpoint at step 3; there are: 2, 4"):
        evaluate(run="one", steps=3, **QUICK)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (dict(run="on"), "there is no run 'on'.*did you mean 'one'"),
        (dict(steps="newest"), 'steps=\'newest\' is not "last", "all", or steps such as 500,1000'),
        (dict(protocol="offical"), "did you mean 'official'"),
        (dict(n=1), "n=1 is not in range; allowed: at least 2"),
        (dict(scores="fid", **QUICK), "scores='fid' is defined by the reference Inception"),
        (dict(scores="kd", **QUICK), "cannot be computed: it takes 1000 images"),
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


def test_without_a_run():
    with pytest.raises(WorkbenchError, match="there is no run with a checkpoint yet"):
        evaluate()


def test_a_run_without_average(tiny):
    train(tiny(run="plain", ema_decay=0))
    (record,) = evaluate(run="plain", scores="fd", **QUICK)
    assert record["settings"]["weights"] == "raw"
    with pytest.raises(WorkbenchError, match="keeps no averaged weights"):
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


# ------------------------------------------------------------------------------------------------- folders of images


class Mean(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)) / 255


def folder(path, count, seed):
    source = np.random.default_rng(seed)
    for label in ("cat", "dog"):
        (path / label).mkdir(parents=True)
        for k in range(count):
            Image.fromarray(source.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(path / label / f"{k}.png")
    return str(path)


@pytest.mark.slow
def test_a_folder_is_scored_against_another_from_the_command_line(tmp_path, inception_file, main):
    a, b = folder(tmp_path / "a", 6, 0), folder(tmp_path / "b", 7, 1)
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
    a = folder(tmp_path / "a", 20, 0)
    seen = []
    real = evaluation.measure
    monkeypatch.setattr(evaluation, "measure", lambda images_of, *r, **k: seen.append(images_of(0, 40)[1]) or real(images_of, *r, **k))
    (record,) = evaluate(samples=a, data=folder(tmp_path / "b", 4, 1), extractor="twins", scores="cs")
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


def test_help_explains_every_parameter(main, capsys):
    with pytest.raises(SystemExit) as end:
        main("--help")
    out = capsys.readouterr().out
    assert end.value.code == 0
    for name in Evaluation.__dataclass_fields__:
        assert f"\n{name} " in out
