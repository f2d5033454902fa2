"""The notebooks as users run them: real papermill processes, and what they leave behind.

A papermill with its kernel takes 8 seconds of a core before it does anything. So each notebook is started for what only a process shows, and
values that do not fit are given to its cells in this process.
"""

import ast
import json
import os
import signal
import subprocess
import sys
import time

import nbformat
import numpy as np
import pytest
from cells import NOTEBOOKS, parsed, run_cells
from IPython.core.formatters import DisplayFormatter
from PIL import Image

from workbench import Ablation, AttentionView, Comparison, Config, Evaluation, Run, evaluate, list_runs, train
from workbench.evaluation import during_training
from workbench.messages import WorkbenchError
from workbench.paths import outputs_dir
from workbench.runs import create_run

SMALL = ("width 8", "z_dim 8", "batch_size 8", "sample_every 4", "log_every 2", "checkpoint_every 4", "evaluate_n 20")
TINY = [word for setting in SMALL for word in ("-p", *setting.split())]


def papermill(*words, cwd=NOTEBOOKS, **kwargs):
    command = [sys.executable, "-m", "papermill", *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600, **kwargs)


def refusal(name, words):
    """What ends a notebook's cells, executed here with parameters as papermill reads and injects them: the line that papermill shows last."""
    assert all(flag == "-p" for flag in words[::3])
    with pytest.raises(WorkbenchError) as error:
        run_cells(name, parsed(dict(zip(words[1::3], words[2::3], strict=True))))
    (line,) = error.value._render_traceback_()
    return line


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.name)
def test_committed_notebooks_are_clean(path):
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert notebook.cells[0].cell_type == "markdown"
    assert not any(cell.outputs or cell.execution_count for cell in code)
    assert [("parameters" in cell.metadata.get("tags", [])) for cell in code] == [True] + [False] * (len(code) - 1)
    for cell in code:  # no logic: no definitions, loops or branches (top-level await is allowed there)
        tree = compile(cell.source, path.name, "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.For | ast.While)]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("train", Config), ("evaluate", Evaluation), ("attention", AttentionView), ("compare", Comparison), ("ablation", Ablation)],
)
def test_committed_parameters_cells_are_those_of_the_package(name, parameters):
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4)
    assert notebook.cells[1].source == parameters.cell()


@pytest.mark.slow
def test_papermill_lists_the_parameters_with_their_meaning():
    shown = papermill("--help-notebook", "train.ipynb").stdout
    assert "lr_d: float (default None)" in shown and "steps: int (default None)" in shown and "G steps (1900)" in shown


