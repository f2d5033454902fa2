import math

import pytest
import torch

from workbench import ParameterError
from workbench.attention import (
    Layout,
    Projections,
    incoming,
    outgoing,
    relative_offsets,
    statistics,
    to_positions,
    upsample,
    value_weighted,
)
from workbench.attention.readings import overlap

SIDES = [(6, 6), (6, 3), (8, 2)]  # side, key_side: a key per position, per 2x2 positions, per 4x4


def random_maps(images, side, key_side):
    return torch.softmax(3 * torch.randn(images, side**2, key_side**2), dim=-1)


def random_projections(images, side, key_side, d=3):
    query, key = 2 * torch.randn(images, side**2, d), torch.randn(images, key_side**2, d)
    return Projections(query, key, torch.rand(images, key_side**2), torch.rand(images, side**2), 0.5)


def planted(beta):
    """Projections of one image whose map is, to float32, the given one of (N, M) zeros and ones."""
    keys = torch.eye(beta.shape[1])
    return Projections(300 * beta[None], keys[None], torch.ones(1, len(keys)), torch.ones(1, len(beta)), 1.0)


def weight_of(beta, side, key_side, query, row, column):
    """What a query gives to one position, as a number: the weight of the key there, shared by the positions of its cell."""
    factor = side // key_side
    return beta[query, (row // factor) * key_side + column // factor].item() / factor**2


@pytest.mark.parametrize("side, key_side", SIDES)
def test_one_query_read_against_loops(side, key_side):
    beta = random_maps(2, side, key_side)
    value_norm = torch.rand(2, key_side**2)
    factor = side // key_side
    for query in (0, side + 3, side**2 - 1):
        out, into, much = outgoing(beta, query), incoming(beta, query), value_weighted(beta, value_norm, query)
        for b in range(2):
            for row in range(side):
                for column in range(side):
                    weight = weight_of(beta[b], side, key_side, query, row, column)
                    assert out[b, row, column].item() == pytest.approx(weight)
                    back = weight_of(beta[b], side, key_side, row * side + column, *divmod(query, side))
                    assert into[b, row, column].item() == pytest.approx(back)
                    norm = value_norm[b, (row // factor) * key_side + column // factor].item()
                    assert much[b, row, column].item() == pytest.approx(weight * norm)


def test_upsampling_keeps_sums_and_places():
    weights = torch.rand(2, 5, 9)
    heat = to_positions(weights, 6)
    assert heat.shape == (2, 5, 6, 6) and (heat.sum((-2, -1)) - weights.sum(-1)).abs().max() < 1e-6
    assert torch.equal(heat[..., 4, 1], weights[..., 6] / 4)  # row 4, column 1 lies in the cell of row 2, column 0
    large = upsample(heat, 24)
    assert large.shape == (2, 5, 24, 24) and (large.sum((-2, -1)) - weights.sum(-1)).abs().max() < 1e-6
    assert torch.equal(large[0, 0, 16:20, 4:8], (heat[0, 0, 4, 1] / 16).expand(4, 4))
    assert torch.equal(upsample(heat, 6), heat)


@pytest.mark.parametrize(
    "read, message",
    [
        (lambda beta: outgoing(beta, 36), "query=36 is not a position of a 6x6 map; give one from 0 to 35"),
        (lambda beta: incoming(beta, -1), "query=-1 is not a position"),
        (lambda beta: value_weighted(beta, torch.ones(1, 9), 99), "query=99 is not a position"),
        (lambda beta: to_positions(beta, 8), "size=8 does not fit a map of 3x3; give a multiple of 3"),
        (lambda beta: to_positions(beta[..., :7], 6), "7 keys are not a square map"),
        (lambda beta: relative_offsets(beta[:, :35]), "35 queries are not a square map"),
    ],
)
def test_what_does_not_fit_is_refused(read, message):
    with pytest.raises(ParameterError, match=message):
        read(random_maps(1, 6, 3))


@pytest.mark.parametrize("side, key_side", SIDES)
def test_overlap_counts_positions(side, key_side):
    factor = side // key_side
    for radius in (1, 4):
        share = overlap(side, key_side, radius)
        for position in range(side):
            for key in range(key_side):
                inside = sum(abs(key * factor + i - position) <= radius for i in range(factor))
                assert share[position, key].item() == pytest.approx(inside / factor)


@pytest.mark.parametrize("side, key_side", SIDES)
def test_relative_offsets_against_a_loop(side, key_side):
    beta = random_maps(3, side, key_side)
    total, count = torch.zeros(2, 2 * side - 1, 2 * side - 1, dtype=torch.float64)
    for b in range(3):
        for query in range(side**2):
            for place in range(side**2):
                (y, x), (row, column) = divmod(query, side), divmod(place, side)
                at = row - y + side - 1, column - x + side - 1
                total[at] += weight_of(beta[b], side, key_side, query, row, column)
                count[at] += 1
    offsets = relative_offsets(beta)
    assert offsets.shape == (2 * side - 1, 2 * side - 1) and offsets.dtype == torch.float32
    assert (offsets - total / count).abs().max() < 1e-6


def test_relative_offsets_of_known_maps():
    eye = relative_offsets(torch.eye(36)[None])
    assert eye[5, 5] == 1 and eye.sum() == 1
    uniform = relative_offsets(torch.full((2, 36, 9), 1 / 9))
    assert (uniform - 1 / 36).abs().max() < 1e-7  # the average over those queries that have the offset inside
    right = torch.zeros(1, 36, 36)
    right[0, torch.arange(36), [q // 6 * 6 + min(q % 6 + 1, 5) for q in range(36)]] = 1  # one place to the right
    offsets = relative_offsets(right)
    assert offsets[5, 6] == 1 and offsets[5, 5] == pytest.approx(1 / 6) and offsets.sum().item() == pytest.approx(7 / 6)


@pytest.mark.parametrize("side, key_side", SIDES)
def test_statistics_against_loops(side, key_side):
    projections = random_projections(2, side, key_side)
    beta, result = projections.maps().double(), statistics(projections, image_size=4 * side)
    assert list(result) == ["entropy", "distance", "outside_3", "outside_9", "strength", "received"]
    assert all(numbers.shape == (2, side**2) and numbers.dtype == torch.float32 for numbers in result.values())
    assert torch.equal(result["strength"], projections.strength)
    for b in range(2):
        received = torch.zeros(side**2, dtype=torch.float64)
        for query in range(side**2):
            expected = dict(entropy=0.0, distance=0.0, outside_3=0.0, outside_9=0.0)
            expected["entropy"] = -sum(w * math.log(w) for w in beta[b, query].tolist())
            for place in range(side**2):
                row, column = divmod(place, side)
                weight = weight_of(beta[b], side, key_side, query, row, column)
                down, right = abs(row - query // side), abs(column - query % side)
                expected["distance"] += weight * 4 * math.hypot(down, right)  # a position is 4 pixels wide
                expected["outside_3"] += weight * (max(down, right) > 1)
                expected["outside_9"] += weight * (max(down, right) > 4)
                received[place] += weight
            for name, number in expected.items():
                assert result[name][b, query].item() == pytest.approx(number, abs=2e-5), name
        assert (result["received"][b] - received).abs().max() < 1e-5
        assert result["received"][b].mean().item() == pytest.approx(1, abs=1e-5)


def test_statistics_do_not_depend_on_the_batch():
    projections = random_projections(3, 8, 4)
    together, alone = statistics(projections, 32), statistics(projections[2:3], 32)
    for name in together:
        assert (together[name][2] - alone[name][0]).abs().max() < 1e-5


def test_statistics_of_known_maps():
    eye = statistics(planted(torch.eye(64)), 32)
    assert eye["entropy"].eq(0).all() and eye["distance"].eq(0).all() and eye["outside_3"].eq(0).all() and eye["received"].eq(1).all()

    mirror = torch.eye(64).view(8, 8, 8, 8).flip(1).reshape(64, 64)  # every position looks at its mirror image, left to right
    result = statistics(planted(mirror), 32)
    pixels = 4 * torch.tensor([7.0, 5, 3, 1, 1, 3, 5, 7]).repeat(8)
    assert (result["distance"][0] - pixels).abs().max() < 1e-5 and result["entropy"].eq(0).all()
    assert torch.equal(result["outside_3"][0], (pixels > 4).float()) and torch.equal(result["outside_9"][0], (pixels > 16).float())

    uniform = Projections(torch.randn(1, 256, 2), torch.zeros(1, 64, 2), torch.ones(1, 64), torch.ones(1, 256), 1.0)
    result = statistics(uniform, 32)
    assert (result["entropy"] - math.log(64)).abs().max() < 1e-5 and (result["received"] - 1).abs().max() < 1e-5
    assert (result["outside_3"][0].view(16, 16)[5, 9] - (1 - 9 / 256)).abs() < 1e-6 and (
        result["outside_9"][0, 0] - (1 - 25 / 256)
    ).abs() < 1e-6

    one = torch.zeros(64, 16)
    one[:, 5] = 1  # everybody looks at the cell of rows 2 and 3, columns 2 and 3
    received = statistics(planted(one), 32)["received"][0].view(8, 8)
    assert received[2:4, 2:4].eq(16).all() and received.sum() == 64


LAYOUT = Layout((4, 6), (2, 3), ("class", "register 1"))  # 26 queries, 8 keys


def test_tokens_heads_and_maps_that_are_not_square():
    """Two tokens before 4 x 6 positions, with a key for each 2 x 2 of them; three heads."""
    beta, norm = torch.softmax(3 * torch.randn(2, 3, 26, 8), dim=-1), torch.rand(2, 3, 8)
    for query in (0, 1, 2, 15, 25):
        out, into = outgoing(beta, query, LAYOUT), incoming(beta, query, LAYOUT)
        much = value_weighted(beta, norm, query, LAYOUT)
        assert out.shape == into.shape == much.shape == (2, 3, 4, 6)
        assert (out.sum((-2, -1)) + beta[..., query, :2].sum(-1) - 1).abs().max() < 1e-6  # the rest is on the tokens
        place = None if query < 2 else divmod(query - 2, 6)
        own = query if place is None else 2 + place[0] // 2 * 3 + place[1] // 2
        for row in range(4):
            for column in range(6):
                key = 2 + row // 2 * 3 + column // 2
                torch.testing.assert_close(out[..., row, column], beta[..., query, key] / 4)
                torch.testing.assert_close(much[..., row, column], beta[..., query, key] * norm[..., key] / 4)
                torch.testing.assert_close(into[..., row, column], beta[..., 2 + 6 * row + column, own] / (1 if place is None else 4))
    torch.testing.assert_close(out[:, 1], outgoing(beta[:, 1], query, LAYOUT))
    torch.testing.assert_close(out.mean(1), outgoing(beta.mean(1), query, LAYOUT))
    with pytest.raises(ParameterError, match="query=26 is not a position of a 4x6 map with 2 tokens before it; give one from 0 to 25"):
        outgoing(beta, 26, LAYOUT)
    assert upsample(out, (8, 12)).shape == (2, 3, 8, 12)
    with pytest.raises(ParameterError, match=r"size=\(8, 10\) does not fit a map of 4x6; give multiples of 4 and 6"):
        upsample(out, (8, 10))


def test_offsets_of_tokens_heads_and_maps_that_are_not_square():
    beta = torch.softmax(3 * torch.randn(2, 3, 26, 8), dim=-1)
    total, count = torch.zeros(2, 7, 11, dtype=torch.float64)
    for y in range(4):
        for x in range(6):
            for row in range(4):
                for column in range(6):
                    total[row - y + 3, column - x + 5] += beta[:, :, 2 + 6 * y + x, 2 + row // 2 * 3 + column // 2].mean() / 4
                    count[row - y + 3, column - x + 5] += 1
    assert (relative_offsets(beta, LAYOUT) - total / count).abs().max() < 1e-6


def test_statistics_of_tokens_heads_and_maps_that_are_not_square():
    projections = Projections(2 * torch.randn(2, 3, 26, 4), torch.randn(2, 3, 8, 4), torch.rand(2, 3, 8), torch.rand(2, 26), None, LAYOUT)
    result, beta = statistics(projections, (8, 18)), projections.maps().double().mean(1)  # a position is 2 x 3 pixels
    for b in range(2):
        received = torch.zeros(26, dtype=torch.float64)
        for query in range(26):
            weights = beta[b, query]
            assert result["entropy"][b, query].item() == pytest.approx(-(weights * weights.log()).sum().item(), abs=1e-5)
            expected = dict(distance=0.0, outside_3=0.0, outside_9=0.0)
            received[:2] += weights[:2]
            for row in range(4):
                for column in range(6):
                    weight = weights[2 + row // 2 * 3 + column // 2].item() / 4
                    received[2 + 6 * row + column] += weight
                    down, right = row - (query - 2) // 6, column - (query - 2) % 6
                    share = weight / weights[2:].sum().item()
                    expected["distance"] += share * math.hypot(2 * down, 3 * right)
                    expected["outside_3"] += share * (max(abs(down), abs(right)) > 1)
                    expected["outside_9"] += share * (max(abs(down), abs(right)) > 4)
            for name, number in expected.items():
                value = result[name][b, query].item()
                assert math.isnan(value) if query < 2 else value == pytest.approx(number, abs=2e-5), name
        assert (result["received"][b] - received).abs().max() < 1e-5
    alone = statistics(projections.head(2), (8, 18))["entropy"]
    beta = projections.maps()[:, 2].double()
    torch.testing.assert_close(alone.double(), -(beta * beta.log()).sum(-1), rtol=0, atol=1e-5)
