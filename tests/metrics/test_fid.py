import math
import warnings

import numpy as np
import pytest
import torch
from synthetic import features, gaussian, normal, relative, rotation

from workbench.messages import ParameterError
from workbench.metrics.fid import frechet_distance, frechet_distance_of_features, intra_frechet_distance, square_root_factor


def orders(x, y):
    """The distance of x and y from moments that were merged in three ways."""
    return [
        frechet_distance(*gaussian(x, size1, back), *gaussian(y, size2, back))
        for size1, size2, back in ((None, None, False), (64, 100, False), (100, 64, True))
    ]


def test_frechet_distance_against_the_matrix_square_root_and_torch_fidelity():
    import scipy.linalg
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    x, y = features(500, 40).double(), features(700, 40, seed=1, scale=1.3).double()
    (m1, c1), (m2, c2) = gaussian(x), gaussian(y)
    root = scipy.linalg.sqrtm((c1 @ c2).numpy()).real
    expected = ((m1 - m2) ** 2).sum().item() + np.trace(c1.numpy() + c2.numpy() - 2 * root)
    theirs = fid_statistics_to_metric(fid_features_to_statistics(x), fid_features_to_statistics(y), False)[KEY_METRIC_FID]
    for value in (
        frechet_distance(m1, c1, m2, c2),
        frechet_distance(m2, c2, m1, c1),
        frechet_distance(m1, c1, m2, c2, square_root_factor(c2)),
        frechet_distance(*(v.numpy() for v in (m1, c1, m2, c2))),
        frechet_distance_of_features(x, y),
    ):
        assert relative(value, expected) < 1e-10 and relative(value, theirs) < 1e-10


@pytest.mark.parametrize("zeros", [0, 1, 20])
def test_frechet_distance_of_commuting_covariances(zeros):
    """|m1 - m2|^2 + sum (a^(1/2) - b^(1/2))^2, also where eigenvalues are 0."""
    d = 30
    a, b = torch.logspace(0, -4, d, dtype=torch.float64), torch.linspace(1, 0.1, d, dtype=torch.float64)
    a[d - zeros :] = 0
    q = rotation(d)
    (m1, m2), (c1, c2) = normal(2, d), ((q * a) @ q.T, (q * b) @ q.T)
    expected = ((m1 - m2).square().sum() + (a.sqrt() - b.sqrt()).square().sum()).item()
    assert relative(frechet_distance(m1, c1, m2, c2), expected) < 1e-12
    assert relative(frechet_distance(m2, c2, m1, c1), expected) < 1e-12


def test_frechet_distance_in_one_dimension_and_of_points():
    m1, m2, v1, v2 = np.float64([2.0]), np.float64([5.0]), np.float64([[4.0]]), np.float64([[0.25]])
    assert frechet_distance(m1, v1, m2, v2) == pytest.approx(3**2 + 1.5**2, rel=1e-15)
    assert frechet_distance(m1, 0 * v1, m2, v2) == pytest.approx(3**2 + 0.5**2, rel=1e-15)
    assert frechet_distance(m1, v1, m2, 0 * v2) == pytest.approx(3**2 + 2**2, rel=1e-15)
    assert frechet_distance(m1, 0 * v1, m2, 0 * v2) == 9


def test_frechet_distance_sees_what_mistaken_formulas_do_not():
    x, y = features(60, 20), features(70, 20, seed=1)
    (m1, c1), (m2, c2) = gaussian(x), gaussian(y)
    value = frechet_distance(m1, c1, m2, c2)
    diagonal = ((m1 - m2).square().sum() + (c1.diag() + c2.diag() - 2 * (c1.diag() * c2.diag()).sqrt()).sum()).item()
    assert relative(diagonal, value) > 0.1
    assert relative(frechet_distance(m1, c1 * 59 / 60, m2, c2 * 69 / 70), value) > 1e-3  # biased covariances


@pytest.mark.parametrize("n", [150, 400, 1000])
def test_full_rank_distances_do_not_depend_on_the_order_of_merging(n):
    one, *others = orders(features(n, 100), features(2 * n, 100, seed=1, scale=1.2))
    assert all(relative(other, one) < 1e-10 for other in others)


