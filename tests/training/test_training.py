import copy
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import torch
from image_folders import tree
from jobs import free_port, run_job
from PIL import Image
from safetensors.torch import load_file

import workbench
from workbench import Config, ParameterError, Run, WorkbenchError, launch, list_runs, train
from workbench import tensors as tensors_module
from workbench.attention.snapshots import load_snapshot
from workbench.data import open_data, prepare, to_unit
from workbench.data.twins import Twins
from workbench.files import StorageError
from workbench.gpus import gpus
from workbench.metrics.protocols import differences
from workbench.metrics.reported import published
from workbench.model import sampling
from workbench.paths import outputs_dir
from workbench.processes import launch_environment
from workbench.records import is_comparable
from workbench.runs import create_run
from workbench.training import __main__ as command_line
from workbench.training import checkpoint, loop, setup, start
from workbench.training.samples import FixedSamples
from workbench.training.setup import build, make_accelerator
from workbench.training.status import Status
from workbench.training.steps import d_step, draw_noise, g_step


@pytest.fixture
def nets(tiny):
    config = tiny()
    return build(config, make_accelerator(config))


@pytest.fixture
def real():
    return [Twins(32).batch(np.arange(8))]


def snapshot(*things):
    tensors = [t for thing in things for t in (thing.parameters() if isinstance(thing, torch.nn.Module) else _state(thing))]
    return [t.detach().clone() for t in tensors]


def _state(optimizer):
    return [v for values in optimizer.state_dict()["state"].values() for v in values.values()]


def same(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def weights(run, step=None):
    """Everything in a checkpoint, by file and name."""
    return {(f.stem, k): v for f in sorted(run.checkpoint_path(step).glob("*.safetensors")) for k, v in load_file(f).items()}


def equal(a, b):
    """Whether the newest checkpoints of two runs hold the same, bit for bit."""
    a, b = weights(a), weights(b)
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())


def difference(a, b):
    a, b = weights(a), weights(b)
    assert a.keys() == b.keys()
    return max((a[k].double() - b[k].double()).abs().max().item() for k in a if k[0] in ("generator", "discriminator", "ema"))


def wait(run, until=lambda run: not run.active, seconds=120):
    end = time.monotonic() + seconds
    while not until(run):
        assert time.monotonic() < end, f"{run.status()}\n{run.log_tail()}"
        time.sleep(0.05)
    return run


# ------------------------------------------------------------------------------------------------------ the steps


def test_each_step_leaves_the_other_network_alone(nets, real):
    d_step(nets, 0, 0, real)
    g_step(nets, 0)  # now both optimisers have state
    g_before, d_before = snapshot(nets.generator, nets.optimizer_g), snapshot(nets.discriminator, nets.optimizer_d)
    d_step(nets, 1, 0, real)
    assert same(snapshot(nets.generator, nets.optimizer_g), g_before)
    assert not same(snapshot(nets.discriminator, nets.optimizer_d), d_before)
    assert all(p.grad is None for p in nets.generator.parameters())
    d_before = snapshot(nets.discriminator, nets.optimizer_d)
    g_step(nets, 1)
    assert same(snapshot(nets.discriminator, nets.optimizer_d), d_before)
    assert not same(snapshot(nets.generator, nets.optimizer_g), g_before)
    assert all(p.grad is None and p.requires_grad for p in nets.discriminator.parameters())


def test_a_d_step_equals_the_plain_formula(nets, real):
    """Loss and update of a D step against autograd on two separate passes and an Adam written out."""
    config = nets.config
    d_step(nets, 0, 0, real)  # now u and v fit the weights
    generator, discriminator = (copy.deepcopy(net) for net in (nets.generator, nets.discriminator))
    second_moment = {k: v["exp_avg_sq"].clone() for k, v in nets.optimizer_d.state_dict()["state"].items()}
    loss = d_step(nets, 1, 0, real)["loss_d"]

    from workbench.model.layers import power_iteration

    power_iteration(generator)
    power_iteration(discriminator)
    z, y, _ = draw_noise(nets, 1, 0)
    x, labels = real[0]
    logits_real = discriminator(x.float() / 127.5 - 1, labels)
    logits_fake = discriminator(generator(z, y).detach(), y)
    plain = (1 - logits_real).clamp(min=0).mean() + (1 + logits_fake).clamp(min=0).mean()
    assert abs(plain - loss) < 1e-5
    plain.backward()
    for index, ((name, p), q) in enumerate(zip(discriminator.named_parameters(), nets.discriminator.parameters(), strict=True)):
        v = 0.9 * second_moment[index] + 0.1 * p.grad**2
        expected = p - config.lr_d * p.grad / ((v / (1 - 0.9**2)).sqrt() + 1e-8)  # beta1 is 0
        settled = v.sqrt() > 1e-4  # elsewhere Adam divides rounding noise by itself
        assert ((expected - q).abs() * settled).max() < 1e-5, name


