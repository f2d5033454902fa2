"""Progress of long work: a bar in a terminal, a bar in JupyterLab, lines in a log; on stderr, since stdout is for results."""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import environ

from tqdm import tqdm


def interactive() -> bool:
    """Whether a user runs this notebook in JupyterLab or VS Code: false under papermill, nbconvert or in a script.

    `WORKBENCH_HEADLESS=1` (or `0`) in the environment overrides it.
    """
    if "WORKBENCH_HEADLESS" in environ:
        return environ["WORKBENCH_HEADLESS"] in ("", "0")
    # A front end says with every cell whether its user can answer `input()`. JPY_SESSION_NAME would not do: a papermill
    # that is started from a notebook inherits it.
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    request = getattr(shell, "get_parent", dict)()
    return bool(request.get("content", {}).get("allow_stdin"))


@contextmanager
def progress(total: int, what: str, every: float = 30.0) -> Iterator[Callable[[int], None]]:
    """Show the progress of some work, with speed and time left.

    Parameters
    ----------
    total, what
        How many items, and of what: "real images of twins".
    every
        Seconds between lines, where there is neither a terminal nor JupyterLab.

    Yields
    ------
    function
        To be called with the number of items done since the last call.
    """
    if interactive():
        show = _InNotebook()
    elif sys.stderr.isatty():
        with tqdm(total=total, desc=what, unit="") as bar:
            yield bar.update
        return
    else:
        show = _Lines(every)
    began, done = time.monotonic(), 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        show.update(done, total, what, time.monotonic() - began)

    try:
        yield advance
    finally:
        show.close(done, total, what, time.monotonic() - began)


@contextmanager
def silent(total: int, what: str) -> Iterator[Callable[[int], None]]:
    """As `progress`, but shows nothing."""
    yield lambda count: None


class _Lines:
    def __init__(self, every: float):
        self.every, self.printed = every, time.monotonic()

    def update(self, done: int, total: int, what: str, seconds: float) -> None:
        if time.monotonic() - self.printed >= self.every:
            self.printed = time.monotonic()
            print(_line(done, total, what, seconds), file=sys.stderr, flush=True)

    def close(self, done: int, total: int, what: str, seconds: float) -> None:
        print(_line(done, total, what, seconds), file=sys.stderr, flush=True)


class _InNotebook:
    """A bar that a line replaces in the end, so that none is saved with the notebook."""

    def __init__(self):
        from IPython.display import HTML, display

        self.html, self.shown = HTML, time.monotonic()
        self.handle = display(HTML(""), display_id=True)

    def update(self, done: int, total: int, what: str, seconds: float) -> None:
        if time.monotonic() - self.shown >= 0.2:
            self.shown = time.monotonic()
            bar = f'<progress value="{done}" max="{total}" style="width: 20em; vertical-align: middle"></progress>'
            self.handle.update(self.html(f"{bar} {html.escape(_line(done, total, what, seconds))}"))

    def close(self, done: int, total: int, what: str, seconds: float) -> None:
        self.handle.update(self.html(html.escape(_line(done, total, what, seconds))))


def _line(done: int, total: int, what: str, seconds: float) -> str:
    pace = done / seconds if seconds > 0 else 0.0
    if done >= total or not pace:
        return f"{done:,} of {total:,} {what} in {clock(seconds)}"
    return f"{done:,} of {total:,} {what}, {pace:,.3g} a second, {clock((total - done) / pace)} left"


def clock(seconds: float) -> str:
    """0:58, 1:02:33 or 3 d 4:05:06."""
    days, rest = divmod(round(max(seconds, 0)), 86400)
    hours, minutes = rest // 3600, rest // 60 % 60
    text = f"{hours}:{minutes:02}:{rest % 60:02}" if days or hours else f"{minutes}:{rest % 60:02}"
    return f"{days} d {text}" if days else text
