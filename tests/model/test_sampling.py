import math

import pytest
import torch
from torch.nn.utils import parametrize

from workbench import Generator, ParameterError
from workbench.model import sampling


def test_latents_are_functions_of_seed_and_index():
    everything = sampling.latents(700, 5, seed=3)
    assert torch.equal(sampling.latents(10, 5, seed=3, start=250), everything[250:260])  # across a border of chunks
    assert torch.equal(sampling.latents(1, 5, seed=3, start=699), everything[699:])
    assert not torch.equal(sampling.latents(700, 5, seed=4), everything)
    assert abs(everything.mean()) < 0.1 and abs(everything.std() - 1) < 0.05


def test_generators_of_different_keys_differ():
    draws = {sampling.rng(*key).initial_seed() for key in [(0,), (1,), (0, 0), (0, 1), (1, 0), (0, 1, 2), (0, 2, 1)]}
    assert len(draws) == 7
    assert sampling.rng(5, 6).initial_seed() == sampling.rng(5, 6).initial_seed()


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


def test_interpolation_stays_on_the_sphere():
    a, b = sampling.latents(50, 64, seed=1), sampling.latents(50, 64, seed=2)
    torch.testing.assert_close(sampling.interpolate(a, b, 0.0), a)
    torch.testing.assert_close(sampling.interpolate(a, b, 1.0), b)
    torch.testing.assert_close(sampling.interpolate(a, a, 0.3), a)
    unit = [z / z.norm(dim=1, keepdim=True) for z in (a, b)]
    middle = sampling.interpolate(*unit, 0.5)
    torch.testing.assert_close(middle.norm(dim=1), torch.ones(50))  # a straight line would give about 0.7
    torch.testing.assert_close((middle * unit[0]).sum(1), (middle * unit[1]).sum(1))


def test_interpolation_where_there_is_no_great_circle():
    z = sampling.latents(4, 8, seed=1)
    nothing, mixed = torch.zeros_like(z), torch.cat([z[:2], -z[2:]])
    for t in (0.0, 0.3, 0.5, 1.0, -1.0, 2.0):
        for opposite, row in ((-z, 0), (-2 * z, 0), (mixed, 2)):
            with pytest.raises(ParameterError, match=f"^b is opposite to a in row {row} of 4, .* choose another b$"):
                sampling.interpolate(z, opposite, t)
        torch.testing.assert_close(sampling.interpolate(z, 2 * z, t), (1 + t) * z)
        torch.testing.assert_close(sampling.interpolate(nothing, z, t), t * z)
        assert torch.equal(sampling.interpolate(nothing, nothing, t), nothing)
        assert sampling.interpolate(z, -z * 1.0001 + 1e-4, t).isfinite().all()
    with pytest.raises(ParameterError, match="t=nan"):
        sampling.interpolate(z, -z, math.nan)


@pytest.mark.parametrize("threshold", [1e-300, 1e-20, 1e-3, 0.5, 2, 9.0, 40.0, 1e300, math.inf])
def test_truncated_latents_are_finite_and_within_their_bounds(threshold):
    z = torch.cat([sampling.latents(20, 8), torch.tensor([[0.0, -0.0, 9.0, -9.0, 50.0, -50.0, 1e30, -1e30]])])
    inside = sampling.truncate(z, threshold)
    assert inside.isfinite().all() and (inside.abs() <= min(threshold, 1e38)).all() and (inside.abs() <= z.abs()).all()
    assert (inside * z >= 0).all()
    if threshold >= 40:
        torch.testing.assert_close(inside[:-1], z[:-1])


def test_invalid_numbers_are_refused_in_one_line():
    z = sampling.latents(3, 8)
    for call in (
        lambda: sampling.truncate(z, math.nan),
        lambda: sampling.truncate(z, -1),
        lambda: sampling.latents(3, 8, seed=-1),
        lambda: sampling.latents(-3, 8),
        lambda: sampling.latents(3, 8, start=-1),
        lambda: sampling.latents(10**12, 8),
        lambda: sampling.latents(3, 10**12),
        lambda: sampling.rng(0, -1),
    ):
        with pytest.raises(ParameterError) as error:
            call()
        assert "\n" not in str(error.value)
    assert sampling.latents(0, 8).shape == (0, 8) and sampling.latents(2, 8, seed=10**400, start=10**30).isfinite().all()


def spectral_errors(net):
    """Of each layer, how far the largest singular value (by SVD) of its normalised weight is from 1."""
    layers = [m for m in net.modules() if parametrize.is_parametrized(m, "weight")]
    return [abs(torch.linalg.svdvals(m.weight.detach().flatten(1))[0].item() - 1) for m in layers]


