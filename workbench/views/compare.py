"""Comparing runs: what `compare.ipynb` calls. Every view reads the run folders anew, so it works while runs go on.

Grouping and choosing are in `groups`, its figures in `views.across_runs`; here are the notebook's parameters, its tables, and what it writes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..figures import Drawing, Plot, Table, listing, measured, write
from ..files import replace_text, storing
from ..messages import shown
from ..parameters import Parameters, WorkbenchError, parameter
from ..progress import progress
from ..readers import read_list, read_steps
from ..runs import Run, find_runs, git_state
from ..runs.records import is_finite
from ..studies import groups
from ..studies.groups import AXES, Group
from ..studies.scores import Score, at_steps, scores_by_name
from ..training.diagnostics import with_margin
from . import across_runs
from .export import export_folder, page, require_folder


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
        named = find_runs(self.runs)
        kept = groups.readable(named)
        if named and not kept and self.runs.strip(" ,"):
            raise WorkbenchError(
                f"runs={shown(self.runs)}: none of the {len(named)} runs can be read; see the lines above, fix or delete them"
            )
        return groups.group(kept)

    @property
    def folder(self) -> Path:
        """Where it is written to: `outputs/comparisons/<name>`."""
        return export_folder("comparisons", self.out, self.runs.strip(" ,") or "all")

    @property
    def _selection(self) -> dict:
        return dict(names=self.scores, **self._others)

    @property
    def _others(self) -> dict:
        return dict(protocol=self.protocol, across_protocols=self.across_protocols)

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
        return across_runs.curves(_runs(self.groups()), self.axis, self.keys)

    def growth(self) -> Plot | None:
        """How the largest singular values of both networks grow; None where no run has written any down."""
        members = _runs(self.groups())
        return across_runs.growth(members, self.axis) if any(run.spectra() for run in members) else None

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
            drawing = across_runs.sample_rows(rows, self.seed, self.columns, self.weights)
            advance(len(rows))
        return drawing

    def scores_over_time(self) -> Plot:
        """Scores of all evaluated checkpoints.

        Raises
        ------
        WorkbenchError
            If there is no such score, or scores do not compare.
        """
        return across_runs.scores(_runs(self.groups()), self.scores, axis=self.axis, **self._others)

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
        return across_runs.scatter(_runs(self.groups()), self.scores, self.against, steps=self.steps, **self._others)

    # ------------------------------------------------------------------------------------------------------ export

    def export(self) -> Path:
        """Write everything to `folder`: tables as CSV and LaTeX, figures as SVG and PDF with sidecars, all numbers, and one page.

        `history.csv` and `scores.csv` hold every logged step and every score of every run; `comparison.html` opens without a network.
        """
        members, folder = self.groups(), self.folder
        tables = {"overview": self.overview(), "differences": self.differences(), "score-table": self.score_table()}
        drawn = {"curves": self.curves(), "scores": self.scores_over_time(), "scatter": self.against_parameters()}
        drawn |= {"growth": self.growth(), "samples": self.samples()}
        figures = {name: made for name, made in drawn.items() if made is not None and (name == "samples" or made.description.lines)}
        histories, values, page = all_histories(members), all_scores(members), self._page(members, tables, figures)
        with storing(folder):
            write(folder, tables, CAPTIONS, figures)
            histories.csv(folder / "history.csv")
            values.csv(folder / "scores.csv")
            replace_text(folder / "comparison.html", page)
        print(listing(folder))
        return folder

    def _page(self, members: Sequence[Group], tables: dict[str, Table], figures: dict[str, Drawing]) -> str:
        commit = (git_state()["commit"] or "unknown")[:10]
        about = f"{len(_runs(members))} runs in {len(members)} groups, as of {time.strftime('%Y-%m-%d %H:%M')}, commit {commit}"
        sections = {
            "Runs": [tables["overview"]],
            "What differs": [tables["differences"]],
            "Curves": [figures.get("curves")],
            "Growth of the weights": [figures.get("growth")],
            "Scores": [tables["score-table"], figures.get("scores")],
            "Scores against parameters": [figures.get("scatter")],
            "The same latents": [figures.get("samples")],
        }
        return page(self.folder.name, about, sections)


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


def _runs(members: Sequence[Group]) -> list[Run]:
    return [run for group in members for run in group.runs]


def _cell(value):
    """A parameter in a table: numbers as they were given, text for the rest."""
    return groups.written(value) or "(empty)"


def _which(steps: str) -> str:
    return {"last": "the newest evaluation of each run", "common": "the newest step that all runs have"}.get(steps, f"steps {steps}")