@pytest.mark.slow
def test_papermill_trains_on_a_folder_from_anywhere_without_an_output_path(tmp_path):
    for label in ("cat", "dog"):
        for k in range(8):
            (tmp_path / "pets" / label).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.random.default_rng(k).integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(
                tmp_path / "pets" / label / f"{k}.png"
            )
    words = [
        "-p",
        "data",
        "pets",
        "-p",
        "steps",
        4,
        "-p",
        "attention_g",
        16,
        "-p",
        "attention_d",
        "none",
        "-p",
        "tags",
        "a,b",
        "-p",
        "lr_d",
        "4e-4",
    ]
    done = papermill(NOTEBOOKS / "train.ipynb", *TINY, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (run,) = list_runs()
    assert (run.config.num_classes, run.config.attention_g, run.config.attention_d) == (2, "16", "none")
    assert run.config.data == str(tmp_path / "pets") and run.provenance["tags"] == ["a", "b"]
    assert run.config.lr_d == 4e-4 and run.status()["state"] == "finished"
    assert "lr_d=0.0004" in run.name
    assert "\nstep 4/4" in done.stderr  # progress beside papermill's bar
    # The exact command of the user is on record.
    command = ["-m", "papermill", str(NOTEBOOKS / "train.ipynb"), *TINY]
    assert run.provenance["command"][1 : 1 + len(command)] == command and run.provenance["command"][-2:] == ["lr_d", "4e-4"]
    printed = done.stdout[done.stdout.index("{") :]
    notebook = nbformat.reads(printed, 4)
    shown = {n: [k for o in cell.get("outputs", []) for k in o.get("data", {})] for n, cell in enumerate(notebook.cells)}
    assert sum("image/png" in kinds for kinds in shown.values()) >= 4  # preview, samples, curves, attention
    text = "".join(o.get("text", "") for cell in notebook.cells for o in cell.get("outputs", []))
    assert "cat" in text and "dog" in text and "step 4/4" in text
    assert len(printed) < 3_000_000


@pytest.mark.parametrize(("name", "words", "says"), [
    ("train", "-p lrd 4e-4", "ParameterError: unknown parameter 'lrd'; did you mean 'lr_d'?"),
    ("train", "-p lr_d fast", "ParameterError: lr_d='fast' is not a number; allowed: above 0 and at most 1"),
    ("train", "-p steps 0", "ParameterError: steps=0 is not in range; allowed: at least 1"),
    ("train", "-p data nowhere", "DataError: "),
    ("train", "-p data nowhere -p run scored", "ParameterError: run='scored' exists already; resume it with resume='scored', or choose another"),
    ("evaluate", "-p run nothing", "WorkbenchError: there is no run 'nothing'"),
    ("evaluate", "-p run scored -p protocl official", "ParameterError: unknown parameter 'protocl'; did you mean 'protocol'?"),
    ("evaluate", "-p run scored -p scores fid", "ParameterError: scores='fid' is defined by the reference Inception"),
    ("evaluate", "-p run scored -p steps 3", "WorkbenchError: run 'scored' has no checkpoint at step 3; there are: 4"),
    ("attention", "-p layers 16", "ParameterError: unknown parameter 'layers'; did you mean 'layer'?"),
    ("attention", "-p run nothing", "WorkbenchError: there is no run 'nothing'"),
    ("attention", "-p queries 99,0", "ParameterError: queries='99,0': '99,0' is not \"row,column\", each from 0 to 31"),
    ("compare", "-p run lr", "ParameterError: unknown parameter 'run'; did you mean 'runs'?"),
    ("compare", "-p runs nothing", "WorkbenchError: there is no run 'nothing'"),
    ("compare", "-p steps newest", "ParameterError: steps='newest' is not"),
    ("ablation", "-p experiment ttur", "ParameterError: unknown parameter 'experiment'; did you mean 'experiments'?"),
    ("ablation", "-p experiments tture", "ParameterError: experiments='tture': 'tture' is not one of attention_site"),
    ("ablation", "-p experiments variant -p data nowhere -p seeds 0", "DataError: data='"),
])  # fmt: skip
def test_what_does_not_fit_ends_the_notebook_with_the_reason(trained_once, name, words, says):
    known = [trained_once(run="scored").name] if "scored" in words else []
    assert refusal(name, words.split()).startswith(says)
    assert [run.name for run in list_runs()] == known


@pytest.mark.slow
def test_what_does_not_fit_ends_papermill_with_the_reason(tmp_path):
    """The same as of the cells alone, and an exit status."""
    done = papermill("train.ipynb", tmp_path / "out.ipynb", "-p", "lrd", "4e-4")
    assert done.returncode != 0
    says = "ParameterError: unknown parameter 'lrd'; did you mean 'lr_d'?"
    assert done.stderr.rstrip().splitlines()[-1].startswith(says), done.stderr
    assert list_runs() == []


@pytest.mark.slow
def test_a_training_that_fails_ends_papermill_with_the_reason(tmp_path):
    done = papermill("train.ipynb", tmp_path / "out.ipynb", *TINY, "-p", "evaluate_every", 2, "-p", "evaluate_extractor", "nothing")
    assert done.returncode != 0
    assert done.stderr.rstrip().splitlines()[-1].startswith("WorkbenchError: extractor='nothing' is not known"), done.stderr


@pytest.mark.slow
def test_papermill_evaluates_all_checkpoints_and_says_the_protocol(tmp_path, tiny):
    run = train(tiny(run="scored", checkpoint_every=2))
    words = ["-p", "run", "scored", "-p", "steps", "all", "-p", "n", 60, "-p", "reference_n", 300]
    done = papermill(NOTEBOOKS / "evaluate.ipynb", "out.ipynb", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [record["step"] for record in run.evaluations()] == [2, 4]
    notebook = nbformat.read(tmp_path / "out.ipynb", 4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3  # scores, classes, neighbours
    (table,) = [output.data["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert "step 2" in table and "step 4" in table and "n=60" in table and "fd_twins@" in table
    assert "60 of 60 images of step 4 in" in "".join(output.get("text", "") for output in outputs)
    assert (tmp_path / "out.ipynb").stat().st_size < 1_500_000


@pytest.mark.slow
def test_papermill_looks_at_attention(tmp_path):
    """Without a run of one's own: the demo, its pictures in the notebook and in the outputs folder, a page, and two tables."""
    done = papermill("attention.ipynb", tmp_path / "out.ipynb", "-p", "layer", 16, "-p", "n", 4, "-p", "compare", "gamma=0")
    assert done.returncode == 0, done.stderr
    outputs = [output for cell in nbformat.read(tmp_path / "out.ipynb", 4).cells for output in cell.get("outputs", [])]
    # inspector, figure, through training, layers x checkpoints
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4
    table, effects = [output.data["text/html"] for output in outputs if "<table>" in output.get("data", {}).get("text/html", "")]
    assert "G/attention.32" in table and "demo, γ = 0" in table  # noqa: RUF001
    assert "local map" in effects and "hue disagreement" in effects
    assert (tmp_path / "out.ipynb").stat().st_size < 1_500_000
    views = outputs_dir() / "demo" / "views"
    names = {"attention.png", "attention.svg", "attention.png.json", "attention.svg.json", "attention.html", "attention.csv", "effects.csv"}
    assert {path.name for path in views.iterdir()} == names
    assert len((views / "attention.csv").read_text().splitlines()) == 1 + 2 * 4 * 3  # two subjects, four checkpoints, three layers


@pytest.mark.slow
def test_papermill_takes_the_tour(tmp_path):
    """A picture from every section, and nothing written."""
    done = papermill("tour.ipynb", tmp_path / "out.ipynb")
    assert done.returncode == 0, done.stderr
    outputs = [output for cell in nbformat.read(tmp_path / "out.ipynb", 4).cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 8
    assert any("queries x keys: (256, 64)" in output.get("text", "") for output in outputs)
    assert not list(outputs_dir().glob("**/*"))


@pytest.mark.slow
def test_papermill_compares_runs_of_which_one_has_only_begun(tmp_path, tiny):
    for seed in range(2):
        evaluate(run=train(tiny(run=f"lr-{seed}", seed=seed)).name, scores="fd,truth", n=60, reference_n=300)
    create_run(tiny(run="lr-2", seed=2, lr_d=0.01)).append("history.jsonl", dict(step=2, images=16, seconds=1.0, loss_d=1.0))
    done = papermill(NOTEBOOKS / "compare.ipynb", "out.ipynb", "-p", "runs", "lr-*", "-p", "scores", "fd_twins,twins_hue", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Unable to parse" not in done.stderr  # papermill knows every parameter
    outputs = [output for cell in nbformat.read(tmp_path / "out.ipynb", 4).cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 5  # curves, growth, samples, scores, scatter
    tables = [output.data["text/html"] for output in outputs if "<table>" in output.get("data", {}).get("text/html", "")]
    assert len(tables) == 3 and "lr_d=0.0025 × 2 seeds" in tables[1] and "n=60" in tables[2] and "±" in tables[2]  # noqa: RUF001
    assert (tmp_path / "out.ipynb").stat().st_size < 1_500_000
    folder = Comparison(runs="lr-*").folder
    assert (folder / "comparison.html").stat().st_size < 6_000_000
    assert {"curves.svg", "curves.pdf.json", "samples.pdf", "scatter.svg", "score-table.tex", "scores.csv"} <= {
        p.name for p in folder.iterdir()
    }


@pytest.mark.slow
def test_papermill_reruns_experiments_that_share_runs_and_goes_on_after_an_interrupt(tmp_path):
    """Four runs, of which two are one run. Two of the three runs are there already, as if from another machine."""
    settings = dict(width=8, z_dim=8, batch_size=8, log_every=2, mixed_precision="no")
    given = dict(experiments="variant,baseline", seeds="0", steps=90, n=20, evaluations=1)
    given |= dict(settings="; ".join(f"{name}={value}" for name, value in settings.items()), out="mine")
    given |= dict(jobs=2)  # on two cores: one thread each
    shared, missing, other = Ablation.from_parameters(given).all_planned_runs()
    for planned in (shared, other):
        train(planned.config, evaluate=during_training(planned.config))
    words = [word for name, value in given.items() for word in ("-p", name, str(value))]
    command = [sys.executable, "-m", "papermill", str(NOTEBOOKS / "ablation.ipynb"), str(tmp_path / "out.ipynb"), *words]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    end = time.monotonic() + 300
    while not (missing.run and missing.run.status()["step"] > 2) and time.monotonic() < end:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    while missing.run.active and time.monotonic() < end + 120:  # papermill does not wait for what its kernel waits for
        time.sleep(0.1)
    assert process.returncode != 0
    assert missing.state == "stopped" and 0 < missing.run.status()["step"] < 90, missing.run.status()
    done = papermill(NOTEBOOKS / "ablation.ipynb", "out.ipynb", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Unable to parse" not in done.stderr  # papermill knows every parameter
    assert len(list_runs()) == 3 and {run.status()["state"] for run in list_runs()} == {"finished"}
    assert [len(planned.run.provenance["started"]) for planned in (shared, missing, other)] == [1, 2, 1]
    outputs = [output for cell in nbformat.read(tmp_path / "out.ipynb", 4).cells for output in cell.get("outputs", [])]
    tables = [output.data["text/html"] for output in outputs if "<table>" in output.get("data", {}).get("text/html", "")]
    assert len(tables) == 5 and "SNGAN-projection" in tables[1] and "n=20" in tables[1] and "cannot tell at this size" in tables[2]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert (tmp_path / "out.ipynb").stat().st_size < 1_500_000
    folder = outputs_dir() / "ablations" / "mine"
    assert {"variant.pdf", "baseline.svg.json", "verdicts.tex", "scores.csv"} <= {path.name for path in folder.iterdir()}
    record = json.loads((folder / "results.json").read_text())
    assert "-p seeds 0 " in record["command"] and record["runs"]["hours"] > 0 and len(record["runs"]["commits"]) == 1


@pytest.mark.slow
def test_a_run_without_attention_is_told_and_no_error(tiny, capsys):
    train(tiny(run="bare", attention_g="none", attention_d="none"))
    for value in run_cells("attention", dict(run="bare")):
        DisplayFormatter().format(value)
    assert "run 'bare' has no attention layer: nothing to explain" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_signals_to_papermill_save_the_training(tmp_path, how):
    words = [*TINY, "-p", "steps", "100000", "-p", "checkpoint_every", "100000"]
    command = [sys.executable, "-m", "papermill", "train.ipynb", str(tmp_path / "out.ipynb"), *words]
    process = subprocess.Popen(command, cwd=NOTEBOOKS, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    end = time.monotonic() + 90
    while not (list_runs() and list_runs()[0].status()["step"] > 2) and time.monotonic() < end:
        time.sleep(0.2)
    (run,) = list_runs()
    os.kill(process.pid, how)
    process.communicate(timeout=60)
    assert process.returncode != 0
    while run.active and time.monotonic() < end + 60:
        time.sleep(0.2)
    assert run.status()["state"] == "stopped" and run.checkpoint_steps(), run.log_tail()
    assert "workbench train -p resume" in run.status()["message"]  # which is pasted in test_cli
    train(Config.from_parameters(dict(resume=run.name, steps=run.checkpoint_steps()[-1] + 2)))
    assert Run(run.name).status()["state"] == "finished" and len(Run(run.name).provenance["started"]) == 2


@pytest.mark.slow
def test_history_is_json_lines_for_others_to_read(tiny):
    run = train(tiny())
    assert all(json.loads(line)["step"] for line in (run.path / "history.jsonl").read_text().splitlines())
