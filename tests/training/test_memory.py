import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from workbench import Config, ParameterError
from workbench.gpus import GPU
from workbench.model import Discriminator, Generator
from workbench.presets import PRESETS
from workbench.training import memory
from workbench.training.memory import activations_d, activations_g, device_bytes, host_bytes, parameters_d, parameters_g, require_feasible

GB = 10**9
SHAPES = [
    {},
    dict(attention_g="none", attention_d="none", num_classes=0),
    dict(attention_g="16,32", attention_variant="paper", image_size=64, width=16),
    dict(width=40, width_d=32, d_downsamples=2, d_flat_blocks=3, sn_d=False),
    dict(d_flat_channels=100, d_flat_blocks=2, d_relu_inplace=True),
    dict(attention_block="residual", max_multiplier=2, d_narrow=True),
    dict(init="orthogonal", sn_gains=True),
    dict(image_size=128, width=8),
]


@pytest.fixture
def machine(monkeypatch, cards):
    """A machine without GPUs and with so much memory: `machine(24 * GB)`."""

    def make(available):
        monkeypatch.setattr(memory, "host_memory", lambda: available)
        cards()

    make(24 * GB)
    return make


@pytest.mark.parametrize("shape", SHAPES)
def test_parameters_are_counted_without_making_them(shape):
    config = Config.preset("twins32", **shape)
    for count, network in ((parameters_g, Generator), (parameters_d, Discriminator)):
        assert count(config) == sum(p.numel() for p in network(config).parameters())


def test_the_released_networks_have_their_size():
    config = Config.preset("imagenet128", attention_g="32", attention_d="32")
    assert (parameters_g(config), parameters_d(config)) == (42_078_852, 39_463_618)


@pytest.mark.parametrize("shape", SHAPES)
def test_activations_are_what_autograd_keeps(shape):
    config, count = Config.preset("twins32", **shape), 4
    saved = {}

    def keep(tensor):
        if tensor.shape[:1] == (count,):
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() / 4 / count
        return tensor

    y = torch.arange(count) % config.num_classes if config.num_classes else None
    inputs = {Generator: torch.randn(count, config.z_dim), Discriminator: torch.randn(count, 3, config.image_size, config.image_size)}
    for estimated, (network, x) in zip((activations_g, activations_d), inputs.items(), strict=True):
        saved.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = network(config)(x, y)
        assert estimated(config) == pytest.approx(sum(saved.values()), rel=0.12)
        del output


MEASURE = """
import json, re, sys, torch
from workbench import Config
from workbench.training import setup, steps
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024  # ru_maxrss begins at that of the parent
for settings in [dict(width=8, batch_size=4), json.loads(sys.argv[1])]:
    config = Config.preset("twins32", mixed_precision="no", device="cpu", **settings)
    idle = peak()
    nets = setup.build(config, setup.make_accelerator(config))
    shape = config.batch_size, 3, config.image_size, config.image_size
    for step in range(2):
        steps.d_step(nets, step, 0, [(torch.zeros(shape, dtype=torch.uint8), torch.zeros(shape[0], dtype=torch.long))])
        steps.g_step(nets, step)
print(peak() - idle)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="its peak is read from /proc")
def test_a_training_takes_about_what_is_estimated():
    settings = dict(width=96, batch_size=16)  # networks and activations take about the same
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps(settings)], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr
    estimated = sum(device_bytes(Config.preset("twins32", mixed_precision="no", **settings)).values())
    assert 0.75 < estimated / int(done.stdout.split()[-1]) < 1.3


@pytest.mark.parametrize(
    ("settings", "blamed", "needs"),
    [
        (dict(batch_size=10**9), "batch_size=1000000000", "PB"),
        (dict(width=10**6), "width=1000000", "PB"),
        (dict(width_d=10**6), "width_d=1000000", "PB"),
        (dict(width=10**4, max_multiplier=10**9), "width=10000", "TB"),
        (dict(d_flat_blocks=10**6), "d_flat_blocks=1000000", "TB"),
        (dict(z_dim=10**9), "z_dim=1000000000", "TB"),
        (dict(num_classes=10**9), "num_classes=1000000000", "TB"),
        (dict(num_processes=10**6, batch_size=10**6), "num_processes=1000000", "TB"),
        (dict(num_processes=500, batch_size=1000), "num_processes=500", "GB"),
        (dict(batch_size=10**9, gradient_accumulation=10**9), "batch_size=1000000000", "TB"),
        (dict(batch_size=10**9, gradient_accumulation=10**6, batch_norm_group=1000), "batch_size=1000000000", "TB"),
        (dict(d_steps=10**9), "d_steps=1000000000", "TB"),
        (dict(evaluate_n=10**12), "evaluate_n=1000000000000", "TB"),
        (dict(evaluate_n=10**9), "evaluate_n=1000000000", "GB"),
        (dict(evaluate_n=2**31), "evaluate_n=2147483648", "GB"),
        (dict(evaluate_n=10**9, z_dim=33), "evaluate_n=1000000000", "GB"),
        (dict(z_dim=10**7, batch_size=64), "z_dim=10000000", "GB"),
        (dict(width=2**63 - 1, z_dim=2**63 - 1, batch_size=2**62), "width=9223372036854775807", "EB"),
    ],
)
def test_settings_that_fit_into_no_machine_are_refused(machine, settings, blamed, needs):
    if settings.get("gradient_accumulation") == 10**9:
        settings = settings | dict(batch_norm_group=1)
    message = refusal(Config.preset("twins32", device="cpu", **settings))
    assert message.startswith(f"{blamed}: this training needs about ") and f" {needs} of memory, and the machine has 23 GB (" in message
    assert message.isprintable() and len(message) < 300


def refusal(config) -> str:
    with pytest.raises(ParameterError) as error:
        require_feasible(config)
    return str(error.value)


@pytest.mark.parametrize("preset", PRESETS)
def test_settings_that_fit_are_not_refused(machine, preset):
    config = Config.preset(preset, mixed_precision="no")
    needed = sum(host_bytes(config).values())
    machine(needed)
    require_feasible(config)
    machine(needed / 2)
    assert "lower" in refusal(config)


def test_large_batches_are_judged_by_their_activations(machine):
    large = Config.preset("imagenet128", mixed_precision="no")
    assert large.batch_size == 256
    assert "batch_size=256: this training needs about 29 GB" in refusal(large) and "gradient_accumulation" in refusal(large)
    require_feasible(large.replace(gradient_accumulation=4))
    require_feasible(Config.preset("twins32", num_classes=None, data="/some/where"))  # how many classes it has shows later


def test_gpus_hold_networks_and_the_host_the_rest(machine, cards):
    cards(GPU("A", 24 * GB, 8), GPU("A", 24 * GB, 8))
    config = Config.preset("imagenet128", mixed_precision="no")
    assert "of GPU memory" in refusal(config)
    require_feasible(config.replace(num_processes=2))
    require_feasible(config.replace(mixed_precision="bf16"))
    assert "num_processes=4: there is one process per GPU, and torch finds 2" in refusal(config.replace(num_processes=4))
    assert "d_steps=1000000000" in refusal(config.replace(d_steps=10**9))


def test_a_container_may_have_less_than_the_machine(tmp_path, monkeypatch):
    assert 0 < memory.host_memory() < 2**60
    monkeypatch.setattr(memory, "_cgroup_limits", lambda: [3 * GB])
    assert memory.host_memory() == 3 * GB
