# ruff: noqa: RUF001
import csv
import errno
import re
import shutil

import numpy as np
import pytest
import torch
from records import parsed, recorded, scored

from workbench import Comparison, ParameterError, WorkbenchError, figures, train
from workbench.metrics.protocols import protocol
from workbench.model import sampling
from workbench.paths import outputs_dir
from workbench.runs import create_run


@pytest.fixture
def sweep(tiny):
    """Two learning rates, three seeds each, with curves and scores but without checkpoints."""
    runs = []
    for rate in (1e-3, 1e-2):
        for seed in range(3):
            run = recorded(tiny, f"{rate}-{seed}", [seed, 2.0, 3.0], lr_d=rate, seed=seed)
            scored(run, 2, fid=100 * rate + seed, kid=0.5)
            runs.append(run)
    return runs


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


# ------------------------------------------------------------------------------------------------------------ tables


def test_the_table_of_differences_holds_nothing_but_differences(sweep):
    table = Comparison().differences()
    assert [row["lr_d"] for row in table.rows] == ["0.001", "0.01"] and [row["seeds"] for row in table.rows] == ["0, 1, 2"] * 2
    assert table.columns == ["runs", "lr_d", "seeds", "n"]


def test_many_differences_stand_below_each_other(tiny):
    recorded(tiny, "a", [1.0]), recorded(tiny, "b", [1.0], width=16, beta1=0.5, attention_g="none", sn_g=False)
    rows = Comparison().differences().rows
    assert {row["parameter"]: (row["a"], row["b"]) for row in rows} == {
        "width": ("8", "16"), "attention_g": ("16", "none"), "sn_g": ("true", "false"), "beta1": ("0", "0.5"),
    }  # fmt: skip
    assert Comparison(runs="a").differences().rows == [{"runs": "a", "seeds": "0", "n": 1}]
    assert "nothing but the seed" in Comparison(runs="a").differences().notes[0]


def test_scores_have_mean_deviation_number_and_protocol(sweep):
    table = Comparison(scores="fid").score_table()
    slow, fast = table.rows
    assert (slow["n"], slow["step"], str(slow["fid"]), str(fast["fid"])) == (3, 2, "1.1 ± 1.0", "2.0 ± 1.0")
    assert slow["fid"].mean == pytest.approx(1.1) and slow["fid"].sd == pytest.approx(1)
    assert slow["fid"].about.startswith("official: n=50,000") and any("official: n=50,000" in note for note in table.notes)
    scored(sweep[0], 3, fid=7.1)  # one run is further than the others
    slow, _ = Comparison(scores="fid").score_table().rows
    assert slow["step"] == "2 to 3" and slow["fid"].mean == pytest.approx((7.1 + 1.1 + 2.1) / 3)
    assert [row["step"] for row in Comparison(scores="fid", steps="common").score_table().rows] == [2, 2]
    by_step = Comparison(scores="fid", steps=[2, 3]).score_table().rows
    assert [(row["runs"][:10], row["step"], row["n"]) for row in by_step] == [
        ("lr_d=0.001", 2, 3),
        ("lr_d=0.001", 3, 1),
        ("lr_d=0.01 ", 2, 3),
    ]


def test_a_score_that_some_runs_lack_tells_its_own_number(sweep):
    scored(sweep[1], 3, fid=5.0)  # without kid
    slow = Comparison(scores="fid,kid").score_table().rows[0]
    assert slow["n"] == 3 and str(slow["kid"]) == "0.5 ± 0" and str(slow["fid"]).startswith("2.4")
    table = Comparison(scores="fid,kid", steps="3").score_table()
    assert table.rows[0]["n"] == 1 and "kid" not in table.rows[0]


def test_many_scores_stand_below_each_other(sweep):
    for run in sweep:
        scored(run, 3, fid=1.0, kid=2.0, a=3.0, b=4.0, c=5.0)
    table = Comparison().score_table()
    assert [row["score"] for row in table.rows] == ["step", "n", "fid", "kid", "a", "b", "c"]
    assert str(table.rows[2]["lr_d=0.01 × 3 seeds"]) == "1 ± 0"


def test_scores_of_different_protocols_are_refused_unless_asked_for(sweep):
    scored(sweep[0], 3, protocol("official", n=70), fid=1.0)
    for view in (Comparison().score_table, Comparison().scores_over_time, Comparison().against_parameters, Comparison().export):
        with pytest.raises(WorkbenchError, match="these scores cannot be compared"):
            view()
    table = Comparison(across_protocols=True, scores="fid").score_table()
    assert [(row["protocol"], row["n"]) for row in table.rows] == [(1, 3), (2, 1), (1, 3)]
    assert table.notes[-1] == "Scores of different protocols do not compare" and "n=70" in table.notes[2]
    assert [row["n"] for row in Comparison(protocol="n=70", scores="fid").score_table().rows] == [1]


