"""Progress of long work: a bar in a terminal or in JupyterLab, lines in a log; on stderr, since stdout is for results."""

from __future__ import annotations

import html
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import TextIO

from tqdm import tqdm

from .notebook import parent_command

LOG_INTERVAL = 30.0  # seconds between lines in a log


def interactive() -> bool:
    """Whether a user runs this notebook in JupyterLab or VS Code: false under papermill, nbconvert or in a script.

    `WORKBENCH_HEADLESS=1` (or `0`) in the environment overrides it.
    """
    if "WORKBENCH_HEADLESS" in os.environ:
        return os.environ["WORKBENCH_HEADLESS"] in ("", "0")
    # A front end sends with every cell whether its user can answer `input()`. JPY_SESSION_NAME is no sign of a user: papermill inherits
    # it when a notebook starts it.
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    request: dict = getattr(shell, "get_parent", dict)()
    return bool(request.get("content", {}).get("allow_stdin"))


@contextmanager
def progress(total: int, items: str) -> Iterator[Callable[..., None]]:
    """Show the progress of work on `total` items ("real images of twins"), with speed and time left.

    Yields a function to call with the number of items done since the last call; perhaps also with a text to show behind it, and the number of
    items that need not be done after all.
    """
    if not interactive() and sys.stderr.isatty():
        with tqdm(total=total, desc=items, unit="") as bar:

            def update(count: int, note: str = "", dropped: int = 0) -> None:
                bar.total -= dropped
                bar.set_postfix_str(note, refresh=False)
                bar.update(count)

            yield update
        return
    show, interval = (_bar_in_notebook(), 0.2) if interactive() else (_print_line, LOG_INTERVAL)
    start = shown_at = time.monotonic()
    done, last = 0, ""

    def advance(count: int, note: str = "", dropped: int = 0) -> None:
        nonlocal total, done, shown_at, last
        total, done, last = total - dropped, done + count, f"; {note}" if note else ""
        if time.monotonic() - shown_at >= interval:
            shown_at = time.monotonic()
            show(_line(done, total, items, shown_at - start) + last, done / max(total, 1))

    try:
        yield advance
    finally:
        show(_line(done, total, items, time.monotonic() - start) + last)


@contextmanager
def silent(total: int, items: str) -> Iterator[Callable[..., None]]:
    """As `progress`, but shows nothing."""
    yield lambda *what: None


def tell(line: str, file: TextIO | None = None) -> None:
    """Print a line, by default to stdout; under papermill, also in its terminal."""
    print(line, file=file, flush=True)
    terminal = _terminal_of_papermill()
    if terminal is not None:
        with suppress(OSError):
            above = "\r\x1b[K" if os.isatty(terminal) else "\n"  # papermill's bar is drawn again below the line
            os.write(terminal, f"{above}{line}\n".encode())


@cache
def _terminal_of_papermill() -> int | None:
    """The kernel's own stderr, which is papermill's; None elsewhere, and where papermill shows what cells print."""
    words = parent_command("papermill")
    if not words or "--log-output" in words:
        return None
    return getattr(sys.stderr, "_original_stdstream_copy", None) or 2  # a kernel that captures its stderr keeps a copy of it


def _print_line(line: str, fraction: float | None = None) -> None:
    tell(line, sys.stderr)


def _bar_in_notebook() -> Callable:
    """A function that shows a line and, for a fraction, a bar: the last line has none, so that no bar is saved with the notebook."""
    from IPython.display import HTML, display

    handle = display(HTML(""), display_id=True)

    def show(line: str, fraction: float | None = None) -> None:
        bar = "" if fraction is None else f'<progress value="{fraction:.4f}" style="width: 20em; vertical-align: middle"></progress> '
        handle.update(HTML(bar + html.escape(line)))

    return show


def _line(done: int, total: int, items: str, seconds: float) -> str:
    pace = done / seconds if seconds > 0 else 0.0
    if done >= total or not pace:
        return f"{done:,} of {total:,} {items} in {clock(seconds)}"
    return f"{done:,} of {total:,} {items}, {pace:,.3g} a second, {clock((total - done) / pace)} left"


def clock(seconds: float) -> str:
    """0:58, 1:02:33 or 3 d 4:05:06."""
    days, rest = divmod(round(max(seconds, 0)), 86400)
    hours, minutes = rest // 3600, rest // 60 % 60
    text = f"{hours}:{minutes:02}:{rest % 60:02}" if days or hours else f"{minutes}:{rest % 60:02}"
    return f"{days} d {text}" if days else text
