"""The plan of a training, against counts of the networks themselves and a clock that is set."""

import json

import pytest
import torch

from workbench.model import Discriminator, Generator
from workbench.training import plan as module
from workbench.training.plan import plan


def test_variables_of_another_job_change_nothing(tiny, monkeypatch):
    """Of a job of two processes, the other of which would be waited for."""
    for name, value in dict(
        RANK="0", LOCAL_RANK="0", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT="1", OMP_NUM_THREADS="", TORCHELASTIC_RUN_ID="x"
    ).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.distributed, "init_process_group", None)
    monkeypatch.setattr(module, "ENOUGH", 0)
    assert plan(tiny()).seconds > 0


@pytest.fixture
def quick(monkeypatch):
    """Steps take 0.1 s an image, by a clock that only they move."""
    clock, batches = [0.0], []

    def stepper(config):
        batches.append(config.batch_size)

        def step():
            clock[0] += 0.1 * config.batch_size

        return step

    monkeypatch.setattr(module, "_stepper", stepper)
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    return batches


def test_it_counts_parameters_operations_and_time_of_the_whole_training(tiny):
    config = tiny(batch_size=32, steps=100)
    result = plan(config)
    assert result.parameters_g == sum(p.numel() for p in Generator(config).parameters())
    assert result.parameters_d == sum(p.numel() for p in Discriminator(config).parameters())
    twice = plan(config.replace(batch_size=64))  # what does not depend on the batch, spectral norm, is small
    assert result.probe == 32 and result.operations == pytest.approx(twice.operations / 2, rel=0.03)
    assert 0 < result.seconds < 60 and not result.problem and "measured with" not in repr(result)


def test_it_scales_the_time_of_a_small_batch(quick, tiny):
    result = plan(tiny(batch_size=256, gradient_accumulation=2, batch_norm_group=128, steps=3600))
    assert quick == [4, 8, 16, 32] and result.probe == 32  # 1.6 s are too short, 3.2 s enough
    assert result.seconds == pytest.approx(25.6) and "25.6 hours: 25.6 s a step, measured with 32 images and scaled to 128" in repr(result)


def test_it_says_what_does_not_fit(tiny):
    result = plan(tiny(width=8192, batch_size=65_536))
    assert result.seconds is None and "does not fit" in repr(result) and "lower width" in result.problem


def test_time_on_a_gpu_comes_from_the_table_of_measurements(quick, tiny, monkeypatch, tmp_path):
    assert json.loads(module.GPUS.read_text()) == {} and "none has been measured yet" in repr(plan(tiny()))
    monkeypatch.setattr(module, "GPUS", tmp_path / "gpus.json")
    module.GPUS.write_text(json.dumps({"Card 9": {"no": 1e12, "bf16": 2e12}, "Other": {"bf16": 1e12}}))
    monkeypatch.setattr(module.FlopCounterMode, "get_total_flops", lambda self: 4e12)
    result = plan(tiny(batch_size=4, steps=1800))
    assert result.hours_on == {"Card 9": 2.0} and "Card 9         2.0 hours on one" in repr(result)
