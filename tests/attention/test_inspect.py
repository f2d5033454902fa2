"""Looking at one image and one layer of any network with self-attention: no run, no data set."""

import pytest
import torch
from torch import nn
from torchvision.models import VisionTransformer

from workbench import ParameterError, SelfAttention, WorkbenchError
from workbench.attention import (
    READINGS,
    capture,
    collect_projections,
    effect,
    inspect_layer,
    mean_offsets,
    relative_offsets,
    salient_positions,
    statistics,
)  # fmt: skip
from workbench.attention.inspect import key_positions, positions_mask, taken_keys


class Painter(nn.Module):
    """A network of nobody's: from (B, 4) to images (B, 3, 8, 8), by way of attention."""

    def __init__(self):
        super().__init__()
        self.linear, self.look, self.paint = nn.Linear(4, 16 * 64), SelfAttention(16), nn.Conv2d(16, 3, 1)
        self.look.gamma.data.fill_(0.8)

    def forward(self, z):
        return torch.tanh(self.paint(self.look(self.linear(z).view(-1, 16, 8, 8))))


class Judge(nn.Module):
    """And one from images to a number."""

    def __init__(self):
        super().__init__()
        self.first, self.look = nn.Conv2d(3, 16, 3, padding=1), SelfAttention(16, "paper")
        self.look.gamma.data.fill_(0.8)

    def forward(self, x, y=None):
        return self.look(self.first(x)).mean((1, 2, 3))


def test_the_image_is_what_a_network_makes():
    network, z = Painter(), torch.randn(1, 4)
    seen = inspect_layer(network, (z,), "look")
    with torch.no_grad(), capture(network) as maps:
        assert torch.equal(network(z)[0], seen.image)
    torch.testing.assert_close(seen.beta, maps["look"][0])
    assert seen.layer == "look" and seen.after is None and seen.logit is None and network.training
    assert torch.equal(seen.statistics["entropy"], statistics(seen.projections, 8)["entropy"][0])
    assert all(seen.heat(reading, 9).shape == (8, 8) for reading in READINGS)
    with pytest.raises(ParameterError, match="reading='moved' is not one of outgoing, incoming, value_weighted"):
        seen.heat("moved", 9)


def test_or_what_it_is_given_where_it_makes_none():
    network, x = Judge(), torch.rand(1, 3, 8, 8)
    forbid = positions_mask((3, 5), (0, 1), (64, 64))
    assert forbid.sum() == 4 and forbid[3, 1] and forbid[5, 0]
    seen = inspect_layer(network, (x, None), "look", forbid=forbid, gamma=None)
    changed = effect(network, (x,), "look", forbid=forbid)
    assert torch.equal(seen.image, x[0]) and seen.after is None
    assert (seen.logit, seen.logit_after) == pytest.approx((changed.before.item(), changed.after.item()), abs=1e-6)


def test_interventions_show_the_image_after_them():
    network, z = Painter(), torch.randn(1, 4)
    seen = inspect_layer(network, (z,), "look", gamma=0.0)
    off = inspect_layer(network, (z,), "look", attention_off=True)
    assert torch.equal(seen.after, off.image) and not torch.equal(seen.image, off.image)
    assert off.projections.gamma == 0 and not off.projections.strength.any() and seen.projections.strength.all()
    torch.testing.assert_close(off.beta, seen.beta)  # the map is the learned one
    both = inspect_layer(network, (z,), "look", attention_off=True, replace="uniform", gamma=None)
    assert torch.equal(both.after, both.image)  # what adds nothing cannot be changed
    assert inspect_layer(network, (z,), "look", gamma=None, replace=None).after is None
    with pytest.raises(WorkbenchError, match="no attention layer 'loook'; did you mean 'look'"):
        inspect_layer(network, (z,), "loook")


def test_projections_of_many_images_are_those_of_each():
    network, z = Painter(), torch.randn(5, 4)
    together = collect_projections(network, (z,), "look", batch_size=2)
    assert len(together.query) == 5
    for k in range(5):
        alone = inspect_layer(network, (z[k : k + 1],), "look").projections
        torch.testing.assert_close(together[k : k + 1].maps(), alone.maps())
        torch.testing.assert_close(together.strength[k], alone.strength[0])
    torch.testing.assert_close(mean_offsets(together), relative_offsets(together.maps()))
    assert collect_projections(Judge(), (torch.rand(2, 3, 8, 8), None), "look", attention_off=True).gamma == 0


