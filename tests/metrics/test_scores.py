import math
import warnings

import numpy as np
import pytest
import torch

from workbench.metrics import scores
from workbench.metrics.moments import Moments
from workbench.metrics.scores import (
    StreamedInceptionScore,
    density_coverage,
    frechet_distance,
    frechet_distance_of_features,
    inception_score,
    intra_frechet_distance,
    kernel_distance,
    nearest_neighbours,
    precision_recall,
    square_root_factor,
)
from workbench.parameters import ParameterError, WorkbenchError


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def features(n, d, seed=0, scale=1.0):
    """Float32 features like Inception's: a mean, correlations, a decaying spectrum, non-negative."""
    mixing = normal(d, d, seed=100) * torch.logspace(0, -1.5, d, dtype=torch.float64)[:, None]
    return (scale * normal(n, d, seed=seed) @ mixing + 0.5).relu().float()


def gaussian(x, size=None, backwards=False):
    """Mean and covariance, merged from batches of this size in this order."""
    moments = Moments()
    parts = x.split(size or len(x))
    for part in parts[::-1] if backwards else parts:
        moments.update(part)
    return moments.mean, moments.covariance


def relative(value, expected):
    return abs(value - expected) / abs(expected)


def rotation(d, seed=0):
    return torch.linalg.qr(normal(d, d, seed=seed))[0]


def orders(x, y):
    """The distance of x and y from moments that were merged in three ways."""
    return [
        frechet_distance(*gaussian(x, size1, back), *gaussian(y, size2, back))
        for size1, size2, back in ((None, None, False), (64, 100, False), (100, 64, True))
    ]


# ----------------------------------------------------------------------------------------------------- Fréchet distance


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
    nan, skewed = c.clone(), c.clone()
    nan[0, 0] = torch.nan
    skewed[0, 1] += 1
    other = square_root_factor(2 * c)
    for arguments, message in [
        ((m, c, m[:3], c[:3, :3]), "mean1 has 4 dimensions and mean2 3"),
        ((m[:3], c, m, c), r"mean1 has shape \(3,\) and cov1 \(4, 4\)"),
        ((m, c, m[None], c), r"mean2 has shape \(1, 4\)"),
        ((m, c[:3], m, c), r"cov1 has shape \(3, 4\); a covariance must be \(d, d\)"),
        ((m, c, m, nan), "cov2 holds NaN or infinity"),
        ((m, c, m / 0, c), "mean2 holds NaN or infinity"),
        ((m, skewed, m, c), "cov1 differs from its transpose by up to 1;"),
        ((m, c, m, c, c[:3]), r"factor2 has shape \(3, 4\); square_root_factor\(cov2\) would be \(4, rank\)"),
        ((m, c, m, c, other), "belongs to another covariance"),
        ((m, c, m, c, other * torch.nan), "factor2 holds NaN"),
    ]:
        with pytest.raises(ParameterError, match=message) as raised:
            frechet_distance(*arguments)
        assert "\n" not in str(raised.value)
    with pytest.raises(ParameterError, match="cov differs from its transpose"):
        square_root_factor(skewed)
    infinite = x.clone()
    infinite[0, 0] = torch.inf
    for arguments, message in [
        ((x, x[:, :3]), "x has 4 features per sample and y 3"),
        ((x[:1], x), r"x has shape \(1, 4\); it must be a matrix with a row per sample, at least 2"),
        ((x, x[0]), r"y has shape \(4,\)"),
        ((x, infinite), "y holds NaN or infinity"),
        ((infinite[:3], x), "x holds NaN or infinity"),
    ]:
        with pytest.raises(ParameterError, match=message):
            frechet_distance_of_features(*arguments)


def test_intra_frechet_distance_is_that_of_each_class(tmp_path):
    x, y = features(400, 30), features(90, 30, seed=1)
    x_labels, y_labels = torch.arange(400) % 4, torch.randint(0, 4, (90,), generator=torch.Generator().manual_seed(0))
    expected = [frechet_distance_of_features(x[x_labels == k], y[y_labels == k]) for k in range(4)]
    calls = []
    values = intra_frechet_distance(x, x_labels, y, y_labels, 4, progress=lambda: calls.append(0))
    assert values.dtype == torch.float64 and len(calls) == 4
    assert values.tolist() == pytest.approx(expected, rel=1e-12)

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


# ----------------------------------------------------------------------------------------------------- Inception score


def class_logits(n, classes=10, seed=0):
    """Float32 logits of samples that take their classes in turn."""
    return (normal(n, classes, seed=seed) + 4 * torch.eye(classes, dtype=torch.float64)[torch.arange(n) % classes]).float()


