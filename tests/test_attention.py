import pytest
import torch
import torch.nn.functional as F

from workbench import Discriminator, Generator, SelfAttention
from workbench.attention import attention_map, capture, capture_projections


@pytest.mark.parametrize("variant", ["official", "paper"])
def test_the_captured_map_reproduces_the_layers_output(variant):
    layer = SelfAttention(16, variant)
    layer.gamma.data.fill_(0.5)
    x = torch.randn(2, 16, 8, 8)
    with capture(layer) as maps, torch.no_grad():
        y = layer(x)
        beta = maps[""]
        assert beta.shape == (2, 64, 16 if variant == "official" else 64)
        assert (beta.sum(-1) - 1).abs().max() < 1e-6 and beta.min() >= 0
        _, _, value = layer.project(x)
        o = layer.output((beta @ value).transpose(1, 2).unflatten(2, (8, 8)))
        assert (x + 0.5 * o - y).abs().max() < 1e-5


def test_capture_names_layers_and_changes_nothing(tiny):
    config = tiny(attention_g="8,16", attention_d="16")
    generator, discriminator = Generator(config).eval(), Discriminator(config).eval()
    z, y = torch.randn(3, 8), torch.arange(3)
    plain = generator(z, y)
    with capture(generator) as g, capture(discriminator) as d:
        watched = generator(z, y)
        discriminator(watched, y)
    assert torch.equal(plain, watched)
    assert {k: v.shape for k, v in g.items()} == {"attention.8": (3, 64, 16), "attention.16": (3, 256, 64)}
    assert list(d) == ["attention.16"] and d["attention.16"].dtype == torch.float32
    assert not any(m._forward_hooks for m in generator.modules())  # no cost when nobody looks


def test_maps_are_float32_under_autocast_and_small_facts_make_them(tiny):
    generator = Generator(tiny()).eval()
    z, y = torch.randn(2, 8), torch.arange(2)
    with capture_projections(generator) as projections, capture(generator) as maps, torch.autocast("cpu", dtype=torch.bfloat16):
        generator(z, y)
    query, key = projections["attention.16"]
    assert query.dtype == key.dtype == torch.float32
    assert torch.equal(attention_map(query, key), maps["attention.16"])


def test_a_wrong_axis_would_be_seen():
    query, key = torch.randn(1, 6, 4), torch.randn(1, 5, 4)
    beta = attention_map(query, key)
    slow = torch.stack([F.softmax(key[0] @ q, dim=0) for q in query[0]])
    assert (beta[0] - slow).abs().max() < 1e-6
    assert (beta.sum(1) - 1).abs().max() > 0.1
