from types import SimpleNamespace

import pytest

from workbench.studies.scores import CheckpointScore, last_over_best


@pytest.mark.parametrize(("name", "runs", "ratios"), [
    ("fd_twins@3d2861b8", [[8.0, 4.0, 6.0], [5.0, 2.0]], [1.5, 1.0]),
    ("is_10splits", [[2.0, 8.0, 4.0], [5.0, 6.0]], [2.0, 1.0]),  # higher is better
    ("fid", [[3.0], [0.0, 1.0], [2.0, 4.0]], [2.0]),  # one evaluation says nothing, and a ratio to 0 is none
    ("fid", [], []),
])  # fmt: skip
def test_the_last_score_over_the_best(name, runs, ratios):
    scores = [
        CheckpointScore(None, SimpleNamespace(path=k), name, step, value, {})
        for k, values in enumerate(runs)
        for step, value in enumerate(values)
    ]
    assert list(last_over_best(scores).values()) == ratios
