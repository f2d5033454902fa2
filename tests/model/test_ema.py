import torch

from workbench import Generator
from workbench.model.ema import EMA


def moved(generator, seed):
    """Change every weight and buffer, as a training step does."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for tensor in [*generator.parameters(), *generator.buffers()]:
            tensor.add_(torch.randn_like(tensor) * 0.1)


def test_ema_equals_its_closed_form(tiny):
    generator = Generator(tiny())
    ema = EMA(generator, decay=0.9)
    track = [generator.output.parametrizations.weight.original.detach().double().clone()]
    for step in range(1, 6):
        moved(generator, step)
        track.append(generator.output.parametrizations.weight.original.detach().double().clone())
        ema.update(generator, step)
    expected = 0.9**5 * track[0] + sum(0.1 * 0.9 ** (5 - k) * track[k] for k in range(1, 6))
    assert (ema.average.output.parametrizations.weight.original - expected).abs().max() < 1e-6


def test_buffers_are_copied_never_averaged_or_skipped(tiny):
    generator = Generator(tiny())
    ema = EMA(generator, decay=0.9)
    moved(generator, 0)
    ema.update(generator, 1)
    averaged, buffers = dict(ema.average.named_buffers()), dict(generator.named_buffers())
    assert any(name.endswith(".u") for name in averaged) and any(name.endswith("running_var") for name in averaged)
    assert all(torch.equal(averaged[name], buffers[name]) for name in averaged)


def test_until_the_start_the_average_is_a_copy(tiny):
    generator = Generator(tiny())
    ema = EMA(generator, decay=0.9, start=2)
    for step in (1, 2):
        moved(generator, step)
        ema.update(generator, step)
        assert all(torch.equal(a, b) for a, b in zip(ema.average.parameters(), generator.parameters(), strict=True))
    moved(generator, 3)
    ema.update(generator, 3)
    assert not torch.equal(ema.average.linear.bias, generator.linear.bias)


def test_the_average_has_no_gradients(tiny):
    average = EMA(Generator(tiny()), decay=0.9).average
    assert not average.training and not any(p.requires_grad for p in average.parameters())
