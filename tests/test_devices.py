"""Mistakes of devices are found without a GPU, by forward passes on fake tensors: they have a device, a type and a shape, but no values.

Networks and inputs are on "cuda"; a tensor that a pass makes on the CPU meets them there, as it would on a real GPU. Backward passes do not run.
"""

from unittest import mock

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from workbench import Discriminator, Generator, SelfAttention, sampling
from workbench.attention import capture, capture_projections, causal_map, effect, inspect_layer
from workbench.attention.inspect import collect_projections
from workbench.data import augment, to_unit
from workbench.evaluation import Samples
from workbench.metrics import Extractor, protocol
from workbench.metrics.inception_v3 import Inception, resize_matrix
from workbench.metrics.twins_classifier import TwinsClassifier
from workbench.model import layers
from workbench.model.ema import EMA
from workbench.training.diagnostics import saturation

LAYER = "attention.16"
aten = torch.ops.aten


class Values(TorchDispatchMode):
    """Gives code that looks at a value, to refuse it, one that it accepts: 0.0; True for `all`, False for `any`."""

    last = None

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket in (aten._local_scalar_dense, aten.item, aten.is_nonzero):
            return self.last.overloadpacket is aten.all if args[0].dtype == torch.bool else 0.0
        self.last = function
        return function(*args, **(kwargs or {}))


@pytest.fixture
def gpu():
    """Within this fixture, all tensors are fake."""
    resize_matrix.cache_clear()
    with FakeTensorMode(), Values():
        yield
    resize_matrix.cache_clear()


def networks(config, count=4):
    """G and D on the GPU with the inputs (z, y) and (x, y)."""
    with torch.device("cuda"):
        generator, discriminator = Generator(config), Discriminator(config)
        y = torch.zeros(count, dtype=torch.long) if config.num_classes else None
        inputs = torch.randn(count, config.z_dim), y
        images = torch.randn(count, 3, config.image_size, config.image_size), y
    return generator, discriminator, inputs, images


def on_gpu(*tensors):
    return all(tensor.device.type == "cuda" for tensor in tensors)


def forward(config):
    generator, discriminator, inputs, _ = networks(config)
    x = generator(*inputs)
    logits = discriminator(x, inputs[1])
    assert on_gpu(x, logits, *generator.state_dict().values(), *discriminator.state_dict().values())


CONFIGS = [
    {}, dict(attention_variant="paper"), dict(attention_block="residual"), dict(num_classes=0, data="folder"), dict(batch_norm_group=2),
    dict(sn_g=False, sn_d=False), dict(d_downsamples=2, max_multiplier=1, sn_gains=True),
]  # fmt: skip


@pytest.mark.parametrize("changes", CONFIGS, ids=str)
def test_networks(tiny, gpu, changes):
    forward(tiny(batch_size=4, **changes))


def test_samplers(tiny, gpu, monkeypatch):
    config = tiny()
    monkeypatch.setattr(nn.Module, "to", lambda net, *_, **__: net)  # fake parameters cannot be exchanged
    generator, copy = networks(config)[0], networks(config)[0]
    with mock.patch("workbench.model.ema.deepcopy", lambda net: copy):  # fake tensors cannot be copied so
        ema = EMA(generator, 0.9)
    ema.update(generator, 1)
    assert on_gpu(*ema.average.state_dict().values())
    for statistics in ("running", "standing", "batch"):
        samples = Samples(ema.average, protocol("workbench").replace(statistics=statistics, standing_batches=1, truncation=0.5), 0)
        x, _ = samples(64, 64)
        assert x.shape == (64, 3, 32, 32) and x.device.type == "cpu"
    assert sampling.tile(x, 8).device.type == "cpu"


@pytest.mark.parametrize("variant", ["official", "paper"])
def test_capture_and_interventions(tiny, gpu, variant):
    generator, discriminator, inputs, images = networks(tiny(attention_variant=variant), 1)
    for network, given in ((generator.eval(), inputs), (discriminator.eval(), images)):
        with torch.no_grad(), capture(network) as maps, capture_projections(network) as projections:
            network(*given)
        assert on_gpu(maps[LAYER]) and projections[LAYER].maps().device.type == "cpu"
        queries, keys = maps[LAYER].shape[1:]
        on_cpu, mask = torch.zeros(queries, keys, dtype=torch.bool), torch.zeros(keys, dtype=torch.bool)
        for change in (dict(gamma=0.0), dict(forbid=on_cpu), dict(replace="uniform"), dict(replace="local"), dict(patch=(0, mask))):
            assert effect(network, given, LAYER, **change).after.device.type == "cpu"
        inspection = inspect_layer(network, tuple(None if x is None else x.cpu() for x in given), LAYER, forbid=on_cpu)
        assert inspection.heat("value_weighted", 3).device.type == "cpu"
        assert collect_projections(network, given, LAYER, attention_off=True).query.device.type == "cpu"
        with torch.no_grad():
            assert causal_map(network, given, LAYER, 5, batch_size=40).shape == (keys,)


def stub_of_inception():
    """Inception, with one convolution for its blocks."""
    network = Inception.__new__(Inception)
    nn.Module.__init__(network)
    network.blocks = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1))
    network.register_buffer("to_logits", torch.randn(5, 8))
    return network


@pytest.mark.parametrize("make", [TwinsClassifier, stub_of_inception])
def test_extractors(gpu, make):
    with torch.device("cuda"):
        extractor = Extractor(make(), digest="0")
    features, logits = extractor(torch.zeros(4, 3, 64, 64, dtype=torch.uint8))
    assert on_gpu(features, logits) and len(features) == 4


def test_what_a_step_does_around_the_networks(gpu):
    with torch.device("cuda"):
        x, u, logits = torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.rand(4, augment.NUMBERS), torch.randn(4)
    for kind in ("none", "flip", "diffaug"):
        assert on_gpu(augment.apply(kind, to_unit(x, torch.float32), u, real=True))
    assert on_gpu(*saturation(logits, logits))


PLANTED = {
    "attention": (SelfAttention, "forward", lambda f: lambda self, x: f(self, x) * torch.ones(x.shape[1], 1, 1)),
    "batch norm": (layers.BatchNorm, "forward", lambda f: lambda self, x, *rest: f(self, x + torch.zeros(x.shape[-1]), *rest)),
    "up-sampling": (layers.UpConv, "forward", lambda f: lambda self, x: f(self, x.where(torch.ones(x.shape[-1]) > 0, x))),
}  # fmt: skip


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_mistake_is_found(tiny, gpu, planted):
    """A tensor that a forward pass makes on the CPU."""
    target, name, wrong = PLANTED[planted]
    with mock.patch.object(target, name, wrong(getattr(target, name))), pytest.raises(RuntimeError, match="device"):
        forward(tiny())
