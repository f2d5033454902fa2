"""The runs of a sweep, before and after they begin: each is an ordinary run in a folder named after its settings."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache

from ..config import Config
from ..files import UnreadableError, claim_text, read_json, storing
from ..messages import ParameterError
from ..paths import folder_name, outputs_dir
from ..runs import Run
from ..training.setup import decide_precision

AT_REST = ("finished", "diverged")


@dataclass(frozen=True)
class PlannedRun:
    """A run which may not have a folder yet."""

    arm: str
    name: str  # of its folder
    common: str  # the fingerprint of the settings it is a change of
    config: Config

    @classmethod
    def of(cls, base: Config, arm: str, changes: Mapping, seed: int) -> PlannedRun:
        """The run of an arm, named after a hash of the common settings and the settings that differ.

        A run of fewer or more steps has as many evaluations as the others.
        """
        config = Config.from_parameters({**_settings(base), **changes, "seed": seed})
        name, common = _name(base, config), fingerprint(base)
        if config.steps != base.steps and base.evaluate_every:
            every = math.ceil(config.steps / math.ceil(base.steps / base.evaluate_every))
            config = config.replace(evaluate_every=every, sample_every=every, checkpoint_every=min(base.checkpoint_every, config.steps))
        return cls(arm, name, common, config.replace(run=name, tags=f"ablation,{common}"))

    @classmethod
    def alone(cls, config: Config) -> PlannedRun:
        """The run with these settings, named after what differs from their preset.

        Raises
        ------
        ParameterError
            If the config has a name or a checkpoint to resume from.
        """
        for parameter in ("run", "resume"):
            if getattr(config, parameter):
                raise ParameterError(
                    f"{parameter}={getattr(config, parameter)!r} cannot be set for a sweep: its runs are named after their settings, "
                    "and go on where they were"
                )
        base = Config.preset(config.preset)
        name = _name(base, config)
        return cls("", name, fingerprint(base), config.replace(run=name))

    @property
    def run(self) -> Run | None:
        """The run; None before it begins."""
        return Run(self.name) if (outputs_dir() / self.name / "config.json").exists() else None

    @property
    def state(self) -> str:
        """The state of `Run.status`; "waiting" before the run begins; or "diverged"."""
        run = self.run
        if run is None:
            return "waiting"
        status = run.status()
        return "diverged" if status["state"] == "failed" and status["message"].startswith("training diverged") else status["state"]

    @property
    def collapsed(self) -> bool:
        """Whether the training raised the alarm of a collapse; see `training.status.Status.watch_samples`."""
        run = self.run
        return run is not None and any(alarm.startswith("collapse:") for alarm in run.status()["alarms"])

    @property
    def at_rest(self) -> bool:
        """Whether the run is done; divergence is a result too."""
        return self.state in AT_REST


@lru_cache
def fingerprint(base: Config) -> str:
    """A hash of common settings: a part of the runs' names, and their tag."""
    return hashlib.sha256(json.dumps(_settings(base.replace(seed=0)), sort_keys=True).encode()).hexdigest()[:6]


def _name(base: Config, config: Config) -> str:
    differs = [f"{name}={value}" for name, value in config.changes(base.replace(seed=config.seed)).items()] or ["base"]
    return folder_name("-".join([base.preset, fingerprint(base), *differs, f"seed={config.seed}"]))


def _settings(config: Config) -> dict:
    return {name: value for name, value in asdict(config).items() if name not in ("run", "resume", "note", "tags")}


def in_one_precision(planned: Sequence[PlannedRun], decide: bool = True) -> list[PlannedRun]:
    """The runs with `mixed_precision="auto"` decided once for all that have settings in common, since timings differ from run to run.

    The decision is stored beside the runs: a sweep that is resumed, extended or shared by machines keeps it.

    Parameters
    ----------
    decide
        Whether to decide here, on this machine, what is not decided yet.

    Raises
    ------
    StorageError, UnreadableError
        If the decision cannot be stored or read.
    """
    groups: dict[str, list[PlannedRun]] = {}
    for each in planned:
        if each.config.mixed_precision == "auto":
            groups.setdefault(each.common, []).append(each)
    choices = {common: _precision(common, group, decide) for common, group in groups.items()}
    return [replace(each, config=_with_precision(each.config, choices.get(each.common))) for each in planned]


def _precision(common: str, planned: Sequence[PlannedRun], decide: bool) -> str | None:
    path = outputs_dir() / "ablations" / f".precision-{common}.json"
    if not path.exists():
        begun = [each.run.config.mixed_precision for each in planned if each.run and each.state != "unreadable"]
        decided = next((choice for choice in begun if choice != "auto"), None)
        if not (decided or decide):
            return None
        with storing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        undecided = planned[0].config.replace(num_processes=1, dtype="float32")
        claim_text(path, json.dumps(dict(mixed_precision=decided or decide_precision(undecided).mixed_precision)))
    choice = read_json(path).get("mixed_precision")
    if choice not in ("no", "bf16", "fp16"):
        raise UnreadableError(path, f"mixed_precision={choice!r} is not one of no, bf16, fp16")
    return choice


def _with_precision(config: Config, choice: str | None) -> Config:
    if config.mixed_precision != "auto" or choice is None:
        return config
    return config.replace(mixed_precision="no" if config.dtype == "float64" else choice)  # no autocast of float64
