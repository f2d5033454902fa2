"""`python -m workbench.bench`: the training benchmark, `benchmarks/training.py` of a checkout."""

import sys
from pathlib import Path


def main() -> int:
    checkout = Path(__file__).resolve().parent.parent
    if not (checkout / "benchmarks" / "training.py").is_file():
        print(f"the installed package has no benchmarks, and {checkout} is not a checkout: run this in a checkout", file=sys.stderr)
        return 2
    sys.path.insert(0, str(checkout))  # also for the processes that are timed
    from benchmarks import training

    return training.main()


if __name__ == "__main__":
    sys.exit(main())
