"""README, CONTRIBUTING and docs/ keep to the truth: their examples run, and their links, names and files exist.

A fence is an example: `python` blocks of a page run in order, in one namespace; of `sh` blocks each command. What a page expects is there: a
run called twins32, and the folders my_images and generated. A comment that says `needs ...` or `takes ...` marks what does not run here; it is
listed below, and its parameters are checked all the same. A comment that begins with a shape states the shape of its line's value.
"""

import ast
import os
import pkgutil
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import partialmethod
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import yaml
from cells import execute, parsed, run_cells
from PIL import Image

import workbench
from workbench import Ablation, AttentionView, Comparison, Config, Evaluation, ParameterError, cli, train
from workbench.cli import _parser
from workbench.data.sources import SOURCES
from workbench.metrics.scores import SCORES
from workbench.paths import DEMO
from workbench.presets import BUILT_IN_DATA
from workbench.studies.paper import EXPERIMENTS

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
WITH_PYTHON = [page for page in PAGES if "```python\n" in page.read_text()]
WITH_SHELL = [page for page in PAGES if "```sh\n" in page.read_text()]

PARAMETERS = dict(train=Config, evaluate=Evaluation, attention=AttentionView, compare=Comparison, ablation=Ablation)
SMALL = {  # appended to examples of a notebook or module, so that they take seconds
    "train": dict(width=8, z_dim=8, batch_size=8, steps=4, log_every=2, sample_every=4, checkpoint_every=4, evaluate_every=0),
    "evaluate": dict(n=40, reference_n=200, extractor="twins", num_processes=1),
    "attention": dict(n=2),
    "compare": dict(keys="loss_d", scores="fd_twins", columns=2),
    "ablation": dict(train=False),
    "workbench.training": dict(steps=4, batch_size=8),
    "workbench.evaluation": dict(n=40, reference_n=40, extractor="twins"),
}
NOT_RUN = {
    "README.md": ["workbench ablation -p experiments attention_site -p preset cifar10 -p seeds 0,1,2,3,4,5,6,7"],
    "clusters.md": [
        "workbench train -p preset imagenet128 -p num_processes 8 -p mixed_precision bf16",
        "workbench plan -p preset imagenet128 -p num_processes 8",
        "workbench ablation -p executor slurm -p slurm 'partition=gpu; gpus=1; hours=12'",
        "python -m workbench.training -p run lr-2 -p lr_d 4e-4",  # of the job script
        "sbatch job.sh",
        "workbench compare -p runs 'lr-*'",
    ],
    "data.md": [
        "python -m benchmarks.decoding",
        "workbench train -p data hf:some/pets -p image_size 64",
        "workbench train -p data 'hf:cifar100?label=fine_label'",
        "workbench prepare 'hf:my_saved?image=photo&label=kind&split=train' data/pets64 --size 64",
        "workbench train -p preset cifar10",
        "workbench prepare imagenet data/imagenet128 --size 128",
        "workbench train -p preset imagenet128 -p data data/imagenet128",
    ],
    "experiments.md": [
        "workbench ablation",
        "python -m workbench.studies.gate gate.jsonl --seeds 0,1,2,3,4",
        "workbench ablation -p experiments binding -p preset binding32 -p seeds 0,1,2,3,4,5,6,7 -p jobs 8",
        "workbench ablation -p experiments attention_site -p preset cifar10 -p seeds 0,1,2,3,4,5,6,7",
        "workbench ablation -p experiments attention_site -p data my_images -p steps 100000 -p seeds 0,1,2,3,4,5,6,7 "
        "-p settings 'image_size=64; width=64; z_dim=128; batch_size=64'",
        "workbench ablation -p steps 600 -p settings 'width=16; batch_size=16; pairs=2' -p experiments attention_site,spectral_norm,ttur,baseline "
        "-p evaluations 4 -p jobs 2 -p study demo",
        "workbench ablation -p experiments sweep -p grid 'attention_g=16|none' -p steps 500 "
        "-p settings 'width=16; batch_size=16; attention_d=none' -p evaluations 4 -p jobs 2",
    ],
    "inspector.md": ["python -m benchmarks.latency"],
    "metrics.md": ["python -m benchmarks.metrics"],
    "performance.md": [
        "python -m workbench.bench --rounds 8",
        "python -m workbench.bench --only growth --width 16 --figure growth.png",
        "python -m workbench.bench --width 64 --batch 256 --attention 32 --precision bf16 --json h100.json",
    ],
    "sharing.md": ["workbench publish twins32@500 for-the-hub --hub someone/twins32"],
    "published.md": [
        "workbench open sagan_128_woReLUinplace_noaug_bigGAN_imagenet1k.pth",
        "workbench open G_best0.pth G_ema_best0.pth D_best0.pth --name brock",
        "workbench attention -p run brock",
    ],
    "robustness.md": ["make faults", "make faults 'ARGS=kill disk --share 0.1'", "make soak"],
}
RUN_ALREADY: set[str] = set()  # examples that stand on several pages run once
MARK = re.compile(r"#.*\b(needs|takes) ")
SHAPE = re.compile(r"#\s*\((\d+(?:, \d+)*),?\)")

