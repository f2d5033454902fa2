import pytest
import torch
import torch.nn.functional as F

from workbench import Discriminator, Generator, SelfAttention, WorkbenchError
from workbench.attention import Projections, attention_map, capture, capture_projections

VARIANTS = ("official", "paper")


def slow_map(layer, x):
    """beta (B, N, M) and o before the output convolution (B, N, D), in float64, query by query and key by key."""
    weight = {name: getattr(layer, name).weight.detach().double().flatten(1) for name in ("query", "key", "value")}
    images, side = len(x), x.shape[2]
    step = 2 if layer.variant == "official" else 1
    beta = torch.zeros(images, side**2, (side // step) ** 2, dtype=torch.float64)
    o = torch.zeros(images, side**2, len(weight["value"]), dtype=torch.float64)
    for b in range(images):

        def pooled(name, row, column, b=b):
            cell = [x[b, :, row * step + i, column * step + j].double() for i in range(step) for j in range(step)]
            return torch.stack([weight[name] @ at for at in cell]).amax(0)

        places = [divmod(m, side // step) for m in range(beta.shape[2])]
        keys = torch.stack([pooled("key", *place) for place in places])
        values = torch.stack([pooled("value", *place) for place in places])
        for n in range(side**2):
            query = weight["query"] @ x[b, :, n // side, n % side].double()
            scores = torch.stack([query @ key for key in keys])
            beta[b, n] = (scores - scores.max()).exp() / (scores - scores.max()).exp().sum()
            o[b, n] = beta[b, n] @ values
    return beta, o


def networks(tiny, **settings):
    config = tiny(attention_g="8", attention_d="8", **settings)
    return Generator(config).eval(), Discriminator(config).eval()


@pytest.mark.parametrize("variant", VARIANTS)
def test_maps_of_both_networks_are_those_of_a_slow_double_loop(tiny, variant):
    generator, discriminator = networks(tiny, attention_variant=variant)
    y = torch.tensor([0, 3])
    for network, inputs in ((generator, (torch.randn(2, 8), y)), (discriminator, (torch.rand(2, 3, 32, 32) * 2 - 1, y))):
        layer, seen = network.attention["8"], []
        layer.gamma.data.fill_(0.7)
        handle = layer.register_forward_hook(lambda _, inputs, output, seen=seen: seen.extend([inputs[0], output]))
        with capture(network) as maps, capture_projections(network) as projections, torch.no_grad():
            network(*inputs)
        handle.remove()
        x, output = seen
        beta, o = slow_map(layer, x)
        assert maps["attention.8"].dtype == torch.float32
        assert (maps["attention.8"] - beta).abs().max() < 1e-6
        assert (projections["attention.8"].maps() - beta).abs().max() < 1e-6
        change = 0.7 * o @ layer.output.weight.detach().double().flatten(1).T
        assert (output - x - change.transpose(1, 2).view_as(x)).abs().max() < 1e-5
        strength = change.norm(dim=2) / x.double().flatten(2).norm(dim=1)
        assert (projections["attention.8"].strength / strength - 1).abs().max() < 1e-4


def test_projections_are_small_facts_of_the_layer():
    layer = SelfAttention(32)
    x = torch.randn(3, 32, 8, 8)
    x[0] = 0  # nothing there, so nothing can be changed either
    layer.gamma.data.fill_(-0.5)
    with capture_projections(layer) as captured, torch.no_grad():
        layer(x)
        query, key, value = layer.project(x)
    projections = captured[""]
    assert isinstance(projections, Projections) and (projections.side, projections.key_side) == (8, 4) and projections.gamma == -0.5
    assert torch.equal(projections.query, query) and torch.equal(projections.key, key)
    assert (projections.value_norm - value.norm(dim=2)).abs().max() < 1e-6
    assert projections.strength.shape == (3, 64) and projections.strength[0].eq(0).all() and projections.strength[1:].min() > 0
    assert all(fact.dtype == torch.float32 for fact in (projections.query, projections.key, projections.value_norm, projections.strength))
    part = projections[1:2]
    assert torch.equal(part.maps(), projections.maps()[1:2]) and part.strength.shape == (1, 64) and part.gamma == -0.5


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_layer_by_itself(variant):
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
    for layer in (*generator.attention.values(), *discriminator.attention.values()):
        layer.gamma.data.fill_(0.5)
    z, y = torch.randn(3, 8), torch.arange(3)
    plain = generator(z, y)
    judged = discriminator(plain, y)
    with capture(generator) as g, capture_projections(generator), capture(discriminator) as d:
        watched = generator(z, y)
        assert torch.equal(judged, discriminator(watched, y))
    assert torch.equal(plain, watched)
    assert {k: v.shape for k, v in g.items()} == {"attention.8": (3, 64, 16), "attention.16": (3, 256, 64)}
    assert list(d) == ["attention.16"]
    assert not hooks(generator) and not hooks(discriminator)  # no cost when nobody looks


def hooks(network):
    return [m for m in network.modules() if m._forward_hooks or m._forward_pre_hooks]


def test_hooks_go_when_the_block_raises():
    layer = SelfAttention(16)
    with pytest.raises(KeyError), capture_projections(layer):
        raise KeyError
    assert not hooks(layer)


def test_the_latest_forward_counts():
    layer = SelfAttention(16)
    with capture(layer) as maps:
        layer(torch.randn(2, 16, 8, 8))
        first = maps[""]
        layer(torch.randn(1, 16, 4, 4))
    assert first.shape == (2, 64, 16) and maps[""].shape == (1, 16, 4)


def test_maps_are_float32_under_autocast_and_small_facts_make_them(tiny):
    generator = Generator(tiny()).eval()
    z, y = torch.randn(2, 8), torch.arange(2)
    with capture_projections(generator) as projections, capture(generator) as maps, torch.autocast("cpu", dtype=torch.bfloat16):
        generator(z, y)
    facts = projections["attention.16"]
    assert facts.query.dtype == facts.key.dtype == torch.float32
    assert torch.equal(facts.maps(), maps["attention.16"])
    assert (maps["attention.16"].sum(-1) - 1).abs().max() < 1e-6  # not the rows of a bfloat16 softmax


def test_float64_networks_are_read_in_float64():
    layer = SelfAttention(16).double()
    x = torch.randn(1, 16, 8, 8, dtype=torch.float64)
    with capture(layer) as maps, capture_projections(layer) as projections:
        layer(x)
    assert maps[""].dtype == projections[""].query.dtype == torch.float32
    assert torch.equal(maps[""], slow_map(layer, x)[0].float())


WRONG = {
    "axis": lambda query, key, value: torch.softmax(query @ key.transpose(-1, -2), dim=-2) @ value,
    "scale": lambda query, key, value: F.softmax(query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5, dim=-1) @ value,
    "stale": lambda query, key, value: torch.softmax(query @ key.transpose(-1, -2), dim=-1).roll(1, 0) @ value,
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("fault", WRONG)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_map_that_is_not_the_layers_is_reported(monkeypatch, variant, fault, dtype):
    """The check: right kernels pass, wrong ones do not, in all precisions, and while gamma still hides what they make."""
    layer = SelfAttention(32, variant).to(memory_format=torch.channels_last)  # as in training; torch fuses only then
    x = (2 * torch.randn(3, 32, 8, 8)).contiguous(memory_format=torch.channels_last)
    layer, x = (thing.double() if dtype == torch.float64 else thing for thing in (layer, x))
    for look in (capture, capture_projections):
        with look(layer), torch.autocast("cpu", dtype=dtype, enabled=dtype.itemsize == 2):
            layer(x)
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, k, v, scale: WRONG[fault](q, k, v))
    for look in (capture, capture_projections):
        with (
            pytest.raises(
                WorkbenchError,
                match=r"attention layer '': its output differs from its map .* by a relative error of [\d.]+; rounding in \w*float",
            ),
            look(layer),
            torch.autocast("cpu", dtype=dtype, enabled=dtype.itemsize == 2),
        ):
            layer(x)
    assert not hooks(layer)


def test_a_network_that_diverged_is_not_taken_for_a_wrong_map():
    layer = SelfAttention(16)
    layer.value.weight.data.fill_(torch.nan)
    with capture(layer) as maps:
        layer(torch.randn(1, 16, 4, 4))
    assert maps[""].isfinite().all()


def test_a_wrong_axis_would_be_seen():
    query, key = torch.randn(1, 6, 4), torch.randn(1, 5, 4)
    beta = attention_map(query, key)
    slow = torch.stack([F.softmax(key[0] @ q, dim=0) for q in query[0]])
    assert (beta[0] - slow).abs().max() < 1e-6
    assert (beta.sum(1) - 1).abs().max() > 0.1
