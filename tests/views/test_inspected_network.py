"""Networks without a run: what the inspector's Python asks of them."""

import pytest
import torch
from torch import nn
from torchvision.models import VisionTransformer

from workbench import ParameterError, SelfAttention, WorkbenchError, attention
from workbench.attention import adapt
from workbench.views.inspected_network import InspectedNetwork, _short
from workbench.views.inspection_request import InspectionRequest


class Wide(nn.Module):
    """A generator of images 8 x 16, with classes."""

    def __init__(self):
        super().__init__()
        self.first, self.classes, self.look, self.last = nn.Linear(4, 16 * 32), nn.Embedding(3, 4), SelfAttention(16), nn.Conv2d(16, 12, 1)
        self.look.gamma.data.fill_(3.0)
        self.norm = nn.BatchNorm2d(16)

    def forward(self, z, y):
        x = self.norm(self.first(z + self.classes(y)).view(-1, 16, 4, 8))
        return torch.tanh(nn.functional.pixel_shuffle(self.last(self.look(x)), 2))


def vit():
    network = VisionTransformer(image_size=16, patch_size=4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=3)
    nn.init.normal_(network.heads.head.weight)
    return network


def draw(count, seed):
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(seed)), torch.arange(count) % 3


def test_a_generator_whose_inputs_are_drawn():
    network = Wide()
    seen = InspectedNetwork(network, draw, generates=True, class_names=["a", "b", "c"])
    (layer,) = seen.layers
    assert layer == dict(id="G/look", network="G", label="look · look", side=8, key_side=4, rows=4, key_rows=2, tokens=[], heads=1)
    assert (seen.image_size, seen.num_classes, seen.latents, seen.samples) == ((8, 16), 3, "seed", None) and network.training
    request = InspectionRequest("G/look", seed=5, sample=10)  # the third of the second page: inputs(8, 6)
    z, y = draw(8, 6)
    with torch.no_grad():
        images = network.eval()(z, y)
    inspection = seen.inspect(request)
    torch.testing.assert_close(inspection.image, images[2])
    assert (inspection.about, inspection.label, inspection.class_name) == ("c, sample 2, seed 6", 2, "c")
    names, strip = seen.strip(request)
    torch.testing.assert_close(strip, images)
    assert names[:2] == ["a, sample 0, seed 6", "b, sample 1, seed 6"]
    chosen = seen.inspect(InspectionRequest("G/look", seed=5, sample=10, label=0))
    with torch.no_grad():
        torch.testing.assert_close(chosen.image, network(z, torch.zeros_like(y))[2])
    changed = seen.inspect(InspectionRequest("G/look", seed=5, sample=10, forbid=(3,), queries=(1, 2)))
    forbid = torch.zeros(32, 8, dtype=torch.bool)
    forbid[1:3, 3] = True
    torch.testing.assert_close(changed.after, attention.effect(network, (z[2:3], y[2:3]), "look", forbid=forbid).after[0])
    causal = seen.causal_map(request, 7)
    torch.testing.assert_close(causal, attention.causal_map(network, (z[2:3], y[2:3]), "look", 7))
    network.train()
    torch.testing.assert_close(seen.causal_map(request, 7), causal)
    assert network.training and seen.offsets(request).shape == (7, 15)
    z, y = (torch.cat(part) for part in zip(draw(8, 5), draw(8, 6), strict=True))
    with torch.no_grad(), attention.capture(network.eval()) as maps:
        network(z, y)
    layout = attention.Layout((4, 8), (2, 4))
    torch.testing.assert_close(seen.offsets(request, 16), attention.relative_offsets(maps["look"], layout))


