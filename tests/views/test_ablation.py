"""Sweeps over the paper's experiments: which runs they share, and what planted results come to."""

import errno
import itertools
import json
import math
import re
import shlex

import pytest
from records import parsed, recorded

from workbench import Ablation, Comparison, Generator, ParameterError, Run, WorkbenchError, figures, list_runs, train
from workbench.data import DataError
from workbench.data.datasets import DRAWN
from workbench.files import StorageError
from workbench.metrics.reported import TABLE_1
from workbench.paths import outputs_dir
from workbench.records import evaluation_record
from workbench.runs import create_run
from workbench.runs.checkpoints import save_checkpoint
from workbench.studies import shape
from workbench.studies.power import COMMITTED_SPREAD, EFFECTS, power
from workbench.studies.significance import CANNOT_TELL, NOT_SUPPORTED, SUPPORTED
from workbench.views.ablation_tables import POWER
from workbench.views.cached import cached

SMALL = "width=8; z_dim=8; batch_size=8; log_every=2; mixed_precision=no"
RECORD = Run("demo").evaluations()[-1]
FD = next(name for name in RECORD["scores"] if name.startswith("fd_"))


def small(experiments, **overrides):
    return Ablation(**dict(experiments=experiments, settings=SMALL, steps=4, evaluations=2, n=10) | overrides)


