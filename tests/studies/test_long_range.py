import pytest

from workbench import Run, WorkbenchError, train
from workbench.studies import shape
from workbench.studies.long_range import measure, power_check, rank_correlations
from workbench.studies.significance import CANNOT_TELL, NOT_SUPPORTED, SUPPORTED
from workbench.views.ablation_tables import correlation_text


@pytest.mark.slow
def test_a_run_beside_its_scores(tiny):
    row = measure(Run("demo"), n=6)
    record = Run("demo").evaluations()[-1]
    assert row["twins_hue"] == record["scores"]["twins_hue"] and row["protocol"] == record["protocol"] and row["step"] == record["step"]
    assert [name for name in row if name.startswith("fd_twins")] and row["block"] == "attention" and 8 < row["distance"] < 20
    assert row["distance"] == pytest.approx((row["distance attention.16"] + row["distance attention.32"]) / 2)
    without = train(tiny(run="without", attention_g="none", pairs=2))
    with pytest.raises(WorkbenchError, match="pairs=2; the twin of a glyph"):
        shape.study(without, "G/attention.16")
    with pytest.raises(WorkbenchError, match="no evaluation with the disagreement of twins"):
        measure(without)
    without.append("evaluations.jsonl", record | dict(step=4))
    assert measure(without)["distance"] is None


@pytest.mark.slow
def test_the_power_check_on_planted_disagreements():
    def verdict(*hues):
        return power_check([dict(twins_hue=hue) for hue in hues], 32).verdict

    assert verdict(0.2, 0.21, 0.24, 0.18, 0.25) == SUPPORTED  # independent hues: networks fail
    assert verdict(0.001, 0.002, 0.001, 0.0015, 0.003) == NOT_SUPPORTED  # they agree as real twins do
    assert verdict(0.2, 0.21) == verdict(0.001, 0.03, 0.002, 0.05, 0.01) == CANNOT_TELL


def test_rank_correlations_leave_out_runs_without_the_number():
    rows = [dict(distance=k if k != 3 else None, hue=-k, size=k**2, arm=f"arm {k // 2}") for k in range(8)]
    correlations = rank_correlations(rows, [("distance", "hue"), ("distance", "size")])
    assert [(row["y"], row["n"], round(row["rho"], 6)) for row in correlations] == [("hue", 7, -1), ("size", 7, 1)]
    (by_arm,) = rank_correlations(rows, [("distance", "hue")], "arm")
    assert (by_arm["of"], by_arm["n"], round(by_arm["rho"], 6)) == ("means by arm", 4, -1) and by_arm["p"] == pytest.approx(2 / 24)
    (few,) = rank_correlations(rows[:4], [("distance", "hue")])
    assert (few["n"], few["rho"]) == (3, None)
    (constant,) = rank_correlations([row | dict(hue=1.0) for row in rows], [("distance", "hue")])
    assert correlation_text(constant) == "7 runs: all have the same hue"  # and not +nan
