"""Kills and refusals at every operation that writes: which there are is counted in a run that nothing disturbs."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
from harness import (
    COUNT,
    FAIL,
    FAIL_ONCE,
    FULL,
    KILL,
    KILL_HALF,
    SHORT,
    Fault,
    Outcome,
    Trial,
    Verdict,
    difference,
    digests,
    files,
    fork,
    root,
    rows,
    use_folders,
)
from PIL import Image

from workbench import Config, Run, train
from workbench.data import open_data, prepare
from workbench.evaluation import evaluate
from workbench.files import replace_text
from workbench.runs import ACTIVE, list_runs

TINY = dict(width=8, z_dim=8, batch_size=8, log_every=1, sample_every=4, mixed_precision="no", evaluate_every=2, checkpoint_every=2)
NAME = "subject"
LEFT = (".tmp", ".part", ".old-")  # of temporary names


@dataclass(frozen=True)
class Subject:
    """Work that is broken, and what it has to come to in the end however it was broken."""

    name: str
    prepare: Callable[[], None]  # once, before
    work: Callable[[], object]
    again: Callable[[], object]  # what a user does afterwards
    state: Callable[[], dict]  # what there is in the end: equal to that of work that nothing disturbs
    honest: Callable[[], str] = lambda: ""  # right after the fault: what is untrue


# ------------------------------------------------------------------------------------------------------ runs


def tiny(**changes) -> Config:
    return Config.preset("twins32", **{**TINY, "steps": 4, "keep_checkpoints": 1, "run": NAME, **changes})


def score(generator, step: int) -> dict:
    """A quick evaluation that depends on every weight."""
    return dict(scores=dict(sum=sum(p.double().sum().item() for p in generator.parameters())), protocol="the sum of all weights")


def train_from_scratch() -> None:
    train(tiny(), score)


def make_parent() -> None:
    train(tiny(run="parent", keep_checkpoints=None), score)


def train_fork() -> None:
    train(Config.from_parameters(dict(resume="parent@2", run=NAME, steps=6, lr_d=1e-4)), score)


def train_without_average() -> None:
    train(tiny(ema_decay=0.0), score)  # one of the kinds of runs, and in half the time


def resume() -> None:
    train(Config.from_parameters(dict(resume=NAME, steps=6)), score)


def go_on(first: Callable[[], None], steps: int) -> None:
    """What a user does: go on with the run if there is one, else start it again."""
    if not (Path(os.environ["WORKBENCH_OUTPUTS"]) / NAME / "config.json").exists():
        first()
    elif (status := Run(NAME).status())["state"] != "finished" or status["step"] < steps:
        train(Config.from_parameters(dict(resume=NAME, steps=steps)), score)


def run_state() -> dict:
    run = Run(NAME)
    status, provenance = run.status(), run.provenance
    return dict(
        files=files(run.path), tensors=digests(run.path), samples=digests(run.path, "*.png"), config=json.loads(run.config.to_json()),
        history=rows(run.path / "history.jsonl", "seconds"), spectra=rows(run.path / "spectra.jsonl"),
        evaluations=rows(run.path / "evaluations.jsonl"),
        status={name: status[name] for name in ("state", "step", "steps", "message")},
        provenance={name: provenance[name] for name in ("data", "parent", "tags", "note")},
    )  # fmt: skip


def honest_run() -> str:
    """What a run that nobody trains says of itself is read by everybody, and true."""
    if not (Path(os.environ["WORKBENCH_OUTPUTS"]) / NAME / "config.json").exists():
        return ""
    run = Run(NAME)
    status, steps = run.status(), run.checkpoint_steps()
    if status["state"] in ACTIVE:
        return f"nobody trains it, and the status says {status['state']}"
    if status["state"] == "finished" and steps[-1:] != [status["steps"]]:
        return f"the status says finished, and the checkpoints are {steps}"
    if NAME not in [run.name for run in list_runs()]:
        return "it is not among the runs"
    for read in (run.history, run.spectra, run.evaluations):
        read()
    if steps:
        run.generator(weights="auto"), run.discriminator()
    return ""


# ----------------------------------------------------------------------------------------------------- data, scores


def make_images() -> None:
    random = np.random.default_rng(0)
    for name in ("ant", "bee", "cat"):
        folder = root() / "images" / name
        folder.mkdir(parents=True)
        for index in range(4):
            Image.fromarray(random.integers(0, 256, (40, 36, 3), dtype=np.uint8)).save(folder / f"{index}.png")


def data_config(place: str) -> Config:
    return Config.preset("twins32", data=str(root() / place), num_classes=None, batch_size=2)


def pack() -> None:
    open_data(data_config("images"), progress=False)


def prepare_data() -> None:
    prepare(root() / "images", root() / "packed", 32, progress=False)


def prepare_again() -> None:
    if not (root() / "packed").exists():
        prepare_data()


def data_state(place: str) -> dict:
    """The images, and the names of all files; the name of a folder in the cache depends on where the images are."""
    images = open_data(data_config(place), progress=False)
    pixels, labels = images.batch(np.arange(images.length))
    names = [name for name in files(root()) if not name.startswith("images/")]
    cached = [path.name for path in sorted((root() / "data" / "cache").glob("*")) if path.is_dir()]
    for name in cached:
        names = [part.replace(name, "KEY") if not name.startswith(".") else part for part in names]
    return dict(
        pixels=hashlib.sha256(pixels.numpy().tobytes()).hexdigest(), labels=labels.tolist(), classes=images.classes, files=sorted(names)
    )


def score_run(num_processes: int = 1) -> list[dict]:
    return evaluate(
        run="parent", steps="all", n=16, scores="fd,accuracy", extractor="twins", reference_n=40, batch_size=16, num_processes=num_processes
    )


def score_state() -> dict:
    # As they are read: half a line of a killed process stays, and is left out.
    records = [{name: value for name, value in record.items() if name not in ("time", "seconds")} for record in Run("parent").evaluations()]
    return dict(
        evaluations=records, files=files(root()),
        cache=digests(root() / "data"), arrays=digests(root() / "data", "*.npy"),
    )  # fmt: skip


def make_parent_and_reference() -> None:
    make_parent()
    score_run()
    (Run("parent").path / "evaluations.jsonl").unlink()


SUBJECTS = [
    Subject("training", lambda: None, train_from_scratch, partial(go_on, train_from_scratch, 4), run_state, honest_run),
    Subject("fork", make_parent, train_fork, partial(go_on, train_fork, 6), run_state, honest_run),
    Subject("resume", train_without_average, resume, partial(go_on, resume, 6), run_state, honest_run),
    Subject("packing", make_images, pack, pack, partial(data_state, "images")),
    Subject("prepare", make_images, prepare_data, prepare_again, partial(data_state, "packed")),
    Subject("reference and evaluation", make_parent, score_run, score_run, score_state),
    Subject("evaluation", make_parent_and_reference, score_run, score_run, score_state),
]


# ------------------------------------------------------------------------------------------- the campaign itself

LINES = "".join(f"{number}\n" for number in range(5000))


def write_carelessly() -> None:
    """What has to be found: a kill leaves half of the file, a full disk ends in a trace."""
    if not (root() / "file").exists():
        (root() / "file").write_text(LINES)


def write_soundly() -> None:
    replace_text(root() / "file", LINES)


def file_state() -> dict:
    return dict(text=(root() / "file").read_text(), files=[name for name in files(root()) if not name.startswith(".")])


PLANTED = [
    Subject("careless", lambda: None, write_carelessly, write_carelessly, file_state),
    Subject("sound", lambda: None, write_soundly, write_soundly, file_state),
]


# ----------------------------------------------------------------------------------------------------------- trials


@dataclass(frozen=True)
class Prepared:
    """A subject with what was there before, the state that it comes to, and the operations that it takes."""

    subject: Subject
    template: Path
    expected: dict
    operations: str

    @classmethod
    @cache
    def of(cls, subject: Subject) -> Prepared:
        template = Path(os.environ["FAULTS_SCRATCH"]) / f"template-{subject.name.replace(' ', '-')}"
        done = fork(cls._make, subject, template, timeout=200)
        if done.how != "done":
            raise RuntimeError(f"{subject.name}, undisturbed: {done.text}")
        return cls(subject, template, *done.value)

    @staticmethod
    def _make(subject: Subject, template: Path) -> tuple[dict, str]:
        template.mkdir()
        use_folders(template)
        _must(fork(subject.prepare))
        whole = template.with_name(f"{template.name}-whole")
        shutil.copytree(template, whole)
        use_folders(whole)
        counted = _must(fork(subject.work, fault=Fault(COUNT), folder=whole))
        return _must(fork(subject.state)).value, counted.operations

    def faults(self) -> Iterator[tuple[str, Fault]]:
        """(row of the table, fault): kills before each operation and halfway through each write, then refusals from each on.

        After an operation is before the next one; and a sync changes nothing that a kill could show.
        """
        for at, kind in enumerate(self.operations, 1):
            if self.operations[at - 2 : at - 1] != "s":
                yield "kill", Fault(KILL, at)
            if kind == "w":
                yield "kill", Fault(KILL_HALF, at)
        for at, kind in enumerate(self.operations, 1):
            if kind not in FULL:
                yield "disk", Fault(FAIL, at, errno.ENOSPC, FULL)
            if kind == "w":
                yield "disk", Fault(SHORT, at, errno.ENOSPC, FULL)
            more = (
                Fault(FAIL, at, errno.EROFS),
                Fault(FAIL_ONCE, at, errno.EIO),
                Fault(FAIL, at, errno.EIO),
                Fault(FAIL, at, errno.EDQUOT, FULL),
            )
            yield "disk", more[at % len(more)]

    def trials(self, kind: str) -> Iterator[Trial]:
        rows = {"kill": f"kill at every write: {self.subject.name}", "disk": f"disk full or failing: {self.subject.name}"}
        for row, fault in self.faults():
            if row == kind:
                yield Trial(rows[row], f"{self.subject.name}/{fault}", partial(self.broken, fault))

    def broken(self, fault: Fault) -> Verdict:
        """Break the work, look, go on, and compare."""
        shutil.copytree(self.template, root(), dirs_exist_ok=True)
        outcome = fork(self.subject.work, fault=fault, folder=root())
        told = {"told": str(root()) in outcome.text, "trace": False}.get(outcome.how)
        verdict = Verdict(told=told, text=f"{outcome.how}: {_last(outcome)}" if told is False else "")
        if outcome.how == "hung":
            verdict.lost = outcome.text
        left = [name for name in files(root()) if any(mark in Path(name).name for mark in LEFT) and Path(name).name.startswith(".")]
        if outcome.how in ("told", "trace") and fault.error in (errno.ENOSPC, errno.EDQUOT) and left:
            verdict.lost = f"left behind on a full disk: {left[0]}"
        seen = fork(self.subject.honest)
        if seen.how != "done" or seen.value:
            verdict.lost = verdict.lost or f"afterwards: {seen.value or _last(seen)}"
        again = fork(self.subject.again)
        if again.how != "done":
            verdict.lost = verdict.lost or f"it cannot go on: {again.how}: {_last(again)}"
            return verdict
        state = fork(self.subject.state)
        if state.how != "done":
            verdict.lost = verdict.lost or f"in the end: {_last(state)}"
            return verdict
        expected, found = self.expected, state.value
        if outcome.how == "done" or fault.error in (errno.EIO, errno.EROFS):  # where nothing could be deleted, hidden files may be left
            expected, found = (s | dict(files=[n for n in s["files"] if "/." not in f"/{n}"]) for s in (expected, found))
        verdict.lost = verdict.lost or difference(expected, found)
        return verdict


def _last(outcome: Outcome) -> str:
    lines = outcome.text.strip().splitlines()
    return lines[-1] if lines else outcome.how


def _must(outcome: Outcome) -> Outcome:
    if outcome.how != "done":
        raise RuntimeError(f"{outcome.how}: {outcome.text}")
    return outcome


def trials(kind: str, only: str = "", subjects: list[Subject] = SUBJECTS) -> Iterator[Trial]:
    """All trials of "kill" or "disk", or of subjects that names which begin with `only` can be of."""
    for subject in subjects:
        if subject.name.startswith(only) or only.startswith(f"{subject.name}/"):
            yield from Prepared.of(subject).trials(kind)
