"""The inspector as a widget: its traits, answers to the front end, exports, and a picture for where no widget can be shown."""

from __future__ import annotations

import base64
import html
import os
import uuid
from collections.abc import Sequence
from pathlib import Path

import anywidget
import numpy as np
import traitlets
from IPython.display import display
from torch import nn

from ... import figures
from ...figures.painting import DIVERGING, PALETTE, colour_table
from ...files import replace_text, storing
from ...messages import ParameterError, WorkbenchError, say_once, short_repr
from ...progress import interactive
from ...runs import Run
from ...views.attention import AttentionView
from ...views.inspected import Inspected
from ...views.inspected_network import Inputs, InspectedNetwork
from ...views.inspection_request import InspectionRequest
from ...views.overview import columns, overview
from ...views.view_line import ViewLine
from ..bundle import bundle, styles
from ..outputs import still
from .answers import Answer, Answers
from .export import FORMATS, free_path, page, page_answers
from .figure import stacked, view_figure
from .line import line_of
from .opening import runs_of, start
from .requests import DEFAULT_VIEW, active_pin, catalog, checked, resolve, shown

SAVED_BYTES = 400_000  # limit of the answers in a saved notebook
KINDS = ("inspection", "strip", "causal", "offsets", "explain", "overview", "drop", "export", "measure")