# ----------------------------------------------------------------------------------------------------- samples


@pytest.mark.slow
def test_samples_are_of_equal_latents_at_the_chosen_steps(tiny):
    runs = [train(tiny(run=f"s{seed}", seed=seed, checkpoint_every=2)) for seed in range(2)]
    shutil.rmtree(runs[1].checkpoint_path(4))  # as if it were still on its way
    create_run(tiny(run="s2", seed=2))
    for steps, expected in (("last", [(0, 4), (1, 2)]), ("common", [(0, 2), (1, 2)]), ("2,4", [(0, 2), (0, 4), (1, 2)]), ("3", None)):
        drawing = Comparison(runs="s*", steps=steps, seed=7, columns=2).samples()
        if expected is None:
            assert drawing is None
            continue
        labels = [row.label for row in drawing.description.rows]
        rows = [(int(re.search(r"seed (\d)", label)[1]), int(re.search(r"step (\d)", label)[1])) for label in labels]
        assert rows == expected
    shown = [panel.images[0].get_array().data for panel in Comparison(runs="s*", seed=7, columns=2).samples().picture.axes]
    x = sampling.images(runs[0].generator(4), sampling.latents(2, 8, 7), torch.arange(2))
    assert np.array_equal(shown[1], ((x[1] + 1) * 127.5).round().byte().permute(1, 2, 0))


# ------------------------------------------------------------------------------------------------ while runs go on


def test_runs_that_have_only_begun(tiny, capsys):
    """No history, half a line of it, no checkpoint, no evaluation: nothing of that is an error."""
    bare, _, half = create_run(tiny(run="bare")), recorded(tiny, "begun", [1.0], seed=1), recorded(tiny, "half", [1.0, 2.0], seed=2)
    for file in ("history.jsonl", "evaluations.jsonl"):
        with open(half.path / file, "a") as f:
            f.write('{"step": 3, "loss_d": 0.')
    comparison = Comparison(runs="bare,begun,half")
    assert [(row["run"], row["step"], row["evaluations"]) for row in comparison.overview().rows] == [
        ("bare", 0, 0),
        ("begun", 1, 0),
        ("half", 2, 0),
    ]
    assert comparison.samples() is None and comparison.score_table().notes == ("No evaluation yet",)
    for view in (comparison.curves, comparison.scores_over_time, comparison.against_parameters):
        assert view().png()
    folder = comparison.export()
    assert {"comparison.html", "curves.svg", "overview.tex", "history.csv"} <= {path.name for path in folder.iterdir()}
    assert not (folder / "samples.svg").exists() and str(folder) in capsys.readouterr().out
    bare.append("history.jsonl", dict(step=1, loss_d=5.0))
    assert comparison.overview().rows[0]["step"] == 1  # the same comparison, later


@pytest.mark.slow
def test_diagnostics_are_among_the_curves_and_in_the_page(sweep):
    for run in sweep:
        row = dict(loss_d=1.0, d_real=2.0, d_fake=-0.5, grad_norm_d=3.0, grad_norm_g_max=9.0, saturated_real=0.25)
        run.append("history.jsonl", dict(step=4, images=32, seconds=400.0) | row)
    titles = [note.text for note in Comparison(keys="grad_norm_*,margin_d,saturated_*").curves().figure.layout.annotations]
    assert titles == ["gradient norm of D", "gradient norm of G, largest", "margin of D: real less fake", "saturation of D, real images"]
    assert [trace.y[0] for trace in Comparison(keys="margin_d").curves().figure.data if len(trace.x) == 1] == [2.5] * 8  # with both means
    assert Comparison().growth() is None
    for run in sweep[:-1]:  # the last one is older than that
        run.append("spectra.jsonl", dict(step=0, layers={"G/linear": dict(exact=[2.0]), "D/linear": dict(exact=[2.0], estimate=1.0)}))
    assert {trace.name for trace in Comparison(axis="hours").growth().figure.data} == {group.label for group in Comparison().groups()}
    folder = Comparison(runs="0.0*").export()
    assert {"growth.svg", "growth.pdf.json"} <= {path.name for path in folder.iterdir()}
    assert read_csv(folder / "history.csv")[3]["margin_d"] == "2.5"
    assert "Growth of the weights" in (folder / "comparison.html").read_text()


