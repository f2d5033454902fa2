"""Gradient norms, saturation and spectra against slow references, and planted problems that they must show."""

import json
import shutil

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from workbench import Config, Run, records, train
from workbench.data.twins import Twins
from workbench.model import Discriminator, Generator
from workbench.model.layers import SpectralNorm, power_iteration
from workbench.training import diagnostics, loop
from workbench.training.setup import build, make_accelerator
from workbench.training.steps import d_step, g_step


def networks(config):
    return Generator(config), Discriminator(config)


# ------------------------------------------------------------------------------------------------ gradient norms


def test_the_gradient_norm_is_that_of_all_gradients_as_one_vector():
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Linear(4, 2))
    for parameter in net.parameters():
        parameter.grad = torch.randn_like(parameter)
    net[1].bias.grad = None  # does not learn
    squares = sum(float(value) ** 2 for p in net.parameters() if p.grad is not None for value in p.grad.flatten())
    norm, taken = diagnostics.gradient_norm(torch.optim.Adam([dict(params=net[0].parameters()), dict(params=net[1].parameters())]))
    assert abs(norm / squares**0.5 - 1) < 1e-6 and taken == 1


def test_the_factor_of_the_loss_scaler_is_divided_out_and_overflow_is_reported():
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    net = nn.Linear(3, 1)
    scaler.scale(net(torch.ones(1, 3)).sum()).backward()
    optimizer = torch.optim.SGD(net.parameters())
    norm, taken = diagnostics.gradient_norm(optimizer, scaler)
    assert abs(norm - 2) < 1e-6 and taken == 1  # gradients 1, 1, 1 and 1
    net.bias.grad.fill_(torch.inf)
    assert diagnostics.gradient_norm(optimizer, scaler) == (0, 0)


def test_saturation_counts_images_without_a_gradient():
    real = torch.tensor([-3.0, 0.999, 1.0, 1.5, 40.0], requires_grad=True)
    fake = torch.tensor([-1.0, -0.999, 3.0, -7.0], requires_grad=True)
    from workbench.model.losses import hinge_discriminator

    hinge_discriminator(real, fake).backward()
    shares = [sum(g == 0 for g in logits.grad.tolist()) / len(logits) for logits in (real, fake)]
    assert [share.item() for share in diagnostics.saturation(real, fake)] == pytest.approx(shares) == [0.6, 0.5]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_steps_report_norms_and_saturation(tiny, accumulation):
    """In float64 against loops over recorded logits and over the gradients that the optimisers are given."""
    config = tiny(dtype="float64", gradient_accumulation=accumulation, batch_norm_group=4)
    nets = build(config, make_accelerator(config))
    images, labels = Twins(32).batch(np.arange(8))
    real = [(images[part], labels[part]) for part in (range(8),) if accumulation == 1] or [
        (images[:4], labels[:4]),
        (images[4:], labels[4:]),
    ]
    seen, norms = [], {}
    handle = nets.discriminator.register_forward_hook(lambda net, inputs, logits: seen.append(logits.detach() + 0))
    with torch.no_grad():
        nets.discriminator.linear.bias.fill_(0.9)  # so that some are saturated and some are not
    for letter, optimizer, net in (("d", nets.optimizer_d, nets.discriminator), ("g", nets.optimizer_g, nets.generator)):
        optimizer.step = lambda letter=letter, net=net: norms.update(
            {letter: sum(float((p.grad.double() ** 2).sum()) for p in net.parameters() if p.grad is not None) ** 0.5}
        )
    report = d_step(nets, 0, 0, real)
    handle.remove()
    half = 8 // accumulation
    reals, fakes = [v for x in seen for v in x[:half].tolist()], [v for x in seen for v in x[half:].tolist()]
    assert report["saturated_real"].item() == pytest.approx(sum(v >= 1 for v in reals) / 8)
    assert report["saturated_fake"].item() == pytest.approx(sum(v <= -1 for v in fakes) / 8)
    assert report["d_real"].item() == pytest.approx(sum(reals) / 8) and report["d_fake"].item() == pytest.approx(sum(fakes) / 8)
    assert report["grad_norm_d"].item() == pytest.approx(norms["d"], rel=1e-12) and norms["d"] > 0
    report = g_step(nets, 0)
    assert report["grad_norm_g"].item() == pytest.approx(norms["g"], rel=1e-12) and report["finite_g"] == 1