@pytest.mark.parametrize(("n", "splits"), [(100, 10), (1003, 10), (57, 1), (7, 7)])
@pytest.mark.parametrize("shuffle_seed", [None, 2020, 0])
def test_inception_score_is_that_of_torch_fidelity(n, splits, shuffle_seed):
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric

    logits = class_logits(n)
    theirs = isc_features_to_metric(logits, splits, shuffle_seed is not None, shuffle_seed or 0)
    for size in (1, 64, n):
        score = StreamedInceptionScore(n, splits, shuffle_seed)
        for part in logits.split(size):
            assert score.update(part) is score
        mean, std = score.splits()
        assert mean == pytest.approx(theirs[KEY_METRIC_ISC_MEAN], rel=1e-12)
        assert std == pytest.approx(theirs[KEY_METRIC_ISC_STD], rel=1e-9, abs=1e-12)
        assert score.whole() == pytest.approx(isc_features_to_metric(logits, 1, False)[KEY_METRIC_ISC_MEAN], rel=1e-12)
    if shuffle_seed is None:
        assert inception_score(logits.numpy(), splits) == pytest.approx((mean, std), rel=1e-12)


def test_inception_score_against_its_definition():
    logits = class_logits(60, 4)
    p = np.exp(logits.double().numpy())
    p /= p.sum(1, keepdims=True)
    values = []
    for part in (p[:30], p[30:]):
        q = part.mean(0)
        values.append(math.exp(sum(float((row * np.log(row / q)).sum()) for row in part) / 30))
    assert inception_score(logits, 2) == pytest.approx((np.mean(values), np.std(values)), rel=1e-12)


def test_inception_score_of_sure_and_of_unsure_logits():
    assert inception_score(torch.zeros(100, 10)) == pytest.approx((1, 0), abs=1e-12)
    assert inception_score(1000 * torch.eye(10).repeat(10, 1)) == pytest.approx((10, 0), rel=1e-12)  # p log p of p = 0 is 0
    assert inception_score(1000 * torch.eye(10)[:1].repeat(100, 1)) == pytest.approx((1, 0), abs=1e-12)


def test_classes_in_order_make_another_score():
    logits = class_logits(1000)
    in_turn, ordered = inception_score(logits)[0], inception_score(logits[(torch.arange(1000) % 10).argsort(stable=True)])[0]
    assert in_turn > 4 and ordered < 1.5


def test_inception_score_refuses_what_cannot_be_right():
    logits = class_logits(20)
    score = StreamedInceptionScore(20, 4).update(logits[:15])
    for ask in (score.whole, score.splits):
        with pytest.raises(WorkbenchError, match="n=20 samples was asked for after 15"):
            ask()
    nan = logits[15:].clone()
    nan[0, 0] = torch.nan
    for wrong, message in [
        (logits[:6], "logits of 21 samples came; n=20"),
        (logits[:2, :9], "logits have 9 classes; those before had 10"),
        (nan, "logits holds NaN or infinity"),
        (logits[0], r"logits has shape \(10,\)"),
    ]:
        with pytest.raises(ParameterError, match=message):
            score.update(wrong)
    assert score.update(logits[15:]).update(logits[:0]).splits() == pytest.approx(inception_score(logits, 4))
    for n, splits in ((9, 10), (5, 0), (0, 1)):
        with pytest.raises(ParameterError, match=f"splits={splits} cannot be filled with n={n} samples"):
            StreamedInceptionScore(n, splits)
    with pytest.raises(ParameterError, match="splits=10 cannot be filled with n=9"):
        inception_score(logits[:9])


# ----------------------------------------------------------------------------------------------------- kernel distance


def test_kernel_distance_is_that_of_torch_fidelity():
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    x, y = features(200, 30), features(150, 30, seed=1, scale=1.2)
    theirs = kid_features_to_metric(x.double(), y.double(), kid_subsets=7, kid_subset_size=60, rng_seed=5, verbose=False)
    calls = []
    mean, std = kernel_distance(x, y.numpy(), 7, 60, 5, progress=lambda: calls.append(0))
    assert mean == pytest.approx(theirs[KEY_METRIC_KID_MEAN], rel=1e-9) and len(calls) == 7
    assert std == pytest.approx(theirs[KEY_METRIC_KID_STD], rel=1e-9)


def test_kernel_distance_against_its_definition():
    x, y = features(12, 5).double(), features(12, 5, seed=1, scale=2.0).double()

    def kernel(a, b):
        return (float(a @ b) / 5 + 1) ** 3

    within = sum(kernel(s[i], s[j]) for s in (x, y) for i in range(12) for j in range(12) if i != j) / (12 * 11)
    across = sum(kernel(a, b) for a in x for b in y) / 12**2
    assert kernel_distance(x, y, subsets=3, subset_size=12) == pytest.approx((within - 2 * across, 0), rel=1e-9, abs=1e-9)


def test_kernel_distance_of_equal_distributions_is_0_in_the_mean():
    same, shifted = kernel_distance(normal(1000, 8), normal(1000, 8, seed=1), 50, 100), normal(1000, 8, seed=1) + 0.5
    assert abs(same[0]) < same[1] and kernel_distance(normal(1000, 8), shifted, 50, 100)[0] > 10 * same[1]


