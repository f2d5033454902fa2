"""Damage of every file that is read: what reads it works and is right, or says in one line which file it is."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from harness import Trial, Verdict, digests, fork, root, use_folders
from writes import NAME, data_config, make_images, pack, prepare_data, score, score_run, tiny

from workbench import AttentionView, Config, Run, train, views
from workbench.attention.snapshots import load_snapshot
from workbench.data import open_data
from workbench.evaluation import evaluate
from workbench.messages import WorkbenchError
from workbench.runs import list_runs
from workbench.views.compare import Comparison

TEXT = (".json", ".jsonl")


# --------------------------------------------------------------------------------------------------------- damages


def damages(path: Path, other: Path | None) -> Iterator[tuple[str, bytes | None]]:
    """(name, new content) of what may befall a file; no content: it is deleted."""
    content = path.read_bytes()
    size = len(content)
    yield "deleted", None
    for name, length in (("empty", 0), ("cut to one byte", 1), ("cut in half", size // 2), ("cut by one byte", size - 1)):
        yield name, content[:length]
    yield "zeroed", bytes(size)
    yield "second half zeroed", content[: size // 2] + bytes(size - size // 2)
    for place in (0, size // 3, 2 * size // 3, size - 1):
        yield f"bit flipped at {place}", content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :] if size else b"\1"
    yield "of another kind", b'{"version": 999, "step": "x", "layers": [], "state": 3}\n'
    yield "noise", np.random.default_rng(0).bytes(max(size, 100))
    if other and other.read_bytes() != content:
        yield f"replaced by {other.parent.name}/{other.name}", other.read_bytes()


def apply(path: Path, content: bytes | None) -> None:
    path.unlink()
    if content is not None:
        path.write_bytes(content)


def twin(path: Path) -> Path | None:
    """Another file of the same kind: of another step, another run, another packed folder."""
    if path.parent.parent.name == "checkpoints":
        found = [p for p in path.parent.parent.glob(f"*/{path.name}") if p != path]
    elif path.stem.isdigit():
        found = [p for p in path.parent.glob(f"*{path.suffix}") if p != path]
    else:
        here = path.parents[1]
        found = [p for p in sorted(here.glob(f"*/{path.name}")) if p != path]
    return found[-1] if found else None


# --------------------------------------------------------------------------------------------------------- readers


@dataclass(frozen=True)
class Reader:
    """Something that reads; `exact`: what it gives is as before the damage, or it says why not."""

    name: str
    read: Callable[[], object]
    exact: bool = False


def weights(net) -> str:
    content = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        content.update(name.encode() + value.contiguous().numpy().tobytes())
    return content.hexdigest()


def command(*words: str) -> str:
    """What a command line prints; one that fails raises a WorkbenchError of that."""
    from workbench.__main__ import main

    out, err = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, ["workbench", *words]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main()
    finally:
        sys.argv = before
    print(err.getvalue(), file=sys.stderr)
    if code:
        raise WorkbenchError(err.getvalue().strip())
    return out.getvalue()


def snapshot(step: int) -> str:
    taken = load_snapshot(Run(NAME).attention_path(step))
    content = hashlib.sha256(taken.images.numpy().tobytes())
    for name, layer in sorted(taken.layers.items()):
        content.update(name.encode() + layer.query.numpy().tobytes())
    return content.hexdigest()


def dashboard() -> None:
    from workbench.widgets.dashboard import Dashboard

    Dashboard(NAME).refresh()


def go_on() -> dict:
    train(Config.from_parameters(dict(resume=NAME, steps=8)), score)
    return digests(Run(NAME).path / "checkpoints" / "8")


def fork_off() -> dict:
    return digests(train(Config.from_parameters(dict(resume=f"{NAME}@4", run="forked", steps=6, lr_d=1e-4)), score).path / "checkpoints")


def scored() -> dict:
    return evaluate(run=NAME, n=16, scores="fd", extractor="twins", reference_n=40, batch_size=16, again=True)[0]["scores"]


def others() -> list[str]:
    return [run.name for run in list_runs() if run.name == "other"]


RUN_READERS = [
    Reader("Run.status", lambda: Run(NAME).status()),
    Reader("Run.config", lambda: Run(NAME).config.to_json()),
    Reader("Run.provenance", lambda: Run(NAME).provenance),
    Reader("Run.history", lambda: Run(NAME).history()),
    Reader("Run.spectra", lambda: Run(NAME).spectra()),
    Reader("Run.evaluations", lambda: Run(NAME).evaluations()),
    *[Reader(f"Run.generator({step})", lambda step=step: weights(Run(NAME).generator(step)), True) for step in (4, 6)],
    *[Reader(f"Run.generator({step}, raw)", lambda step=step: weights(Run(NAME).generator(step, "raw")), True) for step in (4, 6)],
    *[Reader(f"Run.discriminator({step})", lambda step=step: weights(Run(NAME).discriminator(step)), True) for step in (4, 6)],
    *[Reader(f"attention_path({step})", partial(snapshot, step), True) for step in (4, 6)],
    Reader("list_runs", others, True),
    Reader("python -m workbench runs", lambda: "other" in command("runs"), True),
    Reader("python -m workbench show", lambda: command("show", NAME) and None),
    Reader("Comparison", lambda: Comparison(runs="").overview() and None),
    Reader("Comparison.differences", lambda: Comparison(runs="").differences() and None),
    Reader("Dashboard", dashboard),
    Reader("views.train.samples", lambda: hashlib.sha256(views.train.samples(Run(NAME)).tobytes()).hexdigest(), True),
    Reader("views.train.curves", lambda: views.train.curves(Run(NAME)) and None),
    Reader("views.train.diagnostics", lambda: views.train.diagnostics(Run(NAME)) and None),
    Reader("AttentionView.figure", lambda: AttentionView(run=NAME).figure() and None),
]
# Last, and in this order: they write.
WRITING_READERS = [Reader("evaluate", scored, True), Reader("fork", fork_off, True), Reader("resume", go_on, True)]


def packed_images(place: str) -> dict:
    images = open_data(data_config(place), progress=False)
    pixels, labels = images.batch(np.arange(images.length))
    return dict(pixels=hashlib.sha256(pixels.numpy().tobytes()).hexdigest(), labels=labels.tolist(), classes=list(images.classes))


def read_all(readers: list[Reader]) -> dict[str, tuple[str, object]]:
    """What each reader gives: ("value", it), ("told", a line) or ("trace", its trace)."""
    found = {}
    for reader in readers:
        print(f"reading: {reader.name}", flush=True)
        try:
            found[reader.name] = "value", reader.read()
        except WorkbenchError as error:
            found[reader.name] = "told", str(error)
        except BaseException:
            found[reader.name] = "trace", traceback.format_exc()
    return found


# ---------------------------------------------------------------------------------------------------------- trials


@dataclass(frozen=True)
class Damaged:
    """A folder whose files are damaged one by one: how it is made, which files, and what reads them."""

    kind: str
    prepare: Callable[[], None]
    files: Callable[[Path], list[Path]]
    readers: Callable[[Path], list[Reader]]  # of a damaged file

    def trials(self) -> Iterator[Trial]:
        template = Path(os.environ["FAULTS_SCRATCH"]) / f"damage-{self.kind.replace(' ', '-')}"
        template.mkdir()
        use_folders(template)
        made = fork(self.prepare)
        if made.how != "done":
            raise RuntimeError(f"{self.kind}: {made.text}")
        healthy: dict[tuple, dict] = {}
        for path in self.files(template):
            readers = self.readers(path)
            key = tuple(reader.name for reader in readers)
            if key not in healthy:
                healthy[key] = fork(self._read, template, None, None, readers).value
            short = path.relative_to(template)
            for name, content in damages(path, twin(path)):
                work = partial(self.damaged, template, short, name, content, readers, healthy[key])
                yield Trial(f"damage of {self.kind}: {_class(name)}", f"damage/{short}: {name}", work)

    @staticmethod
    def _read(template: Path, short: Path | None, content: bytes | None, readers: list[Reader]) -> dict:
        here = root() if short else template.with_name(f"{template.name}-healthy-{len(readers)}")
        shutil.copytree(template, here, dirs_exist_ok=True)
        use_folders(here)
        if short:
            apply(here / short, content)
        return read_all(readers)

    def damaged(self, template: Path, short: Path, name: str, content: bytes | None, readers: list[Reader], healthy: dict) -> Verdict:
        """Damage a file, read everything, and compare with what was read before."""
        outcome = fork(self._read, template, short, content, readers, timeout=120)
        if outcome.how != "done" and not isinstance(outcome.value, dict):
            return Verdict(lost=f"{outcome.how}: {outcome.text.strip()[-300:]}")
        verdict, where = Verdict(), str(short)
        # What is not sealed: a changed digit in a record is as good a record, and a picture does not say of which step it is.
        unprovable = (short.suffix in TEXT and "checkpoints" not in short.parts and ("flipped" in name or "replaced" in name)) or (
            short.suffix == ".png" and ("replaced" in name or content is None)
        )
        for reader in readers:
            how, value = outcome.value[reader.name]
            expected = healthy[reader.name][1]
            if how == "told":
                if "\n" in value.strip() or not _named(short, content, value):
                    verdict.told, verdict.text = False, f"{reader.name}, {where} {name}: {value[:300]}"
                elif verdict.told is None:
                    verdict.told = True
            elif how == "trace":
                verdict.told, verdict.text = False, f"{reader.name}, {where} {name}: {value.strip().splitlines()[-1][:300]}"
            elif reader.exact and value != expected and not unprovable:
                verdict.lost = verdict.lost or f"wrong in silence: {reader.name}, {where} {name}"
            elif isinstance(expected, list) and not unprovable and not all(row in expected for row in value):
                verdict.lost = verdict.lost or f"other records in silence: {reader.name}, {where} {name}"
        return verdict


def _named(short: Path, content: bytes | None, text: str) -> bool:
    """Whether a line says which file it is about; of packed data, which folder; of a deleted one, what is not there."""
    if short.name in text or (short.parts[0] == "packed" and str(root() / "packed") in text):
        return True
    missing = f"no run {NAME!r}" if short.name == "config.json" else f"no attention of step {short.stem}"
    return content is None and (missing in text or str(short.parent) in text)


def _class(name: str) -> str:
    for word in ("bit flipped", "replaced", "zeroed", "cut", "empty"):
        if word in name:
            return {"empty": "cut"}.get(word, word)
    return {"of another kind": "another kind", "noise": "another kind"}.get(name, name)


def make_runs() -> None:
    train(tiny(steps=6, sample_every=2, keep_checkpoints=2), score)
    train(tiny(run="other", width=16, steps=2), score)
    scored()


def run_files(folder: Path) -> list[Path]:
    files = sorted(path for path in (folder / "outputs" / NAME).rglob("*") if path.is_file())
    return [path for path in files if path.stem not in ("0", "2") and path.name != "train.log"]


def run_readers(path: Path) -> list[Reader]:
    """All; those that train only for files that they read."""
    return RUN_READERS + ([] if path.suffix == ".png" or path.parent.name == "attention" else WRITING_READERS)


def make_packed() -> None:
    make_images()
    prepare_data()
    for path in (root() / "images").rglob("*.png"):
        path.with_name(f"x{path.name}").write_bytes(path.read_bytes())
    from workbench.data import prepare

    prepare(root() / "images", root() / "packed2", 32, progress=False)


def make_cache() -> None:
    make_images()
    pack()


def make_reference() -> None:
    train(tiny(run="parent", keep_checkpoints=None), score)
    score_run()


def everything(folder: Path, place: str) -> list[Path]:
    return sorted(path for path in (folder / place).rglob("*") if path.is_file() and path.suffix != ".lock")


def again_scored() -> list:
    return [record["scores"] for record in evaluate(
        run="parent", steps="all", n=16, scores="fd,accuracy,precision_recall", extractor="twins", reference_n=40, batch_size=16, again=True
    )]  # fmt: skip


FOLDERS = [
    Damaged("a run", make_runs, run_files, run_readers),
    Damaged(
        "packed data",
        make_packed,
        partial(everything, place="packed"),
        lambda path: [Reader("open_data", partial(packed_images, "packed"), True)],
    ),
    Damaged(
        "the cache of data",
        make_cache,
        partial(everything, place="data"),
        lambda path: [Reader("open_data", partial(packed_images, "images"), True)],
    ),
    Damaged(
        "the cache of references", make_reference, partial(everything, place="data"), lambda path: [Reader("evaluate", again_scored, True)]
    ),
]


def trials() -> Iterator[Trial]:
    """All damages of all files."""
    for folder in FOLDERS:
        yield from folder.trials()
