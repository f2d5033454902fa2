"""The command `workbench`, as a user types it: real notebooks, real signals."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from contextlib import suppress
from pathlib import Path

import nbformat
import psutil
import pytest
from lab import wait_until

from workbench import Run, templates, train
from workbench.cli import NOTEBOOKS, main
from workbench.paths import outputs_dir, program

ROOT = Path(__file__).parents[1]
TINY = ["-p", "width", "8", "-p", "z_dim", "8", "-p", "batch_size", "4", "-p", "evaluate_every", "0", "-p", "mixed_precision", "no"]


def workbench(*words, **options):
    return subprocess.run([sys.executable, "-m", "workbench", *words], capture_output=True, text=True, cwd=ROOT, **options)


def test_every_command_has_help(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0 and all(
        f"\n    {name}" in text
        for name in (*NOTEBOOKS, "runs", "show", "parameters", "prepare", "lab", "notebooks", "plan", "page", "publish", "film", "open")
    )
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "-p NAME VALUE" in capsys.readouterr().out


def test_parameters_of_presets_and_notebooks(capsys):
    def lines(*words):
        assert main(["parameters", *words]) == 0
        return {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.endswith("]")}

    assert lines()["lr_d"].endswith("[2.5e-3 for twins, else 8e-4]")
    assert lines("--preset", "cifar10")["lr_d"].endswith("[0.0002]") and lines("--preset", "cifar10")["width"].endswith("[256]")
    assert {"protocol", "n"} <= lines("evaluate").keys() and "grid" in lines("ablation")
    assert main(["parameters", "--preset", "cifar"]) == 2
    assert "did you mean 'cifar10'" in capsys.readouterr().err
    assert main(["parameters", "compare", "--preset", "cifar10"]) == 2


@pytest.mark.parametrize(("words", "message"), [
    (["train", "-p", "lrd", "1"], "unknown parameter 'lrd'; did you mean 'lr_d'"), (["train", "-p", "steps", "-1"], "steps"),
    (["train", "-p", "batch_size", "1"], "batch_size"), (["evaluate", "-p", "run", "nothing"], "there is no run 'nothing'"),
    (["attention", "-p", "layre", "8"], "unknown parameter 'layre'"), (["compare", "-p", "runs", "nothing"], "nothing"),
    (["ablation", "-p", "experiments", "tture"], "'tture' is not one of"), (["train", "-p", "lr_d=4e-4"], "here: -p lr_d 4e-4"),
    (["train", "steps=5"], "here: -p steps 5"),
])  # fmt: skip
def test_mistakes_are_one_line_before_anything_is_made(words, message, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(outputs_dir().glob("*"))


def test_where_there_are_no_runs_yet_it_says_so(capsys):
    assert main(["runs"]) == 0
    assert capsys.readouterr().err == f"there are no runs in {outputs_dir()} yet; workbench train makes one\n"


def test_a_plan_says_what_a_training_costs_without_making_a_run(capsys):
    assert main(["plan", "-p", "width", "8", "-p", "batch_size", "4", "-p", "steps", "1000"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines.keys() == {"preset", "parameters", "memory", "time", "operations", "other"} and "1,000 steps" in lines["preset"]
    assert main(["plan", "-p", "width", "0"]) == 2 and not list(outputs_dir().glob("*"))


@pytest.mark.slow
def test_a_training_that_does_not_fit_into_memory_leaves_nothing():
    done = workbench("train", "-p", "width", "100000")  # found by the notebook, since the command does not wait for torch
    assert done.returncode == 1 and "width=100000: this training needs about" in done.stdout
    assert not list(outputs_dir().glob("*"))


@pytest.mark.slow
def test_notebooks_run_into_the_folder_of_the_run():
    done = workbench("train", *TINY, "-p", "steps", "4", "-p", "run", "007")
    assert done.returncode == 0, done.stderr
    run = Run("007")  # as typed, and no number
    assert done.stdout.endswith(f"finished: finished after 4 steps\n{run.path}\n")
    assert "step 4/4" in done.stdout and "Executing Cell" not in done.stdout and " object at 0x" not in done.stdout
    assert json.loads((run.path / "provenance.json").read_text())["command"][-6:] == ["-p", "steps", "4", "-p", "run", "007"]


def test_notebooks_go_where_their_results_go(tiny, monkeypatch, capsys):
    """Each with the run that this process has found, also if another one is trained meanwhile."""
    calls = []
    monkeypatch.setattr(templates, "execute", lambda name, parameters, out: calls.append((name, dict(parameters), out)) or 0)
    run = train(tiny(run="here"))
    for words in (["attention", "-p", "n", "2"], ["evaluate", "-p", "n", "20"], ["evaluate", "-p", "samples", "a/b", "-p", "data", "twins"],
                  ["attention", "-p", "run", "demo"], ["compare", "-p", "out", "mine"], ["ablation", "-p", "steps", "4"]):  # fmt: skip
        assert main(words) == 0
    outputs = [out.relative_to(outputs_dir()).as_posix() for *_, out in calls]
    assert outputs[:2] == ["here/attention.ipynb", "here/evaluate.ipynb"] and outputs[3:5] == [
        "demo/attention.ipynb",
        "comparisons/mine/compare.ipynb",
    ]
    assert outputs[2].startswith("evaluations/a_b") and outputs[5].startswith("ablations/twins32-")
    assert calls[0][1] == dict(n="2", run=run.name) and calls[2][1] == dict(samples="a/b", data="twins") and calls[3][1] == dict(run="demo")
    assert capsys.readouterr().out.count("notebook: ") == 6


@pytest.mark.slow
def test_a_stopped_training_is_saved_and_what_it_says_can_be_pasted(tmp_path):
    words = [sys.executable, "-m", "workbench", "train", *TINY, "-p", "steps", "100000", "-p", "run", "stopped"]
    with open(tmp_path / "log", "w+") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, cwd=ROOT)
        end = time.monotonic() + 120
        while time.monotonic() < end and not (outputs_dir() / "stopped" / "history.jsonl").exists():
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)  # to this process alone
        process.wait(120)
        log.seek(0)
        text = log.read()
    run = Run("stopped")
    status = run.status()
    assert status["state"] == "stopped" and run.checkpoint_steps() == [status["step"]], text
    said = text.split("resume with: ")[-1].splitlines()[0]
    done = subprocess.run(f"{said} -p steps {status['step'] + 2}", shell=True, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and run.status()["state"] == "finished", done.stdout + done.stderr
    outputs = [output for cell in nbformat.read(run.path / "train.ipynb", 4).cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 4


@pytest.mark.slow
def test_an_interrupt_before_the_run_begins_is_one_line(tmp_path):
    """While papermill's kernel starts: no noise of kernels, no folder, no process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "workbench", "train", *TINY, "-p", "steps", "100000"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        cwd=ROOT,
    )  # fmt: skip
    command = psutil.Process(process.pid)
    wait_until(lambda: any("ipykernel_launcher" in word for child in command.children(True) for word in child.cmdline()))
    children = command.children(True)
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=60)
    assert (process.returncode, text) == (130, "interrupted before the run began; nothing is left of it\n")
    assert not list(outputs_dir().glob("*")) and psutil.wait_procs(children, 20)[1] == []


