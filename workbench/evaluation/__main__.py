"""`python -m workbench.evaluation`: score checkpoints of a run, or a folder of images."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

from ..messages import command
from . import Evaluation, evaluate
from .workers import work


@command
def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m workbench.evaluation",
        description="Score checkpoints of a run, or a folder of images.",
        epilog="parameters:\n" + Evaluation.explain_all(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a parameter, see below")
    parser.add_argument("--json", action="store_true", help="print the records as JSON lines, and nothing else on stdout")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return work(arguments.worker, evaluate)
    evaluation = Evaluation.from_parameters(dict(arguments.p))
    with redirect_stdout(sys.stderr) if arguments.json else nullcontext():  # a user's extractor may print
        records = evaluate(evaluation)
    print("\n".join(json.dumps(record) if arguments.json else table(record) for record in records))


def table(record: dict) -> str:
    """The scores of a record as text, with the protocol and the scores left out."""
    values, errors = record["scores"], record["errors"]
    width = max(map(len, values), default=0)
    lines = [f"  {name:<{width}}  {value:.6g}" + (f" +- {errors[name]:.2g}" if name in errors else "") for name, value in values.items()]
    head = f"step {record['step']}" if "step" in record else record["samples"]
    real = record["reference"]
    about = f"{head}: {record['protocol']}; real images: {real['data']} at {real['size']} px"
    by_reason: dict[str, list[str]] = {}
    for name, reason in record["left_out"].items():
        by_reason.setdefault(reason, []).append(name)
    return "\n".join([about, *lines, *(f"  left out: {', '.join(names)} ({reason})" for reason, names in by_reason.items())])


if __name__ == "__main__":
    sys.exit(main())