def test_fake_labels_are_uniform_and_independent_of_the_real_ones(nets):
    y = torch.cat([draw_noise(nets, step, k)[1] for step in range(500) for k in range(2)])
    counts = torch.bincount(y, minlength=6).double()
    expected = len(y) / 6
    assert ((counts - expected) ** 2 / expected).sum() < 20.5  # chi-square, 5 degrees of freedom, p = 0.001
    z = torch.cat([draw_noise(nets, step, 0)[0] for step in range(200)])
    assert abs(z.mean()) < 0.03 and abs(z.std() - 1) < 0.03
    assert torch.equal(draw_noise(nets, 7, 1)[0], draw_noise(nets, 7, 1)[0]) and not torch.equal(
        draw_noise(nets, 7, 1)[0], draw_noise(nets, 7, 0)[0]
    )


@pytest.mark.slow
def test_only_d_steps_over_d_steps(tiny):
    """With 3 D steps per G step D's optimiser has stepped three times as often."""
    run = train(tiny(d_steps=3))
    saved = weights(run)
    assert saved["optimizer_d", "linear.bias.step"] == 12 and saved["optimizer_g", "linear.bias.step"] == 4


@pytest.mark.slow
@pytest.mark.parametrize("changes", [
    dict(num_classes=0), dict(augment="diffaug"), dict(augment="flip"), dict(mixed_precision="bf16"), dict(sn_g=False, sn_d=False),
    dict(attention_block="residual"), dict(attention_g="none", attention_d="none"), dict(ema_decay=0), dict(attention_variant="paper", image_size=64),
])  # fmt: skip
def test_every_kind_of_training_runs(tiny, changes):
    run = train(tiny(steps=2, sample_every=2, **changes))
    assert run.status()["state"] == "finished"
    assert all(torch.isfinite(v).all() for v in weights(run).values())
    assert run.sample_steps() == [0, 2]


def test_the_run_folder_is_as_promised(tiny):
    run = train(tiny(steps=5, note="hello"))
    assert [row["step"] for row in run.history()] == [2, 4, 5]
    row = run.history()[-1]
    assert {"step", "images", "seconds", "loss_d", "loss_g", "d_real", "d_fake", "gamma_g16", "gamma_d16", "lr_g", "lr_d"} <= row.keys()
    assert row["images"] == 40
    assert run.checkpoint_steps() == [4, 5] and run.sample_steps() == [0, 4, 5]
    seen = load_snapshot(run.attention_path(5))
    assert seen.layers["G/attention.16"].query.shape == (4, 256, 2) and seen.layers["D/attention.16"].key.shape == (4, 64, 1)
    assert run.provenance["note"] == "hello" and run.provenance["data"]["name"] == "twins"
    assert not list(run.path.rglob("*partial*"))


def test_auto_is_resolved_once_and_is_not_part_of_the_name(tiny):
    run = train(Config.preset("twins32", width=8, batch_size=8, steps=1, evaluate_every=0))
    assert run.config.mixed_precision in ("no", "bf16")
    assert run.name == "twins32-width=8-batch_size=8-steps=1-evaluate_every=0"


# --------------------------------------------------------------------------------------------- resuming, forking


@pytest.mark.parametrize(
    "settings",
    [
        dict(),
        pytest.param(dict(mixed_precision="bf16", augment="diffaug", d_steps=2), marks=pytest.mark.slow),
        pytest.param(
            dict(init="orthogonal", sn_gains=True, d_relu_inplace=True, d_flat_channels=24, batch_norm_eps=1e-4), marks=pytest.mark.slow
        ),
    ],
)
def test_resume_equals_the_uninterrupted_run_bit_for_bit(tiny, settings):
    straight = train(tiny(run="straight", steps=8, log_every=3, **settings))
    halves = train(tiny(run="halves", steps=8, log_every=3, checkpoint_every=8, **settings))  # control: the same once more
    assert equal(halves, straight)
    again = Run("straight").path.parent / "again"
    shutil.copytree(straight.path, again)
    config = Config.from_json((again / "config.json").read_text()).replace(run="again")
    (again / "config.json").write_text(config.to_json())
    shutil.rmtree(again / "checkpoints" / "8")  # as if killed at step 7, two lines of history after checkpoint 4
    resumed = train(Config.from_parameters(dict(resume="again")))
    assert resumed.name == "again"
    assert equal(resumed, straight)
    strip = lambda rows: [{k: v for k, v in row.items() if k != "seconds"} for row in rows]  # noqa: E731
    assert strip(resumed.history()) == strip(straight.history())
    assert [start["from_step"] for start in resumed.provenance["started"]] == [0, 4]


