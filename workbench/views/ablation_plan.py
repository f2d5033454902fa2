"""The plan of `ablation.ipynb`: its parameters, their checks, and the runs that they ask for."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

from ..config import Config
from ..data import open_data
from ..files import storing
from ..messages import ParameterError, WorkbenchError, short_repr, short_text
from ..parameters import Parameters, parameter
from ..presets import PRESETS
from ..readers import assignments, quote, read_list, read_seeds, words
from ..runs import find_runs
from ..studies import sweep_checks
from ..studies.executors import SlurmOptions
from ..studies.groups import Group, readable
from ..studies.paper import ALL, EXPERIMENTS, Experiment, sweep
from ..studies.planned import PlannedRun, fingerprint, in_one_precision
from ..studies.sweep import execute
from ..studies.twin_runs import require_one_pair
from .export import export_folder, require_folder

LONGEST = 10**7  # characters of a grid or of seeds; too many runs are refused by their number


@dataclass(frozen=True)
class AblationPlan(Parameters):
    """Which experiments, and at what size: the parameters of `ablation.ipynb`.

    Raises
    ------
    ParameterError
        For a value that does not fit.
    """

    experiments: str = parameter("all", f"all, or any of {', '.join(EXPERIMENTS)}, sweep", read=read_list)
    grid: str = parameter("", "grid of the experiment sweep: parameters and values, see above", longest=LONGEST, none="none")
    preset: str = parameter("twins32", "settings to start from", choices=PRESETS)
    data: str = parameter("", "data, as in train.ipynb", none="the preset's")
    seeds: str = parameter("0,1,2,3,4", "seeds, one run each", read=read_seeds, longest=LONGEST)
    steps: int | None = parameter(None, "G steps of each run; at five D steps (ttur) a third of them", low=1, none="the preset's")
    settings: str = parameter("", "further parameters of all runs, see above", none="none")
    n: int = parameter(2000, "images per evaluation", low=10)
    evaluations: int = parameter(5, "evaluations of each run, of which the last counts", low=1)
    jobs: int | None = parameter(None, "runs at a time on this machine; they share its cores", none="1, or one for each GPU", low=1)
    executor: str = parameter("local", "where runs are trained: on this machine, or as jobs of Slurm", choices=("local", "slurm"))
    slurm: str = parameter("", "what a job asks for, see above: partition, gpus, hours, memory (GB), ...", none="the cluster's")
    train: bool = parameter(True, "false: only show results so far")
    score: str = parameter("", "score that decides", none="the Frechet distance, or binding_agreement")
    study: str = parameter("", "runs whose attention to analyse, as in compare.ipynb", read=read_list, none="those of the preset")
    out: str = parameter("", "folder to write, in outputs/ablations or a path", none="named after the settings")

    def __post_init__(self):
        super().__post_init__()
        self._check()

    # ------------------------------------------------------------------------------------------------- plan and checks

    def _check(self) -> None:
        """Refuse what would fail only after runs, and what no machine can compute."""
        names, base = self.names, self.base
        if self.grid and "sweep" not in names:
            raise ParameterError(f"{quote('grid', self.grid)} goes with experiments='sweep', not with {short_repr(self.experiments)}")
        if self.evaluations > max(base.steps, AblationPlan.evaluations):
            raise ParameterError(f"evaluations={self.evaluations} does not fit runs of {base.steps} steps: at most one in each step")
        sweep_checks.require_size(
            sweep_checks.count_arms(names, self._grid, base), len(self._seeds), base, min(self.evaluations, base.steps)
        )
        sweep_checks.require_jobs(self.jobs or 1)
        if self.jobs and self.executor != "local":
            raise ParameterError(f"jobs={self.jobs} goes with executor='local'; Slurm decides how many jobs run at a time")
        if self.executor == "local" and self.slurm:
            raise ParameterError(f"{quote('slurm', self.slurm)} goes with executor='slurm'")
        try:
            SlurmOptions.from_parameters(self._slurm)
        except ParameterError as error:
            raise ParameterError(f"{quote('slurm', self.slurm)}: {error}") from None
        where = quote("settings", self.settings)
        sweep_checks.require_used(where, self._settings, names, self._grid, self._base_of)
        for name in names:
            where = quote("grid", self.grid) if name == "sweep" else quote("experiments", self.experiments)
            sweep_checks.arms_of(name, self.experiment(name), base, where, self.train)
        if self.score:
            sweep_checks.require_score(self.score, base)
        if self.study:
            self._check_study()
        require_folder(self.out, self.folder)

    def _check_study(self) -> None:
        """Every run of `study` has to be readable, on twins with one pair."""
        try:
            runs = readable(find_runs(self.study)) if self.study.strip(" ,") else []
            for run in runs:
                require_one_pair(run)
        except WorkbenchError as error:
            raise ParameterError(f"{quote('study', self.study)}: {short_text(str(error), 300)}") from None
        if not runs:
            raise ParameterError(f"{quote('study', self.study)} names no run that can be read")

    @cached_property
    def names(self) -> list[str]:
        """The experiments."""
        known = [*EXPERIMENTS, "sweep"]
        names = list(ALL) if self.experiments == "all" else words(self.experiments) or [""]
        for name in names:
            if name not in known:
                raise ParameterError(f"{quote('experiments', self.experiments)}: {short_repr(name)} is not one of {', '.join(known)}")
            if names.count(name) > 1:
                raise ParameterError(f"{quote('experiments', self.experiments)}: {name} is there twice")
        if "sweep" in names and not self.grid.strip():
            raise ParameterError('experiments="sweep" needs grid, such as "lr_d=1e-4|4e-4; width=16|24"')
        return names

    @cached_property
    def _grid(self) -> dict[str, list[str]]:
        return sweep_checks.grid_values(self.grid)

    @cached_property
    def _settings(self) -> dict[str, str]:
        settings = sweep_checks.settings_of(self.settings)
        for name in ("data", "steps"):
            if name in settings and getattr(self, name):
                raise ParameterError(
                    f"{name}={short_repr(getattr(self, name))} is also in {quote('settings', self.settings)}: give it once"
                )
        return settings

    @cached_property
    def _slurm(self) -> dict[str, object]:
        return dict(assignments("slurm", self.slurm)) if self.slurm else {}

    @cached_property
    def _seeds(self) -> list[int]:
        return list(map(int, words(self.seeds)))

    @cached_property
    def base(self) -> Config:
        """The settings that all runs have in common."""
        return self._base_of(self._settings)

    def _base_of(self, settings: Mapping[str, str]) -> Config:
        values = {"preset": self.preset, "data": self.data or None, "steps": self.steps, **settings}
        try:
            config = Config.from_parameters(values)
        except ParameterError as error:
            raise ParameterError(f"{quote('settings', self.settings)}: {error}" if settings else str(error)) from None
        every, saved = -(-config.steps // self.evaluations), min(config.checkpoint_every, config.steps)
        return config.replace(evaluate_every=every, evaluate_n=self.n, sample_every=every, checkpoint_every=saved, keep_checkpoints=1)

    def experiment(self, name: str) -> Experiment:
        """The experiment of this name, at this size."""
        return sweep(self._grid) if name == "sweep" else EXPERIMENTS[name](self.base)

    def planned_runs(self, name: str) -> list[PlannedRun]:
        """The runs of an experiment: every arm with every seed. Experiments share runs of equal settings."""
        return self._planned[name]

    @cached_property
    def _planned(self) -> dict[str, list[PlannedRun]]:
        return {
            name: [
                PlannedRun.of(self.base, arm, changes, seed) for arm, changes in self.experiment(name).arms.items() for seed in self._seeds
            ]
            for name in self.names
        }

    def all_planned_runs(self) -> list[PlannedRun]:
        """The runs of all experiments; a shared run has the arm of the first experiment."""
        runs: dict[str | None, PlannedRun] = {}
        for name in self.names:
            for planned in self.planned_runs(name):
                runs.setdefault(planned.config.run, planned)
        return list(runs.values())

    def arms(self, name: str) -> list[Group]:
        """The arms of an experiment as groups of the runs that exist and can be read."""
        runs = [(planned.arm, planned.run) for planned in self.planned_runs(name)]
        return [
            Group(arm, tuple(readable(run for of_arm, run in runs if of_arm == arm and run)), changes)
            for arm, changes in self.experiment(name).arms.items()
        ]

    @property
    def folder(self) -> Path:
        """The folder of the export: `outputs/ablations/<name>`; by default named after the preset, a hash of the common settings, and the
        experiments unless these are all."""
        parts = [] if self.experiments == "all" else [*self.names, *filter(None, [self.grid])]
        return export_folder("ablations", self.out, "-".join([self.preset, fingerprint(self.base), *parts]))

    @property
    def command(self) -> str:
        """The command that repeats all of this."""
        values = [(f.name, getattr(self, f.name)) for f in fields(self) if f.name != "train" and getattr(self, f.name) != f.default]
        return shlex.join(["workbench", "ablation", *(word for name, value in values for word in ("-p", name, str(value)))])

    def execute(self) -> None:
        """Train the runs that are missing; see `sweep.execute`.

        Raises
        ------
        DataError, StorageError
            Before the first training: if the data cannot be used, or `folder` cannot be written to.
        """
        if self.train:
            with storing(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
            planned = self.all_planned_runs()
            if not all(each.at_rest for each in planned):
                open_data(self.base)  # shared by all arms: checked and packed once
                planned = in_one_precision(planned, decide=self.executor == "local")
            execute(planned, self.executor, jobs=self.jobs, **self._slurm)
