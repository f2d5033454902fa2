import math

import numpy as np
import pytest
import torch
from synthetic import features, normal

from workbench.messages import ParameterError
from workbench.metrics import prdc
from workbench.metrics.prdc import density_coverage, nearest_neighbours, precision_recall


def by_loops(real, fake, k):
    """Precision, recall, density and coverage, as the papers define them."""

    def distance(a, b):
        return math.sqrt(float((a - b) @ (a - b)))

    def radii(x):
        return [sorted(distance(a, b) for j, b in enumerate(x) if j != i)[k - 1] for i, a in enumerate(x)]

    inside = np.array([[distance(a, b) for b in fake] for a in real])  # (n, m)
    in_real, in_fake = inside <= np.array(radii(real))[:, None], inside <= np.array(radii(fake))[None]
    return in_real.any(0).mean(), in_fake.any(1).mean(), in_real.sum(0).mean() / k, in_real.any(1).mean()


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("block", [1, 7, 40, 1000])
def test_neighbour_scores_against_their_definitions(k, block, monkeypatch):
    monkeypatch.setattr(prdc, "BLOCK", block)
    real, fake = normal(40, 3).float(), (normal(30, 3, seed=1) + 2).float()
    expected = by_loops(real.double(), fake.double(), k)
    assert all(0 < value < 1 for value in expected)  # something to tell
    assert (*precision_recall(real, fake, k), *density_coverage(real, fake, k)) == pytest.approx(expected, rel=1e-12)
    real, fake = real.double().numpy() + 1000, fake.double().numpy() + 1000
    assert (*precision_recall(real, fake, k), *density_coverage(real, fake, k)) == pytest.approx(expected, rel=1e-12)


def test_precision_and_recall_are_those_of_torch_fidelity(monkeypatch):
    monkeypatch.setattr(prdc, "BLOCK", 64)
    from torch_fidelity.metric_prc import calculate_precision_recall_full

    real, fake = features(300, 20).double(), features(250, 20, seed=1, scale=1.2).double()
    assert precision_recall(real, fake) == pytest.approx(calculate_precision_recall_full(fake, real, 3), rel=1e-6)
    assert precision_recall(fake, real) == pytest.approx(precision_recall(real, fake)[::-1], rel=1e-12)


@pytest.mark.parametrize("block", [3, 1000])
@pytest.mark.parametrize("offset", [0, 0.1, 1e6])
def test_boundaries_belong_to_the_balls(block, offset, monkeypatch):
    """On a grid nearly all distances are ties, and repeated points make balls of radius 0."""
    monkeypatch.setattr(prdc, "BLOCK", block)
    real = torch.cartesian_prod(*[torch.arange(3.0)] * 3).double()
    real = torch.cat([real, real[:5], real[:5], real[:5]])
    fake = torch.cat([real[::2], real[:1], real[:1], real + 5])
    expected = by_loops(real, fake, 3)
    result = *precision_recall(real + offset, fake + offset, 3), *density_coverage(real + offset, fake + offset, 3)
    assert result == pytest.approx(expected, rel=1e-12)


def two_clusters(n, gap, seed):
    """Points of a standard normal distribution, every second of them `gap` away."""
    x = normal(n, 4, seed=seed)
    x[1::2, 0] += gap
    return x


@pytest.mark.parametrize("block", [7, 1000])
@pytest.mark.parametrize("gap", [1e6, 1e8])
def test_far_clusters_are_scored_as_by_loops(gap, block, monkeypatch):
    """At such distances from the centre, products of coordinates know nothing about distances within a cluster."""
    monkeypatch.setattr(prdc, "BLOCK", block)
    real, fake = two_clusters(60, gap, 0), two_clusters(50, gap, 1)
    expected = by_loops(real, fake, 3)
    assert all(0 < value < 2 and value != 1 for value in expected)
    assert (*precision_recall(real, fake, 3), *density_coverage(real, fake, 3)) == pytest.approx(expected, rel=1e-12)
    centred = real - real.mean(0)
    products = (centred.square().sum(1)[:, None] + centred.square().sum(1) - 2 * centred @ centred.T).fill_diagonal_(torch.inf)
    exact = (real[:, None] - real).square().sum(2).fill_diagonal_(torch.inf)
    assert (products.topk(3, largest=False).values - exact.topk(3, largest=False).values).abs().max() > 1e-4  # the mistake would show
    indices, distances = nearest_neighbours(fake, real, 4)
    everything = (fake[:, None] - real).square().sum(2).sqrt().sort(1)
    assert torch.equal(indices, everything.indices[:, :4])
    assert torch.allclose(distances, everything.values[:, :4], rtol=1e-6 if gap > 1e7 else 1e-8)


def test_ties_in_far_clusters_belong_to_the_balls():
    grid = torch.cartesian_prod(*[torch.arange(3.0)] * 3).double()
    real = torch.cat([grid, grid + torch.tensor([1e6, 0, 0])])
    fake = torch.cat([real[::2], real[:3], real + 5])
    expected = by_loops(real, fake, 3)
    assert (*precision_recall(real, fake, 3), *density_coverage(real, fake, 3)) == pytest.approx(expected, rel=1e-12)