@pytest.mark.slow
def test_a_run_can_be_made_longer_but_not_changed(tiny):
    train(tiny(run="a"))
    with pytest.raises(ParameterError, match=r"lr_d=0.001 differs from .* fork the run: resume='a@4'"):
        train(Config.from_parameters(dict(resume="a", lr_d=1e-3)))
    run = train(Config.from_parameters(dict(resume="a", steps=6)))
    assert run.name == "a" and run.checkpoint_steps() == [4, 6] and run.config.steps == 6


@pytest.mark.slow
def test_forks_name_their_parent_and_unchanged_ones_equal_it(tiny):
    parent = train(tiny(run="parent", steps=8))
    fork = train(Config.from_parameters(dict(resume="parent@4")))
    assert fork.name == "parent-from4" and fork.provenance["parent"] == dict(run="parent", step=4)
    assert equal(fork, parent)
    assert [row["step"] for row in fork.history()] == [2, 4, 6, 8]
    changed = train(Config.from_parameters(dict(resume="parent@4", lr_d=1e-3)))
    assert changed.name == "parent-from4-lr_d=0.001" and changed.config.lr_d == 1e-3
    assert not torch.equal(weights(changed)["discriminator", "linear.bias"], weights(parent)["discriminator", "linear.bias"])
    assert parent.checkpoint_steps() == [4, 8]  # untouched


def killed_at(monkeypatch, where, count=1):
    """End this training as SIGKILL would, at the n-th call of a function of the loop: without cleaning up or writing the status."""
    calls, real = iter(range(1, 10_000)), getattr(loop, where)

    def call(*arguments, **more):
        if next(calls) == count:
            raise SystemExit("killed")
        return real(*arguments, **more)

    monkeypatch.setattr(loop, where, call)
    monkeypatch.setattr(start, "report_end", lambda run, error: run.set_status(state="running", born="1"))


@pytest.mark.slow
@pytest.mark.parametrize("where", ["load", "d_step", "save"])
def test_a_fork_that_was_killed_before_its_first_checkpoint_is_still_a_fork(tiny, trained_once, monkeypatch, where):
    parent = trained_once(run="parent", steps=4, checkpoint_every=2, sample_every=2, log_every=1)
    straight = train(Config.from_parameters(dict(resume="parent@2", run="straight")))
    with monkeypatch.context() as patch:
        killed_at(patch, where)
        with pytest.raises(SystemExit):
            train(Config.from_parameters(dict(resume="parent@2", run="fork")))
    fork = Run("fork")
    assert fork.status()["state"] == "lost" and fork.config.resume == "parent@2"
    resumed = train(Config.from_parameters(dict(resume="fork")))
    assert equal(resumed, straight) and equal(resumed, parent)
    assert resumed.config.resume == "parent@2" and resumed.provenance["parent"] == dict(run="parent", step=2)
    assert [row["step"] for row in resumed.history()] == [1, 2, 3, 4]
    assert [row["step"] for row in resumed.spectra()] == [0, 2, 4]
    groups = workbench.studies.groups.group([resumed, parent])
    assert groups[0].values == {"resume": "parent@2"}
    shutil.rmtree(parent.path)  # no longer needed
    assert train(Config.from_parameters(dict(resume="fork", steps=5)), run=Run("fork")).checkpoint_steps() == [4, 5]


@pytest.mark.slow
@pytest.mark.parametrize("where", ["write_samples", "history_row", "save"])
def test_records_are_written_once_after_repeated_kills(tiny, monkeypatch, where):
    for attempt in range(2):
        with monkeypatch.context() as patch:
            killed_at(patch, where)
            with pytest.raises(SystemExit):
                settings = dict(run="r", log_every=1, sample_every=2, checkpoint_every=2, evaluate_every=2)
                train(Config.from_parameters(dict(resume="r")) if attempt else tiny(**settings))
    run = train(Config.from_parameters(dict(resume="r")))
    assert [row["step"] for row in run.history()] == [1, 2, 3, 4]
    assert [row["step"] for row in run.spectra()] == [0, 2, 4] and [row["step"] for row in run.evaluations()] == [2, 4]
    assert not [path for path in run.path.rglob(".*")], "leftovers"


