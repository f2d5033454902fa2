import math

import numpy as np
import pytest
import torch
from synthetic import normal

from workbench.messages import ParameterError, WorkbenchError
from workbench.metrics.class_score import StreamedInceptionScore, inception_score


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
        with pytest.raises(WorkbenchError, match="n=20 samples was requested after 15"):
            ask()
    nan = logits[15:].clone()
    nan[0, 0] = torch.nan
    for wrong, message in [
        (logits[:6], "logits are those of 21 samples; n=20"),
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
