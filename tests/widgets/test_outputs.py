"""Outputs that are replaced, and views that are drawn again when the training ends; in a page: test_browser."""

import asyncio
import base64
import io
import json
from datetime import datetime

import pytest
from IPython.core.formatters import DisplayFormatter
from PIL import Image

from workbench import Config, WorkbenchError
from workbench.runs import create_run
from workbench.widgets import outputs


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run that "trains" as long as this process lives."""
    monkeypatch.setenv("WORKBENCH_OUTPUTS", str(tmp_path))
    run = create_run(Config.preset("twins32", run="demo", steps=400))
    run.set_status(state="running", step=120, steps=400, message="", alarms=[], seconds_per_step=0.1)
    return run


class Handle:
    """An output of a notebook."""

    def __init__(self, data, metadata):
        self.shown, self.metadata = [data], metadata

    def update(self, data, raw, metadata):
        self.shown.append(data)


@pytest.fixture
def shown(monkeypatch):
    """The outputs of the notebook of a user who looks on."""
    handles: list[Handle] = []

    def display(data, raw, display_id, metadata):
        handles.append(Handle(data, metadata))
        return handles[-1]

    class Shell:
        display_formatter = DisplayFormatter()

    Shell.display_formatter.formatters["image/png"].for_type(Image.Image, lambda image: image._repr_png_())
    monkeypatch.setenv("WORKBENCH_HEADLESS", "0")
    monkeypatch.setattr(outputs, "display", display)
    monkeypatch.setattr(outputs, "get_ipython", Shell)
    monkeypatch.setattr(outputs, "POLL", 0.01)
    return handles


def test_a_run_that_trains_is_drawn_now_and_at_its_end(run, shown):
    calls = []

    def view(run, size):
        calls.append(run.status()["step"])
        return Image.new("RGB", (len(calls) * size, 2))

    async def act():
        assert outputs.live(view, run, 3) is None
        picture, line = shown
        assert line.shown[0]["text/markdown"] == "*So far, at step 120 of 400; drawn again when the training ends.*"
        await asyncio.sleep(0.1)
        assert len(picture.shown) == 1  # not every moment
        run.set_status(state="finished", step=400)
        while len(line.shown) < 2:
            await asyncio.sleep(0.01)
        widths = [Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).width for data in picture.shown]
        assert widths == [3, 6] and calls == [120, 400]
        assert line.shown[1]["text/markdown"] == "*At step 400 of 400: finished.*"
        # A page that was reloaded finds the outputs by what is in the notebook, and gets their contents as text.
        contents = outputs.page().contents
        assert json.dumps(contents[picture.metadata["workbench"]]["data"]) and line.metadata["workbench"] in contents

    asyncio.run(asyncio.wait_for(act(), 20))


def test_without_a_user_or_a_training_the_view_is_called_once(run, shown, monkeypatch):
    view = lambda run, number=1: number  # noqa: E731
    run.set_status(state="finished")
    assert outputs.live(view, run, number=7) == 7
    run.set_status(state="running")
    monkeypatch.setenv("WORKBENCH_HEADLESS", "1")
    assert outputs.live(view, run) == 1
    assert not shown


def test_what_cannot_be_shown_yet_says_why(run, shown):
    def view(run):
        raise WorkbenchError("a file that is being written")

    async def act():
        outputs.live(view, run)

    asyncio.run(act())
    assert shown[0].shown[0]["text/markdown"] == "a file that is being written"


def test_the_main_view_is_shown_and_scrolled_to(monkeypatch):
    sent, displayed = [], []
    monkeypatch.setattr(outputs, "page", lambda: type("", (outputs.Page,), dict(send=lambda _, message: sent.append(message)))())
    monkeypatch.setattr(outputs, "display", displayed.append)
    monkeypatch.setenv("WORKBENCH_HEADLESS", "1")
    assert outputs.reveal("a view") == "a view" and not sent  # papermill: the notebook shows it
    monkeypatch.setenv("WORKBENCH_HEADLESS", "0")
    monkeypatch.setattr(
        outputs,
        "get_ipython",
        lambda: type("", (), dict(get_parent=lambda _: dict(metadata=dict(cellId="c7"), header=dict(date=datetime.fromtimestamp(2)))))(),
    )
    assert outputs.reveal("a view") is None and displayed == ["a view"] and sent == [dict(kind="reveal", cell="c7", since=2000)]
    monkeypatch.setattr(outputs, "get_ipython", lambda: None)
    outputs.reveal("outside of a cell")
    assert sent[1:] == [dict(kind="reveal", cell="", since=0)]