def test_a_network_beside_it():
    network = Wide()
    seen = InspectedNetwork(network, draw, generates=True)
    off = seen.beside("gamma=0")
    request = InspectionRequest("G/look")
    assert off.label == "Wide, γ = 0" and off.inspect(request).projections.gamma == 0  # noqa: RUF001
    network.eval().look.gamma.data.zero_()
    with torch.no_grad():
        plain = network(*draw(8, 0))
    network.look.gamma.data.fill_(3.0)
    torch.testing.assert_close(off.inspect(request).image, plain[0])
    torch.testing.assert_close(off.strip(request)[1], plain)
    assert seen.beside(Wide()).label == "Wide"
    with pytest.raises(ParameterError, match="b=5 is neither a network nor 'gamma=0'"):
        seen.beside(5)
    other = Wide()
    other.first = nn.Linear(4, 16 * 16)
    other.norm.register_forward_pre_hook(lambda _, inputs: (inputs[0].reshape(-1, 16, 4, 4),))
    other.norm.register_forward_hook(lambda _, inputs, y: y)
    other.forward = lambda z, y: nn.functional.pixel_shuffle(other.last(other.look(other.first(z).view(-1, 16, 4, 4))), 2)
    with pytest.raises(ParameterError, match="b has other queries or keys in layer 'G/look'"):
        seen.beside(other)


def test_a_classifier_whose_inputs_are_given():
    network, x = vit(), torch.rand(11, 3, 16, 16)
    seen = InspectedNetwork(network, (x,), generates=False, class_names=["a", "b", "c"])
    paths = list(attention.attention_layers(network))
    assert [layer["id"] for layer in seen.layers] == [f"network/{path}" for path in paths]
    assert [layer["label"].split(" · ")[1] for layer in seen.layers] == ["0", "1"]
    assert seen.layers[0]["tokens"] == ["class"] and seen.layers[0]["heads"] == 2
    assert (seen.num_classes, seen.latents, seen.samples) == (0, "", 11)
    request = InspectionRequest(seen.layers[1]["id"], sample=9, head=1)
    inspection = seen.inspect(request)
    torch.testing.assert_close(inspection.image, 2 * x[9] - 1)  # [0, 1] as [-1, 1]
    with torch.no_grad(), attention.capture(network.eval()) as maps:
        logits = network(x)
    torch.testing.assert_close(inspection.beta, maps[paths[1]][9, 1])
    assert inspection.about == f"input 9, predicted: {'abc'[logits[9].argmax()]}"
    assert inspection.logit == pytest.approx(logits[9].max().item(), abs=1e-5)
    names, strip = seen.strip(request)
    assert names == ["input 8", "input 9", "input 10"] and len(strip) == 3
    offsets = attention.relative_offsets(maps[paths[1]][:8, 1], attention.Layout((4, 4), (4, 4), ("class",)))
    torch.testing.assert_close(seen.offsets(request, 8), offsets)
    assert seen.projections(request, 100).query.shape[0] == 11
    with pytest.raises(WorkbenchError, match="sample=11: there are 11 inputs"):
        seen.inspect(InspectionRequest(request.layer, sample=11))
    with pytest.raises(ParameterError, match=r"head=2 is no head of .*, which has 2"):
        seen.inspect(InspectionRequest(request.layer, head=2))
    with pytest.raises(WorkbenchError, match=r"'x\.png': images are dropped onto the D of a run"):
        seen.drop("x.png", b"")


@pytest.mark.parametrize(("x", "shown"), [
    (torch.tensor([-0.5, 0.5]), [-0.5, 0.5]), (torch.tensor([0.0, 0.5]), [-1.0, 0.0]), (torch.tensor([-2.0, 3.0]), [-1.0, 1.0]),
    (torch.tensor([2.0, 2.0]), [-1.0, -1.0]),
])  # fmt: skip
def test_images_of_any_range_and_one_channel_are_shown(x, shown):
    network = VisionTransformer(image_size=8, patch_size=4, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=16)
    network.conv_proj = nn.Conv2d(1, 8, 4, 4)
    image = x.view(1, 1, 1, 2).expand(1, 1, 8, 2).repeat(1, 1, 1, 4)
    seen = InspectedNetwork(network, image, generates=False)
    inspection = seen.inspect(InspectionRequest(seen.layers[0]["id"]))
    assert inspection.image.shape == (3, 8, 8)
    torch.testing.assert_close(inspection.image[:, 0, :2], torch.tensor([shown] * 3))