@pytest.mark.slow
def test_old_checkpoints_are_deleted_after_a_kill_too(tiny, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("workbench.runs.checkpoints.prune", lambda run, keep: None)
        run = train(tiny(run="r", checkpoint_every=2, keep_checkpoints=1))
    assert run.checkpoint_steps() == [2, 4]
    assert train(Config.from_parameters(dict(resume="r"))).checkpoint_steps() == [4]


@pytest.mark.slow
def test_a_run_is_resumed_or_forked_only_if_steps_are_left(tiny, trained_once):
    run = trained_once(run="a", steps=4, checkpoint_every=2)
    for config, message in (
        (tiny(resume="a@4"), "steps=4 is not above 4, the step that resume='a@4' starts at; set steps above 4"),
        (tiny(resume="a", steps=2), "steps=2 is below 4, the newest checkpoint of run 'a'; set steps to 4 or more"),
    ):
        for begin in (train, launch):
            with pytest.raises(ParameterError, match=message):
                begin(config)
    assert [other.name for other in list_runs()] == ["a"] and run.status()["state"] == "finished"


def test_a_fork_to_another_number_of_classes_is_refused_before_a_folder_is_made(trained_once, tmp_path):
    trained_once(run="a", steps=4, checkpoint_every=2)
    for name in ("ant", "bee"):
        (tmp_path / "insects" / name).mkdir(parents=True)
        for k in range(8):
            Image.new("RGB", (32, 32), (k, 0, 0)).save(tmp_path / "insects" / name / f"{k}.png")
    config = Config.from_parameters(dict(resume="a@2", data=tmp_path / "insects", evaluate_every=0))
    for begin in (train, launch):
        with pytest.raises(
            ParameterError, match=r"num_classes=2 \(of data='.*insects'\) differs from the 6 of the run that resume='a@2' forks"
        ):
            begin(config)
    assert [other.name for other in list_runs()] == ["a"]


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_stops_a_resume_in_one_line(trained_once):
    run = trained_once(run="a", steps=4, checkpoint_every=2)
    path = run.checkpoint_path(4) / "optimizer_d.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(
        WorkbenchError, match=r"optimizer_d\.safetensors cannot be read: .* good checkpoint is that of step 2: to resume .*delete .*4$"
    ):
        train(Config.from_parameters(dict(resume="a", steps=6)))
    shutil.rmtree(path.parent)
    assert train(Config.from_parameters(dict(resume="a", steps=6))).checkpoint_steps() == [2, 4, 6]


# --------------------------------------------------------------------------------------------------------- alarms


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "what"), [(dict(log_every=1), "losses"), (dict(log_every=9), "weights of G .*")])
def test_a_training_that_diverges_stops_with_advice(tiny, monkeypatch, settings, what):
    calls = iter(range(100))
    monkeypatch.setattr("workbench.training.steps.hinge_generator", lambda fake: -fake.mean() * (float("nan") if next(calls) == 5 else 1))
    with pytest.raises(
        WorkbenchError, match=rf"training diverged: {what} became NaN or infinite by step 6; fork from before it, .*resume='wild@5'"
    ) as error:
        train(tiny(run="wild", steps=9, checkpoint_every=1, **settings))
    run = Run("wild")
    assert run.status()["state"] == "failed" and run.status()["message"] == str(error.value)
    assert run.checkpoint_steps() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(("where", "message"), [
    (lambda nets: nets.optimizer_d.state_dict()["state"][0]["exp_avg_sq"], r"Adam's state of D \(.*exp_avg_sq\)"),
    (lambda nets: dict(nets.generator.named_buffers())["blocks.8.norm1.running_var"], r"weights of G \(blocks.8.norm1.running_var\)"),
    (lambda nets: next(nets.ema.average.parameters()), r"EMA of G \(.*\)"),
], ids=["adam", "batch norm", "ema"])  # fmt: skip
def test_nothing_that_is_not_finite_is_saved(tiny, trained_once, monkeypatch, where, message):
    run = trained_once(run="a", steps=4, checkpoint_every=2)
    nets = build(run.config, make_accelerator(run.config))
    progress = checkpoint.load(nets, run, 4)
    where(nets).view(-1)[0] = float("nan")
    progress.step = 5
    with pytest.raises(
        WorkbenchError, match=rf"training diverged: {message} became NaN or infinite by step 5; fork from before it, .*resume='a@4'"
    ):
        checkpoint.save(nets, run, progress)
    # The message suggests an undamaged and finite checkpoint, not the newest one.
    for step, damage in ((4, float("inf")), (2, None)):
        file = run.checkpoint_path(step) / "discriminator.safetensors"
        tensors = load_file(file)
        tensors["linear.bias"].fill_(damage) if damage else None
        tensors_module.save_tensors(file, tensors)
        tensors_module.seal(file.parent)
    with pytest.raises(WorkbenchError, match="resume='a@2'"):
        checkpoint.save(nets, run, progress)