# ------------------------------------------------------------------------------------------------------ examples


@dataclass(frozen=True)
class Command:
    """A command of a shell example, as the shell passes it on."""

    words: list[str]
    runs: bool  # not marked

    @property
    def parameters(self) -> dict[str, str]:
        """What follows `-p`."""
        flags = [k for k, word in enumerate(self.words) if word == "-p"]
        return {self.words[k + 1]: next(iter(self.words[k + 2 : k + 3]), None) for k in flags}


def fences(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page: Path, folder: Path) -> list[Command]:
    """The commands of a page. Bash reads them, with programs in its path that only note how they are called."""
    programs, log = folder / "programs", folder / "log"
    programs.mkdir()
    for name in ("workbench", "papermill", "make", "python", "sbatch"):
        (programs / name).write_text(f"#!/bin/sh\nprintf '%s\\037' {name} \"$@\" >> {log}; printf '\\036' >> {log}\n")
        (programs / name).chmod(0o755)
    environment = dict(PATH=str(programs), SLURM_ARRAY_TASK_ID="2", USER="someone", WORKBENCH_OUTPUTS=str(folder))
    listed = []
    for block in fences(page, "sh"):
        script = block.startswith("#!")
        for text in [block] if script else block.replace("\\\n", " ").splitlines():
            log.write_text("")
            done = subprocess.run([shutil.which("bash"), "-euc", text], env=environment, capture_output=True, text=True)
            assert done.returncode == 0, f"{page.name}: {text}\n{done.stderr}"
            calls = [call.split("\037")[:-1] for call in log.read_text().split("\036")[:-1]]
            assert len(calls) == 1 or not text.partition("#")[0].strip(), f"{page.name}: {text!r} is {len(calls)} commands"
            listed += [Command(words, runs=not MARK.search(text) and not script) for words in calls]
    return listed


def typed(arguments) -> dict:
    """The parameters of a notebook's command, as papermill parses them."""
    line = {"line": " ".join(arguments.line)} if getattr(arguments, "line", None) else {}
    return parsed(dict(arguments.p)) | line


def check(command: Command) -> None:
    """Refuse a command of names, files or parameters that are not there, or values that do not fit."""
    program, *words = command.words
    if program == "papermill":
        notebook = ROOT / "notebooks" / Path(words[0]).name
        assert notebook.is_file(), words[0]
        assert words[1].endswith(".ipynb"), f"{shlex.join(command.words)}: in a terminal, papermill needs an output path"
        assert words[2::3] == ["-p"] * len(command.parameters), "a parameter is there twice, or -p is missing"
        PARAMETERS[notebook.stem].from_parameters(parsed(command.parameters))
    elif program == "workbench":
        arguments = _parser().parse_args(words)
        if "p" in arguments:
            values = typed(arguments)
            assert len(values) == len(arguments.p) + ("line" in values), "a parameter is there twice"
            PARAMETERS[getattr(arguments, "notebook", "train")].from_parameters(values)
    elif program == "make":
        makefile = (ROOT / "Makefile").read_text()
        assert re.search(rf"^{words[0]}:", makefile, re.MULTILINE), words[0]
        if words[0] == "train" and len(words) > 1:
            given = shlex.split(words[1].removeprefix("ARGS="))
            Config.from_parameters(Command(given, True).parameters)
    elif program == "python":
        assert words[0] == "-m"
        path = ROOT / words[1].replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), words[1]
        if words[1] in ("workbench.training", "workbench.evaluation"):
            (Config if words[1] == "workbench.training" else Evaluation).from_parameters(command.parameters)


