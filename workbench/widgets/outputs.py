"""Outputs of cells that are replaced later, and views of a run that are drawn again when its training ends."""

from __future__ import annotations

import asyncio
import base64
import uuid
from collections.abc import Callable
from datetime import datetime
from functools import cache

import anywidget
import traitlets
from IPython import get_ipython
from IPython.display import HTML, Markdown, display

from ..messages import WorkbenchError
from ..progress import interactive
from ..runs import Run
from .bundle import bundle

POLL = 1.0  # seconds between looks at a run that trains
_watching: set[asyncio.Task] = set()  # asyncio keeps no task alive


class Page(anywidget.AnyWidget):
    """What a page does for outputs and views; it shows nothing itself.

    Attributes
    ----------
    contents : dict
        Id of an output -> dict(data, metadata): what it shows now.
    """

    _esm = bundle("outputs.js")
    contents = traitlets.Dict().tag(sync=True)

    def keep_in_notebook(self) -> None:
        """Save the state of all widgets in the notebook, to be shown without a kernel."""
        self.send(dict(kind="keep"))

    def reveal_cell(self) -> None:
        """Scroll to the output of the cell that runs, unless the user has scrolled elsewhere."""
        request: dict = getattr(get_ipython(), "get_parent", dict)()  # by the clock of the page; the id is JupyterLab's
        date = request.get("header", {}).get("date")
        since = 1000 * date.timestamp() if isinstance(date, datetime) else 0
        self.send(dict(kind="reveal", cell=request.get("metadata", {}).get("cellId", ""), since=since))


@cache
def page() -> Page:
    """The page of this kernel."""
    return Page()


def reveal(content):
    """Show the main view of a notebook, and scroll to it: running all cells leaves a page at the last one, which is seldom what one wants to see.

    Returns
    -------
    None, if it is shown already because a user looks on; otherwise the content, for the notebook to show.
    """
    if not interactive():
        return content
    display(content)
    page().reveal_cell()
    return None


class Output:
    """An output that can be replaced, also after its page was reloaded: the page finds it by an id in its metadata.

    Parameters
    ----------
    content
        Anything that a notebook can show.
    """

    def __init__(self, content) -> None:
        self._id = uuid.uuid4().hex
        page()  # the page has to know it before it can be reloaded
        data, metadata = _formatted(content)
        self._handle = display(data, raw=True, display_id=True, metadata=metadata | dict(workbench=self._id))

    def replace(self, content) -> None:
        """Show something else."""
        data, metadata = _formatted(content)
        page().contents = page().contents | {self._id: dict(data=data, metadata=metadata)}
        if self._handle:  # None outside IPython
            self._handle.update(data, raw=True, metadata=metadata | dict(workbench=self._id))


def still(live_class: str, content: str) -> HTML:
    """HTML that a page shows where a live view is not: without its kernel and state, in an export, on a git host.

    Parameters
    ----------
    live_class
        A CSS class of the live view, unique in the page.
    """
    # The live view hides this, and this hides "Loading widget..." and "model not found", which are text alone.
    style = (
        f"body:has(.{live_class}) .{live_class}-still, "
        f".jp-OutputArea:has(.{live_class}-still) .jp-OutputArea-output.jupyter-widgets:not(:has(*)) {{ display: none }}"
    )
    return HTML(f'<style>{style}</style><div class="{live_class}-still">{content}</div>')


def live(view: Callable, run: Run, *arguments, **options):
    """Show what a view gives of a run: what there is now, and, while the run trains, again when that ends.

    Parameters
    ----------
    view
        Is called with the run, the arguments and the options, such as `views.train.samples`.

    Returns
    -------
    The result of the view, for the notebook to show; None if it is shown already because the run trains and a user looks on.
    """
    if not (interactive() and run.active):
        return view(run, *arguments, **options)

    def draw() -> tuple:
        try:
            content = view(run, *arguments, **options)
        except WorkbenchError as error:  # such as a file that is being written
            content = Markdown(str(error))
        return content, Markdown(_progress(run))

    outputs = [Output(content) for content in draw()]

    async def watch() -> None:
        while run.active:
            await asyncio.sleep(POLL)
        for output, content in zip(outputs, draw(), strict=True):
            output.replace(content)

    task = asyncio.get_running_loop().create_task(watch())
    _watching.add(task)
    task.add_done_callback(_watching.discard)
    return None


def _progress(run: Run) -> str:
    status = run.status()
    step = f"step {status['step']:,} of {status['steps']:,}"
    return f"*So far, at {step}; drawn again when the training ends.*" if run.active else f"*At {step}: {status['state']}.*"


def _formatted(content) -> tuple[dict, dict]:
    """The MIME bundle of anything that a notebook can show, with pictures in base64, and its metadata."""
    shell = get_ipython()
    if not shell or content is None:
        return {"text/plain": repr(content)}, {}
    data, metadata = shell.display_formatter.format(content)
    return {kind: base64.b64encode(value).decode() if isinstance(value, bytes) else value for kind, value in data.items()}, metadata
