"""The same work again and again in one process: does its memory grow, do files stay open? `make soak`.

python tests/faults/soak.py --minutes 10
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import psutil

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, by the first round
sys.path.insert(0, str(Path(__file__).parents[2]))

GROWTH = 500  # KB a minute, over the second half: in the first the allocator still grows
HANDLES = 0


def a_round() -> None:
    """Train, go on, fork, score, look at all of it in every way, and delete it."""
    from damage import RUN_READERS
    from writes import NAME, score, tiny

    from workbench import Config, Run, train
    from workbench.evaluation import evaluate
    from workbench.messages import WorkbenchError

    train(tiny(steps=4, keep_checkpoints=None, sample_every=2), score)
    train(Config.from_parameters(dict(resume=NAME, steps=6)), score)
    train(Config.from_parameters(dict(resume=f"{NAME}@2", run="forked", steps=4)), score)
    evaluate(run=NAME, n=16, scores="fd,accuracy", extractor="twins", reference_n=40, batch_size=16)
    for reader in RUN_READERS:
        reader.read()
    (Run("forked").path / "checkpoints" / "4" / "ema.safetensors").write_bytes(b"damaged")
    try:
        Run("forked").generator()
    except WorkbenchError:
        pass
    else:
        raise AssertionError("a damaged checkpoint was read")
    for name in (NAME, "forked"):
        shutil.rmtree(Run(name).path)


def soak(minutes: float) -> tuple[np.ndarray, int]:
    """Rounds for so long: (rounds, 4) of minutes, MB of memory, open files, threads; and how many rounds."""
    me, rows = psutil.Process(), []
    began, said = time.monotonic(), 0.0
    while (passed := (time.monotonic() - began) / 60) < minutes or len(rows) < 3:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            a_round()
        rows.append((passed, me.memory_info().rss / 1e6, me.num_fds(), me.num_threads()))
        if passed - said > 1:
            said = passed
            print(f"{passed:5.1f} minutes, {len(rows):4d} rounds, {rows[-1][1]:,.0f} MB, {rows[-1][2]} open files", flush=True)
    return np.array(rows), len(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        os.environ["WORKBENCH_OUTPUTS"], os.environ["WORKBENCH_DATA"] = f"{folder}/outputs", f"{folder}/data"
        measured, rounds = soak(arguments.minutes)
    late = measured[len(measured) // 2 :]
    growth = np.polyfit(late[:, 0], late[:, 1], 1)[0] * 1000
    handles, threads = (int(late[-1, column] - late[0, column]) for column in (2, 3))
    print(
        f"{rounds} rounds in {measured[-1, 0]:.1f} minutes: memory {growth:+,.0f} KB a minute, open files {handles:+d}, threads {threads:+d}"
    )
    return int(growth > GROWTH or handles > HANDLES or threads > 0)


if __name__ == "__main__":
    sys.exit(main())