@pytest.mark.slow
def test_collapse_raises_an_alarm(tiny, capsys):
    config = tiny()
    run = train(tiny(steps=1, run="healthy"))
    status, fixed = Status(run, config, 3), FixedSamples(config, Twins(32))
    healthy = to_unit(Twins(32, seed=1).batch(np.arange(len(fixed.z)))[0])
    mean = healthy.mean(0, keepdim=True)
    for step, share in ((0, 0), (50, 0.05), (100, 0.4), (4000, 1)):  # early on, samples of an untrained G do not differ yet
        status.watch_samples(mean + share * (healthy - mean), step, fixed)
        assert status.alarms == []
    one_per_class = healthy[fixed.y * 10]
    for collapsed in (mean + 0.15 * (healthy - mean), one_per_class):
        status.alarms.clear()
        for step in (100, 200):
            status.watch_samples(collapsed, step, fixed)
        assert len(status.alarms) == 1
    assert "collapse: at step 100 all samples look nearly the same" in run.status()["alarms"][0]
    assert "ALARM: collapse" in capsys.readouterr().err


@pytest.mark.slow
def test_no_checkpoint_of_the_demo_counts_as_collapsed(tiny):
    demo = Run("demo")
    status, fixed = Status(train(tiny(steps=1, run="healthy")), demo.config, 0), FixedSamples(demo.config, open_data(demo.config))
    for step in demo.checkpoint_steps():
        status.watch_samples(sampling.images(demo.generator(step), fixed.z, fixed.y), step, fixed)
    assert status.alarms == []


@pytest.mark.slow
def test_evaluations_are_recorded_and_must_be_given(tiny, tmp_path):
    with pytest.raises(ParameterError, match=r"evaluate_every=2: train\(\) has no evaluation for data="):
        train(tiny(evaluate_every=2, data=tmp_path))
    (record,) = train(tiny(evaluate_every=4)).evaluations()
    assert {"twins_hue", "twins_readable"} < record["scores"].keys() and "n=500" in record["protocol"] and record["step"] == 4
    assert is_comparable(record) and differences(record, record) == [] and published(record) == []
    seen = []
    run = train(
        tiny(evaluate_every=2), evaluate=lambda generator, step: seen.append(generator.training) or dict(scores=dict(x=step), protocol="p")
    )
    records = [dict(step=step, scores=dict(x=step), protocol="p", during_training=True) for step in (2, 4)]
    assert run.evaluations() == records and seen == [False, False]


@pytest.mark.parametrize(("changes", "message"), [
    (dict(num_processes=2), "num_processes=2, but 1 process"),
    (dict(device="cuda"), "torch finds no GPU"),
    (dict(mixed_precision="fp16"), "needs a GPU"),
])  # fmt: skip
def test_settings_that_this_machine_cannot_run_are_refused(tiny, changes, message):
    if gpus():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ParameterError, match=message):
        train(tiny(**changes))
    assert list_runs() == []


# ------------------------------------------------------------------------------------- disks, clusters, evaluations


@pytest.mark.slow
@pytest.mark.parametrize(("file", "number"), [
    ("checkpoints", errno.ENOSPC), ("history.jsonl", errno.EROFS), ("samples", errno.EDQUOT), ("attention", errno.ENOSPC), ("spectra.jsonl", errno.EIO),
])  # fmt: skip
def test_a_disk_error_ends_in_one_line_and_the_run_can_be_resumed(tiny, trained_once, monkeypatch, file, number):
    """From the second file that is opened there on, nothing can be written to `file`."""
    opened, real_open, real_os_open = iter(range(1000)), open, os.open

    def failing(path, real, arguments, more):
        text = str(path)
        writes = arguments[0] in ("wb", "ab", "w") or (isinstance(arguments[0], int) and arguments[0] & (os.O_WRONLY | os.O_RDWR))
        if f"/full/{file}" in text.replace("/.", "/") and writes and next(opened) >= 1:
            raise OSError(number, os.strerror(number), text)
        return real(path, *arguments, **more)

    settings = dict(steps=2, log_every=1, sample_every=2, checkpoint_every=1)
    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", lambda path, mode="r", *a, **k: failing(path, real_open, (mode, *a), k))
        patch.setattr(os, "open", lambda path, flags, *a, **k: failing(path, real_os_open, (flags, *a), k))
        with pytest.raises(StorageError) as error:
            train(tiny(run="full", **settings))
    assert os.strerror(number) in str(error.value) and "\n" not in str(error.value) and "/full/" in str(error.value)
    run = Run("full")
    status = run.status()
    assert (
        status["state"] == "failed" and "cannot be written" in status["message"] and "workbench train -p resume full" in status["message"]
    )
    assert not [path for path in run.path.rglob(".*")], "leftovers"
    assert equal(train(Config.from_parameters(dict(resume="full"))), trained_once(run="straight", **settings))
    assert [row["step"] for row in run.history()] == [1, 2]