def test_recalibrate_fits_running_statistics_and_sigma_to_the_weights(tiny):
    """Standing statistics equal the average over the same batches computed by hooks; sigma equals an SVD's."""
    generator = Generator(tiny(batch_norm_group=4)).double().eval()
    with torch.no_grad():
        for p in generator.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    before = spectral_errors(generator)
    means = []
    norm = generator.blocks["16"].norm1
    handle = norm.register_forward_hook(lambda m, x, out: means.append(x[0].mean((0, 2, 3))))
    sampling.recalibrate(generator, seed=1, batches=5, batch_size=32)
    handle.remove()
    assert (norm.running_mean - torch.stack(means).mean(0)).abs().max() < 1e-12
    assert (norm.momentum, norm.group_size) == (0.1, 4) and not generator.training
    assert max(before) > 0.01 and max(spectral_errors(generator)) < 1e-12


def test_sigma_is_the_largest_singular_value_also_where_two_are_close(tiny):
    """Where power iteration needs thousands of steps: the second singular value is 0.1 % below the first."""
    generator = Generator(tiny())
    norm = generator.linear.parametrizations.weight[0]
    rows, columns = generator.linear.weight.shape
    u, v = torch.linalg.qr(torch.randn(rows, 2))[0], torch.linalg.qr(torch.randn(columns, 2))[0]
    with torch.no_grad():
        generator.linear.parametrizations.weight.original.copy_(u @ torch.diag(torch.tensor([2.0, 1.998])) @ v.T)
        norm.u.copy_(u[:, 1])  # the worst start
    sampling.recalibrate(generator)
    assert norm.sigma(generator.linear.parametrizations.weight.original).item() == pytest.approx(2, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["shuffled", "in turn"])
def test_recalibration_sees_every_class(how, tiny, monkeypatch):
    """1,000 classes whose neighbours are alike, as ImageNet's are: images are those of statistics of 10,000 random labels, or clearly not."""
    if how == "in turn":  # a planted bug
        monkeypatch.setattr(sampling, "shuffled_labels", lambda count, classes, seed=0, start=0: sampling.labels(count, classes, start))
    generator = Generator(tiny(num_classes=1000)).eval()
    smooth = torch.sin(torch.linspace(0, math.pi, 1000))[:, None]  # of the index of the class
    with torch.no_grad():
        for name, p in generator.named_parameters():
            if name.endswith(("gain", "bias")) and p.ndim == 2 and len(p) == 1000:
                p.add_(2 * smooth * torch.randn(1, p.shape[1]))

    def images():
        return sampling.images(generator, sampling.latents(64, 8), torch.arange(0, 1000, 1000 // 63)[:64])

    sampling.recalibrate(generator, batches=8 if how == "in turn" else None)
    few = images()
    monkeypatch.setattr(sampling, "shuffled_labels", lambda count, classes, seed=0, start=0: torch.randint(classes, (count,)))
    sampling.recalibrate(generator, seed=5, batches=150)
    many = images()
    moved = ((few - many).square().mean() / many.var(0).mean()).sqrt()
    assert moved < 0.05 if how == "shuffled" else moved > 0.15


def test_shuffled_labels_are_functions_of_their_index():
    y = sampling.shuffled_labels(2500, 1000, seed=3)
    assert sorted(y[:1000].tolist()) == sorted(y[1000:2000].tolist()) == list(range(1000)) and not torch.equal(y[:1000], y[1000:2000])
    assert torch.equal(sampling.shuffled_labels(700, 1000, 3, 800), y[800:1500]) and sampling.shuffled_labels(5, 0) is None
    assert torch.bincount(y[:64] // 250, minlength=4).min() > 5  # a batch shows the whole range


def test_recalibrate_restores_batch_norm_after_an_error(tiny):
    generator = Generator(tiny(batch_norm_group=4)).train()
    before = generator.norm.momentum, generator.norm.group_size

    def fails(*arguments):
        raise RuntimeError("out of memory")

    generator.blocks["16"].norm1.register_forward_hook(fails)
    with pytest.raises(RuntimeError):
        sampling.recalibrate(generator)
    assert (generator.norm.momentum, generator.norm.group_size) == before and generator.training


def test_train_mode_restores_the_mode_of_each_module(tiny):
    generator = Generator(tiny()).train()
    generator.norm.eval()
    with sampling.train_mode(generator, False):
        assert not generator.training
    assert generator.training and not generator.norm.training


def test_tile_lays_images_out_row_by_row_on_black():
    for count, columns in ((7, 3), (6, 3), (2, 5), (1, 4)):
        x = torch.randn(count, 3, 8, 8)
        across, down = min(columns, count), math.ceil(count / columns)
        expected = torch.zeros(3, 10 * down + 2, 10 * across + 2, dtype=torch.uint8)
        for k in range(count):
            top, left = 10 * (k // across) + 2, 10 * (k % across) + 2
            expected[:, top : top + 8, left : left + 8] = ((x[k].clamp(-1, 1) + 1) / 2 * 255).round()
        assert torch.equal(sampling.tile(x, columns), expected)
