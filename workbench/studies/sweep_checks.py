"""Checks of a sweep before its first training: its arms are different runs with comparable scores, and there are not too many."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict

from ..config import Config
from ..data.datasets import DRAWN
from ..messages import ParameterError, nearest, short_repr
from ..metrics.extractors import default_extractor, open_extractor
from ..metrics.protocols import protocol
from ..metrics.scores import SCORES, higher_is_better
from ..readers import alternatives, assignments, quote
from ..runs import MAY_CHANGE_ON_RESUME
from ..training.memory import require_feasible
from .paper import EXPERIMENTS, Experiment

MOST_RUNS = 5_000
MOST_STEPS = 10**10  # of G and D, over all runs
MOST_IMAGES = 10**10  # to evaluate, over all runs
JOBS_PER_CORE = 4

# Parameters that a sweep sets itself, and what to do instead.
DECIDED = dict(
    preset="set the parameter preset", run="runs are named after their settings", resume="all runs start from scratch",
    seed="set the parameter seeds", note="the runs have tags instead", tags="the sweep sets tags",
    evaluate_every="set the parameter evaluations", evaluate_n="set the parameter n", sample_every="set the parameter evaluations",
    keep_checkpoints="the newest checkpoint is kept",
)  # fmt: skip
# Parameters in which arms cannot differ, and why.
NOT_VARIED = {
    **dict.fromkeys(MAY_CHANGE_ON_RESUME | {"gradient_accumulation", "skip_unreadable"}, "it changes nothing in what is trained"),
    **dict.fromkeys(("data", "image_size", "pairs", "tiles", "patterns"), "scores against different images cannot be compared"),
    "steps": "a longer training contains the shorter one; set the parameter steps for all arms",
}


def settings_of(text: str, parameter: str = "settings") -> dict[str, str]:
    """The settings "a=1; b=2" as a dict; a ParameterError for an unknown name, or one that the sweep sets itself."""
    values = assignments(parameter, text)
    for name in values:
        try:
            Config.refuse_unknown([name])
        except ParameterError as error:
            raise ParameterError(f"{quote(parameter, text)}: {error}") from None
        if name in DECIDED:
            raise ParameterError(f"{quote(parameter, text)}: {name} cannot be set for a sweep: {DECIDED[name]}")
    return values


def grid_values(text: str) -> dict[str, list[str]]:
    """The grid "a=1|2; b=3|4" as a dict of lists; a ParameterError also for a parameter in which arms cannot differ."""
    settings_of(text, "grid")
    grid = alternatives("grid", text)
    for name, values in grid.items():
        if name in NOT_VARIED:
            raise ParameterError(f"{quote('grid', text)}: {name} cannot be varied: {NOT_VARIED[name]}")
        if name == "mixed_precision" and len(values) > 1 and "auto" in values:
            raise ParameterError(
                f"{quote('grid', text)}: mixed_precision=auto equals another value, depending on the machine: leave it out"
            )
    return grid


def require_size(arms: int, seeds: int, base: Config, evaluations: int) -> None:
    """Refuse too many runs, steps or images; the message gives the estimate."""
    runs = arms * seeds
    steps = runs * base.steps * (1 + base.d_steps)
    images = runs * evaluations * base.evaluate_n
    if runs > MOST_RUNS or steps > MOST_STEPS or images > MOST_IMAGES:
        raise ParameterError(
            f"{arms:,} arms (experiments, grid) times {seeds:,} seeds are {runs:,} runs: {steps:,} steps of G and D (steps, d_steps), "
            f"{images:,} images to evaluate (evaluations, n); at most {MOST_RUNS:,} runs, {MOST_STEPS:.0e} steps and "
            f"{MOST_IMAGES:.0e} images: reduce one of these parameters"
        )


def require_jobs(jobs: int) -> None:
    """Refuse too many runs at a time for this machine."""
    cores = os.cpu_count() or 1
    if jobs > JOBS_PER_CORE * cores:
        raise ParameterError(
            f"jobs={jobs} runs at a time are too many; at most {JOBS_PER_CORE} for each of the {cores} cores of this machine: "
            f"{JOBS_PER_CORE * cores}"
        )


def arms_of(name: str, experiment: Experiment, base: Config, where: str, train: bool = True) -> dict[str, Config]:
    """The settings of each arm by label. A ParameterError, which begins with `where`, unless the arms are different runs with comparable scores.

    With `train`, this machine must also be able to train them.
    """
    seen: dict[tuple, str] = {}
    configs: dict[str, Config] = {}
    for label, changes in experiment.arms.items():
        try:
            configs[label] = base.replace(**changes)
        except ParameterError as error:
            raise ParameterError(f"{where}: {error}") from None
        other = seen.setdefault(what_is_trained(configs[label]), label)
        if other != label:
            fix = "leave one of them out" if name == "sweep" else f"leave {name} out of experiments, or change preset and settings"
            raise ParameterError(
                f"{where}: the arms {short_repr(other)} and {short_repr(label)} of {name} are the same training at these settings and cannot be compared with each other; {fix}"
            )
        if bool(configs[label].ema_decay) != bool(next(iter(configs.values())).ema_decay):
            raise ParameterError(f"{where}: scores with and without EMA (ema_decay=0) cannot be compared")
    for label, config in configs.items() if train else ():
        try:
            require_feasible(config)
        except ParameterError as error:
            raise ParameterError(f"{where}: the arm {short_repr(label)} of {name}: {error}") from None
    return configs


def what_is_trained(config: Config) -> tuple:
    """A key that is equal for runs that train the same: without parameters that have no effect at these settings."""
    values = {name: value for name, value in asdict(config).items() if name not in DECIDED and name not in NOT_VARIED}
    values |= {name: getattr(config, name) for name in ("data", "image_size", "pairs", "tiles", "patterns", "steps", "seed")}
    # Different widths can give the same channels.
    del values["width"], values["width_d"], values["max_multiplier"]
    maps_g, maps_d = (4, *config.maps_g), config.maps_d
    values |= dict(
        d_downsamples=len(maps_d), batch_norm_group=config.group_size,
        channels=(*map(config.channels_g, maps_g), *map(config.channels_d, maps_d)),
    )  # fmt: skip
    if not (config.sites_g or config.sites_d):
        values["attention_block"] = values["attention_variant"] = ""
    if not config.ema_decay or config.ema_start >= config.steps:  # no EMA, or a copy of the weights to the end
        values["ema_start"], values["ema_decay"] = 0, bool(config.ema_decay)
    if config.dtype == "float64":  # no autocast
        values["mixed_precision"] = "no"
    return tuple(sorted(values.items()))


def require_used(
    where: str, settings: Mapping[str, str], names: list[str], grid: Mapping, base_of: Callable[[Mapping[str, str]], Config]
) -> None:
    """Refuse a setting that every arm of the experiments `names` overrides.

    `where` and `settings` are the parameter `settings`, quoted and parsed; `base_of` maps settings to the common ones of all runs.
    """
    for setting in settings:
        if "sweep" in names and setting in grid:
            raise ParameterError(f"{where}: {setting} is varied by grid; leave it out of one of them")
        if all(name != "sweep" and _overrides(name, setting, settings, base_of) for name in names):
            raise ParameterError(f"{where}: every arm of {', '.join(names)} sets {setting}; leave it out")


def _overrides(name: str, setting: str, settings: Mapping[str, str], base_of: Callable[[Mapping[str, str]], Config]) -> bool:
    """Whether all arms of an experiment set this parameter, to values that do not depend on the setting."""
    try:
        without = EXPERIMENTS[name](base_of({key: value for key, value in settings.items() if key != setting})).arms
    except ParameterError:  # the setting is necessary
        return False
    arms = EXPERIMENTS[name](base_of(settings)).arms
    return arms == without and all(setting in changes for changes in arms.values())


def require_score(score: str, base: Config) -> None:
    """Refuse a score that the evaluations of these runs do not have, whose extractor cannot be made, or that has no direction."""
    known = known_scores(base)
    names = [name.partition("@")[0] for name in known]
    if score in known or score in names:
        if higher_is_better(score) is None:
            raise ParameterError(
                f"score={short_repr(score)}: whether higher is better is unknown; add it to `directions` of its class of scores"
            )
        return
    synonyms: dict[str, str] = {}  # with another network than Inception, FID is called FD, and so on
    for kind in SCORES.values():
        match = next((name for name in names if name == kind.name or name.startswith(f"{kind.general}_")), None)
        synonyms |= {kind.name: match, kind.general: match} if match else {}
    raise ParameterError(
        f"score={short_repr(score)} is not a score of these runs; {nearest(score, names, synonyms)}there are: {', '.join(names)}"
    )


def known_scores(config: Config) -> list[str]:
    """Names of the scores of `evaluation.during_training`."""
    truth = list(DRAWN[config.data](config).TRUTH) if config.data in DRAWN else []
    extractor = default_extractor(config.data) if config.evaluate_extractor == "auto" else config.evaluate_extractor
    if extractor is None:
        return truth
    splits = f"_{protocol('workbench').splits}splits"
    if extractor == "inception":
        names = ["fid", "is", f"is{splits}"]
    else:
        label = open_extractor(extractor, pairs=config.pairs).label
        names = [f"{SCORES[name].general}{suffix}_{label}" for name, suffix in (("fid", ""), ("is", ""), ("is", splits))]
    return names + truth


def count_arms(names: list[str], grid: Mapping[str, list[str]], base: Config) -> int:
    """The number of arms of these experiments; the arms of a grid are not made."""
    return sum(math.prod(map(len, grid.values())) if name == "sweep" else len(EXPERIMENTS[name](base).arms) for name in names)
