import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from workbench import Generator, ParameterError, SelfAttention, WorkbenchError
from workbench.attention import attention_map, capture, capture_projections, effect, intervene

VARIANTS = ("official", "paper")


@pytest.fixture
def layer(request):
    layer = SelfAttention(16, getattr(request, "param", "official"))
    layer.gamma.data.fill_(0.7)
    return layer


def expected(layer, x, beta, value=None, gamma=0.7):
    """What the layer should give with maps beta (B, N, M), by the formula."""
    value = layer.project(x)[2] if value is None else value
    o = layer.output((beta @ value).transpose(1, 2).unflatten(2, x.shape[2:]))
    return x + gamma * o


def learned(layer, x):
    query, key, _ = layer.project(x)
    return attention_map(query, key)


def close(a, b):
    return (a - b).abs().max().item() < 1e-5


both = pytest.mark.parametrize("layer", VARIANTS, indirect=True)


@both
@torch.no_grad()
def test_gamma(layer):
    x = torch.randn(2, 16, 8, 8)
    plain = layer(x)
    with intervene(layer, "", gamma=0):
        assert torch.equal(layer(x), x)
    with intervene(layer, "", gamma=-2.0):
        assert close(layer(x), expected(layer, x, learned(layer, x), gamma=-2))
    with intervene(layer, ""):
        assert close(layer(x), plain)
    assert torch.equal(layer(x), plain) and not layer._forward_hooks


@both
@torch.no_grad()
def test_a_knock_out_is_a_masked_softmax(layer):
    x = torch.randn(2, 16, 8, 8)
    query, key, _ = layer.project(x)
    forbid = torch.rand(2, 64, key.shape[1]) < 0.4
    forbid[1, :32] = False
    scores = torch.where(forbid, -1e30, (query @ key.transpose(1, 2)).double())
    beta = (scores - scores.amax(-1, keepdim=True)).exp()
    beta = (beta / beta.sum(-1, keepdim=True)).float()
    assert beta[forbid].eq(0).all()
    with intervene(layer, "", forbid=forbid):
        assert close(layer(x), expected(layer, x, beta))
    with intervene(layer, "", forbid=forbid[0]):  # one mask for all images
        assert close(layer(x)[:1], expected(layer, x, beta)[:1])
    # Renormalised: the weights that are left keep their ratios.
    kept = learned(layer, x).masked_fill(forbid, 0)
    assert close(kept / kept.sum(-1, keepdim=True), beta)


@both
@torch.no_grad()
def test_a_uniform_map_is_the_mean_of_the_values(layer):
    x = torch.randn(2, 16, 8, 8)
    mean = layer.project(x)[2].mean(1)  # (B, D)
    o = layer.output(mean[:, :, None, None].expand(-1, -1, 8, 8))
    with intervene(layer, "", replace="uniform"):
        assert close(layer(x), x + 0.7 * o)


