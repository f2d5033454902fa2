"""Each score says whether higher is better."""

import pytest

from workbench.metrics.scores import SCORES, Truth, higher_is_better


@pytest.mark.parametrize(("names", "higher"), [
    (("fid", "fd_twins@3d2861b8", "fd_is_net@12", "kid", "kd_twins@3d2861b8", "intra_fid_n5000", "intra_fd_n40_twins@3d2861b8"), False),
    (("is", "is_10splits", "cs_twins@3d2861b8", "cs_10splits_twins@3d2861b8"), True),
    (("precision", "recall_twins@3d2861b8", "density", "coverage_x@1", "accuracy_twins@3d2861b8", "twins_readable"), True),
    (("twins_hue", "twins_size", "twins_height", "twins_angle"), False),
    (("", "isometry", "hue", "another"), None),
])  # fmt: skip
def test_directions_by_full_name(names, higher):
    assert {name: higher_is_better(name) for name in names} == dict.fromkeys(names, higher)


def test_every_score_has_them():
    for score in SCORES.values():
        values = getattr(score, "values", None) or {score.name, score.general} - {Truth.name}
        assert set(values) <= score.directions.keys(), score
