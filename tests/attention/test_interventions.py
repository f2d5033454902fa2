import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils import parametrize

from workbench import Discriminator, Generator, ParameterError, SelfAttention, WorkbenchError
from workbench.attention import attention_map, capture, capture_projections, causal_map, effect, intervene

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


def networks(tiny, **settings):
    """Both networks with attention that matters, and inputs for one image."""
    config = tiny(**{"attention_g": "8", "attention_d": "8", **settings})
    generator, discriminator = Generator(config).eval(), Discriminator(config).eval()
    for layer in (*generator.attention.values(), *discriminator.attention.values()):
        layer.gamma.data.fill_(10.0)
    y = torch.tensor([2]) if config.num_classes else None
    return (generator, (3 * torch.randn(1, 8), y)), (discriminator, (2 * torch.rand(1, 3, 32, 32) - 1, y))


def test_effects_on_images_and_logits(tiny):
    for network, inputs in networks(tiny):
        change = effect(network, inputs, "attention.8", gamma=0)
        assert torch.equal(change.before, network(*inputs)) and torch.equal(change.difference, change.after - change.before)
        assert change.before.dtype == torch.float32 and not change.after.requires_grad
        gamma, network.attention["8"].gamma.data = network.attention["8"].gamma.data, torch.zeros(())
        assert close(change.after, network(*inputs)) and change.difference.abs().max() > 1e-4
        network.attention["8"].gamma.data = gamma
        assert effect(network, inputs, "attention.8", gamma=10).difference.abs().max() < 1e-5


SITES = {
    "middle": dict(attention_g="8", attention_d="8"),
    "last": dict(attention_g="32", attention_d="4", attention_variant="official"),
    "before another": dict(attention_g="8,16", attention_d="8,16"),
    "unconditional": dict(num_classes=0),
}


@pytest.mark.parametrize(
    "variant, sites", [*((variant, "middle") for variant in VARIANTS), *(("official", name) for name in SITES if name != "middle")]
)
def test_causal_maps_are_serial_knock_outs(tiny, variant, sites):
    for network, inputs in networks(tiny, **{"attention_variant": variant, **SITES[sites]}):
        layer, beta = next(iter(learned_maps(network, inputs).items()))  # the first layer that runs
        queries, keys = beta.shape[1:]
        side = int(queries**0.5)
        for query in (0, side + side // 2, queries - 1):  # a corner, a border's neighbour, the other corner
            serial = torch.zeros(keys)
            tested = range(keys) if keys <= 16 else torch.randperm(keys)[:20].tolist()
            for key in tested:
                forbid = torch.zeros(queries, keys, dtype=torch.bool)
                forbid[query, key] = True
                change = effect(network, inputs, layer, forbid=forbid).difference
                if change.ndim == 4:
                    pixels, (row, column) = 32 // side, divmod(query, side)
                    change = F.unfold(change, pixels, stride=pixels)[0, :, row * side + column]
                serial[key] = change.norm()
            causal = causal_map(network, inputs, layer, query)
            assert causal.shape == (keys,) and causal.dtype == torch.float32
            assert serial.max() > 1e-4 and (causal - serial)[tested].abs().max() < 0.01 * serial.max()
        assert (causal_map(network, inputs, layer, query, batch_size=keys // 3) - causal).abs().max() < 0.01 * serial.max()


def learned_maps(network, inputs):
    with capture(network) as maps:
        network(*inputs)
    return maps


def test_a_key_that_takes_all_the_weight_can_be_dropped(tiny):
    """Where (o - beta_m value_m) / (1 - beta_m) would be 0 / 0."""
    (network, inputs), _ = networks(tiny)
    layer = network.attention["8"]
    parametrize.remove_parametrizations(layer.query, "weight")  # it would divide the factor away
    layer.query.weight.data *= 1e4
    beta = learned_maps(network, inputs)["attention.8"]
    query = beta[0].amax(-1).argmax().item()
    key = beta[0, query].argmax().item()
    assert beta[0, query, key] == 1
    forbid = torch.zeros(64, 16, dtype=torch.bool)
    forbid[query, key] = True
    change = effect(network, inputs, "attention.8", forbid=forbid).difference
    row, column = divmod(query, 8)
    serial = change[0, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].norm()
    causal = causal_map(network, inputs, "attention.8", query)
    assert serial > 1e-3 and causal[key].item() == pytest.approx(serial.item(), rel=1e-3)
    assert causal.isfinite().all() and (causal > 1e-6).sum() == 1


def test_a_causal_map_leaves_the_network_as_it_was(tiny):
    for network, inputs in networks(tiny):
        before = {name: value.clone() for name, value in network.state_dict().items()}
        causal_map(network, inputs, "attention.8", 3)
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        assert not network.attention["8"]._forward_hooks


def test_a_causal_map_that_cannot_be_made_is_refused(tiny):
    (generator, (z, y)), _ = networks(tiny)
    with pytest.raises(ParameterError, match="inputs hold 2 images; causal_map takes one"):
        causal_map(generator, (torch.cat([z, z]), torch.cat([y, y])), "attention.8", 0)
    with pytest.raises(ParameterError, match="query=64 is not a position of a 8x8 map; give one from 0 to 63"):
        causal_map(generator, (z, y), "attention.8", 64)
    with pytest.raises(ParameterError, match="batch_size=0 is out of range; at least 1"):
        causal_map(generator, (z, y), "attention.8", 0, batch_size=0)
    with pytest.raises(WorkbenchError, match=r"no attention layer 'attention.9'"):
        causal_map(generator, (z, y), "attention.9", 0)
    with pytest.raises(ParameterError, match=r"in training mode.*call network.eval\(\) first"):
        causal_map(generator.train(), (z, y), "attention.8", 0)