class AttentionInspector(anywidget.AnyWidget):
    """An interactive view of attention: click on an image to see where a layer looks.

    Parameters
    ----------
    a, b : Run, str or path
        A run, its name, "run@step" or path; by default the newest. `b` is shown beside it, with the same latents and one cursor, and their
        difference: another run, "run@step", "@step" of the same run, or "gamma=0" (the same run without attention).
    view : AttentionView
        The initial step, layer, classes, seeds, queries and reading; or a line that holds all of the view (see `from_line`). Of a network
        without a run, the reading.
    generator, network : nn.Module
        In place of a run: a network whose image is its output, or one whose image is its first input. `b` is then another such network, or
        "gamma=0". It runs as it is at that moment: after changing it, open the inspector again.
    inputs
        The network's inputs for a batch, such as (z, y), or a function `inputs(count, seed)` that draws them; see `InspectedNetwork`.
    classes
        Names of the classes.
    folder
        Where exports go.

    Raises
    ------
    WorkbenchError, ParameterError
        If there is no such run or checkpoint; or the network has no attention layer that is known, or does not take the inputs.
    """

    _esm = bundle("widget.js")
    _css = styles("css/base.css", "inspector/inspector.css")

    catalog: traitlets.List = traitlets.List().tag(sync=True)  # the choices of the controls, for each run
    view = traitlets.Dict().tag(sync=True)  # the state of the controls; set by the front end and Python
    defaults: traitlets.Dict = traitlets.Dict(DEFAULT_VIEW).tag(sync=True)  # what a line leaves out
    palette = traitlets.Bytes().tag(sync=True)  # 256 RGB colours of maps
    diverging = traitlets.Bytes().tag(sync=True)  # 256 RGB colours of differences
    answers: traitlets.List = traitlets.List().tag(sync=True)  # messages with reply and buffers, to show the view without a kernel

    def __init__(
        self,
        a: Run | str = "",
        b: Run | str | nn.Module | None = None,
        view: AttentionView | None = None,
        *,
        generator: nn.Module | None = None,
        network: nn.Module | None = None,
        inputs: Inputs | None = None,
        classes: Sequence[str] = (),
        folder: str | os.PathLike = ".",
    ):
        view = view or AttentionView()
        if generator is None and network is None:
            if inputs is not None:
                raise ParameterError("inputs belong to a network; give generator=... or network=...")
            self.runs = runs_of(a, b, view)
        elif a or view.line or (generator is not None and network is not None):
            raise ParameterError("a run, generator and network are given; give one of them (a line names a run)")
        elif inputs is None:
            raise ParameterError("inputs are missing: the network's inputs for a batch, such as (z, y), or a function of count and seed")
        else:
            module = network if generator is None else generator
            first = InspectedNetwork(module, inputs, generator is not None, classes, folder)
            self.runs = [first] if b is None else [first, first.beside(b)]
        palette, diverging = (colour_table(name).tobytes() for name in (PALETTE, DIVERGING))
        super().__init__(catalog=[catalog(run) for run in self.runs], palette=palette, diverging=diverging)
        self._id = f"wb-{uuid.uuid4().hex}"
        self.add_class(self._id)
        self._answers = Answers(self.runs)
        self._opened_by_line = bool(view.line)
        self.view = start(view, self.runs, self.catalog)
        self._keep_answers()
        self.observe(self._follow_view, "view")
        self.on_msg(self._receive)

    @classmethod
    def from_line(cls, line: str) -> AttentionInspector:
        """The inspector with exactly the view of a line, as *Copy this view* or `line` gives it.

        Raises
        ------
        WorkbenchError, ParameterError
            If there is no such run, checkpoint or layer, or an entry is unknown or does not fit.
        """
        ViewLine.read(line)  # raises if it is empty
        return cls(view=AttentionView(line=line))

    @property
    def line(self) -> str:
        """A line of text that opens this view again: `demo@4000 G/attention.32 seed=3 pins=5,11`; empty without an attention layer."""
        return self._line(self.view) if self.view else ""

    @property
    def views(self) -> Path:
        """The folder of exports, in that of the first run."""
        return self.runs[0].views

    def __repr__(self) -> str:
        return f"AttentionInspector({', '.join(repr(run.label) for run in self.runs)})"

    # ------------------------------------------------------------------------------------------------- the view

    @traitlets.validate("view")
    def _complete(self, proposal) -> dict:
        """Complete a view with defaults; it is empty if there is no attention layer."""
        return DEFAULT_VIEW | proposal["value"] if proposal["value"] else {}

    def _follow_view(self, change) -> None:
        self.catalog = [catalog(run) for run in self.runs]  # a run in training has new checkpoints
        self._keep_answers()

    def _keep_answers(self) -> None:
        """Save the answers to the view with the notebook, unless they are large, so that it can be shown without a kernel."""
        if self.view:
            try:
                answers = [*self._answered("strip", self.view), *self._answered("inspection", self.view)]
            except WorkbenchError:  # reported to the front end
                answers = []
            size = sum(len(part) for answer in answers for part in answer["buffers"])
            self.answers = answers if size <= SAVED_BYTES else []

    # ------------------------------------------------------------------------------------------------- messages

    def messages(self, kind: str = "inspection", query: int | None = None, **changes) -> list[dict]:
        """The messages of the front end that request the view with `changes`, for each run."""
        more = {} if query is None else dict(query=query)
        return [dict(kind=kind, run=number, view=self.view | changes) | more for number in range(len(self.runs))]

    def _answered(self, kind: str, view: dict, runs: int = 2, **more) -> list[dict]:
        """The messages that request a view of the first `runs`, each with its answer."""
        answers = []
        for number in range(min(runs, len(self.runs))):
            message = dict(kind=kind, run=number, view=view) | more
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
            raise WorkbenchError(f"a request is {short_repr(message)}; it must be an object with a kind")
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
        path = self.save(free_path(self.views, self._requests(self.view | view), message.get("format", "")), view)
        return dict(path=str(path), name=path.name, text=f"written: {path}"), [path.read_bytes()]

    def _receive(self, widget, content: dict, buffers: list) -> None:
        """Answer a message of the front end. It may arrive in another thread (a subshell), so no trait may be set here."""
        number = content.get("id") if isinstance(content, dict) else None
        if not isinstance(number, str) or "request" not in content:
            return say_once(f"{self!r} received a message that is not a request: {short_repr(content)}")
        try:
            reply, parts = self.answer(content["request"], buffers)
            self.send(dict(id=number, reply=reply), parts)
        except WorkbenchError as error:
            self.send(dict(id=number, error=" ".join(str(error).split())))
        except Exception as error:  # a bug, or a malformed message
            self.send(dict(id=number, error=" ".join(f"{type(error).__name__}: {error}".split())))

    # ------------------------------------------------------------------------------------------------- export

    def figure(self, view: dict | None = None) -> figures.Drawing | None:
        """The current view as a figure: image, pins, and their maps as they are shown; None without an attention layer."""
        if not self.view:
            return None
        view = shown(self.view | (view or {}))
        requests = self._requests(view)
        inspections = [run.inspect(request) for run, request in zip(self.runs, requests, strict=True)]
        causal = self._causal_maps(view) if view["reading"] == "causal" else ()
        words, active = self._explanations(view) if view["explain"] else (), active_pin(view)
        effects, offsets = self.effects(view) if view["measure"] else (), self._offsets(view) if view["panel"] == "offsets" else ()
        figure = view_figure(inspections, view, requests[0], causal, offsets, effects, words)
        if view["overview"] and active >= 0:
            below = overview(
                self.runs[0], requests[0].unchanged, view["pins"][active], view["scale"] == "uniform", figures.QUERY_COLOURS[active]
            )
            figure = stacked(figure, below)
        figure.view = self._line(view) if "copy" in self.runs[0].tools else ""
        return figure

    def _line(self, view: dict) -> str:
        """The line of a view, with the steps that are shown."""
        if "copy" not in self.runs[0].tools:
            raise WorkbenchError(f"a line opens the view of a run, and {self.runs[0].name!r} is none")
        steps = [request.step for _, request in self._resolved("inspection", view)]
        return line_of(view | dict(steps=[step for step in steps if step is not None]), self.catalog)

    def _explanations(self, view: dict) -> list[str]:
        """What the active pin does, in words, for each run."""
        active, pair = active_pin(view), len(self.runs) > 1
        if active < 0:
            return []
        sentences = [run.explain(request, view["pins"][active]).sentence for run, request in self._resolved("explain", view)]
        return [f"{'ab'[k]}: {sentence}" if pair else sentence for k, sentence in enumerate(sentences)]

    def effects(self, view: dict | None = None) -> list[list[dict]]:
        """What the intervention of the current view, with these changes, changes in the mean over samples, for each run.

        See `studies.effects.summarise`; "Measure over 64 samples" shows the same.

        Raises
        ------
        ParameterError
            If there is no intervention.
        """
        resolved = self._resolved("measure", self.view | (view or {}))
        return [self._answers.effects(number, request) for number, (_, request) in enumerate(resolved)]

    def _requests(self, view: dict) -> list[InspectionRequest]:
        """The request of a view for each run, checked."""
        return checked(view, self.runs, self.catalog)

    def _resolved(self, kind: str, view: dict) -> list[tuple[Inspected, InspectionRequest]]:
        """Each run with its request for one kind of answer."""
        return [(run, resolve(kind, view, run, number, self.catalog[number])) for number, run in enumerate(self.runs)]

    def _causal_maps(self, view: dict) -> list[list[np.ndarray]]:
        """The causal map (M,) of each pin, for each run."""
        return [[run.causal_map(request, pin).numpy() for pin in view["pins"]] for run, request in self._resolved("causal", view)]

    def _offsets(self, view: dict) -> list[np.ndarray]:
        """The map by offset of each run."""
        return [run.offsets(request).numpy() for run, request in self._resolved("offsets", view)]

    def save(self, path: str | os.PathLike, view: dict | None = None) -> Path:
        """Write the current view as a figure (.png, .svg, .pdf, with a sidecar for `figures.redraw`), or as a page (.html) that is interactive
        without a kernel or a network.

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
        if path.suffix != ".html" and (figure := self.figure(view)):
            return figure.save(path)
        view = shown(self.view | (view or {}))
        layers = [layer["id"] for layer in self.runs[0].layers if all(layer in other.layers for other in self.runs)]
        steps = sorted({*columns(self.runs[0], view["source"]), self._requests(view)[0].step or 0})
        answers = page_answers(view, layers, steps, self._answered)
        names = ("catalog", "defaults", "palette", "diverging")
        state = {name: getattr(self, name) for name in names} | dict(view=view, answers=answers)
        text = page(repr(self), self._css, state)
        with storing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, text)
        return path

    def export(self, figure: figures.Drawing | None) -> None:
        """Write a figure as PNG and SVG, and the current view as a page, to `views`; print the paths. A view that a line opened is also
        written as a figure.
        """
        if isinstance(figure, figures.Note):
            print(f"nothing to write: {figure}")
            return
        if not figure:
            print(f"run {self.runs[0].name!r} has no attention layer: nothing to write")
            return
        for ending in ("png", "svg"):
            print(f"written: {figure.save(self.views / f'attention.{ending}')}")
        for ending in ("png", "svg") if self._opened_by_line else ():
            print(f"written: {self.save(self.views / f'attention-view.{ending}')}")
        print(f"written: {self.save(self.views / 'attention.html')}")

    # ------------------------------------------------------------------------------------------------- the front end

    def open(self) -> None:
        """Connect to the front end; without one, the widget would only enlarge the notebook."""
        if interactive():
            super().open()

    def _ipython_display_(self) -> None:
        """Show the widget and, in an output of its own, a picture for where it cannot be: exports and git hosts prefer a widget that they lack to
        a picture beside it."""
        data, metadata = self._repr_mimebundle_()
        picture = data.pop("image/png", None) if self.comm else None
        display(data, metadata=metadata, raw=True)
        if picture:
            image = f'<img alt="{html.escape(repr(self))}" style="max-width: 100%" src="data:image/png;base64,{picture}">'
            display(still(self._id, image))

    def _repr_mimebundle_(self, **kwargs):
        data, metadata = ({"text/plain": repr(self)}, {}) if self.comm is None else super()._repr_mimebundle_(**kwargs)
        try:
            if figure := self.figure():  # shown by GitHub, untrusted notebooks and exports
                data["image/png"] = base64.b64encode(figure.png_for_any_theme()).decode()
        except WorkbenchError as error:  # the checkpoint was deleted, or cannot be read
            data["text/plain"] += f": {error}"
        return data, metadata
