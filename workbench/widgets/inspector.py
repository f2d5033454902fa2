"""The attention inspector: click on an image, and see where each layer looked from there, and what that does.

The front end (`inspector.js`) gets the queries and keys of an image and takes the softmax itself, so that hovering asks nobody; the kernel
answers what needs a network: another image, checkpoint, layer or intervention. `inspection` knows the answers.
"""

from __future__ import annotations

import base64
import html
import json
import os
import re
from collections import OrderedDict
from dataclasses import asdict
from itertools import product
from pathlib import Path

import anywidget
import numpy as np
import traitlets

from .. import figures
from ..data import to_uint8
from ..files import replace_text, storing
from ..messages import say_once
from ..parameters import ParameterError, WorkbenchError
from ..progress import interactive
from ..runs import Run
from ..views.attention import MOST_QUERIES, READINGS, STRIP, AttentionView, Scene, Subject
from .assets import source

SAVED_BYTES = 400_000  # of the first answer that go into a saved notebook; larger ones are left to the kernel
RECENT = 16  # answers that the kernel keeps
FORMATS = ("png", "svg", "pdf", "html")
PAGE_BYTES = 24_000_000  # of answers in an exported page


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

    _esm = source("inspector.js")
    _css = source("inspector.css")

    catalog = traitlets.List().tag(sync=True)  # what can be looked at, for each run
    view = traitlets.Dict().tag(sync=True)  # the controls; the front end and Python both set it
    palette = traitlets.Bytes().tag(sync=True)  # 256 RGB colours, for heat
    diverging = traitlets.Bytes().tag(sync=True)  # and for differences
    answers = traitlets.List().tag(sync=True)  # known from the start: request, reply, buffers

    def __init__(self, a: Run | str = "", b: Run | str | None = None, view: AttentionView | None = None):
        view = view or AttentionView()
        first = Subject.of(a) if a else view.subjects()[0]
        other = b or view.compare
        self.subjects = [first] + ([Subject.of(other, first)] if other else [])
        super().__init__(
            catalog=[subject.catalog() for subject in self.subjects], palette=_colours("inferno"), diverging=_colours("RdBu_r")
        )
        self._recent: OrderedDict[tuple, tuple[dict, list[bytes]]] = OrderedDict()
        self.view = self._start(view)
        self._keep_answers()
        self.observe(self._follow_view, "view")
        self.on_msg(self._receive)

    @property
    def views(self) -> Path:
        """The folder for what is exported from here: beside the first run."""
        return self.subjects[0].run.views

    def __repr__(self) -> str:
        return f"AttentionInspector({', '.join(repr(subject.label) for subject in self.subjects)})"

    # ------------------------------------------------------------------------------------------------- the view

    def _start(self, view: AttentionView) -> dict:
        first = self.subjects[0]
        if not first.layers:
            return {}
        if view.chosen_layer(first) is None:  # no attention in the network that was asked for
            view = AttentionView(**asdict(view) | dict(network=first.layers[-1]["network"]))
        if not first.run.checkpoint_steps() and all(info["recorded"] for info in self.catalog):
            return self._recorded(view)
        scene = view.scenes(first)[0]
        steps = [int(subject.run.checkpoint_path(subject.start).name) for subject in self.subjects]
        try:
            pins = view.chosen_queries(first.look(scene))
        except ParameterError:
            raise
        except WorkbenchError:  # told where the picture would be; other steps may be readable
            pins = []
        return dict(
            layer=scene.layer, steps=[scene.step, *steps[1:]], weights=scene.weights, source=scene.source, sample=scene.sample,
            seed=scene.seed, truncation=scene.truncation, reading=view.reading, pins=pins, active=0 if pins else -1,
            **{"class": scene.label},
        )  # fmt: skip

    def _recorded(self, view: AttentionView) -> dict:
        """Where to start in a run without a checkpoint: at what its training wrote down last."""
        layer, steps = view.chosen_layer(self.subjects[0])["id"], [info["recorded"][-1] for info in self.catalog]
        pins = view.chosen_queries(self.subjects[0].look(Scene(layer, steps[0], source="recorded")))
        own = {"class": -1} | dict(seed=0, sample=0, truncation=0.0, weights="ema", pins=pins, active=0)
        return dict(layer=layer, steps=steps, source="recorded", reading=view.reading, **own)

    def requests(self, kind: str = "look", **changes) -> list[dict]:
        """What the front end would ask for each run to show the view, with `changes` in the request."""
        view, found = self.view, []
        for number, info in enumerate(self.catalog):
            step = view["steps"][number] if number < len(view["steps"]) else None
            steps = info["recorded"] if view["source"] == "recorded" else info["steps"]
            weights = view["weights"] if view["weights"] in info["weights"] else next(iter(info["weights"]), "ema")
            queries = view.get("pins") if view.get("scope") == "pins" else None
            start = view["sample"] // STRIP * STRIP if view["source"] in ("samples", "real") else 0
            own = dict(
                kind=kind,
                subject=number,
                step=step if step in steps else next(reversed(steps), None),
                weights=weights,
                queries=queries,
                start=start,
            )
            found.append({**view, **own, **changes})
        return found

    def _checked(self, view: dict) -> dict:
        """A view as the front end has it, if it can be shown: requests check the rest.

        Raises
        ------
        ParameterError
            That names the entry.
        """
        known = [layer["id"] for layer in self.subjects[0].layers]
        pins, steps = view.get("pins"), view.get("steps")
        whole = [isinstance(value, list | tuple) and all(isinstance(k, int) for k in value) for value in (pins, steps)]
        for name, fits in (
            ("layer", isinstance(view.get("layer"), str) and view["layer"] in known),
            ("pins", whole[0] and len(pins) <= MOST_QUERIES),
            ("steps", whole[1] and len(steps) <= len(self.subjects)),
            ("reading", view.get("reading") in ("causal", "offsets", *READINGS)),
            ("sample", isinstance(view.get("sample"), int)),
            ("weights", isinstance(view.get("weights"), str)),
        ):
            if not fits:
                raise ParameterError(f"{name}={_short(view.get(name))} of the view does not fit run {self.subjects[0].run.name!r}")
        return view

    def _follow_view(self, change) -> None:
        self.catalog = [subject.catalog() for subject in self.subjects]  # a training that goes on has new checkpoints
        self._keep_answers()

    def _keep_answers(self) -> None:
        """Let the state that a notebook saves hold what it takes to show the view when there is no kernel, unless that is large."""
        if self.view:
            try:
                self._checked(self.view)
                answers = [self._with_answer(request) for kind in ("strip", "look") for request in self.requests(kind)]
            except WorkbenchError:  # told where it was asked for
                answers = []
            size = sum(len(part) for answer in answers for part in answer["buffers"])
            self.answers = answers if size <= SAVED_BYTES else []

    def _with_answer(self, request: dict) -> dict:
        reply, buffers = self.answer(request)
        return dict(request=request, reply=reply, buffers=buffers)

    # ------------------------------------------------------------------------------------------------- answering

    def answer(self, request: dict, buffers: list | None = None) -> tuple[dict, list[bytes]]:
        """The answer to a message of the front end: a reply in JSON, and binary parts.

        Raises
        ------
        WorkbenchError
            With the reason, in one line.
        """
        if not isinstance(request, dict):
            raise WorkbenchError(f"a request is {_short(request)}; it has to be an object with a kind")
        kind, number = request.get("kind"), request.get("subject", 0)
        if kind == "export":
            path = self.save(self._export_path(request), self._checked({**self.view, **_given_view(request)}))
            return dict(path=str(path), text=f"written: {path}"), []
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(self.subjects):
            raise WorkbenchError(f"subject={_short(number)} is none of the {len(self.subjects)} runs that are looked at")
        if kind not in ("look", "strip", "causal", "offsets", "drop"):
            raise WorkbenchError(f"kind={_short(kind)} is no request; it is one of look, strip, causal, offsets, drop, export")
        subject = self.subjects[number]
        if kind == "drop":
            if not buffers or len(buffers) != 1:
                raise WorkbenchError("a dropped image comes with the content of its file")
            numbers = [one.drop(request.get("name"), bytes(buffers[0])) for one in self.subjects]
            return dict(sample=numbers[0]), []
        scene, start = _scene(request, subject), request.get("start", 0)
        if not isinstance(start, int):
            raise ParameterError(f"start={_short(start)} is not the number of an image")
        if kind in ("look", "strip"):
            return self._remembered(kind, subject, scene, start)
        if kind == "causal":
            return {}, [subject.causal(scene, request.get("query")).numpy().tobytes()]
        return {}, [subject.offsets(scene).contiguous().numpy().tobytes()]

    def _remembered(self, kind: str, subject: Subject, scene: Scene, start: int) -> tuple[dict, list[bytes]]:
        """The answer to a request for a look or a strip; the latest ones are kept."""
        key = (kind, id(subject), scene, start, len(subject.dropped))
        if key not in self._recent:
            if kind == "look":
                self._recent[key] = subject.look(scene).message()
            else:
                labels, images = subject.strip(scene, start)
                pixels = to_uint8(images).movedim(1, -1).contiguous().numpy().tobytes() if labels else b""
                self._recent[key] = dict(count=len(labels), size=subject.config.image_size, labels=labels), [pixels]
            while len(self._recent) > RECENT:
                self._recent.popitem(last=False)
        return self._recent[key]

    def _receive(self, widget, content: dict, buffers: list) -> None:
        """A message of the front end; may come in another thread (a subshell), so it leaves the traits alone."""
        number = content.get("id") if isinstance(content, dict) else None
        if not isinstance(number, str) or "request" not in content:
            return say_once(f"{self!r} was sent what is no request: {_short(content)}")
        try:
            reply, parts = self.answer(content["request"], buffers)
            self.send(dict(id=number, reply=reply), parts)
        except WorkbenchError as error:
            self.send(dict(id=number, error=" ".join(str(error).split())))
        except Exception as error:  # a bug of ours, or a message that no front end sends: told where the user looks
            self.send(dict(id=number, error=" ".join(f"{type(error).__name__}: {error}".split())))

    # ------------------------------------------------------------------------------------------------- export

    def _export_path(self, request: dict) -> Path:
        """A name that says what is on it, and is free."""
        view = self._checked({**self.view, **_given_view(request)})
        words = [view["layer"].replace("/attention.", ""), *(str(step) for step in view["steps"][: len(self.subjects)])]
        stem = re.sub(r"[^A-Za-z0-9-]+", "-", f"attention-{'-'.join(words)}")[:100]
        folder, ending, number = self.views, request.get("format"), 1
        if ending not in FORMATS:
            raise ParameterError(f"format={_short(ending)} is not one of {', '.join(FORMATS)}")
        while (folder / (name := f"{stem}{f'-{number}' if number > 1 else ''}.{ending}")).exists():
            number += 1
        return folder / name

    def figure(self, view: dict | None = None) -> figures.Drawing | None:
        """The current view as a figure: image, dots, and a map for each dot; None where there is no attention layer."""
        if not self.view:
            return None
        self.view = self._checked(view or self.view)
        looks = [(subject, subject.look(_scene(request, subject))) for subject, request in zip(self.subjects, self.requests(), strict=True)]
        reading = self.view["reading"] if self.view["reading"] not in ("causal", "offsets") else "outgoing"
        return figures.attention_maps(looks, [list(self.view["pins"])] * len(looks), reading)

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
            raise WorkbenchError(f"run {self.subjects[0].run.name!r} has no attention layer: nothing to save")
        if path.suffix != ".html":
            return self.figure(view).save(path)
        page = self._page(view or self.view)
        with storing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, page)
        return path

    def export(self, figure: figures.Drawing | None) -> None:
        """Write a figure as PNG and SVG, and the current view as a page, to `views`; say where."""
        if isinstance(figure, figures.Note):
            print(f"nothing to write: {figure}")
            return
        if not figure:
            print(f"run {self.subjects[0].run.name!r} has no attention layer: nothing to write")
            return
        for path in (
            figure.save(self.views / "attention.png"),
            figure.save(self.views / "attention.svg"),
            self.save(self.views / "attention.html"),
        ):
            print(f"written: {path}")

    def _page(self, view: dict) -> str:
        """The view in one file: this image and its neighbours in the strip, in every layer, as far as the size of a page allows."""
        self.view = self._checked(view)
        answers = [self._with_answer(request) for request in self.requests("strip")]
        layers = [layer["id"] for layer in self.subjects[0].layers if all(layer in other.layers for other in self.subjects)]
        layers.sort(key=lambda layer: layer != view["layer"])
        samples = sorted(range(answers[0]["reply"]["count"]), key=lambda sample: sample != view["sample"])
        size, seen = 0, []
        for sample, layer in product(samples, layers):
            if layer.startswith("G") and view["source"] in ("real", "dropped"):
                continue
            part = [
                self._with_answer(request) for request in self.requests(sample=sample, layer=layer, gamma0=False, forbid=[], replace="")
            ]
            size += sum(len(buffer) for answer in part for buffer in answer["buffers"])
            if seen and size > PAGE_BYTES:
                break
            seen += part
        state = dict(catalog=self.catalog, view=view, palette=self.palette, diverging=self.diverging, answers=answers + seen)
        text = json.dumps(state, default=_encode).replace("<", "\\u003c")  # no tag may end the script that holds it
        return PAGE.format(title=html.escape(repr(self)), css=self._css, state=text, script=f"{self._esm}\n{source_of_page()}")

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


