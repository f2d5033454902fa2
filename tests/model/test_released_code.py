"""How far steps differ from the released TensorFlow code: the figures of docs/presets.md, against independent implementations."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from workbench import Config, Discriminator
from workbench.data import open_data, to_unit
from workbench.model.layers import SpectralNorm, power_iteration
from workbench.model.losses import hinge_discriminator, hinge_generator
from workbench.training import setup, steps


class ReleasedSpectralNorm(nn.Module):
    """W / sigma(W) after one power iteration from a stored u, with the gradient through u and v (or without, for comparison)."""

    def __init__(self, u, through=True):
        super().__init__()
        self.u, self.through = u.clone(), through

    def forward(self, weight):
        matrix = weight.flatten(1)
        with torch.set_grad_enabled(self.through and torch.is_grad_enabled()):
            v = self.u @ matrix
            v = v / (v.square().sum().sqrt() + 1e-12)
            u = matrix @ v
            u = u / (u.square().sum().sqrt() + 1e-12)
        return weight / (u @ matrix @ v)


def as_released(net, through=True):
    net = copy.deepcopy(net)
    for module in net.modules():
        if isinstance(module, parametrize.ParametrizationList):
            module[0] = ReleasedSpectralNorm(module[0].u, through)
    return net


def gradient(net, loss):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, [*net.parameters()])])


def distance(a, b):
    return ((a - b).norm() / b.norm()).item(), torch.nn.functional.cosine_similarity(a, b, 0).item()


@pytest.mark.slow
def test_gradients_differ_from_those_of_the_released_code_by_a_few_per_cent():
    config = Config.preset("twins32", width=8, batch_size=16, device="cpu", mixed_precision="no", dtype="float64")
    nets, data = setup.build(config, setup.make_accelerator(config)), open_data(config)
    for step in range(9):
        real = [torch.as_tensor(part) for part in data.batch(np.arange(step * 16, step * 16 + 16))]
        before, old = copy.deepcopy(nets.generator), copy.deepcopy(nets.discriminator)
        steps.d_step(nets, step, 0, [tuple(real)])
        new = copy.deepcopy(nets.discriminator)
        steps.g_step(nets, step)
    power_iteration(before)
    z, y, _ = steps.draw_noise(nets, step, 0)
    with torch.no_grad():
        x = torch.cat([to_unit(real[0], z.dtype), before(z, y)])
    labels = torch.cat([real[1], y])

    def of_d(net):
        return gradient(net, hinge_discriminator(*net(x, labels).chunk(2)))

    released, held, ours = as_released(old), as_released(old, through=False), old
    power_iteration(ours)
    assert distance(of_d(ours), of_d(held))[0] < 1e-10  # all that differs is the gradient through u and v
    apart, cosine = distance(of_d(ours), of_d(released))
    assert 1e-5 < apart < 0.003 and cosine > 0.9999

    def of_g(net):
        return gradient(before, hinge_generator(net(before(z, y), y)))

    apart, cosine = distance(of_g(new), of_g(as_released(new)))
    assert 1e-4 < apart < 0.05 and cosine > 0.999
    iterated = copy.deepcopy(new)
    power_iteration(iterated)
    assert distance(of_g(iterated), of_g(as_released(new)))[0] < 1e-10  # all that differs is one power iteration


def test_epsilon_of_adam_is_that_of_the_released_code_times_the_correction():
    """TensorFlow adds epsilon to the root of the second moment before its correction: as torch's, divided by sqrt(1 - beta2^t)."""
    gradients, lr, beta2, eps = np.random.default_rng(0).normal(size=50) * 1e-6, 1e-4, 0.999, 1e-8
    weight, v, apart = nn.Parameter(torch.zeros((), dtype=torch.float64)), 0.0, []
    adam = torch.optim.Adam([weight], lr=lr, betas=(0.0, beta2), eps=eps)
    for t, g in enumerate(gradients, 1):
        v = beta2 * v + (1 - beta2) * g**2
        step = lr * np.sqrt(1 - beta2**t) * g / (np.sqrt(v) + eps)
        assert step == pytest.approx(lr * g / (np.sqrt(v / (1 - beta2**t)) + eps / np.sqrt(1 - beta2**t)), rel=1e-12)
        before, weight.grad = weight.item(), torch.tensor(g)
        adam.step()
        apart.append((before - weight.item()) / step)
    assert apart[0] == pytest.approx((abs(gradients[0]) + eps / np.sqrt(1 - beta2)) / (abs(gradients[0]) + eps), rel=1e-6)
    assert apart[-1] < 1.1 < apart[0]  # it fades: 3.2e-7 at the first step, 1.3e-8 after 1,000


def test_sigma_of_fresh_networks_is_closer_after_fifteen_iterations_than_after_one():
    torch.manual_seed(0)
    net, one, fifteen = Discriminator(Config.preset("imagenet128", width=16)), [], []
    for module in net.modules():
        if isinstance(module, parametrize.ParametrizationList) and isinstance(module[0], SpectralNorm):
            matrix = module.original.detach().flatten(1).double()
            exact = torch.linalg.svdvals(matrix)[0]
            v = nn.functional.normalize(matrix.T @ torch.randn(len(matrix), dtype=torch.float64), dim=0)
            one.append(((matrix @ v).norm() / exact).item())
            fifteen.append((module[0].sigma(module.original) / exact).item())
    assert 0.7 < np.median(one) < 0.85 and min(fifteen) > 0.93 and np.median(fifteen) > 0.97