@pytest.mark.parametrize("page", WITH_SHELL, ids=lambda page: page.name)
def test_commands_name_what_there_is(page, tmp_path, place):
    listed = commands(page, tmp_path)
    for command in listed:
        try:
            check(command)
        except Exception as error:
            raise AssertionError(f"{page.name}: {shlex.join(command.words)}") from error
    assert [shlex.join(command.words) for command in listed if not command.runs] == NOT_RUN.get(page.name, [])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_text_name_what_there_is(page, place):
    """`make ...`, `papermill ...`, `python -m ...` and `-p ...` between backquotes; capitals and <...> stand for something else."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for text in re.findall(r"`((?:make|workbench|papermill|python -m|-p) [^`]+)`", prose):
        if re.search(r"[<>…]|\b[A-Z]{3,}\b|--help", text):
            continue
        words = shlex.split(text)
        if words[0] == "-p":
            parameters = Command(words, True).parameters
            kinds = [kind for kind in PARAMETERS.values() if parameters.keys() <= set(kind.__dataclass_fields__)]
            assert kinds, f"{page.name}: {text}"
            kinds[0].from_parameters(parameters)
        else:
            check(Command(words, True))


@pytest.mark.parametrize("text", [
    "papermill train.ipynb -p lr_d 4e-4",  # a terminal has no use for the notebook, and papermill refuses
    "papermill train.ipynb out.ipynb -p lrd 4e-4",
    "papermill train.ipynb out.ipynb -p lr_d fast",
    "papermill train.ipynb out.ipynb -p steps 10 -p steps 20",
    "papermill trian.ipynb out.ipynb",
    "make trian",
    "workbench trian",
    "workbench train -p lrd 4e-4",
    "workbench show",
    "make train 'ARGS=-p sede 1'",
    "python -m workbench.trainign -p steps 10",
    "python -m workbench.evaluation -p protocol offical",
])  # fmt: skip
def test_planted_mistakes_in_commands_are_noticed(text):
    with pytest.raises((AssertionError, ParameterError, SystemExit)):
        check(Command(shlex.split(text), runs=True))


def test_a_planted_wrong_shape_is_noticed():
    run_block("import torch\nx = torch.zeros(2, 3)  # (2, 3) zeros", {}, "right")
    with pytest.raises(AssertionError):
        run_block("import torch\ntorch.zeros(2, 3)  # (3, 2) zeros", {}, "wrong")


def test_every_fence_is_an_example_or_text():
    for page in PAGES:
        opened = re.findall(r"^```(.*)$", page.read_text(), re.MULTILINE)[::2]
        assert set(opened) <= {"python", "sh", "text"}, page.name


# --------------------------------------------------------------------------------------------------------- running


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """What the pages expect: the run twins32, a trained one, and two folders of images with two classes."""
    folder = tmp_path_factory.mktemp("docs")
    shutil.copytree(DEMO, folder / "outputs" / "twins32")
    rng = np.random.default_rng(0)
    for where, label, number in ((w, c, k) for w in ("my_images", "generated") for c in ("cat", "dog") for k in range(20)):
        (folder / where / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(folder / where / label / f"{number}.png")
    return folder


@pytest.fixture
def place(shared, folders, monkeypatch):
    monkeypatch.chdir(shared)
    monkeypatch.setenv("WORKBENCH_OUTPUTS", str(shared / "outputs"))
    monkeypatch.setenv("WORKBENCH_DATA", str(shared / "data"))
    return shared


def run_block(block: str, namespace: dict, name: str) -> None:
    """Run the statements of a Python example one by one, and hold their values against the shapes that comments state."""
    lines = block.splitlines()
    for statement in ast.parse(block).body:
        first = min([statement.lineno, *(decorator.lineno for decorator in getattr(statement, "decorator_list", []))])
        text = "\n".join(lines[first - 1 : statement.end_lineno])
        value = execute(text, namespace, name)
        stated = SHAPE.search(lines[statement.end_lineno - 1])
        if stated and isinstance(statement, ast.Assign | ast.Expr):
            value = namespace[statement.targets[0].id] if isinstance(statement, ast.Assign) else value
            assert tuple(value.shape) == ast.literal_eval(f"({stated[1]},)"), text


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.name)
def test_python_examples_run(page, place):
    namespace = {}
    with patch.dict(SCORES), patch.dict(EXPERIMENTS), patch.dict(SOURCES), patch.dict(BUILT_IN_DATA):  # restored after the examples
        for block in fences(page, "python"):
            run_block(block, namespace, page.name)


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_SHELL, ids=lambda page: page.name)
def test_shell_examples_run(page, tmp_path, place, monkeypatch):
    """In this process, and made small by further parameters; `make` is what the tests themselves are started by."""
    monkeypatch.setattr(workbench, "launch", lambda config, attached=False: train(config))
    monkeypatch.setattr(AttentionView, "effects", partialmethod(AttentionView.effects, 8))  # images, instead of 64
    for command in commands(page, tmp_path):
        program, *words = command.words
        if not command.runs or shlex.join(words) in RUN_ALREADY:
            continue
        RUN_ALREADY.add(shlex.join(words))
        if program == "workbench":
            arguments = _parser().parse_args(words)
            if "notebook" in arguments and "p" in arguments:  # `test_cli` runs the command itself
                given = typed(arguments)
                run_cells(arguments.notebook, given | SMALL.get(arguments.notebook, {}))
            else:
                assert cli.main(words) == 0
        elif program == "papermill":
            stem = Path(words[0]).stem
            run_cells(stem, parsed(command.parameters) | SMALL.get(stem, {}))
        elif program == "python":
            small = [word for name, value in SMALL.get(words[1], {}).items() for word in ("-p", name, str(value))]
            monkeypatch.setattr(sys, "argv", [words[1], *words[2:], *small])
            with pytest.raises(SystemExit) as end:
                runpy.run_module(words[1], run_name="__main__", alter_sys=True)
            assert not end.value.code, shlex.join(words)


# ----------------------------------------------------------------------------------------------------- whole pages


def slugs(page: Path) -> set[str]:
    """Anchors of the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md", ROOT / "SECURITY.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        assert place.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in slugs(place), f"{page.name}: {target}"
        if page.parent == ROOT / "docs":
            assert place.is_relative_to(ROOT / "docs"), f"{page.name}: {target} is not part of the built pages"


