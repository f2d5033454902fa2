"""Answers of the kernel to the front end: replies in JSON with binary parts, which `answers.js` unpacks."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ...attention import STATISTICS, Inspection, Projections
from ...data import to_uint8
from ...messages import WorkbenchError, counted, short_repr
from ...records import is_whole
from ...studies import effects
from ...views.inspected import Inspected
from ...views.inspection_request import InspectionRequest
from .requests import DEFAULT_VIEW, resolve

MAX_CACHED = 16  # answers
MAX_BATCHES = 256  # of measured samples

Answer = tuple[dict, list[bytes]]


class Answers:
    """Answers to requests about runs; the latest pictures are cached."""

    def __init__(self, runs: list[Inspected]):
        self.runs = runs
        self._cached = lru_cache(maxsize=MAX_CACHED)(self._compute)
        self._measured = lru_cache(maxsize=MAX_BATCHES)(lambda number, request, samples: runs[number].measure(request, samples))

    def picture(self, message: dict, catalogs: list[dict]) -> Answer:
        """The answer to a message of kind inspection, strip, causal, explain, overview, offsets or measure.

        Parameters
        ----------
        message
            {kind, run, view}; for a causal map and an explanation also `query`, for effects `batch`.
        catalogs
            The `catalog` of every run.

        Raises
        ------
        WorkbenchError
            With the reason, in one line.
        """
        kind, number, view = message["kind"], message.get("run", 0), message.get("view")
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(self.runs):
            raise WorkbenchError(f"run={short_repr(number)} is none of the {counted(len(self.runs), 'run')} of this view")
        if not isinstance(view, dict):
            raise WorkbenchError(f"view={short_repr(view)} is not an object")
        run = self.runs[number]
        request = resolve(kind, DEFAULT_VIEW | view, run, number, catalogs[number])
        if kind == "causal":
            return {}, [_bytes(run.causal_map(request, message.get("query", -1)))]
        if kind == "offsets":
            return {}, [_bytes(run.offsets(request))]
        if kind == "measure":
            return self._measure(number, request, message.get("batch")), []
        query = message.get("query", -1) if kind == "explain" else None
        if kind == "explain" and not is_whole(query):  # also what cannot be a key of the cache
            raise WorkbenchError(f"query={short_repr(query)} is not a position of the layer")
        return self._cached(kind, number, request, len(run.dropped), query)

    def _measure(self, number: int, request: InspectionRequest, batch: int | None) -> dict:
        """Measure a batch of samples: {done, n}; with the last one, or without a number (None: all of them), also the rows.

        One batch for each message, so that other requests are answered in between, and the work ends when nobody asks for more.
        """
        batches = effects.batches(self.runs[number].image_size[0])
        if batch is not None and not (is_whole(batch) and batch < len(batches)):
            raise WorkbenchError(f"batch={short_repr(batch)} is none of the {len(batches)} batches of samples")
        if batch is None or batch == len(batches) - 1:
            return dict(done=effects.SAMPLES, n=effects.SAMPLES, rows=self.effects(number, request))
        self._measured(number, request, batches[batch])
        return dict(done=batches[batch].stop, n=effects.SAMPLES)

    def effects(self, number: int, request: InspectionRequest) -> list[dict]:
        """The effects of a request's intervention in a run, see `studies.effects.summarise`."""
        batches = effects.batches(self.runs[number].image_size[0])
        return effects.summarise([self._measured(number, request, samples) for samples in batches])

    def _compute(self, kind: str, number: int, request: InspectionRequest, dropped: int, query: int | None) -> Answer:
        """What is worth keeping; a strip also depends on how many images were dropped, an explanation on the query."""
        run = self.runs[number]
        if query is not None:
            explanation = run.explain(request, query)
            return dict(sentence=explanation.sentence, verdict=explanation.verdict), []
        if kind == "overview":
            return pack_column(request.step, *run.every_layer(request))
        if kind == "strip":
            return pack_strip(request.sample, *run.strip(request))
        reply, buffers = pack(run.inspect(request))
        return reply | dict(step=request.step, weights=request.weights), buffers

    def drop(self, message: dict, buffers: list | None) -> Answer:
        """Add an image file: {kind, name}, and its content."""
        if not buffers or len(buffers) != 1:
            raise WorkbenchError("a dropped image needs one buffer: the content of its file")
        numbers = [run.drop(message.get("name", ""), bytes(buffers[0])) for run in self.runs]
        return dict(sample=numbers[0]), []


def pack(inspection: Inspection) -> Answer:
    """Sizes and numbers; image, query, key, norms of values, log-sum-exp of each query's logits (those of several heads one after the other),
    statistics, and the changed image if any."""
    layer, layout = inspection.projections, inspection.projections.places
    query, key, norms = (x if layer.query.ndim == 4 else x[:, None] for x in (layer.query, layer.key, layer.value_norm))
    query, key, norms = query[0], key[0], norms[0]  # (h, N, d), (h, M, d), (h, M)
    lse = (query @ key.transpose(1, 2)).logsumexp(2)
    parts = [query, key, norms, lse, torch.stack([inspection.statistics[s] for s in STATISTICS])]
    (rows, side), (key_rows, key_side) = layout.grid, layout.key_grid
    reply = dict(
        size=inspection.image.shape[-1], height=inspection.image.shape[-2], side=side, key_side=key_side, rows=rows, key_rows=key_rows,
        tokens=list(layout.tokens), heads=layer.heads, d=query.shape[-1], gamma=layer.gamma, logit=inspection.logit,
        logit_after=inspection.logit_after, after=inspection.after is not None, about=inspection.about,
    )  # fmt: skip
    after = [] if inspection.after is None else [_pixels(inspection.after)]
    return reply, [_pixels(inspection.image), *map(_bytes, parts), *after]


def pack_column(step: int | None, image: Tensor, layers: dict[str, Projections]) -> Answer:
    """Step and sizes of a column of the overview; its image, and query and key of each layer."""
    sizes = [
        dict(id=name, side=layer.side, key_side=layer.key_side, d=layer.query.shape[-1], gamma=layer.gamma)
        for name, layer in layers.items()
    ]
    parts = [_bytes(tensor[0]) for layer in layers.values() for tensor in (layer.query, layer.key)]
    return dict(step=step, size=image.shape[-1], layers=sizes), [_pixels(image), *parts]


def pack_strip(start: int, labels: list[str], images: Tensor) -> Answer:
    """Number of the first image, and the images (B, 3, H, W) with their labels."""
    height, size = images.shape[-2:] if labels else (0, 0)
    return dict(start=start, count=len(labels), size=size, height=height, labels=labels), [_pixels(images) if labels else b""]


def _pixels(images: Tensor) -> bytes:
    """(..., 3, H, W) in [-1, 1] as RGB bytes, row by row."""
    return to_uint8(images).movedim(-3, -1).contiguous().numpy().tobytes()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()
