"""`python -m workbench`: the parameters, the runs, and how one stands."""

import argparse
import contextlib
import sys
import time

from .config import Config, WorkbenchError, explain_all, outputs_dir
from .runs import Run, list_runs, reserve


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m workbench", description="Look at parameters and runs.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("parameters", help="all parameters, with meaning, allowed values and [default]")
    commands.add_parser("runs", help="all runs, with their states")
    reserving = commands.add_parser("reserve", help="make a folder for a new run and print its name")
    reserving.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a parameter of the run")
    showing = commands.add_parser("show", help="wait until a run is at rest, then tell how it stands and what it left")
    showing.add_argument("run")
    arguments = parser.parse_args()
    try:
        if arguments.command == "reserve":
            print(reserve(Config.from_parameters(dict(arguments.p))))
        elif arguments.command == "parameters":
            print(explain_all())
        elif arguments.command == "runs":
            for run in list_runs():
                status = run.status()
                print(f"{status['state']:<9} {status['step']:>8}/{status['steps']:<8} {run.name}")
        elif not (outputs_dir() / arguments.run / "config.json").exists():  # it was refused before it began
            with contextlib.suppress(OSError):
                (outputs_dir() / arguments.run).rmdir()
        else:
            run = Run(arguments.run)
            while run.active:
                time.sleep(0.2)
            status = run.status()
            print(f"{status['state']}: {status['message']}\n{run.path}")
    except WorkbenchError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