def test_a_run_that_never_began_leaves_no_folder(tmp_path):
    done = workbench("train", *TINY, "--out", "/proc/none/out.ipynb")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "cannot be written" in done.stderr, done.stderr
    assert not list(outputs_dir().glob("*"))


def test_the_program_is_named_as_this_shell_finds_it(tmp_path, monkeypatch):
    here = Path(sys.executable).parent
    monkeypatch.setenv("PATH", str(here))
    assert program() == (["workbench"] if (here / "workbench").exists() else [sys.executable, "-m", "workbench"])
    (tmp_path / "workbench").write_text("#!/bin/sh\n")  # of another environment
    (tmp_path / "workbench").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program() == [sys.executable, "-m", "workbench"]


@pytest.mark.slow
def test_jupyterlab_opens_a_copy_of_the_tour(tmp_path):
    """A real JupyterLab: what it serves is the copy, so that saving changes no template."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", "workbench", "lab", "--no-browser", f"--port={port}", "--IdentityProvider.token=x"]
    with open(tmp_path / "log", "w+") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, cwd=ROOT)
        try:
            url = f"http://127.0.0.1:{port}/api/contents/notebooks/tour.ipynb?token=x"
            end, found = time.monotonic() + 90, None
            while found is None and time.monotonic() < end:
                time.sleep(0.5)
                with suppress(OSError):
                    found = json.loads(urllib.request.urlopen(url).read())
        finally:
            process.terminate()
            process.wait(60)
        log.seek(0)
        text = log.read()
    assert found and found["type"] == "notebook", text
    assert "/lab/tree/notebooks/tour.ipynb" in text and (outputs_dir() / "notebooks" / "train.ipynb").exists()


@pytest.mark.slow
def test_looking_at_runs_starts_without_torch():
    """The seconds that importing torch takes are not waited for by who only reads files."""
    code = "import sys; from workbench.cli import main; main(['runs']); main(['parameters']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT).returncode == 0


@pytest.mark.slow
def test_an_installed_package_has_the_notebooks(tmp_path):
    """Built as a wheel and unpacked: what `workbench notebooks` copies is there."""
    source = tmp_path / "source"
    source.mkdir()
    for part in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / part, source)
    for part in ("workbench", "notebooks"):
        shutil.copytree(ROOT / part, source / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    words = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(tmp_path),
        str(source),
    ]
    subprocess.run(words, check=True, env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    (wheel,) = tmp_path.glob("*.whl")
    target = tmp_path / "installed"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(wheel)], check=True)
    names = {Path(name).name for name in zipfile.ZipFile(wheel).namelist()}
    assert {f"{name}.ipynb" for name in NOTEBOOKS} | {"tour.ipynb"} <= names
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "workbench").rglob("*") if path.is_file()}
    files = {path for path in files if "__pycache__" not in path and not path.startswith("workbench/notebooks/")}
    assert files <= set(zipfile.ZipFile(wheel).namelist())
    words = [sys.executable, "-m", "workbench", "notebooks", str(tmp_path / "copies")]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(target)})
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "copies" / "train.ipynb").read_bytes() == (ROOT / "notebooks" / "train.ipynb").read_bytes()


def test_a_page_is_written(tmp_path, capsys):
    assert main(["page", "demo@500", "--live", "--out", str(tmp_path / "page.html")]) == 0
    assert capsys.readouterr().out == f"written: {tmp_path / 'page.html'}\n"
    assert 'id="wb-worker"' in (tmp_path / "page.html").read_text()
    assert main(["page", "nothing"]) == 2 and "there is no run 'nothing'" in capsys.readouterr().err
