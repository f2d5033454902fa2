"""The widget: its traits, the messages of its front end, and what it shows where there is no front end."""

from __future__ import annotations

import base64
import os
from dataclasses import asdict, replace
from pathlib import Path

import anywidget
import numpy as np
import traitlets

from ... import figures
from ...files import replace_text, storing
from ...messages import say_once, short_repr
from ...parameters import ParameterError, WorkbenchError
from ...progress import interactive
from ...runs import Run
from ...views.attention import AttentionView
from ...views.inspected_run import InspectedRun
from ...views.inspection_request import InspectionRequest
from .answers import Answer, Answers
from .bundle import bundle
from .export import FORMATS, free_path, page, page_answers
from .requests import DEFAULT_VIEW, catalog, check_view, resolve

SAVED_BYTES = 400_000  # of answers that go into a saved notebook; larger ones are left to the kernel
KINDS = ("inspection", "strip", "causal", "offsets", "drop", "export")


class AttentionInspector(anywidget.AnyWidget):
    """Where attention looks, to be clicked on.

    Parameters
    ----------
    a, b : Run, str or path
        The run, by name, as "run@step", or by path; without one the newest. With `b` both are looked at with one cursor, on the same
        latents, beside their difference: another run, "run@step", "@step" of the same run, or "gamma=0" (the same, attention switched off).
    view : AttentionView
        Where to start: step, layer, classes, seeds, queries, reading.

    Raises
    ------
    WorkbenchError, ParameterError
        If there is no such run or checkpoint.
    """

    _esm = bundle("widget.js")
    _css = (Path(__file__).parent / "inspector.css").read_text(encoding="utf-8")

    catalog = traitlets.List().tag(sync=True)  # what can be looked at, for each run
    view = traitlets.Dict().tag(sync=True)  # the controls; the front end and Python both set it
    palette = traitlets.Bytes().tag(sync=True)  # 256 RGB colours, for heat
    diverging = traitlets.Bytes().tag(sync=True)  # and for differences
    answers = traitlets.List().tag(sync=True)  # to what the view asks: messages with reply and buffers, for when there is no kernel

    def __init__(self, a: Run | str = "", b: Run | str | None = None, view: AttentionView | None = None):
        view = view or AttentionView()
        first = InspectedRun.of(a) if a else view.runs()[0]
        other = b or view.compare
        self.runs = [first] + ([InspectedRun.of(other, first)] if other else [])
        super().__init__(catalog=[catalog(run) for run in self.runs], palette=_colours("inferno"), diverging=_colours("RdBu_r"))
        self._answers = Answers(self.runs)
        self.view = self._start(view)
        self._keep_answers()
        self.observe(self._follow_view, "view")
        self.on_msg(self._receive)

    @property
    def views(self) -> Path:
        """The folder for what is exported from here: beside the first run."""
        return self.runs[0].run.views

    def __repr__(self) -> str:
        return f"AttentionInspector({', '.join(repr(run.label) for run in self.runs)})"

    # ------------------------------------------------------------------------------------------------- the view

    def _start(self, view: AttentionView) -> dict:
        first = self.runs[0]
        if not first.layers:
            return {}
        if view.chosen_layer(first) is None:  # no attention in the network that was asked for
            view = AttentionView(**asdict(view) | dict(network=first.layers[-1]["network"]))
        if not first.run.checkpoint_steps() and all(info["recorded"] for info in self.catalog):  # start at what was recorded last
            steps = [info["recorded"][-1] for info in self.catalog]
            request = InspectionRequest(view.chosen_layer(first)["id"], steps[0], source="recorded")
        else:
            request = view.requests(first)[0]
            steps = [request.step, *(int(run.run.checkpoint_path(run.start).name) for run in self.runs[1:])]
        try:
            pins = view.chosen_queries(first.inspect(request))
        except ParameterError:
            raise
        except WorkbenchError:  # reported where the picture would be; other steps may be readable
            pins = []
        names = ("layer", "weights", "source", "sample", "seed", "truncation")
        state = {name: getattr(request, name) for name in names} | {"class": request.label}
        return state | dict(steps=steps, reading=view.reading, pins=pins, active=0 if pins else -1)

    @traitlets.validate("view")
    def _complete(self, proposal) -> dict:
        """A view with every entry, whoever sets it; without an attention layer there is none."""
        return DEFAULT_VIEW | proposal["value"] if proposal["value"] else {}

    def _follow_view(self, change) -> None:
        self.catalog = [catalog(run) for run in self.runs]  # a run that goes on has new checkpoints
        self._keep_answers()

    def _keep_answers(self) -> None:
        """Let the state that a notebook saves hold what it takes to show the view when there is no kernel, unless that is large."""
        if self.view:
            try:
                self._check(self.view)
                answers = [*self._answered("strip"), *self._answered()]
            except WorkbenchError:  # reported where it was asked for
                answers = []
            size = sum(len(part) for answer in answers for part in answer["buffers"])
            self.answers = answers if size <= SAVED_BYTES else []

    def _check(self, view: dict) -> dict:
        return check_view(view, self.runs[0], len(self.runs))

    # ------------------------------------------------------------------------------------------------- messages

    def messages(self, kind: str = "inspection", query: int | None = None, **changes) -> list[dict]:
        """What the front end sends to be shown the view with `changes`, for each run."""
        view = self.view | changes
        more = dict(strip=dict(first=view["sample"]), causal=dict(query=query)).get(kind, {})
        return [dict(kind=kind, run=number, view=view, **more) for number in range(len(self.runs))]

    def _answered(self, kind: str = "inspection", **changes) -> list[dict]:
        answers = []
        for message in self.messages(kind, **changes):
            reply, buffers = self.answer(message)
            answers.append(message | dict(reply=reply, buffers=buffers))
        return answers

    def answer(self, message: dict, buffers: list | None = None) -> Answer:
        """The answer to a message of the front end: a reply in JSON, and binary parts.

        Raises
        ------
        WorkbenchError
            With the reason, in one line.
        """
        if not isinstance(message, dict):
            raise WorkbenchError(f"a request is {short_repr(message)}; it has to be an object with a kind")
        kind = message.get("kind")
        if not isinstance(kind, str) or kind not in KINDS:
            raise WorkbenchError(f"kind={short_repr(kind)} is no request; it is one of {', '.join(KINDS)}")
        if kind == "drop":
            return self._answers.drop(message, buffers)
        if kind != "export":
            return self._answers.picture(message, self.catalog)
        view = message.get("view", {})
        if not isinstance(view, dict):
            raise ParameterError(f"view={short_repr(view)} is not an object")
        view = self._check(self.view | view)
        path = self.save(free_path(self.views, view, message.get("format")), view)
        return dict(path=str(path), text=f"written: {path}"), []

    def _receive(self, widget, content: dict, buffers: list) -> None:
        """A message of the front end; may come in another thread (a subshell), so it leaves the traits alone."""
        number = content.get("id") if isinstance(content, dict) else None
        if not isinstance(number, str) or "request" not in content:
            return say_once(f"{self!r} was sent what is no request: {short_repr(content)}")
        try:
            reply, parts = self.answer(content["request"], buffers)
            self.send(dict(id=number, reply=reply), parts)
        except WorkbenchError as error:
            self.send(dict(id=number, error=" ".join(str(error).split())))
        except Exception as error:  # a bug of ours, or a message that no front end sends: reported where the user looks
            self.send(dict(id=number, error=" ".join(f"{type(error).__name__}: {error}".split())))

    # ------------------------------------------------------------------------------------------------- export

    def figure(self, view: dict | None = None) -> figures.Drawing | None:
        """The current view as a figure: image, dots, and a map for each dot; None where there is no attention layer."""
        if not self.view:
            return None
        self.view = self._check(self.view | (view or {}))
        queries, reading = tuple(self.view["pins"]), self.view["reading"]
        inspections = []
        for number, (run, offered) in enumerate(zip(self.runs, self.catalog, strict=True)):
            inspections.append(replace(run.inspect(resolve("inspection", self.view, run, number, offered)), queries=queries))
        return figures.attention_maps(inspections, "outgoing" if reading == "causal" else reading)

    def save(self, path: str | os.PathLike, view: dict | None = None) -> Path:
        """Write the current view: as a figure (.png, .svg, .pdf, with a sidecar that `figures.redraw` takes), or as a page (.html) that
        answers hover and clicks without a kernel or a network.

        Raises
        ------
        ParameterError
            For another ending.
        """
        path = Path(path)
        if path.suffix[1:] not in FORMATS:
            raise ParameterError(f"path={str(path)!r} ends in {path.suffix!r}; a view can be .png, .svg, .pdf or .html")
        if not self.view:
            raise WorkbenchError(f"run {self.runs[0].name!r} has no attention layer: nothing to save")
        if path.suffix != ".html":
            return self.figure(view).save(path)
        self.view = self._check(self.view | (view or {}))
        layers = [layer["id"] for layer in self.runs[0].layers if all(layer in other.layers for other in self.runs)]
        answers = page_answers(self.view, layers, self._answered)
        state = dict(catalog=self.catalog, view=self.view, palette=self.palette, diverging=self.diverging, answers=answers)
        text = page(repr(self), self._css, state)
        with storing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, text)
        return path

    def export(self, figure: figures.Drawing | None) -> None:
        """Write a figure as PNG and SVG, and the current view as a page, to `views`; print where."""
        if isinstance(figure, figures.Note):
            print(f"nothing to write: {figure}")
            return
        if not figure:
            print(f"run {self.runs[0].name!r} has no attention layer: nothing to write")
            return
        for path in (
            figure.save(self.views / "attention.png"),
            figure.save(self.views / "attention.svg"),
            self.save(self.views / "attention.html"),
        ):
            print(f"written: {path}")

    # ------------------------------------------------------------------------------------------------- the front end

    def open(self) -> None:
        """Open the connection to the front end, where there is one: without, the widget would only weigh the notebook down."""
        if interactive():
            super().open()

    def _repr_mimebundle_(self, **kwargs):
        data, metadata = ({"text/plain": repr(self)}, {}) if self.comm is None else super()._repr_mimebundle_(**kwargs)
        try:
            if figure := self.figure():  # what GitHub, an untrusted notebook and an export show
                data["image/png"] = base64.b64encode(figure.png()).decode()
        except WorkbenchError as error:  # the checkpoint is gone meanwhile, or cannot be read
            data["text/plain"] += f": {error}"
        return data, metadata


def _colours(name: str) -> bytes:
    """256 RGB colours of a matplotlib colour map."""
    from matplotlib import colormaps

    return (colormaps[name](np.arange(256), bytes=True)[:, :3]).tobytes()