def test_neighbour_scores_of_copies_of_strangers_and_of_a_collapse():
    real = normal(200, 10)
    assert precision_recall(real, real) == (1, 1)
    assert density_coverage(real, real) == pytest.approx((6 / 5, 1))  # each ball holds its centre and k others
    assert precision_recall(real, real + 100) == density_coverage(real, real + 100) == (0, 0)
    collapsed = real[:1].repeat(50, 1)
    precision, recall = precision_recall(real, collapsed)
    assert (precision, recall) == (1, 1 / 200)
    assert density_coverage(real, collapsed)[1] < 0.2


def test_density_and_coverage_of_equal_distributions():
    density, coverage = density_coverage(normal(2000, 5), normal(2000, 5, seed=1))
    assert density == pytest.approx(1, abs=0.05)
    assert coverage == pytest.approx(1 - 0.5**5, abs=0.02)  # Naeem et al., lemma 2


def test_no_more_than_a_block_of_distances_is_in_memory(monkeypatch):
    sizes = []
    squared_distances = prdc._squared_distances
    monkeypatch.setattr(prdc, "_squared_distances", lambda x, y: sizes.append(len(x) * len(y)) or squared_distances(x, y))
    monkeypatch.setattr(prdc, "BLOCK", 50)
    x, y = normal(500, 3), normal(400, 3, seed=1)
    precision_recall(x, y)
    density_coverage(x, y)
    nearest_neighbours(y, x)
    assert max(sizes) == 50 * 500


@pytest.mark.parametrize("block", [1, 33, 1000])
@pytest.mark.parametrize("count", [1, 4, 100])
def test_nearest_neighbours_are_those_of_all_distances(block, count, monkeypatch):
    monkeypatch.setattr(prdc, "BLOCK", block)
    x, reference = features(20, 6), features(100, 6, seed=1)
    indices, distances = nearest_neighbours(x, reference.numpy(), count)
    everything = torch.stack([torch.linalg.vector_norm(reference.double() - row, dim=1) for row in x.double()])
    expected = everything.sort(1)
    assert torch.equal(indices, expected.indices[:, :count])
    assert torch.allclose(distances, expected.values[:, :count], rtol=1e-12, atol=0)


def test_the_distance_of_a_copy_is_exactly_0(tmp_path, monkeypatch):
    monkeypatch.setattr(prdc, "BLOCK", 30)
    reference = features(100, 50) + 1000
    np.save(tmp_path / "reference.npy", reference.numpy())
    stored = np.load(tmp_path / "reference.npy", mmap_mode="r")
    indices, distances = nearest_neighbours(reference[[7, 93, 7]], stored, 2)
    assert indices[:, 0].tolist() == [7, 93, 7] and distances[:, 0].tolist() == [0, 0, 0] and distances[:, 1].min() > 0.1


def test_neighbours_that_are_nearly_as_near_come_in_order():
    """So far from the origin that products of the coordinates cannot tell them apart."""
    x = torch.tensor([[-1e6, 0.0], [1e6, 0.0]], dtype=torch.float64)
    reference = x[1] + torch.tensor([[0, 3e-3], [0, 1e-3], [0, 5e-3], [0, 2e-3]], dtype=torch.float64)
    indices, distances = nearest_neighbours(x, reference, 4)
    assert indices[1].tolist() == [1, 3, 0, 2] and torch.allclose(distances[1], torch.tensor([1e-3, 2e-3, 3e-3, 5e-3]).double())


def test_neighbour_scores_refuse_what_cannot_be_right():
    x, y = features(10, 4), features(5, 4, seed=1)
    for call, message in [
        (lambda: precision_recall(x, y, 5), "k=5 must be at least 1 and below the number of fake samples, 5"),
        (lambda: precision_recall(y, x, 5), "k=5 must be at least 1 and below the number of real samples, 5"),
        (lambda: precision_recall(x, y, 0), "k=0 must"),
        (lambda: density_coverage(x, y, 10), "below the number of real samples, 10"),
        (lambda: precision_recall(x, y[:, :3]), "real has 4 features per sample and fake 3"),
        (lambda: precision_recall(x, y / 0), "fake holds NaN or infinity"),
        (lambda: precision_recall(x, y.double() * 1e200), r"fake holds [\d.]+e\+\d+; beyond 1e\+50 scores overflow in float64"),
        (lambda: density_coverage(x, y[:0]), r"fake has shape \(0, 4\); it must be a matrix with a row per sample, at least 1"),
        (lambda: nearest_neighbours(x, y, 6), "count=6 must be at least 1 and at most the 5 rows of reference"),
        (lambda: nearest_neighbours(x, y, 0), "count=0 must"),
        (lambda: nearest_neighbours(x * torch.inf, y), "x holds NaN or infinity"),
        (lambda: nearest_neighbours(x, y * torch.nan), "reference holds NaN or infinity"),
        (lambda: nearest_neighbours(x, y[:, :3]), "x has 4 features per sample and reference 3"),
    ]:
        with pytest.raises(ParameterError, match=message):
            call()
    assert density_coverage(x, y[:1], 5)[0] >= 0  # one fake sample will do