def test_kernel_distance_refuses_what_cannot_be_right():
    x, y = features(50, 4), features(60, 4)
    for arguments, message in [
        ((x, y), "subset_size=1000 must be at least 2 and at most the number of samples: 50 of x, 60 of y"),
        ((y, x, 10, 51), "60 of x, 50 of y"),
        ((x, y, 10, 1), "subset_size=1 must"),
        ((x, y, 0, 10), "subsets=0 is not at least 1"),
        ((x, y[:, :3], 10, 10), "x has 4 features per sample and y 3"),
        ((x * torch.nan, y, 10, 10), "x holds NaN"),
    ]:
        with pytest.raises(ParameterError, match=message):
            kernel_distance(*arguments)


# ----------------------------------------------------------------------------------------------------- nearest neighbours


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
def test_neighbour_scores_against_their_definitions(k, block):
    real, fake = normal(40, 3).float(), (normal(30, 3, seed=1) + 2).float()
    expected = by_loops(real.double(), fake.double(), k)
    assert all(0 < value < 1 for value in expected)  # something to tell
    assert (*precision_recall(real, fake, k, block), *density_coverage(real, fake, k, block)) == pytest.approx(expected, rel=1e-12)
    real, fake = real.double().numpy() + 1000, fake.double().numpy() + 1000
    assert (*precision_recall(real, fake, k, block), *density_coverage(real, fake, k, block)) == pytest.approx(expected, rel=1e-12)


def test_precision_and_recall_are_those_of_torch_fidelity():
    from torch_fidelity.metric_prc import calculate_precision_recall_full

    real, fake = features(300, 20).double(), features(250, 20, seed=1, scale=1.2).double()
    assert precision_recall(real, fake, block=64) == pytest.approx(calculate_precision_recall_full(fake, real, 3), rel=1e-6)
    assert precision_recall(fake, real) == pytest.approx(precision_recall(real, fake)[::-1], rel=1e-12)


@pytest.mark.parametrize("block", [3, 1000])
@pytest.mark.parametrize("offset", [0, 0.1, 1e6])
def test_boundaries_belong_to_the_balls(block, offset):
    """On a grid nearly all distances are ties, and repeated points make balls of radius 0."""
    real = torch.cartesian_prod(*[torch.arange(3.0)] * 3).double()
    real = torch.cat([real, real[:5], real[:5], real[:5]])
    fake = torch.cat([real[::2], real[:1], real[:1], real + 5])
    expected = by_loops(real, fake, 3)
    result = *precision_recall(real + offset, fake + offset, 3, block), *density_coverage(real + offset, fake + offset, 3, block)
    assert result == pytest.approx(expected, rel=1e-12)


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
    squared_distances = scores._squared_distances
    monkeypatch.setattr(scores, "_squared_distances", lambda x, y: sizes.append(len(x) * len(y)) or squared_distances(x, y))
    x, y = normal(500, 3), normal(400, 3, seed=1)
    precision_recall(x, y, block=50)
    density_coverage(x, y, block=50)
    nearest_neighbours(y, x, block=50)
    assert max(sizes) == 50 * 500


@pytest.mark.parametrize("block", [1, 33, 1000])
@pytest.mark.parametrize("count", [1, 4, 100])
def test_nearest_neighbours_are_those_of_all_distances(block, count):
    x, reference = features(20, 6), features(100, 6, seed=1)
    indices, distances = nearest_neighbours(x, reference.numpy(), count, block)
    everything = torch.stack([torch.linalg.vector_norm(reference.double() - row, dim=1) for row in x.double()])
    expected = everything.sort(1)
    assert torch.equal(indices, expected.indices[:, :count])
    assert torch.allclose(distances, expected.values[:, :count], rtol=1e-12, atol=0)


def test_the_distance_of_a_copy_is_exactly_0(tmp_path):
    reference = features(100, 50) + 1000
    np.save(tmp_path / "reference.npy", reference.numpy())
    stored = np.load(tmp_path / "reference.npy", mmap_mode="r")
    indices, distances = nearest_neighbours(reference[[7, 93, 7]], stored, 2, block=30)
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
        (lambda: density_coverage(x, y, block=0), "block=0 is not at least 1"),
        (lambda: precision_recall(x, y[:, :3]), "real has 4 features per sample and fake 3"),
        (lambda: precision_recall(x, y / 0), "fake holds NaN or infinity"),
        (lambda: density_coverage(x, y[:0]), r"fake has shape \(0, 4\); it must be a matrix with a row per sample, at least 1"),
        (lambda: nearest_neighbours(x, y, 6), "count=6 must be at least 1 and at most the 5 rows of reference"),
        (lambda: nearest_neighbours(x, y, 0), "count=0 must"),
        (lambda: nearest_neighbours(x, y, block=0), "block=0 is not at least 1"),
        (lambda: nearest_neighbours(x * torch.inf, y), "x holds NaN or infinity"),
        (lambda: nearest_neighbours(x, y * torch.nan), "reference holds NaN or infinity"),
        (lambda: nearest_neighbours(x, y[:, :3]), "x has 4 features per sample and reference 3"),
    ]:
        with pytest.raises(ParameterError, match=message):
            call()
    assert density_coverage(x, y[:1], 5)[0] >= 0  # one fake sample will do
