"""Looking at one image and one layer of any network with self-attention: no run, no data set."""

import pytest
import torch
from torch import nn

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