def test_salient_places():
    image = torch.zeros(3, 32, 32)
    image[0, 4:8, 8:12], image[1, 20:24, 28:32] = 1.0, 0.9
    left, right, dull = salient_positions(image, 8)
    assert (left, right) == (1 * 8 + 2, 5 * 8 + 7) and dull not in (left, right)


def test_a_source_brings_its_values():
    network, z, source = Painter(), torch.randn(1, 4), torch.randn(1, 4)
    keys = torch.full((2, 16), -1)
    keys[1, 3], keys[1, 8] = 3, 9
    seen = inspect_layer(network, (z,), "look", source=(source,), patch=(0, keys))
    whole = effect(network.eval(), (torch.cat([source, z]),), "look", patch=(0, keys))
    torch.testing.assert_close(seen.after, whole.after[1])
    torch.testing.assert_close(seen.image, whole.before[1])
    assert (seen.after - seen.image).abs().max() > 1e-3


def test_keys_by_position():
    assert taken_keys((5, 10), (-1, 1), 4).tolist() == [-1, -1, -1, -1, -1, 2] + [-1] * 4 + [7] + [-1] * 5
    with pytest.raises(ParameterError, match="key 5 would take its value from row -1, column 1, outside of a 4x4 map"):
        taken_keys((10, 5), (-2, 0), 4)
    assert key_positions([0, 1, 8, 63, 20], 8, 4) == (0, 6, 15) and key_positions([20, 3], 8, 8) == (3, 20)


def vit(**more):
    network = VisionTransformer(
        image_size=16, patch_size=4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16, **dict(num_classes=5) | more
    )
    nn.init.normal_(network.heads.head.weight)
    return network


PATH = "encoder.layers.encoder_layer_1.self_attention"


def test_a_classifier_with_heads_and_a_class_token():
    network, x = vit(), torch.rand(1, 3, 16, 16)
    with torch.no_grad(), capture(network.eval()) as maps:
        logits = network(x)[0]
    seen = inspect_layer(network, (x,), PATH, gamma=0.0)
    assert torch.equal(seen.image, x[0]) and seen.after is None and seen.top == logits.argmax().item()
    changed = effect(network, (x,), PATH, gamma=0.0)
    assert (seen.logit, seen.logit_after) == pytest.approx((changed.before.max().item(), changed.after[0, seen.top].item()), abs=1e-5)
    torch.testing.assert_close(seen.beta, maps[PATH][0].mean(0))
    one = inspect_layer(network, (x,), PATH, head=1)
    torch.testing.assert_close(one.beta, maps[PATH][0, 1])
    for reading in READINGS:
        heat = seen.heat(reading, 0 if reading != "distance" else 1)  # what the class token sees, too
        assert heat.shape == (4, 4) and heat.isfinite().all()
    torch.testing.assert_close(seen.heat("outgoing", 0), maps[PATH][0, :, 0, 1:].mean(0).view(4, 4))
    norms = seen.projections.value_norm[0]
    torch.testing.assert_close(seen.heat("value_weighted", 0), (maps[PATH][0, :, 0] * norms).mean(0)[1:].view(4, 4))
    with pytest.raises(ParameterError, match="head=2 is not one of 2 heads"):
        inspect_layer(network, (x,), PATH, head=2)
    together = collect_projections(network, (torch.rand(5, 3, 16, 16),), PATH, batch_size=2)
    assert together.query.shape == (5, 2, 17, 4) and mean_offsets(together).shape == (7, 7)
    off = inspect_layer(network, (x,), PATH, attention_off=True)
    assert off.projections.gamma == 0 and not off.projections.strength.any()


def test_what_cannot_be_inspected_is_one_line():
    network = vit()
    network.forward = lambda x: network.conv_proj(x).mean((2, 3))
    with pytest.raises(WorkbenchError, match=f"the attention layer '{PATH}' does not run for these inputs"):
        inspect_layer(network, (torch.rand(1, 3, 16, 16),), PATH)
    network.forward = lambda x: dict(logits=x)
    with pytest.raises(ParameterError, match="the network returns a dict, not a tensor"):
        inspect_layer(network, (torch.rand(1, 3, 16, 16),), PATH)


def test_salient_places_of_an_image_that_is_not_square():
    image = torch.zeros(3, 16, 32)
    image[0, 4:8, 8:12], image[1, 12:16, 28:32] = 1.0, 0.9
    left, right, _ = salient_positions(image, (4, 8))
    assert (left, right) == (1 * 8 + 2, 3 * 8 + 7)
