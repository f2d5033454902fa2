"""The plain reference step is what the fast one is held against, number by number; and the benchmark measures what it says."""

import json
from unittest import mock

import numpy as np
import pytest
import torch

from benchmarks import growth, training, variants
from benchmarks.reference import plain_d_step, plain_g_step
from benchmarks.variants import VARIANTS, WITHOUT, StepProcess, change, patched, plain_adam
from workbench import Config, bench
from workbench.data.twins import Twins
from workbench.gpus import gpus
from workbench.model import layers
from workbench.training.setup import build, make_accelerator
from workbench.training.steps import d_step, g_step

# ------------------------------------------------------------------------------------------------ the same mathematics


def networks(config):
    """Fresh networks in which attention, gains and biases count, and a dictionary of the gradients of their last steps."""
    nets, gradients = build(config, make_accelerator(config)), {}
    source = torch.Generator().manual_seed(1)
    for net, optimizer in ((nets.generator, nets.optimizer_g), (nets.discriminator, nets.optimizer_d)):
        with torch.no_grad():
            for name, parameter in net.named_parameters():
                if name.endswith(("gain", "bias", "gamma")):
                    parameter.add_(torch.randn(parameter.shape, generator=source, dtype=parameter.dtype) / 2)

        def note(*_, net=net):
            gradients.update({parameter: parameter.grad.clone() for parameter in net.parameters()})

        optimizer.optimizer.register_step_pre_hook(note)
    return nets, gradients


def batch(config):
    size = config.image_size
    x = torch.randint(0, 256, (config.batch_size, 3, size, size), dtype=torch.uint8)
    return x, torch.randint(max(1, config.num_classes), (config.batch_size,))


def difference(config, prepare=lambda nets: None):
    """The largest relative difference of losses and gradients between two fast steps and two plain ones, float64."""
    (fast, of_fast), (plain, of_plain) = networks(config), networks(config)
    prepare(fast)
    plain_adam(plain)
    for net, optimizer in ((plain.generator, plain.optimizer_g), (plain.discriminator, plain.optimizer_d)):
        optimizer.register_step_pre_hook(lambda *_, net=net: of_plain.update({p: p.grad.clone() for p in net.parameters()}))
    x, y = batch(config)
    worst = 0.0
    for step in range(2):  # the second one sees what the optimisers made of the first
        reports = d_step(fast, step, 0, [(x, y)]) | g_step(fast, step)
        ours = torch.stack([reports[name] for name in ("loss_d", "d_real", "d_fake", "loss_g")])
        theirs = torch.cat([plain_d_step(plain, step, x, y), plain_g_step(plain, step)])
        worst = max(worst, (ours - theirs).abs().max().item())
        for mine, its in ((fast.generator, plain.generator), (fast.discriminator, plain.discriminator)):
            for a, b in zip(mine.parameters(), its.parameters(), strict=True):
                scale = max(1.0, of_plain[b].abs().max().item())
                worst = max(worst, (of_fast[a] - of_plain[b]).abs().max().item() / scale)
    return worst