def _scene(request: dict, subject: Subject) -> Scene:
    """The scene of a request, whose names are JavaScript's; equal pictures are equal scenes."""
    if not subject.layers:
        raise WorkbenchError(f"run {subject.run.name!r} has no attention layer: nothing to look at")
    given = request.get("source") in ("real", "dropped")
    fitting = [layer["id"] for layer in subject.layers if not given or layer["network"] == "D"]
    label, towards, forbid = request.get("class", -1), request.get("towards"), request.get("forbid")
    for name, value, fits in (("class", label, isinstance(label, int)), ("towards", towards, isinstance(towards, dict | None))):
        if not fits:
            raise ParameterError(f"{name}={_short(value)} does not fit")
    if not fitting:
        raise ParameterError(
            f"source={_short(request.get('source'))}: run {subject.run.name!r} has no attention layer that looks at such images"
        )
    scene = Scene.of(
        {
            **request,
            "layer": request.get("layer") or fitting[0],
            "label": label if label < (subject.config.num_classes or 0) else -1,
            "towards": (towards.get("seed"), towards.get("sample")) if towards and request.get("mix") else None,
            "queries": request.get("queries") if forbid else None,
        }
    )
    if request.get("kind") != "strip":
        return scene
    layer = scene.layer if subject.gamma0 else fitting[0]  # all layers see the same samples, but where one of them is off
    return Scene(layer, scene.step, scene.weights, scene.source, scene.label, scene.seed, truncation=scene.truncation)


def _given_view(request: dict) -> dict:
    view = request.get("view", {})
    if not isinstance(view, dict):
        raise ParameterError(f"view={_short(view)} is not an object")
    return view


def _short(value) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."


def _colours(name: str) -> bytes:
    """256 RGB colours of a matplotlib colour map."""
    from matplotlib import colormaps

    return (colormaps[name](np.arange(256), bytes=True)[:, :3]).tobytes()


def _encode(value) -> dict:
    return dict(base64=base64.b64encode(value).decode())


def source_of_page() -> str:
    """The script of an exported page, which follows that of the widget in one module."""
    return (Path(__file__).parent / "frozen.js").read_text(encoding="utf-8")


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>{css}</style>
</head>
<body>
<main id="wb-view"></main>
<script type="application/json" id="wb-state">{state}</script>
<script type="module">{script}</script>
</body>
</html>
"""
