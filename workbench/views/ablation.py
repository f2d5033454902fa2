"""The paper's experiments, re-run: what `ablation.ipynb` calls.

What is compared, doing the runs, and what says what came of them are in `experiments`; here are the notebook's parameters, its tables
and figures, and what it writes. Every view reads the run folders anew, so it also works while runs go on.
"""

from __future__ import annotations

import json
import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property, lru_cache
from pathlib import Path

from ..config import PRESETS, Config
from ..figures import Drawing, Measured, Plot, Table, listing, measured, write
from ..figures import correspondence as draw_study
from ..figures import long_range as draw_long_range
from ..figures import transplant as draw_transplant
from ..files import replace_text, storing
from ..metrics.reported import PAPER
from ..parameters import ParameterError, Parameters, WorkbenchError, parameter, read_list, say_once, shown, shown_text, whole
from ..places import outputs_dir
from ..progress import progress, silent
from ..runs import Run, describe_machine, find_runs, git_state
from ..studies import correspondence, groups, plan
from ..studies.groups import Group, Score
from ..studies.paper import EXPERIMENTS, Experiment, sweep
from ..studies.significance import ALPHA, RELEVANT, lower
from ..studies.sweep import Trial, carry_out, fingerprint
from .compare import all_scores
from .export import export_folder, require_folder
from .runs import experiments as draw_experiments

LONGEST = 10**7  # characters of a grid or of seeds: what is too much is refused by what it comes to


def _read_seeds(value, refuse) -> str:
    seeds = [whole(part.strip()) for part in read_list(value, refuse).strip("[]() ").split(",")]
    if None in seeds:
        refuse("seeds such as 0,1,2,3,4")
    seed, times = Counter(seeds).most_common(1)[0]
    if times > 1:
        refuse(f"a list of different seeds: {seed} is there {times} times")
    return ",".join(map(str, seeds))