SETTINGS = [
    {}, dict(attention_variant="paper"), dict(num_classes=0, data="folder"), dict(sn_g=False), dict(attention_block="residual"),
    dict(batch_norm_group=4), dict(image_size=64, attention_g="16,32", attention_d="32"), dict(d_downsamples=2, max_multiplier=1),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("changes", SETTINGS, ids=lambda changes: ",".join(f"{k}={v}" for k, v in changes.items()) or "default")
def test_the_fast_step_is_the_plain_one(tiny, changes):
    assert difference(tiny(dtype="float64", batch_size=8, **changes)) < 1e-9


PLANTED = {
    "a kernel summed over a box the wrong way round": (layers, "_box_filter", lambda f: lambda w, scale=1.0, mirrored=False: f(w, scale)),
    "scores divided by the square root of the width": (
        torch.nn.functional, "scaled_dot_product_attention", lambda f: lambda q, k, v, scale: f(q, k, v),
    ),
    "a power iteration too many": (layers.SpectralNorm, "sigma", lambda f: lambda self, w: (self.iterate(w), f(self, w))[1]),
}  # fmt: skip


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_bug_is_caught(tiny, planted):
    target, name, wrong = PLANTED[planted]
    with mock.patch.object(target, name, wrong(getattr(target, name))):
        assert difference(tiny(dtype="float64", batch_size=16)) > 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("variant", WITHOUT)
def test_what_is_taken_away_changes_time_alone(tiny, variant):
    def prepare(nets):
        if variant != "fused Adam":  # the hooks that note gradients are those of the optimisers it replaces
            change(variant, nets)

    with patched(variant):
        assert difference(tiny(dtype="float64", batch_size=8), prepare) < 1e-9


def test_every_patch_finds_what_it_replaces():
    for variant in VARIANTS:
        with patched(variant):
            pass


@pytest.mark.slow
def test_bf16_stays_within_the_spread_of_seeds(tiny):
    """Curves of losses in bf16 are no further from those in float32 than those of three seeds are from each other."""

    def curve(**changes):
        config = tiny(**changes)
        nets = build(config, make_accelerator(config))
        reports = [d_step(nets, step, 0, [batch_of_twins(config, step)]) | g_step(nets, step) for step in range(24)]
        return torch.stack([torch.stack([report["loss_d"], report["loss_g"]]) for report in reports]).unflatten(0, (3, 8)).mean(1)

    exact = [curve(seed=seed) for seed in range(3)]
    spread = torch.stack([(a - b).abs().mean() for k, a in enumerate(exact) for b in exact[:k]])
    assert (curve(seed=0, mixed_precision="bf16") - exact[0]).abs().mean() < spread.max()


def batch_of_twins(config, step):
    return Twins(config.image_size).batch(np.arange(config.batch_size) + step * config.batch_size)


# ------------------------------------------------------------------------------------------------------ the benchmark


def run(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["bench", *words])
    return bench.main()


@pytest.mark.slow
def test_it_prints_ratios_and_writes_a_record(monkeypatch, capsys, tmp_path):
    switches = {"channels_last": WITHOUT["channels_last"]}  # a patch and a change, in a process; all are the same mathematics above
    monkeypatch.setattr(training, "WITHOUT", switches)
    words = ["--size", "32", "--width", "8", "--batch", "2", "--rounds", "1", "--precision", "fp32", "--device", "cpu", "--json"]
    assert run(monkeypatch, *words, str(tmp_path / "record.json")) == 0
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["ratio"] == pytest.approx(record["seconds"]["plain"][0] / record["seconds"]["fast"][0])
    assert record["versions"]["torch"] and record["switches"].keys() == switches.keys()
    assert record["loader"]["images_per_second"] > 0 and record["sampling"]["ratio"] > 0
    printed = capsys.readouterr().out
    assert f"{record['ratio']:.2f} times as fast" in printed and "loader alone" in printed


@pytest.mark.slow
def test_the_flops_are_those_of_the_released_networks(tiny):
    """The released networks take 144 GFLOP an image and step at 128 px and width 64 (measured at a width that fits a test)."""
    config = Config.preset("imagenet128", width=8, batch_size=2, batch_norm_group=None, device="cpu", mixed_precision="no", num_classes=10)
    with StepProcess(config, "plain") as plain:
        # The convolutions, which dominate, grow with the square of the width.
        assert plain.flops() / 2 * 64 == pytest.approx(144e9, rel=0.15)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--size", "100"], "image_size=100"), (["--rounds", "0"], "--rounds=0 must be at least 1"), (["--only", "steps"], "--only='steps'"),
        (["--json", "/nowhere/at/all.json"], "there is no folder /nowhere/at"), (["--batch", "1"], "batch_size=1"),
        (["--attention", "7"], "attention_g='7'"), (["--device", "cuda"], "torch finds no GPU"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_in_one_line(monkeypatch, capsys, words, message):
    if "cuda" in words and gpus():
        pytest.skip("there is a GPU")
    assert run(monkeypatch, *words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


class Clock:
    """Stands in for a process that is timed: every attention map of 64 costs twice the rest."""

    def __init__(self, config, name):
        self.config = config

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def seconds(self):
        site = 0 if self.config.attention_g == "none" else int(self.config.attention_g)
        return self.config.batch_size * (1 + 2 * (site / 64) ** 4)

    def peak_bytes(self):
        return 2**20 * self.seconds()


def test_growth_tells_where_attention_dominates(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(growth, "StepProcess", Clock)
    words = ["--only", "growth", "--rounds", "1", "--figure", str(tmp_path / "growth.png"), "--json", str(tmp_path / "growth.json")]
    assert run(monkeypatch, *words, "--device", "cpu") == 0
    assert "from maps of 64 on" in capsys.readouterr().out
    rows = json.loads((tmp_path / "growth.json").read_text())["growth"]
    assert {row["axis"] for row in rows} == {"size", "batch", "attention"} and (tmp_path / "growth.png").stat().st_size > 10_000


def test_without_a_checkout_it_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(bench, "__file__", str(tmp_path / "site-packages" / "workbench" / "bench.py"))
    assert run(monkeypatch) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path}/site-packages is not a checkout" in error and error.count("\n") == 1


@pytest.mark.parametrize(("product", "convolution"), [(1.0, 0.1), (0.1, 1.0)])
def test_the_ceiling_is_the_better_of_a_matrix_product_and_a_convolution(monkeypatch, product, convolution):
    times = iter([product] * 8 + [convolution] * 8)
    monkeypatch.setattr(variants, "seconds", lambda work: next(times))
    fastest = max(2 * 2048**3 / product, 2 * 8 * 256 * 256 * 9 * 32 * 32 / convolution)
    assert variants._peak_flops(torch.device("cpu"), "no") == pytest.approx(fastest)
