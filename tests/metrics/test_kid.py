import pytest
import torch
from synthetic import features, normal

from workbench.messages import ParameterError
from workbench.metrics.kid import kernel_distance


def test_kernel_distance_is_that_of_torch_fidelity():
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    x, y = features(200, 30), features(150, 30, seed=1, scale=1.2)
    theirs = kid_features_to_metric(x.double(), y.double(), kid_subsets=7, kid_subset_size=60, rng_seed=5, verbose=False)
    mean, std = kernel_distance(x, y.numpy(), 7, 60, 5)
    assert mean == pytest.approx(theirs[KEY_METRIC_KID_MEAN], rel=1e-9)
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
