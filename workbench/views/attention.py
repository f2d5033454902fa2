"""What `attention.ipynb` calls: its parameters, figures and statistics."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from itertools import product

import numpy as np

from .. import attention, figures
from ..attention import READINGS, STATISTICS, Inspection, salient_positions
from ..attention.inspect import key_positions
from ..figures.film import evenly
from ..messages import ParameterError, WorkbenchError, counted, nearest, say_once, short_repr
from ..parameters import Parameters, parameter, whole
from ..paths import DEMO
from ..progress import progress
from ..readers import amounts, latents, map_positions, quote, read_list, words
from ..runs import newest_with_checkpoint
from ..studies import effects
from .inspected_run import InspectedRun
from .inspection_request import MOST, InspectionRequest
from .overview import overview
from .view_line import GAMMA0, ViewLine, change_of, class_of, latent_of, positions_of, value_of

MAX_QUERIES = len(figures.QUERY_COLOURS)
MAX_IMAGES = 60  # of a view


@dataclass(frozen=True)
class AttentionView(Parameters):
    """The attention to show of a run: the parameters of `attention.ipynb`, and its views.

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
    queries: str = parameter("auto", 'query positions from the top left, "row,column; row,column"; auto: salient ones')
    reading: str = parameter("outgoing", "how the map is read", choices=READINGS)
    truncation: float = parameter(0.0, "latents are truncated to [-truncation, truncation]; 0: not", low=0)
    directions: str = parameter(
        "", "moves of the latents along their main directions, in standard deviations, separated by commas", read=read_list, none="none"
    )
    knock_out: str = parameter("", 'positions "row,column; row,column" that may not be looked at in the table of effects', none="none")
    line: str = parameter("", "a view as the inspector copies it, in place of the parameters above", none="nothing")
    n: int = parameter(32, "images per checkpoint in the table of statistics", low=1)

    def __post_init__(self):
        super().__post_init__()
        if not self.line:
            return
        words, site = self.words, ""
        if words.layer:
            network, _, site = words.layer.partition("/attention.")
            if whole(site) is None:
                raise ParameterError(f"line: {short_repr(words.layer)} is not a layer such as G/attention.32")
        derived = dict(network=network, layer=int(site)) if site else {}
        derived |= {
            name: value_of(name, words.entries[name], default)
            for name, default in (("weights", ""), ("truncation", 0.0))
            if name in words.entries
        }
        derived |= {"reading": words.entries["reading"]} if words.entries.get("reading") in READINGS else {}
        for f in fields(self):
            given, name = getattr(self, f.name), f.name
            if name not in ("line", "n") and given not in (f.default, derived.get(name, f.default)):
                raise ParameterError(f"{name}={short_repr(given)}: line already says what to show; leave {name} or line out")
            if name in derived:
                object.__setattr__(self, name, self.read(name, derived[name]))

    @property
    def words(self) -> ViewLine:
        """The words of `line`."""
        return ViewLine.read(self.line)

    def runs(self) -> list[InspectedRun]:
        """The run, and the one to compare it with."""
        if self.line:
            return self._runs_of_line()
        first = InspectedRun.of(self.run or newest_with_checkpoint() or DEMO.name)
        return [first] + ([InspectedRun.of(self.compare, first)] if self.compare else [])

    def _runs_of_line(self) -> list[InspectedRun]:
        words = self.words
        recorded = words.entries.get("source") == "recorded"  # steps are those of snapshots then
        first = InspectedRun(words.run, None if recorded else words.step)
        if words.beside == GAMMA0:
            return [first, InspectedRun.of(GAMMA0, first)]
        return [first] + ([InspectedRun(words.beside, None if recorded else words.beside_step)] if words.beside else [])

    def _request_of_line(self, run: InspectedRun, layer: dict) -> InspectionRequest:
        """The image of the line, without its intervention."""
        words = self.words
        entries, defaults = words.entries, InspectionRequest(layer["id"])
        names = ("source", "seed", "sample", "mix")
        request = {name: value_of(name, entries[name], getattr(defaults, name)) for name in names if name in entries}
        if "towards" in entries:
            request["towards"] = tuple(latent_of("towards", entries["towards"]))
        if "directions" in entries:
            request["directions"] = tuple(value_of("directions", entries["directions"], []))
        if "class" in entries:
            request["label"] = class_of(entries["class"], run.class_names)
        if request.get("source") == "recorded":
            step = int(run.run.attention_path(words.step).stem)
            return InspectionRequest(layer["id"], step, source="recorded", sample=request.get("sample", 0))
        step = int(run.run.checkpoint_path(run.start).name)
        return InspectionRequest(layer["id"], step, self.weights_of(run), truncation=self.truncation, **request)

    def requests(self, run: InspectedRun) -> list[InspectionRequest]:
        """A request for every image of a run.

        Raises
        ------
        ParameterError, WorkbenchError
            If the run has no such layer, class or step.
        """
        layer = self.layer_of(run)
        if layer is None:
            return []
        if self.line:
            return [self._request_of_line(run, layer)]
        step = int(run.run.checkpoint_path(run.start if self.step is None else self.step).name)
        weights = self.weights_of(run)
        labels, seeds = self._labels(run), latents("seeds", self.seeds)
        if not seeds:  # one image per class, each from another latent
            pairs = [(label, (run.config.seed, k)) for k, label in enumerate(labels if labels != [-1] else [-1] * 6)]
        else:
            pairs = [(label, seed) for label in labels for seed in seeds]
        if self.source == "real":
            pairs = [(-1, (0, k)) for k in range(len(pairs))]
        if len(pairs) > MAX_IMAGES:
            raise ParameterError(f"classes and seeds give {counted(len(pairs), 'image')}; a view shows at most {MAX_IMAGES}: choose fewer")
        common = dict(layer=layer["id"], step=step, weights=weights, source=self.source, truncation=self.truncation)
        if self.source == "samples":
            common["directions"] = tuple(amounts("directions", self.directions, MOST))
        return [InspectionRequest(**common, label=label, seed=seed, sample=sample) for label, (seed, sample) in pairs]

    def weights_of(self, run: InspectedRun) -> str:
        """The weights of G to use: "ema" or "raw"."""
        saved = run.require_weights()
        if self.weights != "auto" and self.weights not in saved:
            raise ParameterError(f"weights={self.weights!r}: run {run.name!r} has no such weights; use {saved[0]!r}")
        return saved[0] if self.weights == "auto" else self.weights

    def layer_of(self, run: InspectedRun) -> dict | None:
        """The attention layer; None if the network has none."""
        layers = [layer for layer in run.layers if layer["network"] == self.network]
        if not run.layers or (not layers and self.layer is None):
            return None
        if self.layer is None:
            return max(layers, key=lambda layer: layer["side"])
        for layer in layers:
            if layer["side"] == self.layer:
                return layer
        sites = ", ".join(str(layer["side"]) for layer in layers) or "none"
        raise ParameterError(f"layer={self.layer}: {self.network} of run {run.name!r} has attention at: {sites}")

    def queries_of(self, inspection: Inspection) -> list[int]:
        """The queries (row-major) to show."""
        side = inspection.projections.side
        if self.line and "pins" in self.words.entries:
            return positions_of("pins", self.words.entries["pins"], side)
        if self.queries == "auto":
            return list(salient_positions(inspection.image, side))
        positions = map_positions("queries", self.queries, side)
        if not 1 <= len(positions) <= MAX_QUERIES:
            raise ParameterError(
                f"{quote('queries', self.queries)} are {counted(len(positions), 'position')}; give 1 to {MAX_QUERIES}, or auto"
            )
        return positions

    def _labels(self, run: InspectedRun) -> list[int]:
        names, count = run.class_names, run.config.num_classes or 0
        if not count:
            return [-1]
        if self.classes == "all":
            return np.linspace(0, count - 1, min(6, count)).round().astype(int).tolist()
        labels = []
        for word in words(self.classes):
            label = names.index(word) if word in names else whole(word)
            if label is None or label >= count:
                known = ", ".join(names[:20]) + (", ..." if count > 20 else "")
                raise ParameterError(
                    f"{quote('classes', self.classes)}: {short_repr(word)} is no class; {nearest(word, names)}classes: {known}"
                )
            labels.append(label)
        if not labels:
            raise ParameterError(f"{quote('classes', self.classes)} names no class; give names or numbers, or all")
        return labels

    # ---------------------------------------------------------------------------------------------- figures and numbers

    def inspections(self) -> list[Inspection]:
        """Every image of every run with the attention of its layer, and the queries to show.

        Raises
        ------
        ParameterError, WorkbenchError
            If the view does not fit a run, or a checkpoint cannot be read.
        """
        inspections = (run.inspect(request) for run in self.runs() for request in self.requests(run))
        return [replace(inspection, queries=tuple(self.queries_of(inspection))) for inspection in inspections]

    def figure(self) -> figures.Drawing | figures.Note | None:
        """Where the network looks: images with one coloured dot per query, and the map of each dot (as in Figures 1 and 5 of the paper).

        Returns
        -------
        Drawing, Note or None
            None if the network has no attention layer; a note if there is no checkpoint, or it cannot be read.

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
        """The map of one query at `count` steps of the training, from its snapshots: an image and its map for each.

        Returns
        -------
        Drawing, Note or None
            None if nothing was recorded; a note if no snapshot can be read. Other unreadable snapshots are reported and left out.
        """
        try:
            run = self.runs()[0]
            layer, steps = self.layer_of(run), run.run.attention_steps()
        except ParameterError:
            raise
        except WorkbenchError as error:
            return figures.Note(error)
        if not layer or not steps:
            return None
        inspections: dict[int, Inspection] = {}
        for step in evenly(steps, count):
            try:
                inspections[step] = run.inspect(InspectionRequest(layer["id"], step, source="recorded"))
            except WorkbenchError as error:
                say_once(str(error))
                reason = error
        if not inspections:
            return figures.Note(reason)
        query = self.queries_of(list(inspections.values())[-1])[0]
        return figures.attention_maps(
            [replace(inspection, queries=(query,)) for inspection in inspections.values()],
            self.reading,
            title=f"{run.label}: {layer['id']} through training, one latent, one query",
            titles=[f"step {step:,}" for step in inspections],
        )

    def overview(self) -> figures.Drawing | figures.Note | None:
        """The map of one query in every attention layer at up to eight checkpoints: of the first image and query.

        Returns
        -------
        Drawing, Note or None
            None if no network has attention; a note if there is no checkpoint. Checkpoints that cannot be read are left empty, with the
            reason.
        """
        try:
            run = self.runs()[0]
            layer, requests = self.layer_of(run), self.requests(run)[:1]
            if layer is None or not requests:
                return None
            query = self.queries_of(run.inspect(requests[0]))[0]
        except ParameterError:
            raise
        except WorkbenchError as error:
            return figures.Note(error)
        return overview(run, requests[0], query)

    def explanation(self) -> str:
        """What each query of the first image does, in words, against chance (see `attention.explain`): a line for each."""
        try:
            run = self.runs()[0]
            requests = self.requests(run)[:1]
            lines = [run.explain(request, query).sentence for request in requests for query in self.queries_of(run.inspect(request))]
        except ParameterError:
            raise
        except WorkbenchError as error:
            return str(error)
        return "\n".join(lines) or f"run {run.name!r} has no attention layer: nothing to explain"

    def statistics(self, count: int = 12) -> list[dict]:
        """Means of the statistics of every attention layer of the runs, over all queries of `n` samples of all classes.

        Parameters
        ----------
        count
            Number of checkpoints, evenly chosen, with the first and the last.

        Returns
        -------
        list of dict
            run, step, layer, gamma, and the mean of each of `attention.statistics` (but `received`, whose mean is always 1). Unreadable
            checkpoints are reported and left out.
        """
        rows = []
        for run in self.runs():
            steps = evenly(run.run.checkpoint_steps(), count) if run.layers else []
            weights = self.weights_of(run) if steps else ""
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

    def _measured(self, run: InspectedRun, layer: dict) -> tuple[InspectionRequest, dict]:
        """The images of `effects`, as a request, and the intervention of the view, in entries of one."""
        if self.line:
            return self._request_of_line(run, layer), change_of(self.words, layer)
        step, seed = int(run.run.checkpoint_path(run.start if self.step is None else self.step).name), run.config.seed
        keys = key_positions(map_positions("knock_out", self.knock_out, layer["side"]), layer["side"], layer["key_side"])
        common = InspectionRequest(layer["id"], step, self.weights_of(run), self.source, seed=seed, truncation=self.truncation)
        return common, dict(forbid=tuple(keys))

    def effects(self, n: int = effects.SAMPLES) -> list[dict]:
        """What interventions on the layer change in the mean over `n` images of all classes: gamma = 0, a uniform and a local map, and `knock_out`.

        Of a line, the images are those of its source, class and seed, and in place of `knock_out` stands its own intervention.

        Returns
        -------
        list of dict
            run, layer, intervention, and the columns of `studies.effects.summarise`: mean changes with 95 % bootstrap intervals, for
            `knock_out` beside as many random keys.

        Raises
        ------
        ParameterError
            If the view does not fit a run. A checkpoint that cannot be read, or of a network that has diverged, is reported and left out, and
            so are the images of a line that are snapshots or files.
        """
        rows: list[dict] = []
        for run in self.runs():
            layer = self.layer_of(run)
            if layer is None or not run.run.checkpoint_steps():
                continue
            common, change = self._measured(run, layer)
            if common.source not in ("samples", "real"):
                say_once(
                    f"no effects: the line shows source={common.source}, and they are measured over samples or real images of a checkpoint"
                )
                return rows
            changes: dict[str, dict] = {
                "gamma = 0": dict(gamma0=True),
                "uniform map": dict(replace="uniform"),
                "local map": dict(replace="local"),
            }
            if title := replace(common, **change).intervention:
                changes.setdefault(title, change)
            with progress(n * len(changes), f"images of {run.label}") as advance:
                for name, change in changes.items():
                    numbers = []
                    try:
                        for samples in effects.batches(run.config.image_size, n):
                            numbers.append(run.measure(replace(common, **change), samples))
                            advance(len(samples))
                        rows += [dict(run=run.label, layer=layer["id"], intervention=name) | row for row in effects.summarise(numbers)]
                    except ParameterError:
                        raise
                    except WorkbenchError as error:
                        say_once(str(error))
        return rows
