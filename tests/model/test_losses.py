import torch

from workbench import losses


def test_hinge_losses_equal_a_slow_loop():
    real, fake = torch.randn(7, dtype=torch.float64) * 2, torch.randn(7, dtype=torch.float64) * 2
    slow = sum(max(0.0, 1 - r.item()) for r in real) / 7 + sum(max(0.0, 1 + f.item()) for f in fake) / 7
    assert abs(losses.hinge_discriminator(real, fake).item() - slow) < 1e-12
    assert abs(losses.hinge_generator(fake).item() + sum(f.item() for f in fake) / 7) < 1e-12


def test_d_does_not_learn_beyond_the_margin():
    real, fake = torch.tensor([1.5, 3.0], requires_grad=True), torch.tensor([-1.5, -3.0], requires_grad=True)
    losses.hinge_discriminator(real, fake).backward()
    assert real.grad.abs().max() == fake.grad.abs().max() == 0
