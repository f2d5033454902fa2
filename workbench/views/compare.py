"""Comparing runs: what `compare.ipynb` calls. Every view reads the run folders anew, so it works while runs go on.

Grouping and choosing are in `groups`, drawing is in `figures`; here are the notebook's parameters, its tables, and what it writes.
"""

from __future__ import annotations

import base64
import html
import io
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..figures import Drawing, Plot, Table, curves, growth, listing, measured, sample_rows, scatter, scores, write
from ..files import replace_text, storing
from ..messages import shown
from ..parameters import ParameterError, Parameters, WorkbenchError, parameter
from ..places import folder_name, outputs_dir
from ..progress import progress
from ..readers import read_list, read_steps
from ..runs import Run, find_runs, git_state
from ..runs.records import is_finite
from ..studies import groups
from ..studies.groups import AXES, Group
from ..studies.scores import Score, at_steps, scores_by_name
from ..training.diagnostics import with_margin

STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1080px; padding: 0 1em; color: #1d2126; background: #fff }
h1 { font-size: 1.5em; margin-bottom: 0 } h2 { font-size: 1.15em; margin-top: 2em } p, ul { color: #5a6270 }
section { overflow-x: auto } img { max-width: 100%; image-rendering: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px }
th, td { padding: .25em .8em; border-bottom: 1px solid #e3e6ea } thead th { border-bottom: 2px solid #9aa3ad; text-align: left }
"""


@dataclass(frozen=True)
class Comparison(Parameters):
    """Which runs to compare, and how: the parameters of `compare.ipynb`, and its views.

    Raises
    ------
    ParameterError
        For a value that does not fit.
    """

    runs: str = parameter("", "names, patterns such as cats-*, or tags, separated by commas", read=read_list, none="all with a history")
    axis: str = parameter("steps", "x axis of curves: G steps, images, or hours of training", choices=AXES)
    keys: str = parameter(
        "", "curves: columns of history.jsonl or patterns such as gamma_*, separated by commas", read=read_list, none="all"
    )
    scores: str = parameter("", "scores to show, separated by commas, such as fd_twins,twins_hue", read=read_list, none="all")
    protocol: str = parameter("", "only scores whose protocol contains this text, such as official or EMA", none="any")
    across_protocols: bool = parameter(False, "show scores of different protocols together, though they do not compare")
    steps: str = parameter(
        "last", "steps of samples and scores: last (of each run), common (to all), or 500,1000", read=read_steps("last", "common")
    )
    against: str = parameter("", "parameters to draw scores against, separated by commas", read=read_list, none="all that differ")
    seed: int = parameter(0, "seed of the samples' latents", low=0)
    columns: int = parameter(8, "samples of each run", low=1, high=32)
    weights: str = parameter("auto", "weights of G; auto: EMA if available", choices=("ema", "raw", "auto"))
    out: str = parameter("", "folder to write, in outputs/comparisons or a path", none="named after the runs")

    def __post_init__(self):
        super().__post_init__()
        require_folder("out", self.out, self.folder)

    # ------------------------------------------------------------------------------------------------- what it is about

    def groups(self) -> list[Group]:
        """The runs, those that differ in the seed alone together.

        Raises
        ------
        WorkbenchError
            If a name, pattern or tag stands for nothing, or none of the named runs can be read. One that cannot is otherwise left out.
        """
        runs = find_runs(self.runs)
        kept = groups.readable(runs)
        if runs and not kept and self.runs.strip(" ,"):
            raise WorkbenchError(
                f"runs={shown(self.runs)}: none of the {len(runs)} runs can be read; see the lines above, fix or delete them"
            )
        return groups.group(kept)

    @property
    def folder(self) -> Path:
        """Where it is written to: `outputs/comparisons/<name>`."""
        return export_folder("comparisons", self.out, self.runs.strip(" ,") or "all")

    @property
    def _selection(self) -> dict:
        return dict(names=self.scores, protocol=self.protocol, across_protocols=self.across_protocols)

    # ------------------------------------------------------------------------------------------------------ views

    def overview(self) -> Table:
        """How every run stands: a row each."""
        rows = []
        for group in self.groups():
            for run in group.runs:
                status, history, checkpoints = run.status(), run.history(), run.checkpoint_steps()
                last = {name: value for name, value in history[-1].items() if is_finite(value)} if history else {}
                state = "shipped" if run.reference == "demo" and status["pid"] is None else status["state"]
                rows.append({
                    "run": run.name, "group": group.label, "state": state, "step": last.get("step", 0), "of": run.config.steps,
                    "images": last.get("images", 0), "hours": last.get("seconds", 0) / 3600,
                    "checkpoint": checkpoints[-1] if checkpoints else None, "evaluations": len(run.evaluations()),
                })  # fmt: skip
        return Table(rows, () if rows else ("No run has a history yet",))

    def differences(self) -> Table:
        """The parameters in which the runs differ: a row for each group, or, where there are more of them than groups, one for each."""
        members = self.groups()
        names = list(members[0].values) if members else []
        if len(names) > len(members):
            return Table([{"parameter": name} | {group.label: _cell(group.values[name]) for group in members} for name in names])
        rows = [
            {"runs": group.label, **{name: _cell(group.values[name]) for name in names}}
            | {"seeds": ", ".join(map(str, group.seeds)), "n": len(group.runs)}
            for group in members
        ]
        return Table(rows, () if names or len(members) != 1 else ("These runs differ in nothing but the seed",))

    def curves(self) -> Plot:
        """What the histories tell."""
        return curves(_runs(self.groups()), self.axis, self.keys)

    def growth(self) -> Plot | None:
        """How the largest singular values of both networks grow; None where no run has written any down."""
        runs = _runs(self.groups())
        return growth(runs, self.axis) if any(run.spectra() for run in runs) else None

    def samples(self) -> Drawing | None:
        """The same latents through every run, at the chosen steps; None where no run has such a checkpoint."""
        rows = []
        members = self.groups()
        steps_of = {run.path: set(run.checkpoint_steps()) for run in _runs(members)}
        common = set.intersection(*(steps for steps in steps_of.values() if steps)) if any(steps_of.values()) else set()
        for group in members:
            for run in group.runs:
                steps = steps_of[run.path]
                if self.steps in ("last", "common"):
                    among = steps & common if self.steps == "common" else steps
                    chosen = [max(among)] if among else []
                else:
                    chosen = [int(step) for step in self.steps.split(",") if int(step) in steps]
                seed = f", seed {run.config.seed}" if len(group.runs) > 1 else ""
                rows += [(f"{group.label.partition(' × ')[0]}{seed}\nstep {step:,}", run, step) for step in chosen]  # noqa: RUF001
        with progress(len(rows), "rows of samples") as advance:
            drawing = sample_rows(rows, self.seed, self.columns, self.weights)
            advance(len(rows))
        return drawing

    def scores_over_time(self) -> Plot:
        """Scores of all evaluated checkpoints.

        Raises
        ------
        WorkbenchError
            If there is no such score, or scores do not compare.
        """
        return scores(_runs(self.groups()), self.scores, None, self.across_protocols, axis=self.axis, protocol=self.protocol)

    def score_table(self) -> Table:
        """Scores of the chosen steps: mean ± standard deviation (n - 1) over the runs of a group, with their protocols."""
        members = self.groups()
        found = scores_by_name(members, **self._selection)
        chosen = {name: at_steps(values, self.steps) for name, values in found.items()}
        kinds = list(dict.fromkeys(score.protocol for values in chosen.values() for score in values))
        rows = []
        for group in members:
            for kind in kinds:
                # Steps that were asked for get a row each; the newest of each run are one row, which tells the steps.
                own = [score for values in chosen.values() for score in values if score.group is group and score.protocol == kind]
                split = sorted({score.step for score in own}) if self.steps not in ("last", "common") else [None] if own else []
                rows += [self._score_row(group, own, step, kinds) for step in split]
        notes = [f"Mean ± standard deviation (n - 1) over n runs that differ in the seed alone; {_which(self.steps)}"] if rows else []
        notes += (
            [f"Protocol: {kind}" for kind in kinds] if len(kinds) == 1 else [f"Protocol {k}: {kind}" for k, kind in enumerate(kinds, 1)]
        )
        notes += ["Scores of different protocols do not compare"] if len(kinds) > 1 else []
        made = Table(rows, tuple(notes) or ("No evaluation yet",))
        return made.transposed("score") if rows and len(chosen) > max(len(rows), 4) else made

    def _score_row(self, group: Group, own: Sequence[Score], step: int | None, kinds: list[str]) -> dict:
        own = [score for score in own if step is None or score.step == step]
        steps = sorted({score.step for score in own})
        row: dict = {"runs": group.label} | ({"protocol": kinds.index(own[0].protocol) + 1} if len(kinds) > 1 else {})
        row["step"] = steps[0] if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
        row["n"] = max(Counter(score.name for score in own).values())
        return row | measured(own, row["n"])

    def against_parameters(self) -> Plot:
        """Scores of the chosen steps against the parameters in which the runs differ, a point for every run."""
        return scatter(_runs(self.groups()), self.scores, self.against, steps=self.steps, **self._others)

    @property
    def _others(self) -> dict:
        return dict(protocol=self.protocol, across_protocols=self.across_protocols)

    # ------------------------------------------------------------------------------------------------------ export

    def export(self) -> Path:
        """Write everything to `folder`: tables as CSV and LaTeX, figures as SVG and PDF with sidecars, all numbers, and one page.

        `history.csv` and `scores.csv` hold every logged step and every score of every run; `comparison.html` opens without a network.
        """
        members, folder = self.groups(), self.folder
        tables = {"overview": self.overview(), "differences": self.differences(), "score-table": self.score_table()}
        drawn = {"curves": self.curves(), "scores": self.scores_over_time(), "scatter": self.against_parameters()}
        drawn |= {"growth": self.growth(), "samples": self.samples()}
        figures = {name: made for name, made in drawn.items() if made is not None and (name == "samples" or len(made.figure.data))}
        histories, values, page = all_histories(members), all_scores(members), self._page(members, tables, figures)
        with storing(folder):
            write(folder, tables, CAPTIONS, figures)
            histories.csv(folder / "history.csv")
            values.csv(folder / "scores.csv")
            replace_text(folder / "comparison.html", page)
        print(listing(folder))
        return folder

    def _page(self, members: Sequence[Group], tables: dict[str, Table], figures: dict[str, Drawing | Plot]) -> str:
        commit = (git_state()["commit"] or "unknown")[:10]
        made = f"{len(_runs(members))} runs in {len(members)} groups, as of {time.strftime('%Y-%m-%d %H:%M')}, commit {commit}"
        parts = {
            "Runs": [tables["overview"]],
            "What differs": [tables["differences"]],
            "Curves": [figures.get("curves")],
            "Growth of the weights": [figures.get("growth")],
            "Scores": [tables["score-table"], figures.get("scores")],
            "Scores against parameters": [figures.get("scatter")],
            "The same latents": [figures.get("samples")],
        }
        body = "".join(
            f"<h2>{title}</h2>{''.join(f'<section>{_embedded(thing)}</section>' for thing in things if thing is not None)}"
            for title, things in parts.items()
            if any(thing is not None for thing in things)
        )
        interactive = any(isinstance(thing, Plot) for thing in figures.values())
        return (
            f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(self.folder.name)}</title><style>{STYLE}</style>'
            f"{_plotly() if interactive else ''}</head><body><h1>{html.escape(self.folder.name)}</h1><p>{html.escape(made)}</p>{body}</body></html>\n"
        )


CAPTIONS = {
    "overview": "The runs",
    "differences": "The parameters in which the runs differ",
    "score-table": "Scores",
}


def all_histories(members: Sequence[Group]) -> Table:
    """Every logged step of every run: a row each."""
    rows = []
    for group in members:
        for run, seed in zip(group.runs, group.seeds, strict=True):
            head = {"run": run.name, "group": group.label, "seed": seed}
            rows += [head | {name: value for name, value in row.items() if is_finite(value)} for row in with_margin(run.history())]
    return Table(rows)


def all_scores(members: Sequence[Group]) -> Table:
    """Every score of every evaluation of every run, with its protocol: a row each."""
    found = scores_by_name(members, across_protocols=True)
    seeds = {run.path: seed for group in members for run, seed in zip(group.runs, group.seeds, strict=True)}
    return Table([
        {
            "run": score.run.name, "group": score.group.label, "seed": seeds[score.run.path], "step": score.step, "score": score.name,
            "value": score.value, "error": _error(score), "protocol": score.protocol,
        }
        for values in found.values() for score in values
    ])  # fmt: skip


def _error(score: Score) -> float | None:
    """The standard deviation of a score, where its record has one."""
    errors = score.record.get("errors")
    error = errors.get(score.name) if isinstance(errors, dict) else None
    return error if is_finite(error) else None


# ----------------------------------------------------------------------------------------- where it goes, and how again


def export_folder(kind: str, out: str, default: str) -> Path:
    """The folder to export to: `out`, a name in `outputs/<kind>` or a path, or one that is named after `default`."""
    return outputs_dir() / kind / (os.path.expanduser(out) if out else folder_name(default))


def require_folder(parameter: str, out: str, folder: Path) -> None:
    """Refuse a folder that cannot be exported to, before the work that is to be exported; "" is one of our own naming.

    Raises
    ------
    ParameterError
        If `out` leads out of its place, or is no folder that can be written to.
    """
    if not out:
        return
    reason = ""
    relative = not os.path.isabs(os.path.expanduser(out))
    there = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    if not (out.strip() and out.isprintable()):
        reason = "names no folder"
    elif relative and (".." in folder.parts or out.startswith("~") or Path(out) == Path()):
        reason = "leads elsewhere: give a name, or an absolute path"
    elif any(len(os.fsencode(part)) > 255 for part in folder.parts):
        reason = "has a name of more than 255 bytes"
    elif not there.is_dir():
        reason = f"cannot be a folder: {there} is none"
    elif not os.access(there, os.W_OK | os.X_OK):
        reason = f"cannot be written to: check the permissions of {there}, and that its disk can be written to"
    if reason:
        raise ParameterError(f"{parameter}={shown(out)} {reason}")


def _runs(members: Sequence[Group]) -> list[Run]:
    return [run for group in members for run in group.runs]


def _cell(value):
    """A parameter in a table: numbers as they were given, text for the rest."""
    return groups.written(value) or "(empty)"


def _which(steps: str) -> str:
    return {"last": "the newest evaluation of each run", "common": "the newest step that all runs have"}.get(steps, f"steps {steps}")


# ------------------------------------------------------------------------------------------------------- the page


def _embedded(thing: Table | Drawing | Plot) -> str:
    """Something to show as HTML that needs nothing from outside, but for `_plotly` in the page."""
    if isinstance(thing, Table):
        return thing._repr_html_()
    if isinstance(thing, Plot):
        return thing.figure.to_html(full_html=False, include_plotlyjs=False, config=dict(displaylogo=False, responsive=True))
    stream = io.BytesIO()
    Image.open(io.BytesIO(thing.png())).convert("RGB").save(stream, "WEBP", quality=90)
    return f'<img alt="samples" src="data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}">'


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return f"<script>{get_plotlyjs()}</script>"
