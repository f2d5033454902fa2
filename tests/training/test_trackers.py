"""Trackers get what the run folder gets, read back from their own files."""

import dataclasses
import io

import numpy as np
import pytest
import torch
from jobs import run_job
from PIL import Image

from workbench import Config, ParameterError, Run, WorkbenchError, launch, train


@pytest.mark.slow
def test_tensorboard_holds_the_history_the_scores_and_the_samples_of_a_resumed_run(tiny):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train(tiny(run="t", log_with="tensorboard", evaluate_every=4, evaluate_n=12))
    train(Config.from_parameters(dict(resume="t", steps=8)))
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    for name in ("loss_d", "gamma_g16", "lr_d"):
        rows = [(row["step"], np.float32(row[name])) for row in run.history()]
        assert [(event.step, np.float32(event.value)) for event in events.Scalars(name)] == rows
    hue = [(record["step"], np.float32(record["scores"]["twins_hue"])) for record in run.evaluations()]
    assert [(event.step, np.float32(event.value)) for event in events.Scalars("evaluation/twins_hue")] == hue and len(hue) == 2
    assert [event.step for event in events.Images("samples")] == [4, 8]
    image = events.Images("samples")[1].encoded_image_string
    drawn = Image.open(run.sample_path(8))
    assert Image.open(io.BytesIO(image)).size == drawn.size


def train_from_json(settings):
    train(Config.from_json(settings))


@pytest.mark.slow
def test_trackers_of_several_processes_leave_them_connected_and_one_writes(tiny, monkeypatch):
    """A training of two processes finishes; resumed by one it goes on as the same run of both trackers, forked as another one."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    begun = tiny(run="t", num_processes=2, log_with="tensorboard,wandb")
    assert run_job(2, train_from_json, begun.to_json()) == [0, 0] and Run("t").status()["state"] == "finished"
    for changes in (dict(resume="t"), dict(resume="t@4", run="fork")):
        train(Config.from_parameters(dict(steps=5, num_processes=1, **changes)))
    assert [len(list(Run(name).path.glob("tensorboard/events*"))) for name in ("t", "fork")] == [2, 1]
    offline = [list(Run(name).path.glob("wandb/offline-run-*")) for name in ("t", "fork")]
    assert [len(folders) for folders in offline] == [2, 1]
    assert len({folder.name.rpartition("-")[2] for folders in offline for folder in folders}) == 2  # of two runs


@pytest.mark.slow
def test_wandb_logs_offline_and_changes_nothing(tiny, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    plain, logged = train(tiny(run="plain")), train(tiny(run="logged", log_with="wandb"))
    for name, tensor in plain.generator(weights="raw").state_dict().items():
        assert torch.equal(tensor, logged.generator(weights="raw").state_dict()[name])
    [folder] = (logged.path / "wandb").glob("offline-run-*")
    [picture] = folder.glob("files/media/images/samples_4_*.png")
    assert np.array_equal(np.asarray(Image.open(picture)), np.asarray(Image.open(logged.sample_path(4)).convert("RGB")))
    [log] = folder.glob("run-*.wandb")
    assert b"grad_norm_d" in log.read_bytes() and b"attention_variant" in log.read_bytes()


def test_a_tracker_that_is_not_installed_is_refused_before_a_run_is_made(tiny, monkeypatch, folders):
    monkeypatch.setattr("workbench.runs.create.find_spec", lambda name: None)
    with pytest.raises(ParameterError, match=r"log_with='wandb': wandb is not installed; pip install wandb"):
        launch(tiny(log_with="wandb"))
    assert not list(folders.glob("outputs/*"))


def test_a_tracker_that_does_not_start_fails_the_training_in_one_line(tiny, monkeypatch):
    monkeypatch.setattr("accelerate.tracking.WandBTracker.start", lambda self: (_ for _ in ()).throw(ValueError("no\nkey")))
    with pytest.raises(WorkbenchError, match=r"^log_with='wandb': no key; or set WANDB_MODE=offline$"):
        train(tiny(run="t", log_with="wandb"))


@pytest.mark.parametrize(
    ("given", "read"),
    [("none", "none"), ("", "none"), ("wandb", "wandb"), (" tensorboard , wandb", "tensorboard,wandb"), (["wandb"], "wandb")],
)
def test_log_with_is_a_list_of_trackers(given, read):
    assert Config.from_parameters(dict(log_with=given)).log_with == read


@pytest.mark.parametrize("wrong", ["mlflow", "wandb,none", "wandb;tensorboard"])
def test_unknown_trackers_are_refused(wrong):
    with pytest.raises(ParameterError, match=r"log_with=.*none, tensorboard, wandb"):
        Config.from_parameters(dict(log_with=wrong))


def test_trackers_are_no_setting_of_the_experiment(tiny):
    assert dataclasses.replace(tiny(), log_with="wandb").changes(tiny()) == {}