@pytest.mark.slow
def test_history_has_means_and_the_largest_norms(tiny, monkeypatch):
    reports = dict(d=[], g=[])
    for letter, step in (("d", loop.d_step), ("g", loop.g_step)):
        record = lambda *a, step=step, to=reports[letter]: to.append(step(*a)) or to[-1]  # noqa: E731
        monkeypatch.setattr(loop, f"{letter}_step", record)
    run = train(tiny(steps=5, d_steps=2))
    d = [reports["d"][k : k + 2] for k in range(0, 10, 2)]  # by G step
    for row, window in zip(run.history(), (slice(0, 2), slice(2, 4), slice(4, 5)), strict=True):
        d_reports, g_reports = [report for step in d[window] for report in step], reports["g"][window]
        for name in ("loss_d", "d_real", "d_fake", "saturated_real", "saturated_fake", "grad_norm_d"):
            assert row[name] == pytest.approx(np.mean([report[name].item() for report in d_reports]), rel=1e-12), name
        for name in ("loss_g", "grad_norm_g"):
            assert row[name] == pytest.approx(np.mean([report[name].item() for report in g_reports]), rel=1e-12), name
        assert row["grad_norm_d_max"] == max(report["grad_norm_d"].item() for report in d_reports)
        assert row["grad_norm_g_max"] == max(report["grad_norm_g"].item() for report in g_reports) >= row["grad_norm_g"] > 0


@pytest.mark.slow
def test_steps_that_overflow_are_left_out_of_the_means(tiny, monkeypatch):
    """As under float16, where the scaler skips them; a window of nothing else has no norm at all."""
    steps = iter([(4.0, 1), (0.0, 0), (2.0, 1), (0.0, 0), (0.0, 0), (0.0, 0)])
    step = loop.g_step
    monkeypatch.setattr(
        loop, "g_step", lambda *a: step(*a) | dict(zip(("grad_norm_g", "finite_g"), map(torch.tensor, next(steps)), strict=True))
    )
    first, second = train(tiny(steps=6, log_every=3)).history()
    assert (first["grad_norm_g"], first["grad_norm_g_max"]) == (3, 4)
    assert "grad_norm_g" not in second and "grad_norm_d" in second and "NaN" not in json.dumps(second)


@pytest.mark.slow
def test_a_resumed_window_is_that_of_the_uninterrupted_run(tiny):
    straight = train(tiny(run="straight", steps=6, log_every=6, checkpoint_every=4, d_steps=2))
    shutil.copytree(straight.path, straight.path.parent / "again")
    again = Run("again")
    again.update_config(again.config)
    shutil.rmtree(again.checkpoint_path(6))
    train(Config.from_parameters(dict(resume="again")))
    (resumed,), (uninterrupted,) = again.history(), straight.history()
    assert {**resumed, "seconds": 0} == {**uninterrupted, "seconds": 0} and "grad_norm_d_max" in resumed
    assert again.spectra() == straight.spectra() and [row["step"] for row in again.spectra()] == [0, 4, 6]


# ---------------------------------------------------------------------------------------------- singular values


@pytest.mark.parametrize("changes", [dict(), dict(sn_g=False), dict(attention_block="residual", num_classes=0)])
def test_spectra_are_those_of_torch_for_every_layer(tiny, changes):
    generator, discriminator = networks(tiny(**{"num_classes": 6, **changes}))
    with torch.no_grad():
        for parameter in (*generator.parameters(), *discriminator.parameters()):
            parameter.add_(0.05 * torch.randn_like(parameter))  # now the estimate does not fit the weights
    before = {k: v.clone() for net in (generator, discriminator) for k, v in net.state_dict().items()}
    rows_by_layer = diagnostics.spectra(generator, discriminator)
    after = {k: v for net in (generator, discriminator) for k, v in net.state_dict().items()}
    assert all(torch.equal(v, before[k]) for k, v in after.items() if k in before)  # spectra change nothing

    nets = dict(G=generator, D=discriminator)
    ends = (".parametrizations.weight.original", ".weight")
    names = [f"{letter}/{name}" for letter, net in nets.items() for name, _ in net.named_parameters() if name.endswith(ends)]
    layers = {name.removesuffix(ends[0]).removesuffix(ends[1]): None for name in names}
    layers = {name: nets[name[0]].get_submodule(name[2:]) for name in layers}
    assert set(rows_by_layer) == set(layers) and {"G/linear", "G/output", "D/linear"} <= rows_by_layer.keys()
    for name, layer in layers.items():
        normalised = parametrize.is_parametrized(layer)
        weight = (layer.parametrizations.weight.original if normalised else layer.weight).detach().double()
        values = torch.linalg.svdvals(weight.flatten(1))
        assert rows_by_layer[name]["exact"] == pytest.approx(values[:3].tolist(), rel=1e-6), name
        assert rows_by_layer[name]["stable_rank"] == pytest.approx(((values**2).sum() / values[0] ** 2).item(), rel=1e-6)
        used = torch.linalg.svdvals(layer.weight.detach().double().flatten(1))[0].item()
        assert records.effective(rows_by_layer[name]) == pytest.approx(used, rel=1e-5), name
        assert ("estimate" in rows_by_layer[name]) == normalised == (name[0] == "D" or changes.get("sn_g", True))
        if normalised:
            assert rows_by_layer[name]["estimate"] <= rows_by_layer[name]["renewed"] * (1 + 1e-6) <= values[0].item() * (1 + 1e-5)
    power_iteration(generator)
    for name, row in diagnostics.spectra(generator, discriminator).items():
        if name[0] == "G" and "estimate" in row:
            assert row["estimate"] == pytest.approx(rows_by_layer[name]["renewed"], rel=1e-5)


