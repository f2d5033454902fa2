"""What `compare.ipynb` calls: its parameters, tables, figures and export. Every view reads the run folders anew, also during training."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..figures import Drawing, Plot, Table, listing, measured, write
from ..files import replace_text, storing
from ..machine import git_state
from ..messages import WorkbenchError, counted, short_repr
from ..parameters import Parameters, parameter, written
from ..progress import progress
from ..readers import read_list, read_steps
from ..records import finite, is_finite, with_margin
from ..runs import Run, find_runs
from ..studies import groups
from ..studies.groups import AXES, Group
from ..studies.scores import CheckpointScore, at_steps, scores_by_name
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
        require_folder(self.out, self.folder)

    # ------------------------------------------------------------------------------------------------- the runs

    def readable_runs(self) -> list[Run]:
        """The runs to compare; unreadable ones are reported and left out.

        Raises
        ------
        WorkbenchError
            If a name, pattern or tag matches no run, or no run can be read.
        """
        matches = find_runs(self.runs)
        runs = groups.readable(matches)
        if matches and not runs and self.runs.strip(" ,"):
            raise WorkbenchError(
                f"runs={short_repr(self.runs)}: none of the {counted(len(matches), 'run')} can be read; see the lines above, fix or delete them"
            )
        return runs

    def groups(self) -> list[Group]:
        """The runs in groups that differ in the seed alone."""
        return groups.group(self.readable_runs())

    @property
    def folder(self) -> Path:
        """The folder of the export: `outputs/comparisons/<name>`."""
        return export_folder("comparisons", self.out, self.runs.strip(" ,") or "all")

    @property
    def _protocols(self) -> dict:
        return dict(protocol=self.protocol, across_protocols=self.across_protocols)

    # ------------------------------------------------------------------------------------------------------ views

    def overview(self) -> Table:
        """State and progress of every run, a row for each."""
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
        """The parameters in which the runs differ: a row for each group; with more parameters than groups, a row for each parameter."""
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
        """The columns of the histories."""
        return across_runs.curves(self.readable_runs(), self.axis, self.keys)

    def growth(self) -> Plot | None:
        """The largest singular values of both networks through training; None if no run recorded them."""
        members = self.readable_runs()
        return across_runs.growth(members, self.axis) if any(run.spectra() for run in members) else None

    def samples(self) -> Drawing | None:
        """The same latents through every run, at the chosen steps; None if no run has such a checkpoint."""
        rows = []
        members = [(group, run, set(run.checkpoint_steps())) for group in self.groups() for run in group.runs]
        saved = [steps for _, _, steps in members if steps]
        for group, run, steps in members:
            if self.steps == "common":
                steps = set.intersection(*saved) & steps if saved else steps
            selected = (
                sorted(steps)[-1:] if self.steps in ("last", "common") else [k for k in map(int, self.steps.split(",")) if k in steps]
            )
            seed = f", seed {run.config.seed}" if len(group.runs) > 1 else ""
            rows += [(f"{group.label.partition(' × ')[0]}{seed}\nstep {step:,}", run, step) for step in selected]  # noqa: RUF001
        with progress(len(rows), "rows of samples") as advance:
            drawing = across_runs.sample_rows(rows, self.seed, self.columns, self.weights)
            advance(len(rows))
        return drawing

    def scores_over_time(self) -> Plot:
        """Scores of all evaluated checkpoints.

        Raises
        ------
        WorkbenchError
            If there is no such score, or scores of different protocols meet.
        """
        return across_runs.scores(self.readable_runs(), self.scores, axis=self.axis, **self._protocols)

    def score_table(self) -> Table:
        """Scores of the chosen steps: mean ± standard deviation (n - 1) over the runs of a group, with their protocols."""
        members = self.groups()
        by_name = scores_by_name(members, self.scores, **self._protocols)
        scores = [score for of_name in by_name.values() for score in at_steps(of_name, self.steps)]
        protocols = list(dict.fromkeys(score.protocol for score in scores))
        rows: list[dict] = []
        for group in members:
            for protocol in protocols:
                same = [score for score in scores if score.group is group and score.protocol == protocol]
                # Each given step has a row; the newest steps of a group's runs share one row, which names them.
                steps_of_rows = sorted({score.step for score in same}) if self.steps not in ("last", "common") else []
                for part in [[score for score in same if score.step == step] for step in steps_of_rows] or ([same] if same else []):
                    row: dict = {"runs": group.label} | ({"protocol": protocols.index(protocol) + 1} if len(protocols) > 1 else {})
                    steps = sorted({score.step for score in part})
                    row["step"] = steps[0] if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
                    row["n"] = max(Counter(score.name for score in part).values())
                    rows.append(row | measured(part, row["n"]))
        if not rows:
            return Table([], ("No evaluation yet",))
        notes = [f"Mean ± standard deviation (n - 1) over n runs that differ in the seed alone; {across_runs.steps_in_words(self.steps)}"]
        notes += [f"Protocol{f' {k}' if len(protocols) > 1 else ''}: {protocol}" for k, protocol in enumerate(protocols, 1)]
        notes += ["Scores of different protocols do not compare"] if len(protocols) > 1 else []
        table = Table(rows, tuple(notes))
        return table.transposed("score") if len(by_name) > max(len(rows), 4) else table

    def against_parameters(self) -> Plot:
        """Scores of the chosen steps against the parameters in which the runs differ, a point for every run."""
        return across_runs.scatter(self.readable_runs(), self.scores, self.against, steps=self.steps, **self._protocols)

    # ------------------------------------------------------------------------------------------------------ export

    def export(self) -> Path:
        """Write everything to `folder`: tables as CSV and LaTeX, figures as SVG and PDF with sidecars, all numbers, and one page.

        `history.csv` and `scores.csv` hold every logged step and every score of every run; `comparison.html` opens without a network.
        """
        members, folder = self.groups(), self.folder
        tables = {"overview": self.overview(), "differences": self.differences(), "score-table": self.score_table()}
        plots = {"curves": self.curves(), "scores": self.scores_over_time(), "scatter": self.against_parameters(), "growth": self.growth()}
        figures: dict[str, Drawing] = {name: plot for name, plot in plots.items() if plot and plot.description.lines}
        if samples := self.samples():
            figures["samples"] = samples
        histories, scores, page = all_histories(members), all_scores(members), self._page(members, tables, figures)
        with storing(folder):
            write(folder, tables, CAPTIONS, figures)
            histories.csv(folder / "history.csv")
            scores.csv(folder / "scores.csv")
            replace_text(folder / "comparison.html", page)
        print(listing(folder))
        return folder

    def _page(self, members: Sequence[Group], tables: dict[str, Table], figures: dict[str, Drawing]) -> str:
        commit, n = (git_state()["commit"] or "unknown")[:10], sum(len(group.runs) for group in members)
        about = f"{counted(n, 'run')} in {counted(len(members), 'group')}, as of {time.strftime('%Y-%m-%d %H:%M')}, commit {commit}"
        sections: dict[str, list[Table | Drawing | None]] = {
            "Runs": [tables["overview"]],
            "What differs": [tables["differences"]],
            "Curves": [figures.get("curves")],
            "Growth of the weights": [figures.get("growth")],
            "Scores": [tables["score-table"], figures.get("scores")],
            "Scores against parameters": [figures.get("scatter")],
            "The same latents": [figures.get("samples")],
        }
        return page(self.folder.name, about, sections)


CAPTIONS = {"overview": "The runs", "differences": "The parameters in which the runs differ", "score-table": "Scores"}


def all_histories(members: Sequence[Group]) -> Table:
    """Every logged step of every run: a row each."""
    rows = []
    for group in members:
        for run, seed in zip(group.runs, group.seeds, strict=True):
            head = {"run": run.name, "group": group.label, "seed": seed}
            rows += [head | finite(row) for row in with_margin(run.history())]
    return Table(rows)


def all_scores(members: Sequence[Group]) -> Table:
    """Every score of every evaluation of every run, with its protocol: a row each."""
    return Table([
        {
            "run": score.run.name, "group": score.group.label, "seed": score.run.config.seed, "step": score.step, "score": score.name,
            "value": score.value, "error": _error(score), "protocol": score.protocol,
        }
        for scores in scores_by_name(members, across_protocols=True).values() for score in scores
    ])  # fmt: skip


def _error(score: CheckpointScore) -> float | None:
    """The standard deviation of a score, if its record has one."""
    errors = score.record.get("errors")
    error = errors.get(score.name) if isinstance(errors, dict) else None
    return error if is_finite(error) else None


def _cell(value) -> str:
    return written(value) or "(empty)"
