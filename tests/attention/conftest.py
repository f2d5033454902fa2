import pytest
import torch

from workbench import Discriminator, Generator


@pytest.fixture
def networks(tiny):
    """Both networks with attention that matters, and inputs for one image: `networks(num_classes=0)`."""

    def make(**settings):
        config = tiny(**{"attention_g": "8", "attention_d": "8", **settings})
        generator, discriminator = Generator(config).eval(), Discriminator(config).eval()
        for layer in (*generator.attention.values(), *discriminator.attention.values()):
            layer.gamma.data.fill_(10.0)
        y = torch.tensor([2]) if config.num_classes else None
        return (generator, (3 * torch.randn(1, 8), y)), (discriminator, (2 * torch.rand(1, 3, 32, 32) - 1, y))

    return make
