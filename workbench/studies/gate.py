"""Does a task need attention? `python -m workbench.studies.gate` lets D alone tell real images of `binding` from mismatched ones.

Run it before a sweep: where D with attention sees no more than D without, D has nothing to teach G, and a sweep can only find that it cannot
tell. In wrong images the second tiles of some pairs have exchanged their hues; the fewer, the harder to see.

D learns in three stages, the same in all arms; without the first, some seeds see nothing for 5,000 steps. Up to 30 % of the steps all pairs are
wrong and have hues of their own, up to 60 % all exchange them, then each number of wrong pairs is there equally often. Over the last quarter
the learning rate falls to 0.
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
from ..data import to_unit
from ..data.binding import Binding
from ..json_lines import append_record, read_records
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
STEPS = 5000
STAGES = (0.3, 0.6)  # where the first two end, as shares of the steps
BATCH, FRESH = 24, 384  # right images of a step, and of a measurement; as many wrong ones
LEARNING_RATE, BETAS = 1e-3, (0.0, 0.9)


def base_config(**changes) -> Config:
    """The settings of D: those of the preset `binding32`."""
    return Config.preset("binding32", **dict(attention_g="none", mixed_precision="no", device="cpu") | changes)


def auc(right: Tensor, wrong: Tensor) -> float:
    """Area under the ROC curve: the probability that a right image has a higher logit than a wrong one; ties count half. (N,), (M,)."""
    ranks = scipy.stats.rankdata(torch.cat([right, wrong]).double().numpy())
    n, m = len(right), len(wrong)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def discriminate(config: Config, mismatched: Sequence[int], steps: int, every: int) -> list[dict]:
    """Train a fresh D with the hinge loss on right and wrong images; AUC on fresh images every `every` steps.

    Parameters
    ----------
    config
        `data` ("binding" or "binding-near"), `image_size`, `tiles`, `patterns`, `seed` and the settings of D matter.
    mismatched
        Wrong pairs of wrong images: the most first, and in the third stage each equally often.

    Returns
    -------
    list of dict
        step, and auc: number of wrong pairs -> AUC.
    """
    torch.manual_seed(config.seed)
    net = Discriminator(config).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(net.parameters(), LEARNING_RATE, BETAS, fused=True)
    counts = sorted(mismatched, reverse=True)
    easy = _sets(config, config.seed, counts[:1], own_hues=True)
    seen, fresh = (_sets(config, seed, counts) for seed in (config.seed, config.seed + 1_000_000))
    rows = []
    with progress(steps, "steps of D") as advance:
        for step in range(1, steps + 1):
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(1.0, 4 * (1 - (step - 1) / steps))
            power_iteration(net)
            stage = sum(step > part * steps for part in STAGES)
            images = _batch(seen if stage else easy, step * BATCH, counts if stage == len(STAGES) else counts[:1])
            right, wrong = net(images).split(BATCH)
            loss = losses.hinge_discriminator(right, wrong)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % every == 0 or step == steps:
                right = _logits(net, _images(fresh[0], np.arange(FRESH)))
                wrong = {count: _logits(net, _images(fresh[count], FRESH + np.arange(FRESH))) for count in counts}
                rows.append(dict(step=step, auc={count: auc(right, logits) for count, logits in wrong.items()}))
            advance(1)
    return rows


def _sets(config: Config, seed: int, counts: Iterable[int], own_hues: bool = False) -> dict[int, Binding]:
    """Number of wrong pairs -> images; 0: right ones."""
    near = config.data == "binding-near"
    return {count: Binding(config.image_size, seed, config.tiles, config.patterns, near, count, own_hues) for count in (0, *counts)}


def _batch(sets: dict[int, Binding], first: int, counts: Sequence[int]) -> Tensor:
    """BATCH right images and as many wrong ones; of other indices, else they would be the same but for the hues."""
    wrong = 2 * np.arange(first, first + BATCH) + 1
    parts = [(0, wrong - 1), *((count, wrong[k :: len(counts)]) for k, count in enumerate(counts))]
    return torch.cat([_images(sets[count], indices) for count, indices in parts])


def _images(data: Binding, indices: np.ndarray) -> Tensor:
    """Images (B, 3, S, S) in [-1, 1]."""
    return to_unit(data.batch(indices)[0])


@torch.no_grad()
def _logits(net: Discriminator, images: Tensor) -> Tensor:
    with parametrize.cached():
        return torch.cat([net(part) for part in images.split(128)])


def gate(
    record: Path, *, data: str = "binding", mismatched: Iterable[int] = (8, 4, 2, 1), seeds: Iterable[int] = range(SEEDS),
    steps: int = STEPS, every: int = 500, **settings,
) -> list[dict]:  # fmt: skip
    """Train D in each arm for each seed.

    Parameters
    ----------
    record
        A file of JSON lines. What it holds is not trained again; a stopped gate goes on where it was.
    data, mismatched
        "binding" or "binding-near", and wrong pairs of wrong images.
    settings
        Further changes of `base_config`, such as `attention_variant="paper"`.

    Returns
    -------
    list of dict
        data, mismatched, seed, arm, settings, steps, and auc: number of wrong pairs -> step -> AUC.
    """
    rows, counts = [], sorted(mismatched, reverse=True)
    for seed in seeds:
        for arm, changes in ARMS.items():
            config = base_config(data=data, seed=seed, **settings | changes)
            key = dict(data=data, mismatched=counts, seed=seed, arm=arm, steps=steps, settings=settings)
            row = next((row for row in read_records(record) if key.items() <= row.items()), None)
            if row is None:
                curve = discriminate(config, counts, steps, every)
                row = key | dict(auc={str(k): {str(point["step"]): round(point["auc"][k], 4) for point in curve} for k in counts})
                append_record(record, row)
                last = ", ".join(f"{value:.3f} at {count}" for count, value in curve[-1]["auc"].items())
                print(f"{config.data}, seed {seed}, {arm}: AUC {last} wrong pairs", flush=True)
            rows.append(row)
    return rows


def verdicts(rows: Sequence[dict]) -> list[dict]:
    """For each data set and number of wrong pairs: the mean AUC of each arm at the end, the lead of attention, and the verdict.

    The lead is the smaller one of the mean differences to `none` and to `residual`, over the seeds that all arms have.
    """
    result = []
    for data, count in dict.fromkeys((row["data"], count) for row in rows for count in row["mismatched"]):
        at_end: dict[str, dict[int, float]] = {arm: {} for arm in ARMS}
        for row in rows:
            if row["data"] == data and count in row["mismatched"]:
                at_end[row["arm"]][row["seed"]] = row["auc"][str(count)][str(row["steps"])]
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
    parser.add_argument("--mismatched", default="8,4,2,1", help="wrong pairs of wrong images [8,4,2,1]")
    parser.add_argument("--seeds", default="0,1,2,3,4", help="[0,1,2,3,4]")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of D [{STEPS}]; the lead of attention appears late")
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