def test_every_page_is_in_the_navigation():
    def files(entry) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [file for part in (entry.values() if isinstance(entry, dict) else entry) for file in files(part)]

    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert settings["strict"] is True
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    listed = files(settings["nav"])
    assert sorted(listed) == sorted(pages)


def test_the_reference_names_what_there_is():
    for page in (ROOT / "docs" / "reference").glob("*.md"):
        for name in re.findall(r"^::: ([\w.]+)$", page.read_text(), re.MULTILINE):
            pkgutil.resolve_name(name)


def test_paths_in_the_text_exist():
    for page in PAGES:
        for path in re.findall(r"`((?:workbench|tests|benchmarks|docs|notebooks)/[\w./-]+)`", page.read_text()):
            assert (ROOT / path).exists(), f"{page.name}: {path}"


def test_the_readme_is_short_and_its_animation_small():
    assert len((ROOT / "README.md").read_text().split()) <= 1200
    assert os.path.getsize(ROOT / "docs" / "inspector.gif") <= 1_000_000
    with Image.open(ROOT / "docs" / "inspector.gif") as animation:
        assert animation.n_frames > 10


def test_the_change_log_names_what_there_is():
    """The new names of its tables, where they are dotted names of the package."""
    for line in (ROOT / "CHANGELOG.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == 4:
            for name in re.findall(r"`(workbench(?:\.\w+)+)`", cells[2]):
                pkgutil.resolve_name(name)
