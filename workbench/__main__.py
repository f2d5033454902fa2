"""`python -m workbench`: parameters, runs and their states, and the parameters cells of the notebooks."""

import argparse
import sys
import time
from pathlib import Path

from .config import Config
from .messages import command
from .notebook import write_parameters_cell
from .runs import Run, list_runs, release, reserve
from .training.memory import require_feasible


@command
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m workbench", description="Look at parameters and runs.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("parameters", help="all parameters, with meaning, allowed values and [default]")
    cells = commands.add_parser("cells", help="rewrite the parameters cells of the notebooks")
    cells.add_argument("folder", nargs="?", type=Path, default=Path("notebooks"))
    commands.add_parser("runs", help="all runs, with their states")
    reserving = commands.add_parser("reserve", help="make a folder for a new run and print its name")
    reserving.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a parameter of the run")
    releasing = commands.add_parser("release", help="delete the folder from `reserve`, if no run has started in it")
    releasing.add_argument("run")
    showing = commands.add_parser("show", help="wait while a run trains, then print its state")
    showing.add_argument("run")
    arguments = parser.parse_args()
    if arguments.command == "parameters":
        print(Config.explain_all())
    elif arguments.command == "cells":
        from . import Ablation, AttentionView, Comparison, Evaluation  # here, because they import plotting libraries

        notebooks = dict(train=Config, evaluate=Evaluation, attention=AttentionView, compare=Comparison, ablation=Ablation)
        for name, parameters in notebooks.items():
            write_parameters_cell(arguments.folder / f"{name}.ipynb", parameters.cell())
    elif arguments.command == "runs":
        for run in list_runs():
            status = run.status()
            error = f"  {status['message']}" if status["state"] == "unreadable" else ""
            print(f"{status['state']:<10} {status['step']:>8}/{status['steps']:<8} {run.name}{error}")
    elif arguments.command == "reserve":
        config = Config.from_parameters(dict(arguments.p))
        require_feasible(config)
        print(reserve(config))
    elif arguments.command == "release":
        release(arguments.run)
    else:
        run = Run(arguments.run)
        while run.active:
            time.sleep(0.2)
        status = run.status()
        print(f"{status['state']}: {status['message']}\n{run.path}")


if __name__ == "__main__":
    sys.exit(main())