def test_without_any_run():
    comparison = Comparison()
    assert comparison.overview().notes == ("No run has a history yet",) and comparison.differences().rows == []
    assert comparison.curves().png() and comparison.samples() is None and comparison.score_table().rows == []
    assert (comparison.export() / "comparison.html").exists()


# ---------------------------------------------------------------------------------------------------------- export


@pytest.mark.slow
def test_everything_is_written_and_the_page_needs_no_network(sweep, capsys):
    folder = Comparison(runs="0.0*").export()
    assert folder.parent == outputs_dir() / "comparisons" and re.fullmatch(r"0\.0-\w{8}", folder.name)
    drawn = {f"{name}.{ending}{json}" for name in ("curves", "scores", "scatter") for ending in ("svg", "pdf") for json in ("", ".json")}
    tables = {f"{name}.{ending}" for name in ("overview", "differences", "score-table") for ending in ("csv", "tex")}
    assert {path.name for path in folder.iterdir()} == drawn | tables | {"history.csv", "scores.csv", "comparison.html"}
    history, scores = read_csv(folder / "history.csv"), read_csv(folder / "scores.csv")
    assert len(history) == 18 and len(scores) == 12
    assert (history[4]["run"], history[4]["seed"], history[4]["step"], history[4]["loss_d"]) == ("0.001-1", "1", "2", "2.0")
    assert float(scores[3]["value"]) == 1.0 and scores[3]["protocol"].startswith("official: n=50,000")
    for name in ("overview", "differences", "score-table"):
        parsed((folder / f"{name}.tex").read_text())
    tex = (folder / "score-table.tex").read_text()
    assert r"$1.1 \pm 1.0$" in tex and "n=50,000" in tex and rf"\label{{tab:{folder.name}-score-table}}" in tex
    again = figures.redraw(folder / "scatter.pdf.json")
    assert again.save(folder / "again.pdf").read_bytes() == (folder / "scatter.pdf").read_bytes()

    page = (folder / "comparison.html").read_text()
    assert len(page) < 6_000_000
    without_scripts = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert not re.search(r"(src|href)=\"(?!data:)", without_scripts) and not re.search(r"<script[^>]+src=", page)
    assert "<script" not in without_scripts and "lr_d=0.001 × 3 seeds" in without_scripts


def test_the_folder_is_named_after_the_runs(tmp_path):
    base = outputs_dir() / "comparisons"
    for given, name in (
        (dict(), "all"),
        (dict(runs="cat-0"), "cat-0"),
        (dict(out="mine"), "mine"),
        (dict(runs="a-*, ../b"), r"a-_\.\._b-\w{8}"),
    ):
        folder = Comparison(**given).folder
        assert folder.parent == base and re.fullmatch(name, folder.name)
    alike = ("a", "a-*", "a,", "a-?", "A", "é" * 200, "é" * 201, "x" * 300 + "1", "x" * 300 + "2", "a b", "a_b", "*", "?")
    names = [Comparison(runs=runs).folder.name for runs in alike]
    assert len(set(names)) == len(names) - 1 and names[0] == names[2]  # "a," are the runs of "a"
    assert all(len(name.encode()) <= 200 and not name.startswith(("-", ".")) for name in names)
    assert Comparison(out=str(tmp_path / "there")).folder == tmp_path / "there"


# ------------------------------------------------------------------------------------------------------ parameters


@pytest.mark.parametrize(("given", "says"), [
    (dict(axis="days"), "axis='days' is not known; allowed: one of steps, images, hours"),
    (dict(steps="newest"), "steps='newest' is not \"last\", \"common\", or steps such as 500,1000"),
    (dict(columns=0), "columns=0 is not in range"),
    (dict(run="x"), "unknown parameter 'run'; did you mean 'runs'"),
])  # fmt: skip
def test_what_does_not_fit_is_told_in_one_line(given, says):
    with pytest.raises(ParameterError) as error:
        Comparison.from_parameters(given)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_lists_are_read_as_text():
    comparison = Comparison.from_parameters(dict(runs=["a", "b"], steps="[500, 1000]", scores=("fid", "kid"), columns=4.0, seed=None))
    assert (comparison.runs, comparison.steps, comparison.scores, comparison.columns) == ("a,b", "500,1000", "fid,kid", 4)


