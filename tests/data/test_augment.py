import torch
import torch.nn.functional as F

from workbench.data import augment


def test_flip_mirrors_by_the_first_number():
    x, u = torch.randn(4, 3, 8, 8), torch.rand(4, augment.NUMBERS)
    u[:, 0] = torch.tensor([0.1, 0.9, 0.49, 0.5])
    out = augment.flip(x, u)
    assert torch.equal(out[[0, 2]], x[[0, 2]].flip(3)) and torch.equal(out[[1, 3]], x[[1, 3]])


def test_diffaug_equals_a_slow_reference():
    size = 16
    x, u = torch.randn(6, 3, size, size, dtype=torch.float64), torch.rand(6, augment.NUMBERS)
    out = augment.diffaug(x, u)
    for b in range(6):
        brightness, saturation, contrast, dy, dx, top, left = u[b, :7].double().tolist()
        image = x[b] + brightness - 0.5
        grey = image.mean(0, keepdim=True)
        image = (image - grey) * saturation * 2 + grey
        image = (image - image.mean()) * (contrast + 0.5) + image.mean()
        dy, dx = int(dy * 5) - 2, int(dx * 5) - 2  # up to 16 / 8 = 2 pixels
        image = F.pad(image, (2, 2, 2, 2))[:, 2 - dy : 2 - dy + size, 2 - dx : 2 - dx + size].clone()
        top, left = int(top * 17) - 4, int(left * 17) - 4
        for i in range(size):
            for j in range(size):
                if top <= i < top + 8 and left <= j < left + 8:
                    image[:, i, j] = 0
        assert (out[b] - image).abs().max() < 1e-6


def test_diffaug_is_differentiable_and_each_image_has_its_own_numbers():
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    u = torch.rand(2, augment.NUMBERS)
    assert torch.autograd.gradcheck(lambda x: augment.diffaug(x, u), (x,), eps=1e-6, atol=1e-6)
    assert torch.allclose(augment.diffaug(x, u)[1:], augment.diffaug(x[1:], u[1:]))