def test_the_end_of_a_training_is_reported_on_a_full_disk(tiny, monkeypatch):
    run = create_run(tiny(run="r"))
    run.set_status(state="running")
    monkeypatch.setattr("workbench.files.synced", lambda path: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    start.report_end(run, StorageError("x cannot be written"))
    assert run.status()["state"] == "failed" and "x cannot be written" in run.status()["message"]
    with pytest.raises(StorageError):
        run.set_status(step=3)


def test_variables_of_another_job_change_nothing(tiny, monkeypatch):
    for name, value in dict(RANK="1", WORLD_SIZE="2", LOCAL_RANK="1", PMI_SIZE="2", ACCELERATE_USE_FSDP="true").items():
        monkeypatch.setenv(name, value)
    assert train(tiny(steps=1)).status()["state"] == "finished"


@pytest.mark.slow
@pytest.mark.parametrize("error", [RuntimeError("broken"), SystemExit(0), OSError(errno.ENOENT, "No such file")])
def test_a_failing_evaluation_loses_no_step(tiny, error):
    def evaluate(generator, step):
        raise error

    with pytest.raises((type(error), WorkbenchError)):
        train(tiny(run="r", steps=9, evaluate_every=3, checkpoint_every=9), evaluate=evaluate)
    run = Run("r")
    assert run.status()["state"] in ("failed", "stopped") and run.checkpoint_steps() == [3]
    assert train(Config.from_parameters(dict(resume="r", evaluate_every=0))).checkpoint_steps() == [3, 9]


# ------------------------------------------------------------------------------------------------ in other processes


def launched_on_two_machines(config):
    """The run of a configuration that a launcher on each of two "machines" trains, one process on each."""
    settings, port = outputs_dir() / f"{config.run}.json", str(free_port())
    settings.write_text(config.to_json())
    machines = [
        subprocess.Popen(
            [
                sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "2", "--machine_rank", str(k),
                "--num_processes", "2", "--main_process_ip", "127.0.0.1", "--main_process_port", port, "--mixed_precision", "no",
                "--dynamo_backend", "no", "-m", "workbench.training", "--config", str(settings),
            ],
            env=launch_environment(2),
        )
        for k in range(2)
    ]  # fmt: skip
    assert [machine.wait(120) for machine in machines] == [0, 0]
    return Run(config.run)


@pytest.mark.slow
def test_two_processes_give_what_one_gives(tiny, trained_once):
    """float64, 20 steps, batch norm over the whole batch and over groups within and across processes, with accumulation; and what is logged."""
    for changes in (dict(), dict(batch_norm_group=4)):
        settings = dict(dtype="float64", steps=20, checkpoint_every=20, sample_every=20, **changes)
        one = trained_once(**settings)
        two = tiny(num_processes=2, run=f"two-{len(changes)}", **settings)
        two = launched_on_two_machines(two) if changes else wait(launch(two))
        assert two.status()["state"] == "finished", two.log_tail()
        assert difference(one, two) < 1e-9
        assert len(one.history()) == 10 and len(one.spectra()) == 2
        for row_one, row_two in zip(one.history(), two.history(), strict=True):
            assert {**row_one, "seconds": 0} == pytest.approx({**row_two, "seconds": 0}, rel=1e-8)
        for row_one, row_two in zip(one.spectra(), two.spectra(), strict=True):
            for name, layer in row_one["layers"].items():
                assert layer["exact"] == pytest.approx(row_two["layers"][name]["exact"], rel=1e-6)
    accumulated = train(tiny(gradient_accumulation=2, **settings))
    assert difference(one, accumulated) < 1e-9


def train_from_json(settings):
    train(Config.from_json(settings))


@pytest.mark.slow
@pytest.mark.parametrize("changes", [dict(), dict(batch_norm_group=4)], ids=str)
def test_a_run_goes_on_with_another_number_of_processes(tiny, trained_once, changes):
    """Begun on four, which a scheduler started, then two, then one: the weights are those of one process."""
    settings = dict(dtype="float64", checkpoint_every=20, sample_every=20, **changes)
    one = trained_once(steps=20, **settings)
    assert run_job(4, train_from_json, tiny(steps=4, num_processes=4, run="shrinking", **settings).to_json()) == [0, 0, 0, 0]
    assert Run("shrinking").checkpoint_steps() == [4]
    resumed = Config.from_parameters(dict(resume="shrinking", steps=10, num_processes=2))
    assert run_job(2, train_from_json, resumed.to_json()) == [0, 0]
    last = train(Config.from_parameters(dict(resume="shrinking", steps=20, num_processes=1)))
    assert last.status()["state"] == "finished" and difference(one, last) < 1e-9


def train_until_killed(settings):
    """Process 1 is killed in the second step."""
    calls, step = [], loop.d_step

    def killing_step(*arguments):
        calls.append(arguments)
        if len(calls) == 2 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return step(*arguments)

    loop.d_step = killing_step
    train(Config.from_json(settings))


@pytest.mark.slow
def test_a_killed_process_ends_the_others_and_is_named(tiny):
    start = time.monotonic()
    codes = run_job(2, train_until_killed, tiny(steps=1000, num_processes=2, run="lost").to_json())
    assert codes == [1, -signal.SIGKILL] and time.monotonic() - start < 60
    status = Run("lost").status()
    assert status["state"] == "failed" and status["message"].startswith("process 1 of 2 (counted from 0) ended early"), status


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_signals_save_a_checkpoint_and_report_how_to_resume(tiny, how):
    run = launch(tiny(steps=100_000, checkpoint_every=100_000, sample_every=100_000))
    wait(run, lambda run: run.status()["step"] > 3 or not run.active)
    os.kill(run.status()["pid"], how)
    wait(run)
    assert_saved_and_resumable(run)


def assert_saved_and_resumable(run):
    status = run.status()
    assert status["state"] == "stopped", run.log_tail()
    assert run.resume_hint() in status["message"]
    assert re.fullmatch(
        rf"saved at step {run.checkpoint_steps()[-1]}; resume with: .*workbench train -p resume {run.name}", run.resume_hint()
    )
    step = run.checkpoint_steps()[-1]
    resumed = train(Config.from_parameters(dict(resume=run.name, steps=step + 1)))
    assert resumed.checkpoint_steps() == [step, step + 1]


@pytest.mark.slow
def test_a_stop_during_the_start_is_obeyed(tiny):
    run = launch(tiny(steps=100_000))
    run.stop()
    wait(run)
    assert run.status()["state"] == "stopped" and run.checkpoint_steps() == [0], run.log_tail()


@pytest.mark.slow
def test_a_killed_training_resumes_bit_for_bit(tiny):
    settings = dict(checkpoint_every=4, sample_every=100_000)
    run = launch(tiny(run="killed", steps=100_000, **settings))
    wait(run, lambda run: run.checkpoint_steps() or not run.active)
    os.kill(run.status()["pid"], signal.SIGKILL)
    wait(run)
    assert run.status()["state"] == "lost" and run.checkpoint_steps()
    assert "workbench train -p resume killed" in run.status()["message"]
    end = run.checkpoint_steps()[-1] + 5
    train(Config.from_parameters(dict(resume="killed", steps=end)))
    assert run.status()["state"] == "finished" and run.checkpoint_steps()[-1] == end
    assert equal(run, train(tiny(run="straight", steps=end, **settings)))


@pytest.mark.slow
def test_an_attached_training_saves_when_its_caller_ends(tiny, tmp_path):
    file = tmp_path / "config.json"
    file.write_text(tiny(run="attached", steps=100_000, checkpoint_every=100_000).to_json())
    code = (
        f"import workbench, time; workbench.launch(workbench.Config.from_json(open({str(file)!r}).read()), attached=True); time.sleep(600)"
    )
    caller = subprocess.Popen([sys.executable, "-c", code])
    end = time.monotonic() + 60
    while not (tmp_path / "outputs" / "attached" / "history.jsonl").exists() and time.monotonic() < end:
        time.sleep(0.1)
    run = Run("attached")
    caller.kill()
    caller.wait()
    wait(run, seconds=30)
    assert run.status()["state"] == "stopped" and run.checkpoint_steps()


@pytest.mark.slow
def test_command_line_trains_and_refuses_in_one_line(tiny, tmp_path, monkeypatch, capsys):
    def call(*words):
        return subprocess.run([sys.executable, "-m", "workbench.training", *words], capture_output=True, text=True)

    file = tmp_path / "mine.json"
    file.write_text(json.dumps(dict(preset="twins32", width=8, batch_size=8, steps=3, run="shell")))
    done = call("--config", str(file), "-p", "steps", "2")
    assert done.returncode == 0, done.stderr
    assert Run("shell").checkpoint_steps() == [2]
    again = call("--config", str(Run("shell").path / "config.json"), "-p", "steps", "4")
    assert again.returncode == 0 and Run("shell").checkpoint_steps() == [2, 4], again.stderr
    for words, message in (  # what `python -m` calls, in this process
        (["--config", "nowhere.json"], "--config: nowhere.json cannot be read: No such file or directory"),
        (["-p", "lrd", "1"], "unknown parameter 'lrd'; did you mean 'lr_d'?"),
        (["-p", "num_processes", "2"], "but 1 process(es) were started"),
        (["-p", "run", "shell"], "run='shell' exists already"),
    ):
        monkeypatch.setattr(sys, "argv", ["training", *words])
        assert command_line.main() == 2
        (told,) = capsys.readouterr().err.splitlines()
        assert message in told


@pytest.mark.slow
def test_a_run_that_is_being_trained_is_not_trained_twice_and_can_be_stopped(tiny, monkeypatch, capsys):
    run = launch(tiny(steps=100_000, checkpoint_every=100_000, sample_every=100_000, run="busy"))
    wait(run, lambda run: run.status()["state"] == "running" or not run.active)
    assert launch(Config.from_parameters(dict(resume="busy"))).status()["pid"] == run.status()["pid"]  # re-attached
    with pytest.raises(WorkbenchError, match="is being trained already"):
        train(Config.from_parameters(dict(resume="busy")))
    # The command line with the run's config.json is refused too, and leaves the status of the live training alone.
    monkeypatch.setattr(sys, "argv", ["training", "--config", str(run.path / "config.json")])
    assert command_line.main() == 2 and "is being trained already" in capsys.readouterr().err
    assert psutil.pid_exists(run.status()["pid"]) and run.status()["state"] == "running"
    wait(run, lambda run: run.status()["step"] > 3 or not run.active)
    run.stop()
    wait(run)
    assert_saved_and_resumable(run)


@pytest.mark.slow
def test_precision_is_chosen_once_and_kept(tiny, monkeypatch):
    """`auto` chooses bf16 on a CPU only if it is measured to be faster; a resumed run keeps the choice."""
    for faster, chosen in ((True, "bf16"), (False, "no")):
        monkeypatch.setattr(setup, "_faster_in_bf16", lambda faster=faster: faster)
        run = train(tiny(mixed_precision="auto", device="cpu", run=chosen, steps=2))
        assert run.config.mixed_precision == chosen
        monkeypatch.setattr(setup, "_faster_in_bf16", lambda faster=faster: not faster)
        assert train(Config.from_parameters(dict(resume=chosen, steps=3))).config.mixed_precision == chosen
    assert setup.decide_precision(tiny(mixed_precision="auto", dtype="float64")).mixed_precision == "no"


def test_a_run_goes_on_with_data_that_moved_or_are_packed(tiny, tmp_path):
    root = tree(tmp_path / "pets", cat=6, dog=6)
    config = tiny(data=str(root), batch_size=4, steps=8)
    straight = train(config.replace(run="straight"))
    run = train(config.replace(run="moving", steps=4))
    moved = shutil.move(root, tmp_path / "elsewhere")
    fingerprint = run.provenance["data"]["fingerprint"][:12]
    for resume in ("moving", "moving@4"):
        says = (
            rf"no such folder; .*; if they were moved or packed, .*\(fingerprint {fingerprint}\).* train -p resume {resume} -p data FOLDER$"
        )
        with pytest.raises(WorkbenchError, match=says) as error:
            train(Config.from_parameters(dict(resume=resume, steps=8)))
        assert "\n" not in str(error.value)
    train(Config.from_parameters(dict(resume="moving", steps=6, data=moved)))
    prepare(moved, tmp_path / "packed", 32, progress=False)
    train(Config.from_parameters(dict(resume="moving", steps=8, data=tmp_path / "packed")))
    assert run.config.data == str(tmp_path / "packed") and len(run.provenance["started"]) == 3
    files = [load_file(r.checkpoint_path(8) / "generator.safetensors") for r in (straight, run)]
    assert files[0].keys() == files[1].keys() and all(torch.equal(files[0][name], files[1][name]) for name in files[0])


def test_a_run_does_not_go_on_with_other_data(tiny, tmp_path):
    run = train(tiny(data=str(tree(tmp_path / "pets", cat=6, dog=6)), batch_size=4, run="a"))
    other = tree(tmp_path / "cars", cat=6, dog=7)
    before = run.config
    for begin in (train, launch):
        with pytest.raises(
            WorkbenchError, match=r"cars' \(fingerprint \w{12}\) is not what run 'a' was trained on \(pets, \w{12}\): give the"
        ) as caught:
            begin(Config.from_parameters(dict(resume="a", steps=8, data=other)))
        assert "\n" not in str(caught.value) and run.config == before and run.checkpoint_steps() == [4]
    new = create_run(tiny(data=str(other), batch_size=4, run="new"))
    with pytest.raises(WorkbenchError, match="has no record of its images yet: start a new run"):
        train(Config.from_parameters(dict(resume="new", data=tmp_path / "pets")))
    assert new.config.data == str(other)
