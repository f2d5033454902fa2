import numpy as np
import pytest

from workbench import Evaluation, EvaluationView, evaluate
from workbench.data import twins
from workbench.evaluation import Samples

QUICK = dict(n=60, reference_n=200)


@pytest.fixture
def run(trained_once):
    return trained_once(run="one", checkpoint_every=2)


@pytest.mark.slow
def test_best_and_worst_classes(run):
    settings = Evaluation(run="one", **QUICK)
    (record,) = evaluate(settings)
    rows = EvaluationView(settings, [record]).class_rows(count=2, columns=3)
    name = next(name for name in record["per_class"] if name.startswith("intra"))
    order = np.argsort(record["per_class"][name])
    assert [label.partition("\n")[0] for label, _ in rows] == [twins.CLASSES[k] for k in [*order[:2], *order[-2:]]]
    assert all(images.shape == (3, 3, 32, 32) for _, images in rows)


@pytest.mark.slow
def test_evaluations_of_other_protocols_are_said_and_shown_when_asked_for(run):
    records = evaluate(Evaluation(run="one", **QUICK)), evaluate(Evaluation(run="one", n=60, reference_n=100))
    view = EvaluationView(Evaluation(run="one", **QUICK), records[0])
    notes, shown = view.scores_over_steps().description.notes, view.scores_over_steps(others=True).description
    assert notes[-1].startswith("left out: 1 of other protocols (") and "reference_n=100" in notes[-1]
    points = [len([line for line in panel.lines if line.x]) for panel in shown.panels if panel.title.startswith("fd_twins")]
    assert points == [2]


def test_nearest_real_images_are_found(run, monkeypatch):
    """A generator that repeats training images is caught: its samples are their own neighbours, at distance 0."""
    settings = Evaluation(run="one", **QUICK)
    rows, text = EvaluationView(settings, []).nearest_rows(count=2, neighbours=3, among=64)
    assert len(rows) == 2 and all(images.shape == (4, 3, 32, 32) for _, images in rows)
    assert "from 64 samples" in text and "of 200 real images" in text

    def repeats(self, start, count):
        x, y = twins.Twins(32).batch(np.arange(start + 5, start + 5 + count))
        return x.float() / 127.5 - 1, y

    monkeypatch.setattr(Samples, "__call__", repeats)
    rows, text = EvaluationView(settings, []).nearest_rows(count=2, neighbours=3, among=64)
    for _, images in rows:
        assert (images[0] - images[1]).abs().max() < 0.01 and (images[0] - images[2]).abs().max() > 0.1