@pytest.mark.parametrize(("n1", "n2"), [(40, 300), (300, 40), (40, 50), (100, 101), (2, 300)])
def test_rank_deficient_distances_do_not_depend_on_the_order_of_merging(n1, n2):
    x, y = features(n1, 100), features(n2, 100, seed=1, scale=1.2)
    one, *others = orders(x, y)
    assert all(relative(other, one) < 1e-6 for other in others)
    assert relative(frechet_distance_of_features(x, y), one) < 1e-6


def test_eigenvalues_alone_are_not_enough_when_rank_is_deficient():
    x, y = features(40, 200), features(600, 200, seed=1)
    (m1, c1), (m2, c2) = gaussian(x), gaussian(y)
    factor = square_root_factor(c2)
    wrong = torch.linalg.eigvalsh(factor.T @ c1 @ factor).clamp(min=0).sqrt().sum()
    right = torch.linalg.svdvals((x - m1).double() / 39**0.5 @ factor).sum()
    assert relative(wrong, right) > 1e-9  # zeros have become roots of EPSILON
    value = frechet_distance(m1, c1, m2, c2)
    assert relative(value, ((m1 - m2).square().sum() + c1.trace() + c2.trace() - 2 * right).item()) < 1e-12


def test_singular_values_are_computed_only_where_eigenvalues_do_not_do(monkeypatch):
    calls = []
    svdvals = torch.linalg.svdvals
    monkeypatch.setattr(torch.linalg, "svdvals", lambda x: calls.append(x.shape) or svdvals(x))
    frechet_distance(*gaussian(features(400, 60)), *gaussian(features(500, 60, seed=1)))
    assert not calls
    frechet_distance(*gaussian(features(30, 60)), *gaussian(features(500, 60, seed=1)))
    assert calls == [(29, 60)]


@pytest.mark.parametrize(
    ("n1", "n2", "d", "shape"), [(90, 50, 200, (90, 50)), (90, 50, 60, (60, 50)), (50, 90, 60, (50, 60)), (90, 70, 60, None)]
)
def test_the_matrix_of_singular_values_is_as_small_as_it_can_be(monkeypatch, n1, n2, d, shape):
    calls = []
    svdvals = torch.linalg.svdvals
    monkeypatch.setattr(torch.linalg, "svdvals", lambda x: calls.append(x.shape) or svdvals(x))
    frechet_distance_of_features(features(n1, d), features(n2, d, seed=1))
    assert calls == ([shape] if shape else [])


@pytest.mark.slow
def test_frechet_distance_in_many_dimensions():
    x, y = features(300, 1024), features(1500, 1024, seed=1, scale=1.2)
    one, *others = orders(x, y)
    assert all(relative(other, one) < 1e-6 for other in others)
    assert relative(frechet_distance_of_features(x, y), one) < 1e-6
    z = features(2500, 1024, seed=2)
    (m1, c1), (m2, c2) = gaussian(z, 64), gaussian(y, 100)
    one, other = frechet_distance(m1, c1, m2, c2), frechet_distance(*gaussian(z, 1000, True), *gaussian(y))
    assert relative(other, one) < 1e-10


@pytest.mark.parametrize("n", [2, 20, 60, 500])
def test_a_set_is_at_distance_0_from_itself(n):
    x = features(n, 60)
    mean, cov = gaussian(x)
    assert 0 <= frechet_distance(mean, cov, mean, cov) < 1e-12 * cov.trace()
    assert 0 <= frechet_distance_of_features(x, x) < 1e-12 * cov.trace()


@pytest.mark.parametrize("n", [20, 200])
def test_frechet_distance_scales_and_ignores_shifts_and_rotations(n):
    x, y = normal(n, 40), 1.5 * normal(n + 1, 40, seed=1) + 1
    value, q = frechet_distance_of_features(x, y), rotation(40)
    assert relative(frechet_distance_of_features(1000 * x, 1000 * y), 1e6 * value) < 1e-12
    assert relative(frechet_distance_of_features(1e-6 * x, 1e-6 * y), 1e-12 * value) < 1e-12
    assert relative(frechet_distance_of_features(x @ q + 5, y @ q + 5), value) < 1e-10