def refused(*arguments, **options):
    with pytest.raises(WorkbenchError) as error:
        InspectedNetwork(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_cannot_be_inspected_is_refused_in_one_line(capsys):
    x = torch.rand(2, 3, 16, 16)
    assert "generator=3 is not a module" in refused(3, (x,), True)
    assert "classes='abc' is not a list of names" in refused(vit(), (x,), False, "abc")
    for inputs, message in (
        ((), "inputs=() is not a tuple of the network's inputs whose first is a tensor"),
        (([1, 2],), "is not a tuple of the network's inputs"),
        ((x, x[:1]), "inputs holds tensors of 1, 2 samples"),
        ((x[:0],), "inputs holds tensors of 0 samples"),
        (lambda count, seed: (x,), "inputs(8, 0) gives 2 samples; return as many as it is asked for"),
        ((x / 0,), "inputs holds numbers that are not finite"),
        ((torch.rand(2, 3, 8, 8),), "does not run on these inputs: "),
        ((x, x), "does not run on these inputs: TypeError: "),
        (lambda count, seed: (torch.rand(count, 3, 16, 16),), "inputs(8, 0) gives others the second time; draw them from a generator"),
        (lambda count, seed: None, "inputs(8, 0)=None is not a tuple"),
    ):
        assert message in refused(vit(), inputs, False)
    assert "the generator gives shape (1, 3), not images" in refused(vit(), (x[:1],), True)
    assert "it has no attention layer that is known; describe it by attention.adapt" in refused(nn.Conv2d(3, 3, 1), (x,), False)
    assert "images have shape (2, 16, 8); the inspector shows" in refused(Sequence(), (torch.rand(2, 16, 8),), False)
    network = vit()
    for layer in attention.attention_layers(network).values():
        adapt(layer, grid=(3, 3))
    assert "of no attention layer is it known where its queries and keys are" in refused(network, (x,), False)
    assert capsys.readouterr().err.count("not in the inspector: encoder.layers") == 1
    idle = nn.Sequential(nn.Conv2d(3, 3, 1))
    idle.unused, idle.forward = nn.MultiheadAttention(4, 2), idle[0].forward
    assert "none of its attention layers runs: unused" in refused(idle, (x,), False)


class Sequence(nn.Module):
    def __init__(self):
        super().__init__()
        self.look = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.look(x, x, x)[0]


def test_a_layer_by_itself_on_feature_maps():
    layer, x = SelfAttention(16), 3 * torch.randn(2, 16, 4, 8)
    layer.gamma.data.fill_(2.0)
    seen = InspectedNetwork(layer, (x,), generates=False)
    assert [entry["id"] for entry in seen.layers] == ["network/"] and seen.layers[0]["label"] == "SelfAttention · layer"
    inspection = seen.inspect(InspectionRequest("network/", sample=1, gamma0=True))
    grey = x.mean(1)
    expected = 2 * (grey - grey.min()) / (grey.max() - grey.min()) - 1
    torch.testing.assert_close(inspection.image, expected[1].expand(3, 4, 8))
    assert inspection.after is None
    made = InspectedNetwork(layer, (x,), generates=True).inspect(InspectionRequest("G/", sample=1, gamma0=True))
    assert made.image.shape == made.after.shape == (3, 4, 8) and not torch.equal(made.image, made.after)


def test_a_map_that_does_not_reproduce_its_layer_is_marked(capsys):
    network = vit()
    layer = network.encoder.layers[1].self_attention
    layer.register_forward_hook(lambda _, inputs, output: (output[0] * 2, output[1]))
    seen = InspectedNetwork(network, (torch.rand(2, 3, 16, 16),), generates=False)
    first, second = (seen.inspect(InspectionRequest(entry["id"])) for entry in seen.layers)
    assert "NOT REPRODUCED" in second.about and "NOT REPRODUCED" not in first.about
    assert "does not reproduce the layer's output" in capsys.readouterr().err


def test_short_names_tell_layers_apart():
    assert _short(["look"]) == ["look"] and _short(["a.b.look"]) == ["look"] and _short([""]) == ["layer"]
    assert _short(["blocks.0.attn", "blocks.11.attn"]) == ["0", "11"]
    assert _short(["down.0.attn", "up.0.attn"]) == ["down", "up"]
    assert _short(["unet.down.0.attn.1", "unet.mid.attn.1"]) == ["down.0", "mid"]
    assert _short(["a1.b2", "a2.b2", "a2.b3"]) == ["a1.b2", "a2.b2", "a2.b3"]
    assert _short(["down1.attn", "up2.attn"]) == ["down1", "up2"] and _short(["a", "a.b"]) == ["a", "a.b"]