def planted(ablation, name, **arms):
    """Finished runs of these arms (spaces as underscores) with these Frechet distances; infinite ones diverged."""
    for planned in ablation.planned_runs(name):
        values = {label.replace(" ", "_").replace(",", ""): v for label, v in arms.items()}.get(
            planned.arm.replace(" ", "_").replace(",", "")
        )
        if values is None or planned.run or planned.config.seed >= len(values):
            continue
        run, value, end = create_run(planned.config), values[planned.config.seed], planned.config.steps
        for step in sorted({-(-end // 2), end}):
            run.append("history.jsonl", dict(step=step, images=8 * step, seconds=1.0 * step, loss_d=2.0 - step / 10))
        if math.isinf(value):
            run.set_status(state="failed", message="training diverged: losses became NaN", step=3)
            continue
        for step, factor in {-(-end // 2): 3.0, end: 1.0}.items():
            run.append("evaluations.jsonl", RECORD | dict(step=step, scores=RECORD["scores"] | {FD: factor * value}))
        run.set_status(state="finished", step=end)


# ------------------------------------------------------------------------------------------------------------ runs


@pytest.mark.parametrize("preset", ["twins32", "cifar10"])
def test_every_training_is_evaluated_at_its_end(preset):
    ablation = Ablation(preset=preset, evaluations=3)
    for name in ablation.names:
        planned_runs = ablation.planned_runs(name)
        assert len({(planned.arm, planned.config.seed) for planned in planned_runs}) == len(planned_runs)
        for config in (planned.config for planned in planned_runs):
            assert -(-config.steps // config.evaluate_every) == 3 and config.checkpoint_every <= config.steps


def test_equal_settings_are_one_run_whichever_experiment_asks():
    ablation = Ablation()
    runs = {name: {planned.config.run for planned in ablation.planned_runs(name)} for name in ablation.names}
    together = set().union(*runs.values())
    assert len(together) == 60 and together == {planned.config.run for planned in ablation.all_planned_runs()}
    assert len(runs["attention_site"] & runs["variant"] & runs["baseline"]) == 5  # the preset itself
    thirds = Ablation(steps=1500)  # in which equal computing time leaves no remainder
    assert len({run.config.run for name in ("ttur", "spectral_norm") for run in thirds.planned_runs(name)}) == 4 * 5  # equal rates, 1:1
    configs = {}
    for planned in itertools.chain(*(ablation.planned_runs(name) for name in ablation.names)):
        assert configs.setdefault(planned.config.run, planned.config) == planned.config
    assert not together & {planned.config.run for planned in Ablation(steps=7).planned_runs("variant")}  # another budget is another run


def test_a_sweep_over_any_grid():
    planned_runs = Ablation(experiments="sweep", grid="lr_d=1e-4|4e-4; width=16 | 24", seeds=[3, 4]).planned_runs("sweep")
    assert len(planned_runs) == 8 and planned_runs[0].arm == "lr_d=1e-4, width=16"
    found = {(planned.config.lr_d, planned.config.width, planned.config.seed) for planned in planned_runs}
    assert found == set(itertools.product((1e-4, 4e-4), (16, 24), (3, 4)))


@pytest.mark.parametrize(("given", "says"), [
    (dict(experiments="tture"), "'tture' is not one of attention_site"),
    (dict(experiments="sweep"), "needs grid"),
    (dict(settings="width 8"), "'width 8' is not parameter=value"),
    (dict(settings="widht=8"), "unknown parameter 'widht'; did you mean 'width'"),
    (dict(seeds="a"), "seeds='a' is not seeds such as 0,1,2,3,4"),
])  # fmt: skip
def test_what_does_not_fit(given, says):
    with pytest.raises(ParameterError, match=says):
        ablation = Ablation(**given)
        [ablation.planned_runs(name) for name in ablation.names]


def test_what_is_to_be_done_is_told():
    ablation = small("variant,baseline", seeds="0,1")
    planted(ablation, "variant", official=[1.0, math.inf])
    table = ablation.check()
    assert [(row["runs"], row["shared with those above"], row["finished"], row["diverged"]) for row in table.rows] == [
        (4, 0, 1, 1),
        (4, 2, 1, 1),
    ]
    assert "6 runs of 4 G steps each, 2 of them done: 80 steps of G or D" in table.notes[0]
    assert [(row["claims"], row.get("smallest p")) for row in table.rows] == [(0, None), (1, pytest.approx(1 / 6))]
    (line,) = [note for note in table.notes if "no verdict" in note]
    assert line.startswith("baseline: no verdict can come out of 2 seeds: the smallest p of its 1 claim") and "seeds to 4 or more" in line
    assert "3 runs of 1 to 3 G steps each, 0 of them done: 18 steps" in small("ttur", seeds="0").check().notes[0]
    ablation = small("variant", steps=6, train=False)
    ablation.execute()  # does nothing
    assert ablation.all_planned_runs() and not [planned for planned in ablation.all_planned_runs() if planned.run]


# -------------------------------------------------------------------------------------------------------------- results


def test_before_the_first_evaluation():
    ablation = small("attention_site")
    assert ablation.plot() is None and ablation.deciding_score() == "" and "No evaluation yet" in ablation.table().notes
    assert {row["verdict"] for row in ablation.verdicts().rows} == {CANNOT_TELL}
    assert ablation.shape().rows == [] and ablation.shape_figure() is None and ablation.long_range_figure() is None
    folder = ablation.export()
    assert {"attention_site.tex", "verdicts.csv", "results.json"} <= {path.name for path in folder.iterdir()}


def test_tables_stand_beside_the_papers():
    ablation = small("attention_site,variant", seeds="0,1,2")
    planted(ablation, "attention_site", no_attention=[10.0, 12.0, math.inf], feat16=[5.0, 6.0, 7.0])
    planted(ablation, "variant", official=[5.0, 6.0, 7.0])
    table = ablation.table()
    rows = {(row["experiment"], row["arm"]): row for row in table.rows}
    none, feat16, official = (
        rows[key] for key in (("attention_site", "no attention"), ("attention_site", "feat16"), ("variant", "official"))
    )
    assert (none["n"], none["diverged"], none["fd_twins"].mean) == (2, 1, 11.0)
    assert str(feat16["fd_twins"]) == "6.0 ± 1.0" and (feat16["paper FID"], feat16["paper IS"]) == tuple(TABLE_1["feat16"].values())
    assert official["fd_twins"] == feat16["fd_twins"] and official["paper FID"] is None
    assert table.columns[-2:] == ["paper FID", "paper IS"] and rows["attention_site", "feat8"]["n"] == 0
    said = " ".join(table.notes)
    assert "step 4" in said and "n=500" in said and "one million steps" in said and "diverged have no score" in said
    assert "experiment" not in ablation.table("variant").columns


def test_verdicts_on_planted_results():
    ablation = small("spectral_norm,ttur,baseline")
    planted(ablation, "spectral_norm", SN_on_D=[math.inf] * 5, SN_on_G_and_D=[1.0, 2, 3, 4, 5])
    rates = [f"equal rates, {k}:1" for k in (1, 5)]
    planted(ablation, "ttur", **{"TTUR, 1:1": [10.0, 10.1, 10.2, 9.9, 9.8], rates[0]: [1.0, 2, 3, 4, 5], rates[1]: [5.0, 12, 9, 20, 2]})
    planted(ablation, "baseline", SAGAN=[1.0, 2, 3, 4, 5])
    verdicts = ablation.verdicts()
    found = {(row["experiment"], row["claim"][:4]): row for row in verdicts.rows}
    assert [row["verdict"] for row in verdicts.rows] == [SUPPORTED, SUPPORTED, NOT_SUPPORTED, CANNOT_TELL, CANNOT_TELL]
    assert [row["of"] for row in verdicts.rows] == ["last", "last / best", "last", "last", "last"]
    assert found["spectral_norm", "spec"]["improvement"] is None and found["ttur", "with"]["improvement"].startswith("-")
    assert found["baseline", "SAGA"]["n"] == "5 and 0" and FD in verdicts.notes[0]
    by_hue = small("ttur", score="twins_hue").verdicts()
    assert "twins_hue" in by_hue.notes[0]
    with pytest.raises(WorkbenchError, match="score='hue' is not a score of these runs; there are: fd_twins, "):
        small("ttur", score="hue")


def evaluated(ablation, name, score, **arms):
    """Finished runs of these arms whose score has these values, from the first evaluation to the last."""
    for planned in ablation.planned_runs(name):
        values = arms[planned.arm][planned.config.seed]
        run = planned.run or create_run(planned.config)
        for k, value in enumerate(values, 1):
            step = planned.config.steps * k // len(values)
            run.append("evaluations.jsonl", RECORD | dict(step=step, scores=RECORD["scores"] | {score: value}))
        run.set_status(state="finished", step=planned.config.steps)


@pytest.mark.parametrize(("score", "verdict"), [("twins_readable", NOT_SUPPORTED), ("cs_twins", NOT_SUPPORTED), ("twins_hue", SUPPORTED)])
def test_a_score_whose_higher_values_are_better_is_turned(score, verdict):
    """The same numbers, lower for SAGAN: an improvement of a distance, the opposite of a share."""
    name = next(full for full in RECORD["scores"] if full.partition("@")[0] == score)
    ablation = small("baseline", score=score)
    low, high = [[0.1 + k / 100] for k in range(5)], [[0.5 + k / 100] for k in range(5)]
    evaluated(ablation, "baseline", name, **{"SAGAN": low, "SNGAN-projection": high})
    table = ablation.verdicts()
    assert [row["verdict"] for row in table.rows] == [verdict] and table.rows[0]["improvement"][0] == "-+"[verdict == SUPPORTED]
    assert f"finds {name} {'lower' if verdict == SUPPORTED else 'higher'} " in table.notes[0]


def test_arms_of_different_lengths_are_compared_at_their_ends():
    """The score at 5:1 after a third of the steps; and how the end compares with the best."""
    ablation = small("ttur", steps=6, evaluations=2)
    lengths = {planned.arm: (planned.config.steps, planned.config.evaluate_every) for planned in ablation.all_planned_runs()}
    assert lengths == {"TTUR, 1:1": (6, 3), "equal rates, 1:1": (6, 3), "equal rates, 5:1": (2, 1)}
    good, bad = [[4.0 + k, 2.0 + k / 10] for k in range(5)], [[4.0 + k, 8.0 + 2 * k] for k in range(5)]
    evaluated(ablation, "ttur", FD, **{"TTUR, 1:1": good, "equal rates, 1:1": bad, "equal rates, 5:1": bad})
    run = ablation.planned_runs("ttur")[0].run
    run.append("evaluations.jsonl", RECORD | dict(step=12, scores=RECORD["scores"] | {FD: 0.1}))  # later trained for longer
    ablation.all_planned_runs()[1].run.set_status(alarms=["collapse: at step 6 all samples look nearly the same"])
    rows = {row["arm"]: row for row in ablation.table().rows}
    assert [(row["G steps"], row["n"], row["collapsed"]) for row in rows.values()] == [(6, 5, 1), (6, 5, 0), (2, 5, 0)]
    assert rows["TTUR, 1:1"]["fd_twins"].mean == pytest.approx(2.2) and rows["equal rates, 5:1"]["fd_twins"].mean == 12
    assert [row["last / best"].mean for row in rows.values()] == [1, 2, 2]
    assert [row["verdict"] for row in ablation.verdicts().rows] == [SUPPORTED, SUPPORTED]
    layout = ablation.plot().figure.layout
    assert "at their last step" in " ".join(title.text for title in layout.annotations) and "no score" not in layout.title.text


def test_power_is_that_of_the_spread_seen_so_far():
    ablation = small("baseline")
    (row,) = ablation.check().rows
    powers = {effect: power(effect, COMMITTED_SPREAD, 5, 5) for effect in EFFECTS}
    assert row["spread"] == COMMITTED_SPREAD and row[POWER] == ", ".join(f"{effect:.0%}: {value:.0%}" for effect, value in powers.items())
    quiet = [math.exp(0.05 * k) for k in range(5)]
    planted(ablation, "baseline", SAGAN=quiet, **{"SNGAN-projection": quiet})
    for table in (ablation.check(), ablation.verdicts()):
        assert table.rows[0]["spread"] == pytest.approx(0.05 * math.sqrt(2.5)) and table.rows[0][POWER].endswith("100%")
    shares = small("baseline", score="twins_readable").check().rows[0][POWER]  # 20 % higher: the log is less far away than 20 % lower
    assert shares.startswith(f"20%: {power(1 / 6, COMMITTED_SPREAD, 5, 5):.0%}, ")
    assert [row[POWER] is None for row in small("spectral_norm").verdicts().rows] == [False, True]


@pytest.mark.parametrize(("far", "verdict"), [(0.5, SUPPORTED), (0.1, NOT_SUPPORTED)])
def test_whether_attention_helps_more_where_pairs_are_far_apart(far, verdict):
    """Agreements of `binding`, planted; arms of different data are not refused, and each counts where it was measured."""
    ablation = small("binding", preset="binding32", seeds=",".join(map(str, range(8))))
    (row,) = ablation.check().rows
    assert (row["arms"], row["runs"], row["claims"]) == (6, 48, 1) and row["smallest p"] == 1 / 256
    values = {"none, far": 0.1, "attention, far": far, "residual, far": 0.1} | dict.fromkeys(
        ("none, near", "attention, near", "residual, near"), 0.7
    )
    for planned in ablation.planned_runs("binding"):
        near, wobble = planned.config.data == "binding-near", 0.01 * math.sin(7 * planned.config.seed + len(planned.arm))
        measures = DRAWN[planned.config.data](planned.config).measures
        settings = dict(name="truth", measures=measures, n=500, weights="auto", statistics="running")
        scores = dict(binding_agreement=values[planned.arm] + wobble, binding_readable=0.9)
        run = create_run(planned.config)
        assert near == ("near" in planned.arm)
        run.append("evaluations.jsonl", evaluation_record(scores, protocol="shares", settings=settings, n=500, extractor=None, reference=None, step=4, seed=1))  # fmt: skip
        run.set_status(state="finished", step=4)
    assert ablation.deciding_score() == "binding_agreement"
    table = ablation.verdicts()
    (row,) = table.rows
    assert row["verdict"] == verdict and row["n"] == "8" and float(row["improvement"].split()[0]) == pytest.approx(far - 0.1, abs=0.02)
    assert row[POWER].startswith("0.1: ") and "sign flips" in " ".join(table.notes)
    rows = {row["arm"]: row for row in ablation.table().rows}
    assert rows["attention, far"]["binding_agreement"].mean == pytest.approx(far, abs=0.01) and rows["residual, near"]["n"] == 8
    assert ablation.plot() is not None


def test_scores_of_different_protocols_are_refused():
    ablation = small("variant", seeds="0,1")
    planted(ablation, "variant", official=[1.0, 2.0])
    (run, _), _ = (group.runs or (None, None) for group in ablation.arms("variant"))
    run.append("evaluations.jsonl", RECORD | dict(step=4, settings=RECORD["settings"] | dict(n=77), protocol="another"))
    with pytest.raises(WorkbenchError, match="cannot be compared"):
        ablation.table()


def test_the_figure_shows_every_training_and_is_drawn_again(tmp_path):
    ablation = small("variant", seeds="0,1,2")
    planted(ablation, "variant", official=[1.0, 2.0, math.inf], paper=[3.0, 4.0, 5.0])
    plot = ablation.plot()
    by_arm = {trace.name: trace for trace in plot.figure.data if trace.mode == "markers" and trace.xaxis == "x"}
    assert list(by_arm["official"].y) == [1, 2] and list(by_arm["paper"].y) == [3, 4, 5] and set(by_arm["paper"].x) == {1}
    assert list(plot.figure.layout.xaxis.ticktext) == ["official", "paper"]
    assert "1 run without a score at step 4" in plot.figure.layout.title.text
    lines = [trace for trace in plot.figure.data if trace.xaxis == "x2" and trace.mode == "lines+markers" and trace.line.width < 1]
    assert [list(trace.y) for trace in lines] == [[3, 1], [6, 2], [9, 3], [12, 4], [15, 5]]
    plot.save(tmp_path / "plot.svg")
    drawn = plot.png()
    planted(ablation, "variant", official=[1.0, 2.0, 9.0])
    ablation.arms("variant")[0].runs[0].append("history.jsonl", dict(step=6, loss_d=9.0))
    assert figures.redraw(tmp_path / "plot.svg.json").png() == drawn


@pytest.mark.slow
def test_everything_is_written(capsys):
    ablation = small("attention_site,ttur", seeds="0,1", out="mine")
    planted(ablation, "attention_site", no_attention=[3.0, 4.0], feat16=[1.0, 2.0])
    folder = ablation.export()
    assert folder == outputs_dir() / "ablations" / "mine" and str(folder) in capsys.readouterr().out
    for name in ("attention_site", "ttur", "verdicts", "shape"):
        parsed((folder / f"{name}.tex").read_text())
    assert "has no checkpoint yet" in (folder / "shape.csv").read_text() and not (folder / "long-range.tex").exists()
    assert {"attention_site.svg", "attention_site.pdf.json", "scores.csv"} <= {path.name for path in folder.iterdir()}
    record = json.loads((folder / "results.json").read_text())
    rows = record["tables"]["attention_site"]["rows"]
    assert record["command"].startswith("workbench ablation -p experiments attention_site,ttur") and "-p seeds 0,1" in record["command"]
    assert record["runs"]["n"] == 4 and rows[0]["fd_twins"]["mean"] == 3.5
    assert len(record["tables"]["verdicts"]["rows"]) == 6 and record["runs"]["precisions"] == ["no"]


# ------------------------------------------------------------------------------------------ what attention follows


@pytest.mark.slow
def test_the_study_of_named_runs_and_of_those_that_cannot_be_read(tiny, monkeypatch):
    calls = []

    def study(run, layer):
        calls.append((run.name, layer))
        return shape.study(run, layer, n=12)

    def patch(run, layer):
        raise WorkbenchError("no pairs")

    monkeypatch.setattr("workbench.views.ablation.shape_of", cached(study))
    monkeypatch.setattr("workbench.views.ablation.patching_of", cached(patch))
    train(tiny(run="grey", attention_g="16"))
    ablation = small("variant", study="demo,grey")
    rows = ablation.shape().rows
    layers = [("demo", "G/attention.16"), ("demo", "G/attention.32"), ("grey", "G/attention.16")]
    assert [(row["run"], row["layer"]) for row in rows] == layers
    assert rows[0]["follows shape"] == SUPPORTED and "beyond colour too" in rows[0] and "can be read in 0" in rows[2]["follows shape"]
    assert rows[0]["colour travels"] == "no pairs"
    assert "follows shape" in ablation.shape_figure().description.notes[0] and ablation.patching_figure() is None
    assert calls.count(("demo", "G/attention.32")) == 1  # studied once, however many views show it


def test_studies_are_made_once_for_each_state_of_a_run(tiny):
    run, calls = create_run(tiny(run="once")), []

    @cached
    def count(run, layer):
        calls.append(layer)
        if layer == "none":
            raise WorkbenchError("there is no such layer")
        return len(calls)

    assert [count(run, "a"), count(run, "b"), count(run, "a"), count(Run("once"), "a")] == [1, 2, 1, 1]
    assert "no such layer" in str(count(run, "none"))
    run.append("evaluations.jsonl", RECORD | dict(step=0))
    assert count(run, "a") == 4
    save_checkpoint(run.path, 4, {}, {})
    assert count(run, "a") == 5 and count(run, "a") == 5


@pytest.mark.slow
def test_long_range_over_runs(tmp_path):
    ablation = small("attention_site", seeds="0,1")
    for planned in ablation.all_planned_runs():
        run = create_run(planned.config)
        save_checkpoint(run.path, 4, dict(ema=Generator(planned.config).state_dict()), {})
        hue = 0.2 + planned.config.seed / 100 if planned.arm == "no attention" else 0.01
        run.append("evaluations.jsonl", RECORD | dict(step=4, scores=RECORD["scores"] | dict(twins_hue=hue)))
        run.set_status(state="finished")
    table = ablation.long_range()
    power, *others = table.rows
    assert (power["n"], power["verdict"]) == (2, CANNOT_TELL) and power["estimate"] == pytest.approx(0.205, abs=0.003)
    assert [(row["of"], row["n"]) for row in others] == [("runs", 4), ("runs", 4), ("runs", 10), ("means by arm", 2), ("means by arm", 2),
                                                         ("means by arm", 5)]  # fmt: skip
    figure = ablation.long_range_figure()
    assert sum(len(trace.x) for trace in figure.figure.data) == 2 * 4
    assert "4 runs: all have the same twins_hue" in figure.figure.layout.title.subtitle.text
    figure.save(tmp_path / "far.svg")
    assert figures.redraw(tmp_path / "far.svg.json").png() == figure.png()


# ------------------------------------------------------------------------------------ what is refused before runs


def test_the_runs_of_a_study_exist_and_are_of_twins(tiny, tmp_path):
    recorded(tiny, "photographs", [1.0], data=str(tmp_path))
    recorded(tiny, "several", [1.0], image_size=64, pairs=2)
    recorded(tiny, "broken", [1.0])
    (outputs_dir() / "broken" / "config.json").write_text("")
    for study, says in (
        ("nope", "there is no run 'nope'"), ("nope-*", "no run in .* matches 'nope-"), ("photographs", "was trained on"), ("several", "pairs=2"),
        ("broken", "names no run that can be read"), ("demo,photographs", "was trained on"),
    ):  # fmt: skip
        with pytest.raises(ParameterError, match=rf"^study='{re.escape(study)}'.*{says}") as error:
            small("variant", study=study)
        assert "\n" not in str(error.value)
    assert [run.name for run in small("variant", study="demo").studied_runs()] == ["demo"]


@pytest.mark.parametrize(
    "out", ["..", "../x", "a/../../b", ".", " ", "~nobody-of-this-name/x", "x" * 256, "é" * 130, "a\nb", "{file}", "{file}/x"]
)
@pytest.mark.parametrize("kind", [Ablation, Comparison])
def test_a_folder_that_cannot_be_written_to_is_refused_at_once(tmp_path, kind, out):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ParameterError, match=r"^out=") as error:
        kind(out=out.format(file=tmp_path / "file"))
    assert "\n" not in str(error.value) and (tmp_path / "file").read_text() == "mine"


def test_folders_may_be_names_and_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for out, folder in (
        ("my out", outputs_dir() / "ablations" / "my out"),
        ("~/x", tmp_path / "x"),
        (str(tmp_path / "a" / "b"), tmp_path / "a" / "b"),
    ):
        assert Ablation(out=out).folder == folder


def test_a_disk_that_takes_nothing_is_told_before_the_runs(monkeypatch, tmp_path):
    ablation = small("variant", out=str(tmp_path / "there"))
    (tmp_path / "there").write_text("")
    monkeypatch.setattr("workbench.views.ablation_plan.execute", None)
    with pytest.raises(StorageError, match="there cannot be written: "):
        ablation.execute()


def test_where_runs_are_trained_is_checked_before_the_runs(monkeypatch):
    handed = []
    monkeypatch.setattr("workbench.views.ablation_plan.execute", lambda planned, *where, **options: handed.append((*where, options)))
    small("variant", jobs=2).execute()
    with pytest.raises(ParameterError, match=r"slurm='gpus=1' goes with executor='slurm'"):
        small("variant", slurm="gpus=1")
    with pytest.raises(ParameterError, match=r"jobs=2 goes with executor='local'"):
        small("variant", executor="slurm", jobs=2)
    for text, reason in (("gpus=one", r"gpus='one' is not a whole number"), ("gpu=1", r"unknown parameter 'gpu'; did you mean 'gpus'")):
        with pytest.raises(ParameterError, match=rf"slurm='{text}': .*{reason}"):
            small("variant", executor="slurm", slurm=text)
    small("variant", executor="slurm", slurm="gpus=1; hours=12").execute()
    assert handed == [("local", dict(jobs=2)), ("slurm", dict(jobs=None, gpus="1", hours="12"))]


def test_data_that_cannot_be_used_is_told_before_the_runs(tmp_path):
    ablation = small("variant", data=str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="nowhere"):
        ablation.execute()
    assert not list_runs()
    for planned in ablation.all_planned_runs():
        create_run(planned.config).set_status(state="finished")
    ablation.execute()  # what is done needs no data


def test_the_command_can_be_pasted():
    ablation = small("variant", seeds="7", study="demo", out="my $out; 007")
    words = shlex.split(ablation.command)
    assert words[:2] == ["workbench", "ablation"]
    assert dict(zip(words[3::3], words[4::3], strict=True))["out"] == "my $out; 007"


# ---------------------------------------------------------------------------------------- what others left, or damaged


@pytest.mark.parametrize("file", ["config.json", "status.json"])
@pytest.mark.parametrize("content", [b"", b'{"a": ', b"[]", b'{"state": 7, "wdth": 7}', b"\xff"])
def test_a_run_that_cannot_be_read_is_left_out_of_the_tables(file, content):
    ablation = small("variant", seeds="0,1")
    planted(ablation, "variant", official=[1.0, 2.0], paper=[3.0, 4.0])
    run = ablation.planned_runs("variant")[0].run
    (run.path / file).write_bytes(content)
    assert [row["n"] for row in ablation.table("variant").rows] == ([1, 2] if file == "config.json" else [2, 2])
    assert any(note.startswith(f"{run.path / file} cannot be read: ") for note in ablation.check().notes)


def test_with_runs_that_cannot_be_read_all_views_go_on(capsys):
    ablation = small("variant", seeds="0,1")
    planted(ablation, "variant", official=[1.0, 2.0], paper=[3.0, 4.0])
    runs = [planned.run for planned in ablation.planned_runs("variant")]
    files = [run.path / name for run, name in zip(runs, ("config.json", "status.json", "provenance.json"), strict=False)]
    for file in files:
        file.write_bytes(b'{"a": ')
    ablation.plot(), ablation.verdicts(), ablation.shape(), ablation.long_range()
    record = json.loads((ablation.export() / "results.json").read_text())
    assert record["runs"]["n"] == 3 and record["runs"]["commits"] == ["unknown"]
    said = [line for line in capsys.readouterr().err.splitlines() if " cannot be read: " in line]
    assert len(said) == len(set(said)) == 2 and str(files[0]) in said[0] and str(files[2]) in said[1]


def test_records_of_other_versions_are_left_out():
    ablation = small("variant", seeds="0,1")
    planted(ablation, "variant", official=[1.0, 2.0], paper=[3.0, 4.0])
    run = ablation.planned_runs("variant")[0].run
    good = dict(RECORD, step=4)
    for key in ("errors", "per_class", "settings", "extractor", "reference", "protocol", "scores", "n"):
        run.append("evaluations.jsonl", {name: value for name, value in good.items() if name != key})
        for value in (None, "text", [1], 7):
            run.append("evaluations.jsonl", good | {key: value})
    for value in (math.nan, math.inf, None, "1.5", True):
        run.append("evaluations.jsonl", good | dict(scores=RECORD["scores"] | {FD: value, "twins_hue": value}))
        run.append("history.jsonl", dict(step=6, images=value, seconds=value, loss_d=value))
    (run.path / "provenance.json").write_text('{"git": "unknown", "started": []}')
    ablation.table(), ablation.plot(), ablation.verdicts(), ablation.shape(), ablation.long_range(), ablation.long_range_figure()
    text = (ablation.export() / "results.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_full_disks_end_an_export_in_one_line(monkeypatch):
    ablation = small("variant", seeds="0")
    planted(ablation, "variant", official=[1.0], paper=[3.0])

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("workbench.figures.figure.Drawing.save", full)
    with pytest.raises(StorageError, match="cannot be written: No space left on device; the disk of") as error:
        ablation.export()
    assert "\n" not in str(error.value)