@both
@torch.no_grad()
def test_a_local_map_is_the_neighbourhood(layer):
    x = torch.randn(2, 16, 8, 8)
    factor = 2 if layer.variant == "official" else 1
    beta = torch.zeros(64, 64 // factor**2)
    for query in range(64):
        for row in range(max(0, query // 8 - 1), min(8, query // 8 + 2)):
            for column in range(max(0, query % 8 - 1), min(8, query % 8 + 2)):
                beta[query, row // factor * (8 // factor) + column // factor] += 1
    beta /= beta.sum(1, keepdim=True)
    with intervene(layer, "", replace="local"):
        assert close(layer(x), expected(layer, x, beta))


@both
@torch.no_grad()
def test_a_patch_brings_values_and_no_map(layer):
    x = torch.randn(3, 16, 8, 8)
    value = layer.project(x)[2].clone()
    keys = torch.rand(value.shape[1]) < 0.5
    value[0, keys], value[2, keys] = value[1, keys], value[1, keys]
    plain = layer(x)
    with intervene(layer, "", patch=(1, keys)):
        changed = layer(x)
    assert close(changed, expected(layer, x, learned(layer, x), value)) and close(changed[1], plain[1]) and not close(changed[0], plain[0])
    # A mask for each image: patched in one of them only.
    with intervene(layer, "", patch=(1, keys & torch.tensor([[False], [False], [True]]))):
        one = layer(x)
    assert close(one[:2], plain[:2]) and close(one[2], changed[2])


@both
@torch.no_grad()
def test_a_patch_takes_values_from_other_keys(layer):
    """By a loop over keys: also from the image itself, where a value is copied that has been replaced."""
    x = torch.randn(3, 16, 8, 8)
    value = layer.project(x)[2]
    keys = torch.full((3, value.shape[1]), -1)
    keys[0, 4], keys[0, 5], keys[2, 0] = 9, 4, 0
    for source in range(3):
        changed = value.clone()
        for image in range(3):
            for key, taken in enumerate(keys[image].tolist()):
                if taken >= 0:
                    changed[image, key] = value[source, taken]
        with intervene(layer, "", patch=(source, keys)):
            assert close(layer(x), expected(layer, x, learned(layer, x), changed))
    mask = keys[0] >= 0  # a mask takes the values of the same keys
    same = torch.where(mask, torch.arange(len(mask)), -1)
    with intervene(layer, "", patch=(1, mask)):
        masked = layer(x)
    with intervene(layer, "", patch=(1, same)):
        assert torch.equal(layer(x), masked)


@torch.no_grad()
def test_interventions_combine(layer):
    x = torch.randn(2, 16, 8, 8)
    forbid, keys = torch.zeros(64, 16, dtype=torch.bool), torch.zeros(16, dtype=torch.bool)
    forbid[:, :12], keys[13] = True, True
    value = layer.project(x)[2].clone()
    value[1, 13] = value[0, 13]
    beta = torch.zeros(64, 16)
    beta[:, 12:] = 0.25
    with intervene(layer, "", gamma=2.0, forbid=forbid, replace="uniform", patch=(0, keys)):
        assert close(layer(x), expected(layer, x, beta, value, gamma=2))


@torch.no_grad()
def test_capture_inside_gives_the_learned_maps(layer):
    x = torch.randn(2, 16, 8, 8)
    with intervene(layer, "", replace="uniform", gamma=3.0), capture(layer) as maps, capture_projections(layer) as projections:
        changed = layer(x)
    assert torch.equal(maps[""], learned(layer, x)) and projections[""].gamma == layer.gamma.item()
    with capture(layer) as maps, intervene(layer, "", replace="uniform", gamma=3.0):
        assert torch.equal(layer(x), changed)
    assert torch.equal(maps[""], learned(layer, x))


@torch.no_grad()
def test_bfloat16_stays_bfloat16(layer):
    x = torch.randn(2, 16, 8, 8).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = layer(x)
        with intervene(layer, ""):
            changed = layer(x)
    assert changed.dtype == plain.dtype == torch.bfloat16 and (changed - plain).norm() / plain.norm() < 0.01


def test_what_does_not_fit_is_refused(tiny, layer):
    generator = Generator(tiny()).eval()
    with (
        pytest.raises(WorkbenchError, match=r"no attention layer 'attention.61'; did you mean 'attention.16'\? there are: 'attention.16'$"),
        intervene(generator, "attention.61"),
    ):
        pass
    with (
        pytest.raises(WorkbenchError, match=r"no attention layer 'attention.16'; the network has none"),
        intervene(Generator(tiny(attention_g="none")), "attention.16"),
    ):
        pass
    x, everything = torch.randn(2, 16, 8, 8), torch.ones(64, 16, dtype=torch.bool)
    lonely = ~everything
    lonely[5] = True
    nothing_near = lonely.clone()
    nothing_near[5], nothing_near[0, [0]] = False, True
    for how, message in (
        (dict(replace="unifrom"), r"replace='unifrom' is not known; did you mean 'uniform'\?"),
        (dict(forbid=torch.zeros(64, 16)), "forbid has a mask of torch.float32; give a mask of torch.bool"),
        (dict(patch=(0, torch.zeros(16))), "patch has a mask of torch.float32"),
        (dict(forbid=everything[:, :9]), r"forbid has shape \(64, 9\); this layer takes \(64, 16\) or \(2, 64, 16\)"),
        (dict(forbid=everything.expand(3, -1, -1)), r"forbid has shape \(3, 64, 16\)"),
        (dict(forbid=lonely), "forbid leaves query 5 no key; leave every query at least one"),
        (dict(forbid=nothing_near, replace="local"), "forbid leaves query 0 no key"),
        (dict(patch=(2, everything[0])), "patch has source 2, not an image of a batch of 2; give one from 0 to 1"),
        (dict(patch=(0, torch.full((16,), 16))), "patch names keys from 16 to 16; this layer has keys 0 to 15, and -1 is none"),
        (dict(patch=(0, everything[0, :4])), r"patch has a mask of shape \(4,\); this layer takes \(16,\)"),
    ):
        with pytest.raises(ParameterError, match=message), intervene(layer, "", **how):
            layer(x)
        assert not layer._forward_hooks


def test_effects_on_images_and_logits(networks):
    for network, inputs in networks():
        change = effect(network, inputs, "attention.8", gamma=0)
        assert torch.equal(change.before, network(*inputs)) and torch.equal(change.difference, change.after - change.before)
        assert change.before.dtype == torch.float32 and not change.after.requires_grad
        gamma, network.attention["8"].gamma.data = network.attention["8"].gamma.data, torch.zeros(())
        assert close(change.after, network(*inputs)) and change.difference.abs().max() > 1e-4
        network.attention["8"].gamma.data = gamma
        assert effect(network, inputs, "attention.8", gamma=10).difference.abs().max() < 1e-5


class Slow:
    """The layer of `nn.MultiheadAttention` in float64, query by query and key by key, with what interventions change."""

    def __init__(self, layer):
        self.layer, self.heads = layer, layer.num_heads

    def __call__(self, x, scores=lambda b, h, n, m, s: s, weight=lambda b, h, n, m, w: w, value=lambda b, h, m, v: v, gamma=1.0):
        images, count, width = x.shape
        d = width // self.heads
        part = [F.linear(x, w, c) for w, c in zip(self.layer.in_proj_weight.chunk(3), self.layer.in_proj_bias.chunk(3), strict=True)]
        o = torch.zeros(images, count, width, dtype=torch.float64)
        for b in range(images):
            for h in range(self.heads):
                q, k, v = (p[b, :, h * d : (h + 1) * d] for p in part)
                v = torch.stack([value(b, h, m, v[m]) for m in range(count)])
                for n in range(count):
                    s = [scores(b, h, n, m, (q[n] @ k[m]).item() / d**0.5) for m in range(count)]
                    e = [math.exp(a - max(s)) for a in s]
                    o[b, n, h * d : (h + 1) * d] = gamma * sum(weight(b, h, n, m, e[m] / sum(e)) * v[m] for m in range(count))
        return self.layer.out_proj(o)


@pytest.fixture
def heads():
    """A layer with two heads and nine queries, in float64, its inputs, and the slow one."""
    layer = nn.MultiheadAttention(8, 2, batch_first=True, dtype=torch.float64).eval()
    nn.init.normal_(layer.in_proj_bias)
    nn.init.normal_(layer.out_proj.bias)
    return layer, torch.randn(3, 9, 8, dtype=torch.float64), Slow(layer)


@torch.no_grad()
def test_a_layer_with_heads_against_loops(heads):
    layer, x, slow = heads
    torch.testing.assert_close(layer(x, x, x)[0], slow(x), rtol=0, atol=1e-12)
    forbid = torch.rand(3, 9, 9) < 0.4
    forbid[..., 4] = False
    keys = torch.rand(9) < 0.5
    value = F.linear(x, layer.in_proj_weight[16:], layer.in_proj_bias[16:]).unflatten(2, (2, 4))
    near = torch.tensor([[abs(n // 3 - m // 3) <= 1 and abs(n % 3 - m % 3) <= 1 for m in range(9)] for n in range(9)])
    for how, loops in (
        (dict(), dict()),
        (dict(gamma=0.0), dict(gamma=0.0)),
        (dict(gamma=-2), dict(gamma=-2)),
        (dict(forbid=forbid), dict(scores=lambda b, h, n, m, s: -math.inf if forbid[b, n, m] else s)),
        (dict(forbid=forbid[0]), dict(scores=lambda b, h, n, m, s: -math.inf if forbid[0, n, m] else s)),
        (dict(replace="uniform"), dict(scores=lambda *_: 0.0)),
        (dict(replace="local"), dict(scores=lambda b, h, n, m, s: 0.0 if near[n, m] else -math.inf)),
        (dict(patch=(1, keys)), dict(value=lambda b, h, m, v: value[1, m, h] if keys[m] else v)),
        (dict(patch=(1, forbid[:, 0])), dict(value=lambda b, h, m, v: value[1, m, h] if forbid[b, 0, m] else v)),
        (dict(scores=lambda s: s / 2), dict(scores=lambda b, h, n, m, s: s / 2)),
        (dict(map=lambda beta: beta.mean(1, keepdim=True).expand_as(beta).flip(0)), None),
        (dict(map=lambda beta: beta**2), dict(weight=lambda b, h, n, m, w: w**2)),
        (dict(values=lambda v: v * torch.tensor([0.0, 1.0], dtype=v.dtype)[:, None, None]), dict(value=lambda b, h, m, v: h * v)),
    ):
        with intervene(layer, "", **how):
            changed, weights = layer(x, x, x)
        if loops is not None:
            torch.testing.assert_close(changed, slow(x, **loops), rtol=0, atol=1e-12)
        assert torch.equal(weights, layer(x, x, x)[1])  # what the layer returns beside stays as it learned
    with intervene(layer, "", map=lambda beta: beta.flip(0)):
        beta = attention_map(*(p.unflatten(2, (2, 4)).transpose(1, 2) for p in (F.linear(x, w, c) for w, c in zip(
            (layer.in_proj_weight[:8] / 2, layer.in_proj_weight[8:16]), (layer.in_proj_bias[:8] / 2, layer.in_proj_bias[8:16]), strict=True))))  # fmt: skip
        torch.testing.assert_close(layer(x, x, x)[0], slow(x, weight=lambda b, h, n, m, w: beta[2 - b, h, n, m]), rtol=0, atol=1e-12)


@torch.no_grad()
def test_functions_come_in_the_order_of_the_computation(heads):
    layer, x, _ = heads
    keys, seen = torch.zeros(9, dtype=torch.bool), []
    keys[2] = True
    forbid = keys.expand(9, 9).clone()

    def note(name, factor):
        return lambda t: seen.append((name, t.clone())) or t * factor

    with intervene(layer, "", values=note("values", 2), scores=note("scores", 0.5), map=note("map", 3), output=note("output", -1),
                   patch=(1, keys), replace="uniform", forbid=forbid, gamma=0.5):  # fmt: skip
        y = layer(x, x, x)[0]
    assert [name for name, _ in seen] == ["values", "scores", "map", "output"]
    values, scores, beta, output = (t for _, t in seen)
    assert values.shape == (3, 2, 9, 4) and torch.equal(values[0, :, 2], values[1, :, 2])  # patched before
    assert scores.shape == (3, 2, 9, 9) and not scores.any()  # those of the replacement
    assert not beta[..., 2].any() and (beta.sum(-1) - 1).abs().max() < 1e-12  # forbidden after the scores
    value = torch.zeros(3, 2, 4, dtype=torch.float64) + 2 * values[:, :, [0, 1, 3, 4, 5, 6, 7, 8]].mean(2)
    expected = layer.out_proj(0.5 * 3 * value.flatten(1))  # gamma before the output
    assert torch.equal(y, -output) and (output - expected[:, None]).abs().max() < 1e-12


@torch.no_grad()
def test_functions_on_a_self_attention(layer):
    x = torch.randn(2, 16, 8, 8)
    query, key, value = layer.project(x)
    shapes = []
    with intervene(layer, "", scores=lambda s: shapes.append(s.shape) or s / 2, values=lambda v: shapes.append(v.shape) or v + 1):
        assert close(layer(x), expected(layer, x, attention_map(query / 2, key), value + 1))
    assert shapes == [(2, 16, 8), (2, 64, 16)]
    with intervene(layer, "", scores=lambda s: s.masked_fill(torch.arange(16) < 12, -torch.inf)):
        forbid = torch.zeros(64, 16, dtype=torch.bool)
        forbid[:, :12] = True
        changed = layer(x)
        with intervene(layer, "", forbid=forbid):
            assert close(layer(x), changed)
    with intervene(layer, "", output=lambda y: torch.zeros_like(y)):
        assert not layer(x).any()


def fill(x, value):
    x = x.clone()
    x[0, -1, 3] = value
    return x


@pytest.mark.parametrize(("how", "message"), [
    (dict(scores=3), r"scores=3 is not a function; give one of a tensor, such as `lambda scores: scores / 2`"),
    (dict(scores=lambda s: None), r"scores=<lambda> returned a NoneType; return a tensor of shape \(2, 64, 16\)"),
    (dict(map=lambda m: m[0]), r"map=<lambda> returned float32 of shape \(64, 16\); return floating point of shape \(2, 64, 16\)"),
    (dict(map=lambda m: m.long()), r"map=<lambda> returned int64 of shape \(2, 64, 16\); return floating point"),
    (dict(values=lambda v: v / 0), r"values=<lambda> returned .*(inf|nan) at \(0, 0, 0\) of shape \(2, 16, 8\); return finite numbers"),
    (dict(scores=lambda s: fill(s, torch.inf)), r"scores=<lambda> returned inf at \(0, 63, 3\) of shape"),
    (dict(scores=lambda s: fill(s, torch.nan)), r"scores=<lambda> returned nan at \(0, 63, 3\) of shape"),
    (dict(scores=lambda s: s - torch.inf), "scores=<lambda> leaves query 0 no key; leave every query at least one"),
    (dict(output=torch.flatten), r"output=flatten returned float32 of shape \(2048,\); return floating point of shape \(2, 16, 8, 8\)"),
])  # fmt: skip
def test_what_a_function_returns_is_checked(layer, how, message):
    with pytest.raises(ParameterError, match=message), intervene(layer, "", **how):
        layer(torch.randn(2, 16, 8, 8))
    assert not layer._forward_hooks


def test_effects_on_a_metric(networks):
    generator, inputs = networks()[0]
    plain = effect(generator, inputs, "attention.8", gamma=0)
    change = effect(generator, inputs, "attention.8", metric=lambda images: images.mean((1, 2, 3)), scores=lambda s: s, gamma=0)
    assert change.before.shape == (1,) and close(change.difference, plain.difference.mean((1, 2, 3)))
    assert effect(generator, inputs, "attention.8", metric=lambda images: images.mean().item(), gamma=0).difference.ndim == 0
    with pytest.raises(ParameterError, match=r"metric=<lambda> returned a list, not a tensor; give a metric of the output that is one"):
        effect(generator, inputs, "attention.8", metric=lambda images: [1], gamma=0)

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = generator

        def forward(self, *inputs):
            return dict(images=self.inside(*inputs))

    with pytest.raises(ParameterError, match="the network returns a dict, not a tensor; give a metric"):
        effect(Wrapped(), inputs, "inside.attention.8", gamma=0)
    change = effect(Wrapped(), inputs, "inside.attention.8", metric=lambda output: output["images"], gamma=0)
    assert torch.equal(change.after, plain.after)


def test_an_intervention_on_a_layer_that_is_not_reproduced_says_so(capsys, monkeypatch):
    monkeypatch.setattr("workbench.messages._printed", set())
    layer, x = nn.MultiheadAttention(8, 2, batch_first=True).eval(), torch.randn(1, 9, 8)
    mask = torch.ones(9, 9, dtype=torch.bool).triu(1)
    for _ in range(2):
        with intervene(layer, "", gamma=0.5):
            layer(x, x, x, attn_mask=mask)
    assert capsys.readouterr().err.count("does not reproduce the layer's output") == 1