def test_the_factor_has_the_rank_of_the_covariance():
    for n in (2, 30, 59, 60, 61, 500):
        _, cov = gaussian(features(n, 60))
        factor = square_root_factor(cov)
        assert factor.shape == (60, min(n - 1, 60)) and factor.dtype == torch.float64
        assert (factor @ factor.T - cov).abs().max() < 1e-13 * cov.abs().max()
    assert square_root_factor(np.zeros((3, 3))).shape == (3, 0)
    assert square_root_factor(np.diag([1, 1e-14, 1e-17])).shape == (3, 2)  # small is not zero


@pytest.mark.parametrize(
    ("n1", "n2", "d"), [(130, 50, 20), (130, 50, 90), (130, 50, 200), (50, 130, 90), (64, 65, 64), (2, 2, 5), (130, 2, 90), (10, 10, 1)]
)
def test_frechet_distance_of_features_is_that_of_their_moments(n1, n2, d):
    x, y = features(n1, d), features(n2, d, seed=1, scale=1.2)
    a, b = (v.double().numpy() - v.double().numpy().mean(0) for v in (x, y))
    nuclear = np.linalg.svd(a @ b.T, compute_uv=False).sum() / math.sqrt((n1 - 1) * (n2 - 1))
    shift = ((x.double().mean(0) - y.double().mean(0)) ** 2).sum().item()
    expected = shift + (a**2).sum() / (n1 - 1) + (b**2).sum() / (n2 - 1) - 2 * nuclear
    value = frechet_distance_of_features(x, y)
    assert relative(value, expected) < 1e-10
    assert relative(frechet_distance_of_features(y.numpy(), x.numpy()), value) < 1e-10
    assert relative(frechet_distance(*gaussian(x), *gaussian(y)), value) < 1e-6


def test_frechet_distance_refuses_what_cannot_be_right():
    x = features(50, 4)
    m, c = gaussian(x)
    nan, skewed, indefinite = c.clone(), c.clone(), c.clone()
    nan[0, 0] = torch.nan
    skewed[0, 1] += 1
    indefinite[0, 1] = indefinite[1, 0] = 2 * (c[0, 0] * c[1, 1]).sqrt()  # a correlation of 2
    other = square_root_factor(2 * c)
    for arguments, message in [
        ((m, c, m[:3], c[:3, :3]), "mean1 has 4 dimensions and mean2 3"),
        ((m[:3], c, m, c), r"mean1 has shape \(3,\) and cov1 \(4, 4\)"),
        ((m, c, m[None], c), r"mean2 has shape \(1, 4\)"),
        ((m, c[:3], m, c), r"cov1 has shape \(3, 4\); a covariance must be \(d, d\)"),
        ((m, c, m, nan), "cov2 holds NaN or infinity"),
        ((m, c, m / 0, c), "mean2 holds NaN or infinity"),
        ((m, skewed, m, c), "cov1 differs from its transpose by up to 1;"),
        ((m, indefinite, m, c), r"cov1 has eigenvalues from -[\d.e-]+ to [\d.e-]+; a covariance has no negative ones"),
        ((m, c, m, indefinite), "cov2 has eigenvalues from -"),
        ((m, c, m, indefinite, square_root_factor(c)), "cov2 has eigenvalues from -"),
        ((m, c, m, -c), "cov2 has eigenvalues from -"),
        ((m, c, m * 1e200, c), r"mean2 holds [\d.]+e\+\d+; beyond 1e\+50 scores overflow in float64"),
        ((m, c * 1e200, m, c), r"cov1 holds [\d.]+e\+\d+; beyond 1e\+100"),
        ((m, c, m, c, c[:3]), r"factor2 has shape \(3, 4\); square_root_factor\(cov2\) would be \(4, rank\)"),
        ((m, c, m, c, other), "belongs to another covariance"),
        ((m, c, m, c, other * torch.nan), "factor2 holds NaN"),
    ]:
        with pytest.raises(ParameterError, match=message) as raised:
            frechet_distance(*arguments)
        assert "\n" not in str(raised.value)
    with pytest.raises(ParameterError, match="cov differs from its transpose"):
        square_root_factor(skewed)
    with pytest.raises(ParameterError, match="cov has eigenvalues from -"):
        square_root_factor(np.diag([1, 1, -1e-3]))
    infinite = x.clone()
    infinite[0, 0] = torch.inf
    for arguments, message in [
        ((x, x[:, :3]), "x has 4 features per sample and y 3"),
        ((x[:1], x), r"x has shape \(1, 4\); it must be a matrix with a row per sample, at least 2"),
        ((x, x[0]), r"y has shape \(4,\)"),
        ((x, infinite), "y holds NaN or infinity"),
        ((infinite[:3], x), "x holds NaN or infinity"),
        ((x, x.double() * 1e200), r"y holds [\d.]+e\+\d+; beyond 1e\+50"),
        ((x[:3].double() * 1e307, x), r"x holds [\d.]+e\+\d+; beyond 1e\+50"),
    ]:
        with pytest.raises(ParameterError, match=message):
            frechet_distance_of_features(*arguments)


