"""`python -m workbench.training`: train with evaluation, in one process or in all that `accelerate launch` starts."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..config import Config
from ..evaluation import during_training
from ..files import read_bytes
from ..messages import ParameterError, WorkbenchError, command
from ..runs import Run, lock_run
from .start import train


@command
def main(words: list[str] | None = None) -> None:
    """Parse a command line (by default that of this process), and train."""
    parser = argparse.ArgumentParser(
        prog="python -m workbench.training",
        description="Train a SAGAN. For several processes: accelerate launch --multi_gpu --num_processes N -m workbench.training ...",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="JSON object of parameters; the config.json of a run resumes that run")
    help_p = "set a parameter; `python -m workbench parameters` lists them"
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help=help_p)
    arguments = parser.parse_args(words)
    parameters, run = dict(arguments.p), None
    if not arguments.config:
        config = Config.from_parameters(parameters)
    else:
        try:
            config = Config.from_json(read_bytes(arguments.config))
        except OSError as error:
            raise ParameterError(f"--config: {arguments.config} cannot be read: {error.strerror or error}") from None
        config = config.replace(**parameters)
        if config.run and arguments.config.resolve().parent.name == config.run and arguments.config.name == "config.json":
            run = Run(arguments.config.resolve().parent)
    try:
        evaluate = during_training(config) if config.evaluate_every else None
    except WorkbenchError as error:
        if run:
            with lock_run(run):
                run.set_status(state="failed", message=str(error))
        raise
    train(config, evaluate, run)


if __name__ == "__main__":
    sys.exit(main())