def test_a_layer_that_blows_up_shows_and_spectral_normalization_hides_it(tiny):
    rows_by_layer = {}
    for sn in (True, False):
        generator, discriminator = networks(tiny(num_classes=6, sn_g=sn))
        weight = generator.blocks["16"].conv2.parametrizations.weight.original if sn else generator.blocks["16"].conv2.weight
        with torch.no_grad():
            weight.mul_(100)
        rows_by_layer[sn] = diagnostics.spectra(generator, discriminator)
        largest = max((name for name in rows_by_layer[sn] if name[0] == "G"), key=lambda name: rows_by_layer[sn][name]["exact"][0])
        assert largest == "G/blocks.16.conv2"
    for sn, rows in rows_by_layer.items():
        largest_values = records.largest_of_all(rows)
        assert (
            largest_values["sigma_g"] == rows["G/blocks.16.conv2"]["exact"][0] > 10 * largest_values["sigma_d"]
            and largest_values["at_work_d"] < 1.5
        )
        assert largest_values["at_work_g"] == max(records.effective(row) for name, row in rows.items() if name[0] == "G")
        assert (largest_values["at_work_g"] < 1.5) == sn
    used = {sn: records.effective(rows["G/blocks.16.conv2"]) for sn, rows in rows_by_layer.items()}
    assert abs(used[True] - 1) < 0.05 and used[False] > 50


def test_an_estimate_that_lags_behind_shows():
    """Weights with a new largest singular vector: the layer divides by too little until power iteration has found it."""
    layer = nn.Linear(8, 8, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor([1.0, *[0.1] * 7])))
    parametrize.register_parametrization(layer, "weight", SpectralNorm(layer.weight))
    with torch.no_grad():
        layer.parametrizations.weight.original[3, 3] = 5.0
    row = diagnostics.spectrum(layer)
    assert row["exact"] == [5, 1, 0.1] and row["estimate"] == pytest.approx(1, rel=1e-3)
    assert records.effective(row) == pytest.approx(5, rel=1e-3)
    assert row["stable_rank"] == pytest.approx((25 + 1 + 6 * 0.01) / 25, rel=1e-6)


def test_small_layers_zero_weights_and_weights_that_are_not_finite():
    layer = nn.Linear(4, 1)
    assert len(diagnostics.spectrum(layer)["exact"]) == 1
    nn.init.zeros_(layer.weight)
    row = diagnostics.spectrum(layer)
    assert row == dict(exact=[0.0], stable_rank=None) and records.effective(row) == 0
    parametrize.register_parametrization(layer, "weight", SpectralNorm(layer.weight))
    assert records.effective(diagnostics.spectrum(layer)) is None  # divided by zero
    with torch.no_grad():
        layer.parametrizations.weight.original.fill_(torch.nan)
    row = diagnostics.spectrum(layer)
    assert row == dict(exact=[None], stable_rank=None, estimate=None, renewed=None) and records.effective(row) is None
    json.dumps(row, allow_nan=False)
    assert records.largest_of_all({"G/linear": row, "D/linear": dict(exact=[2.0])}) == dict(sigma_d=2, at_work_d=2)


def test_a_run_writes_the_spectra_of_its_networks(tiny):
    run = train(tiny(sn_g=False, ema_decay=0))
    assert [row["step"] for row in run.spectra()] == run.sample_steps() == [0, 4]
    rows_by_layer = diagnostics.spectra(run.generator(weights="raw"), run.discriminator())
    for name, row in run.spectra()[-1]["layers"].items():  # a checkpoint has all that they are computed from
        assert row.keys() == rows_by_layer[name].keys() and row["exact"] == pytest.approx(rows_by_layer[name]["exact"], rel=1e-5)
        numbers = {kind: value for kind, value in row.items() if kind != "exact"}
        assert numbers == pytest.approx({kind: rows_by_layer[name][kind] for kind in numbers}, rel=1e-5)
    assert "estimate" not in rows_by_layer["G/linear"] and "estimate" in rows_by_layer["D/linear"]
    fork = train(Config.from_parameters(dict(resume=f"{run.name}@4", steps=5, lr_g=1e-3)))
    assert [row["step"] for row in fork.spectra()] == [0, 4, 5]
