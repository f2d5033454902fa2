import pytest

from workbench import ParameterError, WorkbenchError, evaluate, train
from workbench.evaluation import during_training


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
