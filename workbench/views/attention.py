"""What `attention.ipynb` calls: its parameters, and the figures and numbers that its cells end in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from .. import attention, figures
from ..attention import READINGS, STATISTICS, Inspection, salient_positions
from ..messages import nearest, say_once, short_repr
from ..parameters import ParameterError, Parameters, WorkbenchError, parameter, whole
from ..progress import progress
from ..readers import latents, places, quote, read_list, words
from ..runs import Run, list_runs
from .inspected_run import InspectedRun
from .inspection_request import InspectionRequest

MAX_QUERIES = len(figures.QUERY_COLOURS)
MAX_IMAGES = 60  # of a view: more make no picture


@dataclass(frozen=True)
class AttentionView(Parameters):
    """What to look at in a run: the parameters of `attention.ipynb`.

    Raises
    ------
    ParameterError
        For a value that does not fit.
    """

    run: str = parameter("", "name of the run, or run@step", none="the newest with a checkpoint, else the demo")
    compare: str = parameter("", "compare with another run, run@step, @step of the same run, or gamma0: no attention", none="nothing")
    step: int | None = parameter(None, "checkpoint", low=0, none="the newest")
    network: str = parameter("G", "whose attention", choices=("G", "D"))
    layer: int | None = parameter(None, "feature-map size of the attention layer", low=4, none="the largest")
    weights: str = parameter("auto", "weights of G; auto: EMA if available", choices=("ema", "raw", "auto"))
    source: str = parameter("samples", "images: G's samples, or for D real ones", choices=("samples", "real"))
    classes: str = parameter("all", "classes by name or number, separated by commas; all: the first six", read=read_list)
    seeds: str = parameter("", "seeds of the latents, separated by commas; seed:k is its sample k", read=read_list, none="one per class")
    queries: str = parameter("auto", 'query positions from the top left, "row,column; row,column"; auto: what stands out')
    reading: str = parameter("outgoing", "how the map is read", choices=READINGS)
    truncation: float = parameter(0.0, "latents are truncated to [-truncation, truncation]; 0: not", low=0)
    n: int = parameter(32, "images per checkpoint in the table of statistics", low=1)

    def runs(self) -> list[InspectedRun]:
        """The run, and what it is compared with."""
        first = InspectedRun.of(self.run or _newest())
        return [first] + ([InspectedRun.of(self.compare, first)] if self.compare else [])

    def requests(self, run: InspectedRun) -> list[InspectionRequest]:
        """What to look at in a run, image by image.

        Raises
        ------
        ParameterError, WorkbenchError
            If the run has no such layer, class or step.
        """
        layer = self.chosen_layer(run)
        if layer is None:
            return []
        step = int(run.run.checkpoint_path(run.start if self.step is None else self.step).name)
        weights = self.chosen_weights(run)
        labels, seeds = self._labels(run), latents("seeds", self.seeds)
        if not seeds:  # one image per class, each of another latent
            pairs = [(label, (run.config.seed, k)) for k, label in enumerate(labels if labels != [-1] else [-1] * 6)]
        else:
            pairs = [(label, seed) for label in labels for seed in seeds]
        if self.source == "real":
            pairs = [(-1, (0, k)) for k in range(len(pairs))]
        if len(pairs) > MAX_IMAGES:
            raise ParameterError(f"classes and seeds give {len(pairs):,} images; a view shows at most {MAX_IMAGES}: choose fewer")
        common = dict(layer=layer["id"], step=step, weights=weights, source=self.source, truncation=self.truncation)
        return [InspectionRequest(**common, label=label, seed=seed, sample=sample) for label, (seed, sample) in pairs]

    def chosen_weights(self, run: InspectedRun) -> str:
        """Which weights of G."""
        known = run.require_weights()
        if self.weights != "auto" and self.weights not in known:
            raise ParameterError(f"weights={self.weights!r}: run {run.name!r} keeps no such weights; use {known[0]!r}")
        return known[0] if self.weights == "auto" else self.weights

    def chosen_layer(self, run: InspectedRun) -> dict | None:
        """The attention layer; None where the run has none at all."""
        layers = [layer for layer in run.layers if layer["network"] == self.network]
        if not run.layers or (not layers and self.layer is None):
            return None
        if self.layer is None:
            return max(layers, key=lambda layer: layer["side"])
        for layer in layers:
            if layer["side"] == self.layer:
                return layer
        there = ", ".join(str(layer["side"]) for layer in layers) or "none"
        raise ParameterError(f"layer={self.layer}: {self.network} of run {run.name!r} has attention at: {there}")

    def chosen_queries(self, inspection: Inspection) -> list[int]:
        """The queries (row-major) to show."""
        side = inspection.projections.side
        if self.queries == "auto":
            return list(salient_positions(inspection.image, side))
        positions = places("queries", self.queries, side)
        if not 1 <= len(positions) <= MAX_QUERIES:
            raise ParameterError(f"{quote('queries', self.queries)} are {len(positions)} places; give 1 to {MAX_QUERIES}, or auto")
        return positions

    def _labels(self, run: InspectedRun) -> list[int]:
        names, count = run.class_names, run.config.num_classes or 0
        if not count:
            return [-1]
        if self.classes == "all":
            return np.linspace(0, count - 1, min(6, count)).round().astype(int).tolist()
        labels = []
        for word in words(self.classes):
            number = whole(word)
            if word not in names and (number is None or number >= count):
                known = ", ".join(names[:20]) + (", ..." if count > 20 else "")
                raise ParameterError(
                    f"{quote('classes', self.classes)}: {short_repr(word)} is no class; {nearest(word, names)}classes: {known}"
                )
            labels.append(names.index(word) if word in names else number)
        if not labels:
            raise ParameterError(f"{quote('classes', self.classes)} names no class; give names or numbers, or all")
        return labels

    # ---------------------------------------------------------------------------------------------- what cells end in

    def inspections(self) -> list[Inspection]:
        """Every image of every run with its layer's attention, and the queries to show.

        Raises
        ------
        ParameterError, WorkbenchError
            If the view does not fit a run, or a checkpoint cannot be read.
        """
        seen = [run.inspect(request) for run in self.runs() for request in self.requests(run)]
        return [replace(inspection, queries=tuple(self.chosen_queries(inspection))) for inspection in seen]

    def figure(self) -> figures.Drawing | figures.Note | None:
        """Where the network looks: images with one coloured dot per query, and the map of each dot (as in Figures 1 and 5 of the paper).

        Returns
        -------
        Drawing, Note or None
            None when the network has no attention layer; a note where there is no checkpoint, or it cannot be read.

        Raises
        ------
        ParameterError
            If the view does not fit the run.
        """
        try:
            inspections = self.inspections()
        except ParameterError:
            raise
        except WorkbenchError as error:
            return figures.Note(error)
        return figures.attention_maps(inspections, self.reading) if inspections else None

    def through_training(self, count: int = 8) -> figures.Drawing | figures.Note | None:
        """The map of one query at `count` steps of the training, from the snapshots that it recorded: an image and its map for each.

        Returns
        -------
        Drawing, Note or None
            None when nothing was recorded; a note where nothing of it can be read. Single snapshots that cannot be are left out, and reported.
        """
        try:
            run = self.runs()[0]
            layer, steps = self.chosen_layer(run), run.run.attention_steps()
        except ParameterError:
            raise
        except WorkbenchError as error:
            return figures.Note(error)
        if not layer or not steps:
            return None
        inspections: dict[int, Inspection] = {}
        for step in _evenly(steps, count):
            try:
                inspections[step] = run.inspect(InspectionRequest(layer["id"], step, source="recorded"))
            except WorkbenchError as error:
                say_once(str(error))
                reason = error
        if not inspections:
            return figures.Note(reason)
        query = self.chosen_queries(list(inspections.values())[-1])[0]
        return figures.attention_maps(
            [replace(inspection, queries=(query,)) for inspection in inspections.values()],
            self.reading,
            title=f"{run.label}: {layer['id']} through training, one latent, one query",
            titles=[f"step {step:,}" for step in inspections],
        )

    def statistics(self, count: int = 12) -> list[dict]:
        """Means of the statistics of every attention layer of the runs, over all queries of `n` samples of all classes.

        Parameters
        ----------
        count
            Checkpoints to look at, evenly chosen among those there are; the first and the last are among them.

        Returns
        -------
        list of dict
            run, step, layer, gamma, and the mean of each of `attention.statistics` (but `received`, whose mean is always 1). What cannot be
            read is left out, and reported.
        """
        rows = []
        for run in self.runs():
            steps = _evenly(run.run.checkpoint_steps(), count) if run.layers else []
            weights = self.chosen_weights(run) if steps else ""
            with progress(len(steps), f"checkpoints of {run.label}") as advance:
                for step, layer in product(steps, run.layers):
                    request = InspectionRequest(layer["id"], step, weights, truncation=self.truncation)
                    try:
                        projections = run.projections(request, self.n)
                    except ParameterError:
                        raise
                    except WorkbenchError as error:
                        say_once(str(error))
                        continue
                    numbers = attention.statistics(projections, run.config.image_size)
                    means = {name: numbers[name].mean().item() for name in STATISTICS if name != "received"}
                    rows.append(dict(run=run.label, step=step, layer=layer["id"], gamma=projections.gamma) | means)
                    advance(layer is run.layers[-1])
        return rows


def _evenly(steps: list[int], count: int) -> list[int]:
    """At most `count` of the steps, evenly chosen; the first and the last are among them."""
    return [steps[round(k)] for k in np.linspace(0, len(steps) - 1, min(count, len(steps)))]


def _newest() -> Run | str:
    """The newest run that has a checkpoint, else the demo."""
    runs = [run for run in list_runs() if run.checkpoint_steps()]
    return runs[-1] if runs else "demo"
