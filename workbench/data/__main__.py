"""The command line: `python -m workbench.data prepare SOURCE OUT --size S`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ..messages import command
from .datasets import describe, prepare


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Pack a data set, and print what is in it."""
    parser = argparse.ArgumentParser(prog="python -m workbench.data", description="Data sets of the SAGAN workbench.")
    prepares = parser.add_subparsers(required=True, metavar="prepare").add_parser(
        "prepare",
        help="decode a data set once, into a folder that training reads directly",
        description="Decode a data set once, into a folder for data=OUT, here or on another machine.",
    )
    prepares.add_argument(
        "source", metavar="SOURCE", help="folder of images, SOURCE/<class>/* or SOURCE/train/<class>/*; cifar10; imagenet"
    )
    prepares.add_argument("out", metavar="OUT", help="folder to make; it must be empty or not exist yet")
    prepares.add_argument("--size", type=int, required=True, help="height and width of the images, the image_size of the run")
    prepares.add_argument("--skip-unreadable", action="store_true", help="leave unreadable files out instead of refusing")
    prepares.add_argument("--unconditional", action="store_true", help="take all images below SOURCE, without classes")
    print(describe(prepare(**vars(parser.parse_args(arguments)))))


if __name__ == "__main__":
    sys.exit(main())
