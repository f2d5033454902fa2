"""Does a task need attention? `python -m workbench.studies.gate` lets D alone tell real images of `binding` from mismatched ones.

Run it before a sweep: where D with attention sees no more than D without, D has nothing to teach G, and a sweep can only find that it cannot
tell. Wrong images have the contents of right ones, but the second tile of some pairs has a hue of its own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import scipy
import torch
from torch import Tensor
from torch.nn.utils import parametrize

from ..config import Config
from ..data.binding import Binding
from ..files import append_record, read_records
from ..messages import ParameterError, command
from ..model import Discriminator, losses
from ..model.layers import power_iteration
from ..progress import progress

ARMS: dict[str, dict] = {
    "none": dict(attention_d="none"),
    "residual": dict(attention_block="residual"),  # of equal size
    "attention": {},
}
MARGIN, SEEDS = 0.1, 5  # of AUC, and how many seeds: a task is admitted where attention is that far ahead of both other arms
BATCH, FRESH = 24, 384  # right images of a step, and of a measurement; as many wrong ones
LEARNING_RATE, BETAS = 1e-3, (0.0, 0.9)


def base_config(**changes) -> Config:
    """The settings of D: 64 channels and 8 query dimensions at the 8x8 map where attention is."""
    settings = dict(data="binding", width_d=32, max_multiplier=4, attention_d="8", attention_g="none", mixed_precision="no", device="cpu")
    return Config.preset("twins32", **settings | changes)


def auc(right: Tensor, wrong: Tensor) -> float:
    """Area under the ROC curve: the probability that a right image has a higher logit than a wrong one; ties count half. (N,), (M,)."""
    ranks = scipy.stats.rankdata(torch.cat([right, wrong]).double().numpy())
    n, m = len(right), len(wrong)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def discriminate(config: Config, mismatched: int, steps: int, every: int) -> list[dict]:
    """Train a fresh D with the hinge loss on right and wrong images; AUC on fresh images every `every` steps.

    Parameters
    ----------
    config
        `data` ("binding" or "binding-near"), `image_size`, `tiles`, `patterns`, `seed` and the settings of D matter.
    mismatched
        Pairs of a wrong image whose hues differ.

    Returns
    -------
    list of dict
        step and auc.
    """
    torch.manual_seed(config.seed)
    net = Discriminator(config).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(net.parameters(), LEARNING_RATE, BETAS, fused=True)
    sets = [_pair_of_sets(config, seed, mismatched) for seed in (config.seed, config.seed + 1_000_000)]
    rows = []
    with progress(steps, "steps of D") as advance:
        for step in range(1, steps + 1):
            power_iteration(net)
            right, wrong = net(_images(sets[0], step * BATCH, BATCH)).split(BATCH)
            loss = losses.hinge_discriminator(right, wrong)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % every == 0 or step == steps:
                rows.append(dict(step=step, auc=auc(*_logits(net, _images(sets[1], 0, FRESH)).split(FRESH))))
            advance(1)
    return rows


def _pair_of_sets(config: Config, seed: int, mismatched: int) -> list[Binding]:
    near = config.data == "binding-near"
    return [Binding(config.image_size, seed, config.tiles, config.patterns, near, count) for count in (0, mismatched)]


def _images(sets: Sequence[Binding], first: int, count: int) -> Tensor:
    """`count` right images and as many wrong ones, in [-1, 1]; of other indices, else they would be the same but for the hues."""
    at = 2 * np.arange(first, first + count)
    return torch.cat([data.batch(at + k)[0] for k, data in enumerate(sets)]).float() / 127.5 - 1


@torch.no_grad()
def _logits(net: Discriminator, images: Tensor) -> Tensor:
    with parametrize.cached():
        return torch.cat([net(part) for part in images.split(128)])


def gate(
    record: Path, *, mismatched: Iterable[int] = (8, 4, 2, 1), seeds: Iterable[int] = range(SEEDS), steps: int = 3500, every: int = 500,
    **settings,
) -> list[dict]:  # fmt: skip
    """Train D in each arm, for each seed and number of mismatched pairs.

    Parameters
    ----------
    record
        A file of JSON lines. What it holds is not trained again; a stopped gate goes on where it was.
    settings
        Changes of `base_config`, such as `data="binding-near"`.

    Returns
    -------
    list of dict
        data, mismatched, seed, arm, settings, steps, and auc: step -> AUC.
    """
    rows = []
    for count in mismatched:
        for seed in seeds:
            for arm, changes in ARMS.items():
                config = base_config(seed=seed, **settings | changes)
                key = dict(data=config.data, mismatched=count, seed=seed, arm=arm, steps=steps, settings=settings)
                row = next((row for row in read_records(record) if key.items() <= row.items()), None)
                if row is None:
                    curve = discriminate(config, count, steps, every)
                    row = key | dict(auc={str(point["step"]): round(point["auc"], 4) for point in curve})
                    append_record(record, row)
                    print(f"{config.data}, {count} mismatched, seed {seed}, {arm}: AUC {curve[-1]['auc']:.3f}", flush=True)
                rows.append(row)
    return rows


def verdicts(rows: Sequence[dict]) -> list[dict]:
    """For each data set and number of mismatched pairs: the mean AUC of each arm at the end, the lead of attention, and the verdict.

    The lead is the smaller one of the mean differences to `none` and to `residual`, over the seeds that all arms have.
    """
    result = []
    for data, count in dict.fromkeys((row["data"], row["mismatched"]) for row in rows):
        at_end: dict[str, dict[int, float]] = {arm: {} for arm in ARMS}
        for row in rows:
            if (row["data"], row["mismatched"]) == (data, count):
                at_end[row["arm"]][row["seed"]] = row["auc"][str(row["steps"])]
        seeds = sorted(set.intersection(*map(set, at_end.values())))
        if not seeds:
            continue
        values = {arm: np.array([scores[seed] for seed in seeds]) for arm, scores in at_end.items()}
        leads = {arm: values["attention"] - values[arm] for arm in ("none", "residual")}
        lead = min(float(differences.mean()) for differences in leads.values())
        verdict = f"{len(seeds)} of {SEEDS} seeds" if len(seeds) < SEEDS else "admitted" if lead >= MARGIN else "not admitted"
        smallest = min(float(differences.min()) for differences in leads.values())
        means = {arm: float(numbers.mean()) for arm, numbers in values.items()}
        result.append(dict(data=data, mismatched=count, n=len(seeds)) | means | dict(lead=lead, smallest=smallest, verdict=verdict))
    return result


@command
def main() -> None:
    """Run the gate and print its table."""
    parser = argparse.ArgumentParser(prog="python -m workbench.studies.gate", description=__doc__.split("\n")[0])
    parser.add_argument("record", type=Path, help="file of JSON lines: what it holds is not trained again")
    parser.add_argument("--data", choices=("binding", "binding-near"), default="binding")
    parser.add_argument("--mismatched", default="8,4,2,1", help="pairs of a wrong image whose hues differ [8,4,2,1]")
    parser.add_argument("--seeds", default="0,1,2,3,4", help="[0,1,2,3,4]")
    parser.add_argument("--steps", type=int, default=3500, help="of D [3500]; the lead of attention appears late")
    arguments = parser.parse_args()
    counts, seeds = (_integers(name, getattr(arguments, name)) for name in ("mismatched", "seeds"))
    pairs = base_config().tiles ** 2 // 2
    if not all(1 <= count <= pairs for count in counts):
        raise ParameterError(f"--mismatched={arguments.mismatched}: give numbers from 1 to {pairs}")
    if arguments.steps < 1:
        raise ParameterError(f"--steps={arguments.steps} must be at least 1")
    for row in verdicts(gate(arguments.record, mismatched=counts, seeds=seeds, steps=arguments.steps, data=arguments.data)):
        print(", ".join(f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}" for name, value in row.items()))


def _integers(name: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ParameterError(f"--{name}={text!r} is not a list of integers, such as 0,1,2") from None


if __name__ == "__main__":
    sys.exit(main())
