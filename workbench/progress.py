"""Progress of long work: a bar in a terminal or in JupyterLab, lines in a log; on stderr, since stdout is for results."""

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
    request: dict = getattr(shell, "get_parent", dict)()
    return bool(request.get("content", {}).get("allow_stdin"))


@contextmanager
def progress(total: int, items: str, every: float = 30.0) -> Iterator[Callable[[int], None]]:
    """Show the progress of some work, with speed and time left.

    Parameters
    ----------
    total, items
        Number of items and what they are: "real images of twins".
    every
        Seconds between lines, where there is neither a terminal nor JupyterLab.

    Yields
    ------
    function
        To be called with the number of items done since the last call.
    """
    if not interactive() and sys.stderr.isatty():
        with tqdm(total=total, desc=items, unit="") as bar:
            yield bar.update
        return
    output = _NotebookBar(total) if interactive() else _Lines(every)
    start, done = time.monotonic(), 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        output.update(done, _line(done, total, items, time.monotonic() - start))

    try:
        yield advance
    finally:
        output.close(_line(done, total, items, time.monotonic() - start))


@contextmanager
def silent(total: int, items: str) -> Iterator[Callable[[int], None]]:
    """As `progress`, but shows nothing."""
    yield lambda count: None


class _Lines:
    def __init__(self, every: float):
        self.every, self.printed_at = every, time.monotonic()

    def update(self, done: int, line: str) -> None:
        if time.monotonic() - self.printed_at >= self.every:
            self.printed_at = time.monotonic()
            self.close(line)

    def close(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


class _NotebookBar:
    """A bar that a line replaces at the end, so that no bar is saved with the notebook."""

    def __init__(self, total: int):
        from IPython.display import HTML, display

        self.html, self.total, self.updated_at = HTML, total, time.monotonic()
        self.handle = display(HTML(""), display_id=True)

    def update(self, done: int, line: str) -> None:
        if time.monotonic() - self.updated_at >= 0.2:
            self.updated_at = time.monotonic()
            bar = f'<progress value="{done}" max="{self.total}" style="width: 20em; vertical-align: middle"></progress>'
            self.handle.update(self.html(f"{bar} {html.escape(line)}"))

    def close(self, line: str) -> None:
        self.handle.update(self.html(html.escape(line)))


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
