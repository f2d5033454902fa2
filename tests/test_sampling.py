import math

import torch
from torch.nn.utils import parametrize

from workbench import Generator, sampling


def test_latents_are_functions_of_seed_and_index():
    everything = sampling.latents(700, 5, seed=3)
    assert torch.equal(sampling.latents(10, 5, seed=3, start=250), everything[250:260])  # across a border of chunks
    assert torch.equal(sampling.latents(1, 5, seed=3, start=699), everything[699:])
    assert not torch.equal(sampling.latents(700, 5, seed=4), everything)
    assert abs(everything.mean()) < 0.1 and abs(everything.std() - 1) < 0.05


def test_generators_of_different_keys_differ():
    draws = {sampling.generator_for(*key).initial_seed() for key in [(0,), (1,), (0, 0), (0, 1), (1, 0), (0, 1, 2), (0, 2, 1)]}
    assert len(draws) == 7
    assert sampling.generator_for(5, 6).initial_seed() == sampling.generator_for(5, 6).initial_seed()


def test_grid_has_a_row_per_class_and_equal_latents_in_each():
    z, y = sampling.grid(6, 8, seed=0, columns=5)
    assert y.view(6, 5).tolist() == [[c] * 5 for c in range(6)]
    assert all(torch.equal(row, z[:5]) for row in z.view(6, 5, 8))
    z, y = sampling.grid(1000, 8, seed=0)
    assert len(z) == 100 and y.view(10, 10)[:, 0].tolist() == [0, 111, 222, 333, 444, 555, 666, 777, 888, 999]
    z, y = sampling.grid(0, 8, seed=0)
    assert y is None and len(z.unique(dim=0)) == 100


def test_images_do_not_depend_on_the_batch_size(tiny):
    generator = Generator(tiny()).double().train()
    z, y = sampling.latents(7, 8), torch.arange(7) % 6
    assert (sampling.images(generator, z, y, 3) - sampling.images(generator, z, y, 7)).abs().max() < 1e-6
    assert generator.training  # modes are restored


def test_interpolation_keeps_to_the_sphere():
    a, b = sampling.latents(50, 64, seed=1), sampling.latents(50, 64, seed=2)
    torch.testing.assert_close(sampling.interpolate(a, b, 0.0), a)
    torch.testing.assert_close(sampling.interpolate(a, b, 1.0), b)
    torch.testing.assert_close(sampling.interpolate(a, a, 0.3), a)
    unit = [z / z.norm(dim=1, keepdim=True) for z in (a, b)]
    middle = sampling.interpolate(*unit, 0.5)
    torch.testing.assert_close(middle.norm(dim=1), torch.ones(50))  # a straight line would give about 0.7
    torch.testing.assert_close((middle * unit[0]).sum(1), (middle * unit[1]).sum(1))


def spectral_errors(net):
    """Of each layer, how far the largest singular value (by SVD) of its normalised weight is from 1."""
    layers = [m for m in net.modules() if parametrize.is_parametrized(m, "weight")]
    return [abs(torch.linalg.svdvals(m.weight.detach().flatten(1))[0].item() - 1) for m in layers]


def test_settle_fits_statistics_and_spectral_vectors_to_the_weights(tiny):
    """Standing statistics equal the average over the same batches computed by hooks; sigma equals an SVD's."""
    generator = Generator(tiny(batch_norm_group=4)).double().eval()
    with torch.no_grad():
        for p in generator.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    before = spectral_errors(generator)
    means = []
    norm = generator.blocks["16"].norm1
    handle = norm.register_forward_hook(lambda m, x, out: means.append(x[0].mean((0, 2, 3))))
    sampling.settle(generator, seed=1, batches=5, batch_size=32)
    handle.remove()
    assert (norm.running_mean - torch.stack(means).mean(0)).abs().max() < 1e-12
    assert (norm.momentum, norm.group_size) == (0.1, 4) and not generator.training
    assert max(after := spectral_errors(generator)) < 0.1
    assert sum(after) < 0.2 * sum(before)


def test_modes_of_single_modules_are_restored(tiny):
    generator = Generator(tiny()).train()
    generator.norm.eval()
    with sampling.evaluating(generator):
        assert not generator.training
    assert generator.training and not generator.norm.training


def test_a_grid_holds_the_images_row_by_row_on_black():
    for count, columns in ((7, 3), (6, 3), (2, 5)):
        x = torch.randn(count, 3, 8, 8)
        across, down = min(columns, count), math.ceil(count / columns)
        expected = torch.zeros(3, 10 * down + 2, 10 * across + 2, dtype=torch.uint8)
        for k in range(count):
            top, left = 10 * (k // across) + 2, 10 * (k % across) + 2
            expected[:, top : top + 8, left : left + 8] = ((x[k].clamp(-1, 1) + 1) / 2 * 255).round()
        assert torch.equal(sampling.tile(x, columns), expected)