# --------------------------------------------------------------------------------- what others left, named or damaged


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b'{"width": ', b"[]", b'{"wdth": 7}', b"\xff", b"\0\0\0"])
@pytest.mark.parametrize("file", ["config.json", "status.json", "provenance.json"])
def test_a_run_that_cannot_be_read_is_reported_and_the_others_are_compared(tiny, capsys, file, content):
    runs = [recorded(tiny, name, [1.0, 2.0], tags="all") for name in ("a", "b")]
    for run in runs:
        (run.path / "provenance.json").write_text('{"tags": ["all"]}')
    path = runs[0].path / file
    path.write_bytes(content)
    for text in ("", "*", "a,b", "all,b"):
        comparison = Comparison(runs=text)
        states = {row["run"]: row["state"] for row in comparison.overview().rows}
        assert "b" in states and (
            "a" not in states if file == "config.json" else states.get("a", "unreadable") in ("unreadable", "created")
        )
        comparison.differences(), comparison.score_table()
    said = [line for line in capsys.readouterr().err.splitlines() if str(path) in line]
    if file == "config.json":
        assert said and len(said) == len(set(said))
        with pytest.raises(WorkbenchError, match="runs='a': none of the 1 run can be read"):
            Comparison(runs="a").overview()


@pytest.mark.slow
def test_damaged_records_do_not_end_a_comparison(tiny):
    run = recorded(tiny, "a", [1.0, 2.0])
    good = scored(run, 2, fid=1.0, kid=0.5)
    for key in good:
        run.append("evaluations.jsonl", {name: value for name, value in good.items() if name != key})
        for value in ("text", [1], {}, float("nan"), *([] if key in ("extractor", "reference") else [None])):  # None: the scores need none
            run.append("evaluations.jsonl", good | {key: value})
    for key in ("step", "images", "seconds", "loss_d"):
        for value in (None, "text", [1], float("nan"), float("inf"), True):
            run.append("history.jsonl", dict(step=9, images=72, seconds=1.0, loss_d=1.0) | {key: value})
    for view in ("overview", "differences", "curves", "growth", "scores_over_time", "score_table", "against_parameters"):
        getattr(Comparison(axis="hours"), view)()
    assert {row["score"] for row in read_csv(Comparison(axis="hours").export() / "scores.csv")} == {"fid", "kid"}


ODD = ("my run", "007", "<script>alert(1)<&-script>", "a $x_1$ 100% #{}~^", "中文 é", "a;b'c\"d", "a=b+c!")


@pytest.mark.slow
def test_names_with_any_characters(tiny):
    """In tables, in LaTeX and on the page, where nothing of them runs."""
    for name in ODD:
        scored(recorded(tiny, name, [1.0, 2.0], width=8 + len(name)), 2, fid=1.0)
    folder = Comparison(runs=",".join(ODD), out="100% mine {x").export()
    assert {row["run"] for row in read_csv(folder / "scores.csv")} == set(ODD)
    page = (folder / "comparison.html").read_text()
    without_scripts = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert "<script" not in without_scripts and "&lt;script&gt;alert(1)&lt;&amp;-script&gt;" in without_scripts
    assert "<script>alert" not in page  # nor within one of ours
    for name in ODD:
        assert [row["run"] for row in Comparison(runs=name).overview().rows] == [name]
    tex = (folder / "overview.tex").read_text()
    assert r"\label{tab:100--mine--x-overview}" in tex and r"a \$x\_1\$ 100\% \#\{\}" in tex


def test_lists_may_have_blanks_and_empty_parts(tiny):
    for name in ("my run", "中文"):
        scored(recorded(tiny, name, [1.0]), 1, fid=1.0, kid=2.0)
    comparison = Comparison(runs=" my run , ,中文,", scores=" fid ,, kid", keys=" loss_d ,", against=" seed , width")
    assert [row["run"] for row in comparison.overview().rows] == ["my run", "中文"]
    assert list(comparison.score_table().rows[0])[-2:] == ["fid", "kid"] and comparison.curves().figure.data
    assert Comparison(runs=["my run", "中文"]).runs == "my run,中文"


@pytest.mark.parametrize("steps", ["²", "٣", "1,²", "-1", "1.5", "9" * 400, ",", ""])
def test_steps_that_do_not_fit(steps):
    with pytest.raises(ParameterError, match="steps="):
        Comparison(steps=steps)


def test_a_full_disk_ends_an_export_in_one_line(sweep, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("workbench.figures.figure.Drawing.save", full)
    with pytest.raises(WorkbenchError, match="cannot be written: No space left on device; the disk of") as error:
        Comparison(runs="0.001-0").export()
    assert "\n" not in str(error.value)