@pytest.mark.parametrize("n", [20, 500])
def test_the_rounding_of_published_covariances_is_no_negative_eigenvalue(n):
    x = features(n, 100)
    m, exact = gaussian(x)
    rounded = np.cov(x.numpy(), rowvar=False, dtype=np.float32)
    assert n > 100 or np.linalg.eigvalsh(rounded.astype(np.float64))[0] < 0
    assert relative(frechet_distance(m, rounded, m + 1, exact), 100) < 1e-3


def test_intra_frechet_distance_is_that_of_each_class(tmp_path):
    x, y = features(400, 30), features(90, 30, seed=1)
    x_labels, y_labels = torch.arange(400) % 4, torch.randint(0, 4, (90,), generator=torch.Generator().manual_seed(0))
    expected = [frechet_distance_of_features(x[x_labels == k], y[y_labels == k]) for k in range(4)]
    values = intra_frechet_distance(x, x_labels, y, y_labels, 4)
    assert values.dtype == torch.float64 and values.tolist() == pytest.approx(expected, rel=1e-12)

    np.save(tmp_path / "x.npy", x.numpy())
    order = torch.randperm(90, generator=torch.Generator().manual_seed(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stored = np.load(tmp_path / "x.npy", mmap_mode="r")
        again = intra_frechet_distance(stored, x_labels.numpy(), y[order].numpy(), y_labels[order].int().numpy(), 4)
    assert again.tolist() == pytest.approx(expected, rel=1e-10)


def test_a_class_of_fewer_than_two_has_no_distance():
    x = features(40, 5)
    x_labels = torch.tensor([0] * 20 + [1] * 17 + [2] + [4] * 2)
    y_labels = torch.tensor([0] * 20 + [1] * 17 + [2] * 2 + [4])
    values = intra_frechet_distance(x, x_labels, x, y_labels, 5)
    assert values.isnan().tolist() == [False, False, True, True, True] and values[:2].abs().max() < 1e-9


def test_intra_frechet_distance_refuses_labels_that_do_not_fit():
    x, labels = features(40, 5), torch.arange(40) % 4
    for arguments, message in [
        ((x, labels[:39], x, labels, 4), r"x_labels has shape \(39,\); 40 samples need \(40,\)"),
        ((x, labels, x, labels, 3), "x_labels goes from 0 to 3; with num_classes=3, 0 to 2"),
        ((x, labels, x, labels - 1, 4), "y_labels goes from -1 to 2"),
        ((x, labels, x[:, :4], labels, 4), "x has 5 features per sample and y 4"),
    ]:
        with pytest.raises(ParameterError, match=message):
            intra_frechet_distance(*arguments)