@dataclass(frozen=True)
class Ablation(Parameters):
    """Which experiments, and at what size: the parameters of `ablation.ipynb`, and its views.

    Raises
    ------
    ParameterError
        For a value that does not fit.
    """

    experiments: str = parameter("all", f"all, or of {', '.join(EXPERIMENTS)}, sweep, separated by commas", read=read_list)
    grid: str = parameter("", "of the experiment sweep: parameters with their values, as in the example above", longest=LONGEST)
    preset: str = parameter("twins32", "settings to start from", choices=PRESETS)
    data: str = parameter("", "as of a training; empty: the preset's")
    seeds: str = parameter("0,1,2,3,4", "of the runs, one each", read=_read_seeds, longest=LONGEST)
    steps: int | None = parameter(None, "budget: G steps of each training; None: the preset's", low=1)
    settings: str = parameter("", "further parameters of all runs, as in the example above")
    n: int = parameter(2000, "images of an evaluation", low=10)
    evaluations: int = parameter(5, "evaluations of each training, of which the last counts", low=1)
    jobs: int = parameter(1, "runs at a time on this machine; the cores are shared out among them", low=1)
    train: bool = parameter(True, "false: only show results so far")
    score: str = parameter("", "the score of the verdicts, where lower is better; empty: the Frechet distance")
    study: str = parameter(
        "", "runs of twins to ask what their attention follows, as of compare.ipynb; empty: those of the preset itself", read=read_list
    )
    out: str = parameter("", "folder to write, in outputs/ablations or a path; empty: named after the settings")

    def __post_init__(self):
        super().__post_init__()
        self._check()

    # --------------------------------------------------------------------------------------------- what it is about

    def _check(self) -> None:
        """Refuse what would show only after runs, and what nobody can do."""
        names, base = self.names, self.base
        if self.grid and "sweep" not in names:
            raise ParameterError(f"{plan.given('grid', self.grid)} goes with experiments='sweep', not with {shown(self.experiments)}")
        if self.evaluations > max(base.steps, Ablation.evaluations):
            raise ParameterError(f"evaluations={self.evaluations} does not fit runs of {base.steps} steps: at most one in each step")
        plan.require_size(plan.count_arms(names, self._grid, base), len(self._seeds), base, min(self.evaluations, base.steps))
        plan.require_jobs(self.jobs)
        where = plan.given("settings", self.settings)
        plan.require_used(where, self._settings, names, self._grid, self._base_of)
        for name in names:
            given = plan.given("grid", self.grid) if name == "sweep" else plan.given("experiments", self.experiments)
            plan.arms_of(name, self.experiment(name), base, given, self.train)
        if self.score:
            plan.require_score(self.score, base)
        if self.study:
            self._check_study()
        require_folder("out", self.out, self.folder)

    def _check_study(self) -> None:
        try:
            runs = groups.readable(find_runs(self.study)) if self.study.strip(" ,") else []
            for run in runs:
                correspondence.require_one_pair(run)
        except WorkbenchError as error:
            raise ParameterError(f"{plan.given('study', self.study)}: {shown_text(str(error), 300)}") from None
        if not runs:
            raise ParameterError(f"{plan.given('study', self.study)} names no run that can be read")

    @cached_property
    def names(self) -> list[str]:
        """The experiments."""
        known = [*EXPERIMENTS, "sweep"]
        names = list(EXPERIMENTS) if self.experiments == "all" else [name.strip() for name in self.experiments.split(",")]
        for name in names:
            if name not in known:
                raise ParameterError(f"{plan.given('experiments', self.experiments)}: {shown(name)} is not one of {', '.join(known)}")
            if names.count(name) > 1:
                raise ParameterError(f"{plan.given('experiments', self.experiments)}: {name} is there twice")
        if "sweep" in names and not self.grid.strip():
            raise ParameterError('experiments="sweep" needs grid, such as "lr_d=1e-4|4e-4; width=16|24"')
        return names

    @cached_property
    def _grid(self) -> dict[str, list[str]]:
        return plan.grid_values(self.grid)

    @cached_property
    def _settings(self) -> dict[str, str]:
        settings = plan.assignments("settings", self.settings)
        for name in ("data", "steps"):
            if name in settings and getattr(self, name):
                raise ParameterError(
                    f"{name}={shown(getattr(self, name))} is also in {plan.given('settings', self.settings)}: give it once"
                )
        return settings

    @cached_property
    def _seeds(self) -> list[int]:
        return [int(seed) for seed in self.seeds.split(",")]

    @cached_property
    def base(self) -> Config:
        """What all runs have in common."""
        return self._base_of(self._settings)

    def _base_of(self, settings: Mapping[str, str]) -> Config:
        given = dict(preset=self.preset) | dict(settings)
        given |= dict(data=self.data) if self.data else {}
        given |= dict(steps=self.steps) if self.steps else {}
        try:
            config = Config.from_parameters(given)
        except ParameterError as error:
            raise ParameterError(f"{plan.given('settings', self.settings)}: {error}" if settings else str(error)) from None
        often = -(-config.steps // self.evaluations)
        saved = min(config.checkpoint_every, config.steps)
        return config.replace(evaluate_every=often, evaluate_n=self.n, sample_every=often, checkpoint_every=saved, keep_checkpoints=1)

    def experiment(self, name: str) -> Experiment:
        """The experiment of this name, at this size."""
        if name != "sweep":
            return EXPERIMENTS[name](self.base)
        return sweep(self._grid)

    def trials(self, name: str) -> list[Trial]:
        """The runs of an experiment: every arm with every seed. Equal settings are one run, whichever experiments ask for it."""
        if name not in self._trials:
            arms = self.experiment(name).arms
            self._trials[name] = [Trial.of(self.base, label, changes, seed) for label, changes in arms.items() for seed in self._seeds]
        return self._trials[name]

    @cached_property
    def _trials(self) -> dict[str, list[Trial]]:
        """What `trials` has worked out: settings alone, so that it holds however far the runs are."""
        return {}

    def all_trials(self) -> dict[str, Trial]:
        """The runs of all experiments by name; a shared one has the label of the first that asks for it."""
        found: dict[str, Trial] = {}
        for name in self.names:
            for trial in self.trials(name):
                found.setdefault(trial.config.run, trial)
        return found

    def arms(self, name: str) -> list[Group]:
        """The arms of an experiment as groups of runs: those that were begun and can be read."""
        trials = self.trials(name)
        return [
            Group(label, tuple(groups.readable(trial.run for trial in trials if trial.label == label and trial.run)), changes)
            for label, changes in self.experiment(name).arms.items()
        ]

    @property
    def folder(self) -> Path:
        """Where it is written to: `outputs/ablations/<name>`; without `out` named after the preset, a hash of the settings that all runs
        have in common, and what was not `all` experiments."""
        words = [] if self.experiments == "all" else [*self.names, *([self.grid] if "sweep" in self.names else [])]
        return export_folder("ablations", self.out, "-".join([self.preset, fingerprint(self.base), *words]))

    @property
    def command(self) -> str:
        """What does all of it again, in the folder of the notebooks."""
        given = [(f.name, getattr(self, f.name)) for f in fields(self) if f.name != "train" and getattr(self, f.name) != f.default]
        return shlex.join(["papermill", "ablation.ipynb", *(word for name, value in given for word in ("-p", name, str(value)))])

    # -------------------------------------------------------------------------------------------------- doing it

    def check(self) -> Table:
        """What is to be done, and how much of it is: a row for each experiment."""
        rows, counted = [], set()
        for name in self.names:
            trials = self.trials(name)
            states = [trial.state for trial in trials]
            own = {trial.config.run for trial in trials}
            rows.append({
                "experiment": name, "about": self.experiment(name).about, "arms": len({trial.label for trial in trials}),
                "runs": len(trials), "shared with those above": len(own & counted), "finished": states.count("finished"),
                "diverged": states.count("diverged"),
            })  # fmt: skip
            counted |= own
        base, trials = self.base, self.all_trials().values()
        steps = sum(trial.config.steps * (1 + trial.config.d_steps) for trial in trials)
        notes = (
            f"{len(trials)} runs of {base.steps:,} G steps each, {sum(trial.at_rest for trial in trials)} of them done: {steps:,} steps of G "
            f"or D, of batches of {base.batch_size}",
            f"All of these runs, in {outputs_dir()}, have the tag {fingerprint(base)}: papermill compare.ipynb -p runs {fingerprint(base)}",
        )
        unreadable = [trial.run.status()["message"] for trial in trials if trial.state == "unreadable"]
        return Table(rows, (*notes, *unreadable))

    def carry_out(self) -> None:
        """Do the runs that are missing; see `trials.carry_out`."""
        if self.train:
            with storing(self.folder):  # now, and not after hours
                self.folder.mkdir(parents=True, exist_ok=True)
            carry_out(list(self.all_trials().values()), self.jobs)

    # --------------------------------------------------------------------------------------------------- what came out

    def scores(self, name: str) -> list[Score]:
        """All scores of an experiment's last checkpoints.

        Raises
        ------
        WorkbenchError
            If their protocols differ.
        """
        return [score for values in groups.scores(self.arms(name)).values() for score in values if score.step == self.base.steps]

    def deciding_score(self) -> str:
        """The score of the verdicts, with the hash of its extractor: `score`, or the Frechet distance; "" where there is none yet."""
        known = list(dict.fromkeys(score.name for name in self.names for score in self.scores(name)))
        chosen = [
            k for k in known if (k.partition("@")[0] == self.score or k == self.score if self.score else k.startswith(("fid", "fd_")))
        ]
        if self.score and known and not chosen:
            raise WorkbenchError(f"score={shown(self.score)} is none of the scores of these runs: {', '.join(known)}")
        return chosen[0] if chosen else ""

    def values(self, name: str, arm: str) -> list[float]:
        """The deciding score of an arm's runs; infinite where one diverged."""
        deciding = self.deciding_score()
        found = [score.value for score in self.scores(name) if score.group.label == arm and score.name == deciding]
        return found + [math.inf] * self._diverged(name, arm)

    def _diverged(self, name: str, arm: str) -> int:
        return sum(trial.state == "diverged" for trial in self.trials(name) if trial.label == arm)

    def table(self, *names: str) -> Table:
        """Scores by arm, mean ± standard deviation over the seeds, beside what the paper reports; of all experiments, or of some."""
        rows, kinds, reported = [], {}, False
        for name in names or self.names:
            experiment, found = self.experiment(name), self.scores(name)
            kinds |= dict.fromkeys(score.protocol for score in found)
            for arm in experiment.arms:
                own = [score for score in found if score.group.label == arm and "splits" not in score.name]
                row = dict(experiment=name) if len(names) != 1 else {}
                row |= {"arm": arm, "n": len({score.run for score in own}), "diverged": self._diverged(name, arm)}
                row |= {key.partition("@")[0]: value for key, value in measured(own, row["n"]).items()}
                paper = experiment.reported.get(arm, {})
                reported |= bool(paper)
                rows.append(row | {f"paper {score.upper()}": paper[score] for score in ("fid", "is") if score in paper})
        base = self.base
        notes = [
            f"Mean ± standard deviation (n - 1) over n seeds, of the checkpoint at step {base.steps:,}; runs that diverged have no score"
        ]
        notes += [f"{base.data} at {base.image_size}x{base.image_size}, protocol: {kind}" for kind in kinds] or ["No evaluation yet"]
        notes += [f"Paper: {PAPER}; another data set, size and protocol than here, so that only the order compares"] if reported else []
        return Table(_paper_last(rows), tuple(notes))

    def plot(self, *names: str) -> Plot | None:
        """The deciding score by arm and over steps, and D's loss; of all experiments, or of some. None before the first evaluation."""
        deciding = self.deciding_score()
        return draw_experiments({name: self.arms(name) for name in names or self.names}, deciding, self.base.steps) if deciding else None

    def verdicts(self) -> Table:
        """What the runs say of each claim of the paper; see `significance.lower`. Claims of one experiment are adjusted for together."""
        rows = []
        for name in self.names:
            claims = {
                claim.text: (self.values(name, claim.better), self.values(name, claim.worse)) for claim in self.experiment(name).claims
            }
            for row in lower(claims):
                share = None if row["improvement"] is None else f"{row['improvement']:+.0%}"
                rows.append({
                    "experiment": name, "claim": row["claim"], "verdict": row["verdict"], "improvement": share, "p": row["p"],
                    f"p of {RELEVANT:.0%}": row["p_relevant"], "n": f"{row['n']} and {row['n_control']}",
                })  # fmt: skip
        deciding = self.deciding_score()
        notes = (
            f"Supported: a one-sided rank-sum test over the seeds finds {deciding or 'the score'} lower (p < {ALPHA:g}, adjusted by Holm over the "
            "claims of an experiment)",
            f"Not supported: the same test rules out that it is lower by {RELEVANT:.0%} of the control's median (p of {RELEVANT:.0%} < {ALPHA:g}, "
            "adjusted alike)",
            "Otherwise it cannot be told at this size. Runs that diverged count as the worst",
            "Improvement: Hodges-Lehmann estimate, as a share of the control's median",
        )
        return Table(rows, notes)

    # --------------------------------------------------------------------------- what attention follows, and what it is for

    def studied(self) -> list[Run]:
        """The runs whose attention is asked what it follows."""
        if self.study:
            return groups.readable(find_runs(self.study))
        own = [Trial.of(self.base, "", {}, seed) for seed in self._seeds] if self.base.data == "twins" else []
        return [trial.run for trial in own if trial.state == "finished"]

    def _layers(self) -> list[tuple[Run, str]]:
        return [
            (run, f"G/attention.{site}")
            for run in self.studied()
            if run.config.attention_block == "attention"
            for site in run.config.sites_g
        ]

    def shape(self) -> Table:
        """Does attention follow the shape of objects? A row for each layer of G of each studied run; see `correspondence`."""
        rows, layers = [], self._layers()
        with progress(len(layers), "layers") as advance:
            for run, layer in layers:
                found, moved = _asked(_study, run, layer), _asked(_transplant, run, layer)
                row = dict(run=run.name, layer=layer)
                if isinstance(found, str):
                    row |= {"follows shape": found}
                else:
                    row |= {"n": len(found.learned.twin), "on the twin": found.learned.twin.mean().item()}
                    row |= {f"more than {test['null']}": test["effect"] for test in found.verdict.rows}
                    row |= {"follows shape": found.verdict.verdict, "goes beyond places": found.locality.verdict}
                if isinstance(moved, str):
                    row |= {"colour travels": moved}
                else:
                    row |= {"turn": moved.right["glyph"][:, -1].mean().item(), "colour travels": moved.verdict.verdict}
                rows.append(row)
                advance(1)
        notes = (
            "On the twin: share of the attention of positions on a glyph that falls on the other one; more than: how much more than under each "
            f"null, tested against {correspondence.SMALLEST_MASS:g} by paired one-sided sign flips over n images, adjusted by Holm over the nulls",
            "Goes beyond places: the same without the null of colour, for on twins likeness of colour alone finds the other glyph",
            "Turn: how far the right glyph's hue follows when the values under the left one are another sample's, as a share of the way; tested "
            f"against {correspondence.SMALLEST_TURN:g} and both controls",
        )
        return Table(rows, notes if rows else ("No finished training of the preset itself on twins: give study, such as demo",))

    def shape_figure(self) -> Drawing | None:
        """Where attention falls, beside the nulls: of the first studied layer that can be read."""
        return self._first(_study, draw_study)

    def transplant_figure(self) -> Drawing | None:
        """What transplanted values do, dose by dose: of the first studied layer that can be read."""
        return self._first(_transplant, draw_transplant)

    def _first(self, ask, draw) -> Drawing | None:
        answers = (_asked(ask, run, layer) for run, layer in self._layers())
        return next((draw(answer) for answer in answers if not isinstance(answer, str)), None)

    def _long_range(self, report=silent) -> tuple[list[dict], list[str]]:
        """A row of `correspondence.long_range` for each finished training on twins, with its arm and whether nothing but attention was taken
        from it; and why others have none."""
        trials = [trial for trial in self.all_trials().values() if trial.config.data == "twins" and trial.state == "finished"]
        rows, left_out = [], []
        with report(len(trials), "runs") as advance:
            for trial in trials:
                found = _asked(_long_range, trial.run, str(len(trial.run.evaluations())))
                if isinstance(found, str):
                    left_out.append(found)
                else:
                    rows.append(dict(arm=trial.label, control=self._is_control(trial)) | found)
                advance(1)
        return rows, left_out

    def _is_control(self, trial: Trial) -> bool:
        """Whether a training has no attention, in G and in D, and is otherwise that of the common settings."""
        none = self.base.replace(seed=trial.config.seed, attention_g="none", attention_d="none")
        return not trial.config.changes(none)

    def long_range(self) -> Table:
        """Do distant places agree more where attention reaches further? Power check, and rank correlations over runs and over arms."""
        rows, left_out = self._long_range(progress)
        without = [row for row in rows if row["control"]]
        result = []
        if len(without) >= 2:
            power = correspondence.power_check(without, self.base.image_size, self.base.pairs)
            effect = power.rows[0]
            result.append({"question": "networks without attention fail: hue", "of": "runs", "n": effect["n"], "estimate": effect["effect"],
                           "low": effect["low"], "high": effect["high"], "p": effect["p_larger"], "verdict": power.verdict})  # fmt: skip
        for by in ("", "arm") if rows else ():
            for found in correspondence.rank_correlations(rows, _pairs(rows), by):
                names = f"rank correlation of {found['x']} and {found['y'].partition('@')[0]}"
                result.append({"question": names, "of": found["of"], "n": found["n"], "estimate": found["rho"],
                               "low": found.get("low"), "high": found.get("high"), "p": found.get("p"), "verdict": None})  # fmt: skip
        notes = (
            "Networks without attention fail: how much further apart the hues of both glyphs are than in real twins, median of a run, in turns of "
            f"the hue circle (independent hues: 0.25); sign flips over runs, tested against {correspondence.SMALLEST_HUE:g}. Where they do not, "
            "attention has nothing to improve at this size: take image_size=64, pairs=2, or fewer steps",
            "Distance: how far attention reaches, in pixels, mean over queries and layers of G. Intervals: 95 % bootstrap; p: permutations, two-sided, "
            "not adjusted. Runs of one arm are no independent witnesses of what arms differ in: the means by arm are",
        )
        notes = notes if rows else ("No finished training on twins",)
        return Table(result, (*notes, f"Left out: {len(left_out)} runs, the first because {left_out[0]}") if left_out else notes)

    def long_range_figure(self) -> Plot | None:
        """The disagreement of twins, and the Frechet distance, against the distance that attention reaches; None without such runs."""
        rows = [row for row in self._long_range()[0] if row["distance"] is not None]
        if not rows:
            return None
        said = [_correlation(found) for found in correspondence.rank_correlations(rows, _pairs(rows))]
        ys = [y for x, y in _pairs(rows) if x == "distance"]
        return draw_long_range(rows, ys, "arm", said[: len(ys)])

    # ---------------------------------------------------------------------------------------------------------- export

    def export(self) -> Path:
        """Write everything to `folder`: tables as CSV and LaTeX, figures as SVG and PDF with sidecars, all scores, and `results.json`.

        `results.json` is small enough to be committed: the command that does it again, commits, hours of training (of all runs together,
        `jobs` of them at a time), versions and machine, and the tables with all their numbers.
        """
        tables = {name: self.table(name) for name in self.names}
        tables |= {"verdicts": self.verdicts(), "shape": self.shape(), "long-range": self.long_range()}
        figures = {name: self.plot(name) for name in self.names}
        figures |= {"shape": self.shape_figure(), "transplant": self.transplant_figure(), "long-range": self.long_range_figure()}
        captions = {name: self.experiment(name).about for name in self.names} | CAPTIONS
        scores = all_scores([group for name in self.names for group in self.arms(name)])
        record = self._record(tables)
        folder = self.folder
        with storing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            write(folder, tables, captions, {name: figure for name, figure in figures.items() if figure is not None})
            scores.csv(folder / "scores.csv")
            replace_text(folder / "results.json", json.dumps(record, indent=1, allow_nan=False))
        print(listing(folder))
        return folder

    def _record(self, tables: Mapping[str, Table]) -> dict:
        """What `results.json` holds; numbers that are not finite are null, as JSON has it."""
        runs = groups.readable(trial.run for trial in self.all_trials().values() if trial.run)
        hours = sum(row["seconds"] for run in runs for row in run.history()[-1:] if groups.is_number(row.get("seconds"))) / 3600
        commits = sorted({_commit(run) for run in runs} - {""})
        here = describe_machine()
        here["machine"] = {name: here["machine"][name] for name in ("processor", "cores", "gpus")}  # what others may know of it
        record = dict(command=self.command, git=git_state(), **here, runs=dict(n=len(runs), hours=hours, commits=commits))
        record["tables"] = {name: dict(rows=[_plain(row) for row in table.rows], notes=table.notes) for name, table in tables.items()}
        record["long_range"] = [_plain(row) for row in self._long_range()[0]]
        return record


CAPTIONS = {
    "verdicts": "What the runs say of the claims of the paper",
    "shape": "Whether attention follows the shape of objects",
    "long-range": "Whether attention helps where distant places must agree",
}


def _paper_last(rows: list[dict]) -> list[dict]:
    """Rows whose columns come in one order, that of the paper last."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    names.sort(key=lambda name: name.startswith("paper"))
    return [{name: row.get(name) for name in names} for row in rows]


def _plain(value):
    """A row as JSON has it: numbers that are not finite are null."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, Measured):
        return _plain(asdict(value))
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _commit(run: Run) -> str:
    """The commit that a run was trained by; "unknown" where there was no git, and "" before its first start."""
    try:
        git = run.provenance.get("git")
    except WorkbenchError as error:
        say_once(str(error))
        return "unknown"
    commit = git.get("commit") if isinstance(git, dict) else None
    return commit if isinstance(commit, str) else "unknown" if run.provenance else ""


def _pairs(rows: Sequence[dict]) -> list[tuple[str, str]]:
    """Columns to be correlated: the distance with the disagreement and the Frechet distance, and these two."""
    frechet = [name for name in (rows[0] if rows else ()) if name.startswith("fd_")]
    return [("distance", y) for y in ("twins_hue", *frechet)] + [("twins_hue", y) for y in frechet]


def _correlation(found: dict) -> str:
    if found["rho"] is None:
        return f"{found['n']} runs: too few for a correlation"
    return f"rank correlation {found['rho']:+.2f} [{found['low']:+.2f}, {found['high']:+.2f}], p={found['p']:.2g}, {found['n']} runs"


# What takes long is asked of a checkpoint once, however many views show it; a run is known by its path, for it may go on.


def _asked(ask, run: Run, detail: str):
    """The answer of `ask`, or the reason why there is none."""
    try:
        return ask(str(run.path), detail, tuple(run.checkpoint_steps()))
    except WorkbenchError as error:
        return str(error)


@lru_cache(maxsize=64)
def _study(path: str, layer: str, checkpoint: tuple) -> correspondence.Study:
    return correspondence.study(Run(path), layer)


@lru_cache(maxsize=64)
def _transplant(path: str, layer: str, checkpoint: tuple) -> correspondence.Transplant:
    return correspondence.transplant(Run(path), layer)


@lru_cache(maxsize=1024)
def _long_range(path: str, evaluations: str, checkpoint: tuple) -> dict:
    return correspondence.long_range(Run(path))
