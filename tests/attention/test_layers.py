"""Attention layers of other packages: recognised, or described by `adapt`. Layers of timm and diffusers are restated here; where those
packages are installed, they are compared with as well."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import VisionTransformer

from workbench import ParameterError, SelfAttention, WorkbenchError
from workbench.attention import Layout, adapt, attention_layers, capture, capture_projections
from workbench.attention.layers import find_layer
from workbench.attention.layout import guess_layout


@pytest.fixture(autouse=True)
def unprinted(monkeypatch):
    monkeypatch.setattr("workbench.messages._printed", set())


class Fused(nn.Module):
    """The attention of timm's vision transformers."""

    def __init__(self, width=24, heads=3):
        super().__init__()
        self.num_heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.q_norm, self.k_norm = nn.LayerNorm(width // heads), nn.LayerNorm(width // heads)
        self.bias = None

    def forward(self, x, attn_mask=None):
        images, n, width = x.shape
        q, k, v = self.qkv(x).reshape(images, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        scores = (self.q_norm(q) * self.scale) @ self.k_norm(k).transpose(-2, -1)
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -torch.inf)
        self.map = scores.softmax(-1)
        return self.proj((self.map @ v).transpose(1, 2).reshape(images, n, width))


class Block(nn.Module):
    """The attention block of diffusers, with group normalisation, a residual, and other tokens as keys if they are given."""

    def __init__(self, width=16, heads=2, context=None):
        super().__init__()
        self.heads, self.scale, self.residual_connection, self.rescale_output_factor = heads, (width // heads) ** -0.5, True, 1.5
        self.group_norm = nn.GroupNorm(4, width)
        self.to_q, self.to_k, self.to_v = nn.Linear(width, width), nn.Linear(context or width, width), nn.Linear(context or width, width)
        self.to_out = nn.ModuleList([nn.Linear(width, width), nn.Dropout(0.0)])

    def forward(self, hidden_states, encoder_hidden_states=None):
        images, width = hidden_states.shape[:2]
        x = self.group_norm(hidden_states.flatten(2)).transpose(1, 2)
        context = x if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (to(of).view(images, -1, self.heads, width // self.heads).transpose(1, 2)
                   for to, of in ((self.to_q, x), (self.to_k, context), (self.to_v, context)))  # fmt: skip
        self.map = (self.scale * q @ k.transpose(2, 3)).softmax(-1)
        o = self.to_out[0]((self.map @ v).transpose(1, 2).flatten(2)).transpose(1, 2).reshape(hidden_states.shape)
        return (o + hidden_states) / self.rescale_output_factor


def vit(**more):
    settings = dict(image_size=32, patch_size=8, num_layers=2, num_heads=3, hidden_dim=24, mlp_dim=48, num_classes=5)
    return VisionTransformer(**settings | more).eval()


def read(network, *inputs, **options):
    """Maps and projections of a forward pass, in which no layer differs from its map."""
    with torch.no_grad(), capture(network) as maps, capture_projections(network) as projections:
        network(*inputs, **options)
    for path, layer in projections.items():
        with torch.autocast("cpu", enabled=False):
            beta = layer.maps()
        assert layer.trusted and (beta - maps[path]).abs().max() < 1e-5
    return maps, projections


def test_torchvision_layers_have_the_maps_that_torch_gives(capsys):
    network, given = vit(), {}
    layers = attention_layers(network)
    assert list(layers) == [f"encoder.layers.encoder_layer_{k}.self_attention" for k in range(2)]
    for path, layer in layers.items():

        def forward(*inputs, path=path, layer=layer, plain=layer.forward, **options):
            given[path] = plain(*inputs, need_weights=True, average_attn_weights=False)[1]
            return plain(*inputs, **options)

        layer.forward = forward
    maps, projections = read(network, torch.randn(2, 3, 32, 32))
    assert list(maps) == list(layers) == list(given)
    for path, beta in maps.items():
        assert beta.shape == (2, 3, 17, 17) and (beta - given[path]).abs().max() < 1e-6
        assert projections[path].layout == Layout((4, 4), (4, 4), ("class",)) and projections[path].gamma is None
        assert projections[path].heads == 3 and torch.equal(projections[path].head(1).query, projections[path].query[:, 1])
        with pytest.raises(ParameterError, match="head=3 is not one of 3 heads; give one from 0 to 2"):
            projections[path].head(3)
    assert not capsys.readouterr().err


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "settings",
    [dict(batch_first=True), dict(), dict(kdim=5, vdim=7), dict(bias=False), dict(add_bias_kv=True, add_zero_attn=True, batch_first=True)],
)
def test_every_kind_of_multihead_attention(settings, dtype, capsys):
    layer = nn.MultiheadAttention(12, 3, **settings, dtype=dtype).eval()
    query, key, value = (torch.randn(2, n, d, dtype=dtype) for n, d in ((6, 12), (4, layer.kdim), (4, layer.vdim)))
    inputs = [x if layer.batch_first else x.transpose(0, 1) for x in (query, key, value)]
    given = layer(*inputs, average_attn_weights=False)[1]
    beta = read(layer, *inputs)[0][""]
    assert beta.shape == given.shape and (beta - given).abs().max() < 1e-6
    alone = read(layer, *(x[0] for x in (query, key, value)))[0][""]
    assert (alone - given[:1]).abs().max() < 1e-6
    named = read(layer, **dict(zip(("query", "key", "value"), inputs, strict=True)))[0][""]
    assert torch.equal(named, beta) and not capsys.readouterr().err


def test_the_encoder_of_torch_and_half_precision(capsys):
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2, enable_nested_tensor=False).eval()
    maps, projections = read(encoder, torch.randn(2, 9, 8))  # not by torch's fast path, which calls no layer
    assert list(maps) == ["layers.0.self_attn", "layers.1.self_attn"]
    assert projections["layers.0.self_attn"].layout == Layout((3, 3), (3, 3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert read(encoder, torch.randn(2, 9, 8))[0]["layers.0.self_attn"].dtype == torch.float32
    assert read(encoder.bfloat16(), torch.randn(2, 9, 8).bfloat16())[0]["layers.1.self_attn"].isfinite().all()
    assert not capsys.readouterr().err


def test_a_fused_projection_and_a_block_with_a_residual(capsys):
    fused, x = Fused().eval(), torch.randn(2, 13, 24)
    maps, projections = read(fused, x)
    assert (maps[""] - fused.map).abs().max() < 1e-6 and projections[""].layout is None  # 13 are no grid that can be guessed
    block, x = Block().eval(), torch.randn(2, 16, 6, 4)
    maps, projections = read(block, x)
    assert (maps[""] - block.map).abs().max() < 1e-6 and projections[""].layout == Layout((6, 4), (6, 4))
    change = block(x) - (block.to_out[0].bias[:, None, None] + x) / 1.5  # what attention adds, without the bias and the residual
    strength = change.flatten(2).norm(dim=1) / x.flatten(2).norm(dim=1)
    torch.testing.assert_close(projections[""].strength, strength.detach(), rtol=1e-4, atol=1e-6)
    cross, words = Block(context=6).eval(), torch.randn(2, 6, 6)  # six words are no pooled 3x2 cells
    maps, projections = read(cross, x, words)
    assert maps[""].shape == (2, 2, 24, 6) and (maps[""] - cross.map).abs().max() < 1e-6
    with pytest.raises(ParameterError, match="24 queries and 6 keys are not positions of a grid that is known"):
        assert projections[""].places
    assert not capsys.readouterr().err


def differing(what):
    """A layer that computes otherwise than its adapter, and its inputs."""
    x = torch.randn(2, 13, 24)
    mask = (torch.rand(13, 13) < 0.5) | torch.eye(13, dtype=torch.bool)
    if what == "a mask":
        return Fused().eval(), (x, mask)
    if what == "another mask":
        return nn.MultiheadAttention(24, 3, batch_first=True).eval(), (x, x, x, None, True, ~mask)
    if what == "dropout":
        return nn.MultiheadAttention(24, 3, dropout=0.5, batch_first=True).train(), (x, x, x)
    layer = Fused().eval()
    layer.scale = 1.0
    part = [lambda x, k=k: layer.qkv(x).chunk(3, dim=-1)[k] for k in range(3)]  # without the normalisation of queries and keys
    return adapt(layer, queries=part[0], keys=part[1], values=part[2], output=layer.proj, heads=3), (x,)


@pytest.mark.parametrize("what", ["a mask", "another mask", "dropout", "an adapter that forgets something"])
def test_a_map_that_does_not_reproduce_its_layer_is_reported_once(what, capsys):
    layer, inputs = differing(what)
    for _ in range(2):
        with torch.no_grad(), capture(layer), capture_projections(layer) as projections:
            layer(*inputs)
        assert not projections[""].trusted
    error = capsys.readouterr().err
    assert "attention layer '': the recomputed map does not reproduce the layer's output (masks" in error
    assert error.count("\n") == 1 and f"do not trust the maps of {type(layer).__name__}\n" in error


def test_one_line_for_all_layers_of_a_kind(capsys):
    network = nn.Sequential(Fused(), Fused()).eval()
    for layer in network:
        layer.proj.register_forward_hook(lambda _, inputs, y: 2 * y)
        layer.forward = lambda x: x
    with capture(network):
        network(torch.randn(1, 9, 24))
    assert capsys.readouterr().err.count("\n") == 1


class Own(nn.Module):
    """An attention layer that nothing is known of: queries of a feature map, pooled keys, an output that is added to the input."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(8, 8) for _ in range(4))

    def keys(self, x):
        return F.avg_pool2d(x, 2).flatten(2).transpose(1, 2)

    def forward(self, x):
        q, k, v = self.a(x.flatten(2).transpose(1, 2)), self.b(self.keys(x)), self.c(self.keys(x))
        self.map = (q @ k.transpose(1, 2) / 8**0.5).softmax(-1)
        return x + self.d(self.map @ v).transpose(1, 2).view_as(x)


def described(layer, **more):
    return adapt(
        layer, queries=lambda x: layer.a(x.flatten(2).transpose(1, 2)), keys=lambda x: layer.b(layer.keys(x)),
        values=lambda x: layer.c(layer.keys(x)), output=lambda o, x: x + layer.d(o).transpose(1, 2).view_as(x), **more,
    )  # fmt: skip


def test_any_other_layer_is_described(capsys):
    network, x = nn.Sequential(nn.Conv2d(3, 8, 1), Own()).eval(), torch.randn(2, 3, 4, 6)
    assert attention_layers(network) == {}
    with pytest.raises(WorkbenchError, match=r"there is no attention layer '1'; the network has none that is known; see `attention.adapt`"):
        find_layer(network, "1")
    assert described(network[1]) is network[1] and list(attention_layers(network)) == ["1"]
    maps, projections = read(network, x)
    assert (maps["1"][:, 0] - network[1].map).abs().max() < 1e-6 and projections["1"].layout == Layout((4, 6), (2, 3))
    # Modules are called with the weighted values alone, and a copy computes with its own weights.
    layer = nn.Module()
    layer.q, layer.k, layer.v, layer.out = (nn.Linear(8, 8) for _ in range(4))
    layer.forward = lambda x: layer.out(
        F.scaled_dot_product_attention(*(f(x).unflatten(2, (2, 4)).transpose(1, 2) for f in (layer.q, layer.k, layer.v)))
        .transpose(1, 2)
        .flatten(2)
    )
    adapt(layer, queries=layer.q, keys=layer.k, values=layer.v, output=layer.out, heads=2, tokens=("a", "b"))
    _, projections = read(layer, torch.randn(1, 6, 8))
    assert projections[""].layout == Layout((2, 2), (2, 2), ("a", "b")) and not capsys.readouterr().err


def test_a_recognised_layer_is_told_its_grid():
    network = vit()
    layer = network.encoder.layers[1].self_attention
    adapt(layer, grid=(2, 8))
    _, projections = read(network, torch.randn(1, 3, 32, 32))
    assert [projection.layout.grid for projection in projections.values()] == [(4, 4), (2, 8)]
    adapt(layer, grid=(3, 3))  # another size
    assert list(read(network, torch.randn(1, 3, 32, 32))[1].values())[1].layout is None


@pytest.mark.parametrize(("how", "message"), [
    (dict(queries=3), "queries=3 is not a function or module"),
    (dict(queries=len, keys=len), "values, output of the layer is missing; give queries, keys, values and output"),
    (dict(), "a Own is not a layer that is recognised; give queries, keys, values and output"),
    (dict(heads=0), "heads=0 is not a number of heads, at least 1"),
    (dict(grid=(3,)), r"grid=\(3,\) is not \(rows, columns\)"),
])  # fmt: skip
def test_a_description_that_does_not_fit_is_refused(how, message):
    with pytest.raises(ParameterError, match=message):
        adapt(Own(), **how)


def test_what_a_description_gives_is_checked():
    for layer, message in ((5, "layer=5 is not a module"), (nn.Identity(), "has no parameters")):
        with pytest.raises(ParameterError, match=message):
            adapt(layer)
    layer = described(Own(), heads=3)
    with (
        pytest.raises(ParameterError, match=r"queries of the adapted layer gives shape \(1, 16, 8\); it takes \(B, n, 3 \* d\) or"),
        capture(layer),
    ):
        layer(torch.randn(1, 8, 4, 4))


def test_layouts():
    assert guess_layout(64, 16) == Layout((8, 8), (4, 4)) and guess_layout(64, 16).factor == (2, 2)
    assert guess_layout(24, 24, (96, 64)) == Layout((6, 4), (6, 4))
    assert guess_layout(201, 201).tokens == ("class", "register 1", "register 2", "register 3", "register 4")
    assert guess_layout(198, 198).tokens == ("class", "distillation") and guess_layout(25, 25, (96, 64)).tokens == ("class",)
    assert guess_layout(13, 13) is None and guess_layout(16, 5) is None and guess_layout(16, 16, tokens=("class",)) is None
    layout = Layout((2, 4), (1, 2), ("class",))
    assert (layout.queries, layout.keys) == (9, 3)
    assert [layout.place(query) for query in (0, 1, 6)] == [None, (0, 0), (1, 1)]
    assert [layout.key_of(query) for query in (0, 1, 3, 8)] == [0, 1, 2, 2]
    with pytest.raises(ParameterError, match="query=9 is not a position of a 2x4 map with 1 tokens before it; give one from 0 to 8"):
        layout.place(9)


def test_a_self_attention_of_a_map_that_is_not_square():
    layer = SelfAttention(16)
    maps, projections = read(layer, torch.randn(1, 16, 4, 8))
    assert maps[""].shape == (1, 32, 8) and projections[""].layout == Layout((4, 8), (2, 4))


def test_timm():
    timm = pytest.importorskip("timm")
    network = timm.create_model("vit_tiny_patch16_224", pretrained=False, img_size=(32, 48), depth=2).eval()
    given = {}
    for path, layer in attention_layers(network).items():
        layer.fused_attn = False
        layer.attn_drop.register_forward_hook(lambda _, inputs, y, path=path: given.__setitem__(path, y))
    x = torch.randn(2, 3, 32, 48)
    maps, projections = read(network, x)
    for layer in attention_layers(network).values():
        layer.fused_attn = True
    fused, _ = read(network, x)
    for path, beta in given.items():
        assert (maps[path] - beta).abs().max() < 1e-6 and (fused[path] - beta).abs().max() < 1e-5
        assert projections[path].layout == Layout((2, 3), (2, 3), ("class",))
    registers = timm.create_model(
        "vit_medium_patch16_reg4_gap_256", pretrained=False, img_size=32, depth=1, embed_dim=32, num_heads=2
    ).eval()
    (projection,) = read(registers, x[..., :32])[1].values()
    assert projection.layout.tokens == ("register 1", "register 2", "register 3", "register 4")


def test_diffusers():
    processors = pytest.importorskip("diffusers.models.attention_processor")
    x = torch.randn(2, 16, 6, 4)
    torch.manual_seed(0)
    block = processors.Attention(
        16, heads=2, dim_head=8, norm_num_groups=4, residual_connection=True, rescale_output_factor=1.5, bias=True
    ).eval()
    scores, given = block.get_attention_scores, []
    block.get_attention_scores = lambda *inputs: given.append(scores(*inputs)) or given[-1]
    for processor in (processors.AttnProcessor(), processors.AttnProcessor2_0()):
        block.set_processor(processor)
        beta = read(block, x)[0][""]
        assert (beta.flatten(0, 1) - given[0]).abs().max() < 1e-6
