"""Makes the run in this folder, which ships with the package: `python -m workbench.demo.make` (20 minutes on a CPU).

A run without what only a training needs: no optimisers and no raw weights, a few checkpoints, weights in half precision.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from ..config import Config
from ..messages import command
from ..paths import DEMO
from ..runs import Run
from ..tensors import load_tensors, save_tensors, seal
from ..training import train

STEPS = (100, 500, 1500, 4000)
CONFIG = dict(
    run="demo",
    width=16,
    attention_g="16,32",
    batch_size=32,
    steps=4000,
    log_every=20,
    checkpoint_every=100,
    evaluate_every=500,
    mixed_precision="no",
)


def strip(run: Run, out: Path) -> None:
    """Write what can be looked at in a run to `out`, in a few megabytes."""
    for old in ("checkpoints", "attention", "samples"):
        shutil.rmtree(out / old, ignore_errors=True)
    steps = [step for step in STEPS if step in run.checkpoint_steps()]
    for step in steps:
        folder = out / "checkpoints" / str(step)
        folder.mkdir(parents=True)
        for name in ("ema", "discriminator"):
            tensors = load_tensors(run.checkpoint_path(step) / f"{name}.safetensors")
            save_tensors(folder / f"{name}.safetensors", {key: tensor.half() for key, tensor in tensors.items()})
        seal(folder)
    for source in [run.sample_path(steps[-1]), *(run.attention_path(step) for step in run.attention_steps()[::4])]:
        target = out / source.relative_to(run.path)
        target.parent.mkdir(exist_ok=True)
        shutil.copy(source, target)
    for name in ("config.json", "history.jsonl", "evaluations.jsonl"):
        shutil.copy(run.path / name, out / name)
    status = {key: run.status()[key] for key in ("state", "message", "step", "steps", "alarms", "seconds_per_step")}
    (out / "status.json").write_text(json.dumps(status))
    known = {key: run.provenance[key] for key in ("python", "versions", "data")}
    (out / "provenance.json").write_text(json.dumps(dict(command=["python", "-m", "workbench.demo.make"]) | known, indent=2))


@command
def main() -> None:
    strip(train(Config.preset("twins32", **CONFIG)), DEMO)


if __name__ == "__main__":
    sys.exit(main())
