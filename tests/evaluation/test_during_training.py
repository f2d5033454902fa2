import pytest

from workbench import Evaluation, EvaluationView, ParameterError, Run, WorkbenchError, evaluate, train
from workbench.evaluation import during_training
from workbench.metrics import twins


@pytest.mark.slow
def test_training_evaluates(tiny):
    config = tiny(evaluate_every=2, evaluate_n=30)
    run = train(config, during_training(config))
    assert [record["step"] for record in run.evaluations()] == [2, 4]
    record = run.evaluations()[-1]
    assert {name.partition("@")[0] for name in record["scores"]} >= {"fd_twins", "cs_twins", "twins_hue"}
    # The same numbers as an evaluation of the checkpoint by the same protocol.
    (again,) = evaluate(run=run.name, scores="fd,cs,truth", n=30, reference_n=300)
    for name, value in again["scores"].items():
        assert value == pytest.approx(record["scores"][name], rel=1e-4)


@pytest.mark.slow
def test_training_on_two_pairs_evaluates_their_crops(tiny):
    config = tiny(run="two", pairs=2, evaluate_every=4, evaluate_n=30)
    (record,) = train(config, during_training(config)).evaluations()
    assert "n=30, each image scored as 2 crops, against 300 real images" in record["protocol"] and record["n"] == 30
    assert record["extractor"]["sha256"] == twins(2).digest != twins().digest
    (again,) = evaluate(run="two", scores="fd,cs,truth", n=30, reference_n=300)
    assert again["protocol"] == record["protocol"] and again["reference"] == record["reference"]
    for name, value in again["scores"].items():
        assert value == pytest.approx(record["scores"][name], rel=1e-4)
    assert {name.partition("@")[0] for name in again["scores"]} >= {"fd_twins", "cs_twins", "twins_hue"}
    rows, text = EvaluationView(Evaluation(run="two", n=30, reference_n=300), [again]).nearest_rows(2, 3, 64)
    assert [len(images) for _, images in rows] == [4, 4] and "of 600 real images" in text


@pytest.mark.slow
def test_an_extractor_at_chance_is_refused_in_one_line(tiny, tmp_path, monkeypatch):
    (tmp_path / "of_one_pair.py").write_text("from workbench.metrics.twins_classifier import load\n")
    monkeypatch.syspath_prepend(tmp_path)
    settings = dict(run="two", pairs=2)
    train(tiny(**settings))
    says = r"^extractor 'twinsclassifier' recognises the classes of [\d,]+ real images of twins, no better than by chance \(1\d\.\d%"
    for refused in (
        lambda: evaluate(run="two", n=60, reference_n=300, scores="fd", extractor="of_one_pair:load"),
        lambda: during_training(tiny(evaluate_every=2, evaluate_n=30, evaluate_extractor="of_one_pair:load", **settings)),
    ):
        with pytest.raises(WorkbenchError, match=says) as error:
            refused()
        assert "\n" not in str(error.value)
    assert not Run("two").evaluations()


def test_a_missing_extractor_is_reported_before_training(tiny):
    with pytest.raises(ParameterError, match="is not known"):
        during_training(tiny(evaluate_every=2, evaluate_extractor="nothing"))


@pytest.mark.slow
def test_an_evaluation_that_cannot_work_is_reported_before_training(tiny, tmp_path, monkeypatch):
    (tmp_path / "networks_of_mine.py").write_text(
        "import torch\nclass Fails(torch.nn.Module):\n    def forward(self, x): raise SystemExit\n"
        "class Plain(torch.nn.Module):\n    def forward(self, x): return x.mean((2, 3))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(WorkbenchError, match=r"'fails' cannot take images of shape.*SystemExit"):
        during_training(tiny(evaluate_every=2, evaluate_extractor="networks_of_mine:Fails"))
    with pytest.raises(ParameterError, match=r"evaluate_n=1,000,000,000,000 and .* need [\d,.]+ GB of memory"):
        during_training(tiny(evaluate_every=2, evaluate_n=10**12))
    config = tiny(evaluate_every=2, evaluate_n=30, evaluate_extractor="networks_of_mine:Plain")  # which has no logits
    (record,) = [during_training(config)(train(tiny(run="short")).generator(), 4)]
    assert next(iter(record["scores"])).startswith("fd_plain@") and "gives no logits" in record["left_out"]["cs"]
