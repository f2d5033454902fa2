"""Faults, planted on purpose: what is lost, and whether errors are one line. `make faults`; see docs/robustness.md.

python tests/faults/campaign.py                          all parts
python tests/faults/campaign.py kill disk --share 0.1    some parts, a tenth of their trials
python tests/faults/campaign.py --trial training/kill:37 one trial, with all that it says
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial

import harness

harness.with_shim()  # starts this program again

TESTS = harness.HERE.parent
SHARES = dict(disk=0.2, damage=0.25)  # of the trials there are, for 25 minutes in all on two cores


def parts(only: str) -> dict:
    """The parts of the campaign by name, which give their trials; imported here, after the shim, and by a process that computes nothing."""
    import torch
    import torch._dynamo
    import torch.distributed.fsdp

    torch.set_num_threads(1)
    import damage
    import moments
    import writes

    return dict(
        kill=lambda: writes.trials("kill", only), disk=lambda: writes.trials("disk", only), damage=damage.trials, moments=moments.moments,
        processes=moments.processes, twice=moments.twice, clock=moments.clocks, properties=properties,
        planted=lambda: itertools.chain(writes.trials("kill", only, writes.PLANTED), writes.trials("disk", only, writes.PLANTED)),
    )  # fmt: skip


def properties() -> Iterator[harness.Trial]:
    """The property-based tests, with many more examples than `make test` has time for."""
    environment = os.environ | dict(FAULTS_EXAMPLES="1000", PYTHONPATH=os.pathsep.join([str(harness.HERE), os.environ["PYTHONPATH"]]))
    pytest = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "examples",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(TESTS.parent),
        "--no-header",
    ]

    def work(test: str) -> harness.Verdict:
        done = subprocess.run([*pytest, test], cwd=TESTS.parent, env=environment, capture_output=True, text=True)
        reasons = [line for line in done.stdout.splitlines() if line.startswith(("E  ", "FAILED"))]
        return harness.Verdict(lost=" ".join(reasons[:3])[:500] or done.stderr[-500:] if done.returncode else "")

    listed = subprocess.run([*pytest, "--collect-only", str(TESTS)], cwd=TESTS.parent, env=environment, capture_output=True, text=True)
    for test in (line for line in listed.stdout.splitlines() if "::" in line and " " not in line):
        yield harness.Trial("1,000 random inputs each, property-based tests", f"properties/{test}", partial(work, test), 900)


class Table:
    """What became of the trials, by kind of fault."""

    def __init__(self):
        self.rows: dict[str, Counter] = {}
        self.problems: dict[str, list[str]] = {}

    def add(self, part: str, trial: harness.Trial, verdict: harness.Verdict) -> None:
        row = self.rows.setdefault(trial.kind, Counter())
        row["tried"] += 1
        row["lost" if verdict.lost else "survived"] += 1
        row["to tell"] += verdict.told is not None
        row["told"] += bool(verdict.told)
        if verdict.lost:
            self._note(part, trial, f"lost: {verdict.lost}")
        if verdict.told is False:
            self._note(part, trial, f"not told in one line: {verdict.text}")

    def _note(self, part: str, trial: harness.Trial, text: str) -> None:
        alike = re.sub(r"trial-\w+", "ROOT", re.sub(r"\d+", "N", re.sub(r"-[0-9a-f]{8}\b", "-HEX", text.replace("\n", " | "))))
        cases = self.problems.setdefault(f"{trial.kind}: {alike}", [])
        cases.append(f"{text[:1500]}\n        first: make faults ARGS=\"{part} --trial '{trial.name}'\"")
        if len(cases) == 1:
            print(cases[0], file=sys.stderr, flush=True)

    @property
    def bad(self) -> bool:
        return bool(self.problems)

    def __str__(self) -> str:
        head = ("fault", "tried", "survived", "lost", "told in one line")
        lines = [head]
        total = Counter()
        for kind, row in self.rows.items():
            total += row
            lines.append(self._line(kind, row))
        lines.append(self._line("all", total))
        width = max(len(line[0]) for line in lines)
        return "\n".join(f"{a:<{width}}  {b:>6}  {c:>8}  {d:>5}  {e:>16}" for a, b, c, d, e in lines)

    @staticmethod
    def _line(kind: str, row: Counter) -> tuple:
        told = f"{row['told']} of {row['to tell']}" if row["to tell"] else "-"
        return kind, row["tried"], row["survived"], row["lost"], told

    def report(self) -> str:
        """Every problem once, with how often, and the first trial that shows it."""
        problems = sorted(self.problems.values(), key=len, reverse=True)
        return "\n".join(f"{len(cases):>4} x  {cases[0]}" for cases in problems)


def thinned(trials: Iterator[harness.Trial], share: float) -> Iterator[harness.Trial]:
    """A share of the trials, evenly spaced."""
    credit = 1 - 1e-9
    for trial in trials:
        credit += share
        if credit >= 1:
            credit -= 1
            yield trial


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "parts",
        nargs="*",
        help="of kill, disk, damage, moments, processes, twice, clock, properties, and planted; none: all but the last, which has to fail",
    )
    parser.add_argument(
        "--share", type=float, help="of the trials that are made, evenly spaced; 1: all; by default all but of disk and damage"
    )
    parser.add_argument("--jobs", type=int, default=2, help="trials at a time")
    parser.add_argument("--trial", help="only trials of this name")
    parser.add_argument("--subject", default="", help="only trials whose name begins so")
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    table, began = Table(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True) as scratch:
        os.environ["FAULTS_SCRATCH"] = scratch
        only = arguments.trial or arguments.subject
        known = parts(only)
        unknown = [name for name in arguments.parts if name not in known]
        if unknown:
            parser.error(f"{unknown[0]!r} is none of the parts: {', '.join(known)}")
        try:
            for name in arguments.parts or [name for name in known if name != "planted"]:
                chosen = (trial for trial in known[name]() if (trial.name == only if arguments.trial else trial.name.startswith(only)))
                share = arguments.share or (1 if only else SHARES.get(name, 1))
                carry_out(name, thinned(chosen, share), arguments.jobs, table)
        except KeyboardInterrupt:
            print("interrupted: the table is of what was tried", file=sys.stderr)
    shutil.rmtree(os.path.dirname(os.environ["FAULTS_SHIM"]), ignore_errors=True)
    if table.problems:
        print(table.report(), end="\n\n")
    print(table)
    work = os.times()
    print(f"{(time.monotonic() - began) / 60:.1f} minutes, {sum(work[:4]) / 60:.1f} of a processor")
    return int(table.bad)


def carry_out(part: str, trials: Iterator[harness.Trial], jobs: int, table: Table) -> None:
    """Try the trials of a part, and say on stderr every minute how far it is."""
    began = said = time.monotonic()
    for trial, verdict in harness.run_trials(trials, jobs):
        table.add(part, trial, verdict)
        if time.monotonic() - said > 60:
            said = time.monotonic()
            print(f"{part}: after {said - began:.0f} s at {trial.name}", file=sys.stderr, flush=True)
    print(f"{part}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
