import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils import parametrize
from torchvision.models import VisionTransformer

from workbench import ParameterError, SelfAttention, WorkbenchError
from workbench.attention import capture, causal_map, effect

VARIANTS = ("official", "paper")

SITES = {
    "middle": dict(attention_g="8", attention_d="8"),
    "last": dict(attention_g="32", attention_d="4", attention_variant="official"),
    "before another": dict(attention_g="8,16", attention_d="8,16"),
    "unconditional": dict(num_classes=0),
}


@pytest.mark.parametrize(
    "variant, sites", [*((variant, "middle") for variant in VARIANTS), *(("official", name) for name in SITES if name != "middle")]
)
def test_causal_maps_are_serial_knock_outs(networks, variant, sites):
    for network, inputs in networks(**{"attention_variant": variant, **SITES[sites]}):
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


def test_a_key_that_takes_all_the_weight_can_be_dropped(networks):
    """Where (o - beta_m value_m) / (1 - beta_m) would be 0 / 0."""
    (network, inputs), _ = networks()
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


def test_a_causal_map_leaves_the_network_as_it_was(networks):
    for network, inputs in networks():
        before = {name: value.clone() for name, value in network.state_dict().items()}
        causal_map(network, inputs, "attention.8", 3)
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        assert not network.attention["8"]._forward_hooks


def test_a_causal_map_that_cannot_be_made_is_refused(networks):
    (generator, (z, y)), _ = networks()
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


class Joined(torch.nn.Module):
    """A generator of nobody's, which joins what it made before the attention to what it makes after it."""

    def __init__(self):
        super().__init__()
        self.first, self.look, self.last = torch.nn.Linear(4, 16 * 32), SelfAttention(16), torch.nn.ConvTranspose2d(32, 3, 2, stride=2)
        self.look.gamma.data.fill_(5.0)

    def forward(self, z):
        x = self.first(z).view(-1, 16, 4, 8)
        return self.last(torch.cat([x, self.look(x)], dim=1))


def others():
    """Networks that are neither G nor D, with inputs for one image, a layer, and how their output is read at a query."""
    vit = VisionTransformer(image_size=16, patch_size=4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=5).eval()
    torch.nn.init.normal_(vit.heads.head.weight)
    path = "encoder.layers.encoder_layer_0.self_attention"
    return (vit, (torch.randn(1, 3, 16, 16),), path, (0, 1, 16)), (Joined().eval(), (torch.randn(1, 4),), "look", (0, 13, 31))


def test_causal_maps_of_any_network_are_serial_knock_outs():
    for network, inputs, layer, queries in others():
        beta = learned_maps(network, inputs)[layer]
        shape = beta.shape[-2:]
        for query in queries:
            serial = torch.zeros(shape[1])
            for key in range(shape[1]):
                forbid = torch.zeros(shape, dtype=torch.bool)
                forbid[query, key] = True
                change = effect(network, inputs, layer, forbid=forbid).difference
                if change.ndim == 4:  # 2 x 2 pixels for each of 4 x 8 positions
                    row, column = divmod(query, 8)
                    change = change[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
                serial[key] = change.norm()
            causal = causal_map(network, inputs, layer, query, batch_size=5)
            assert serial.max() > 1e-4 and (causal - serial).abs().max() < 0.01 * serial.max()
            off = causal_map(network, inputs, layer, query, gamma=0.0)
            assert off.abs().max() < 1e-3 * serial.max()
    with pytest.raises(ParameterError, match="query=32 is not a position of a 4x8 map; give one from 0 to 31"):
        causal_map(network, inputs, layer, 32)


def test_a_generator_that_was_changed_behind_its_attention(networks):
    """The short cut for G holds only where convolutions follow; a layer that sees the whole map must not be cut."""
    generator, inputs = networks()[0]
    block = generator.blocks["32"]
    block.register_forward_hook(lambda _, inputs, y: y - y.mean((2, 3), keepdim=True) * 30)
    query, side = 27, 8
    serial = torch.zeros(16)
    for key in range(16):
        forbid = torch.zeros(64, 16, dtype=torch.bool)
        forbid[query, key] = True
        change = effect(generator, inputs, "attention.8", forbid=forbid).difference
        row, column = divmod(query, side)
        serial[key] = change[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].norm()
    causal = causal_map(generator, inputs, "attention.8", query)
    assert serial.max() > 1e-4 and (causal - serial).abs().max() < 0.01 * serial.max()


def test_a_layer_that_does_not_run_is_named():
    vit, inputs, path, _ = others()[0]
    vit.forward = lambda x: x
    with pytest.raises(WorkbenchError, match=f"the attention layer '{path}' does not run for these inputs"):
        causal_map(vit, inputs, path, 0)
