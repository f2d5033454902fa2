# ruff: noqa: RUF001
"""Inspecting a run: its checkpoints, samples, real images and recorded snapshots, passed to `attention.inspect`.

Used by everything that shows attention: the view of `attention.ipynb` and the inspector.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from .. import attention
from ..attention import Explanation, Inspection, Projections
from ..attention.inspect import positions_mask
from ..attention.snapshots import Snapshot, load_snapshot
from ..data import Images, open_data, to_unit
from ..data.datasets import Drawn
from ..data.decode import decode
from ..files import UnreadableError
from ..messages import ParameterError, WorkbenchError, short_repr
from ..model import Generator, sampling
from ..parameters import nearest, whole
from ..readers import split_step
from ..runs import Run
from .inspection_request import InspectionRequest, is_whole, require

STRIP = 8  # images on a page of the strip
MAX_OPEN_NETWORKS = 4
ENDLESS = 1_000_000  # real images to page through: their number is unknown until the data is opened
MAX_OF_CLASS = 1_000  # images of a class of drawn data, which are found by drawing images one after the other
MAX_DROPPED_BYTES = 100_000_000


class InspectedRun:
    """An opened run, and its images and attention layers.

    Parameters
    ----------
    run
        A run, or its name.
    step
        Checkpoint to start with; None: the newest.
    gamma0
        Gamma of the inspected layer is always 0: the network without attention there.

    Raises
    ------
    WorkbenchError
        If there is no such run or checkpoint.
    """

    def __init__(self, run: Run | str, step: int | None = None, gamma0: bool = False):
        self.run = run if isinstance(run, Run) else Run(run)
        self.config, self.gamma0 = self.run.config, gamma0
        if step is not None:
            self.run.checkpoint_path(step)  # raises if there is none
        self.start = step
        self.dropped: list[tuple[str, Tensor]] = []
        self._drawn_labels = np.empty(0, np.int64)  # of the first images of drawn data
        self._open = lru_cache(maxsize=MAX_OPEN_NETWORKS)(self._load)
        self._lock = threading.Lock()  # messages of the front end may arrive in several threads

    @classmethod
    def of(cls, name: Run | str, beside: InspectedRun | None = None) -> InspectedRun:
        """From a `Run`, "run" or "run@step"; with `beside` also "@step" of the same run and "gamma0" (or "gamma=0")."""
        if isinstance(name, Run):
            return cls(name)
        if name in ("gamma=0", "gamma0") and beside:
            return cls(beside.run, beside.start, gamma0=True)
        run, text = split_step(str(name))
        step = None if text is None else whole(text)
        if text is not None and step is None:
            raise ParameterError(f"{name!r}: {text!r} is not a step")
        return cls(beside.run if beside and not run else run, step)

    # -------------------------------------------------------------------------------------------- what a run offers

    @property
    def name(self) -> str:
        """The name of the run."""
        return self.run.name

    @property
    def label(self) -> str:
        """The name, and whether gamma is 0."""
        return self.name + (", γ = 0" if self.gamma0 else "")

    @cached_property
    def layers(self) -> list[dict]:
        """Every attention layer: id, network, label, side, key_side; the largest maps last."""
        if self.config.attention_block != "attention":
            return []
        pooled = 2 if self.config.attention_variant == "official" else 1
        sites = [("G", site) for site in self.config.sites_g] + [("D", site) for site in sorted(self.config.sites_d)]
        return [
            dict(id=f"{net}/attention.{site}", network=net, label=f"{net} · {site}×{site}", side=site, key_side=site // pooled)
            for net, site in sites
        ]

    @property
    def recorded_steps(self) -> list[int]:
        """Steps of the snapshots; none with `gamma0`, since they show the learned gamma."""
        return [] if self.gamma0 else self.run.attention_steps()

    @property
    def weights(self) -> list[str]:
        """The weights of G in the newest checkpoint, EMA first."""
        if not self.run.checkpoint_steps():
            return []
        folder = self.run.checkpoint_path()
        return [weights for weights, file in (("ema", "ema"), ("raw", "generator")) if (folder / f"{file}.safetensors").exists()]

    def require_weights(self) -> list[str]:
        """`weights`; WorkbenchError if there are none."""
        folder = self.run.checkpoint_path()  # raises if there is none
        if not self.weights:
            raise WorkbenchError(f"{folder} cannot be read: it holds no weights of G, neither ema.safetensors nor generator.safetensors")
        return self.weights

    @property
    def class_names(self) -> list[str]:
        """See `Run.class_names`."""
        return self.run.class_names

    @cached_property
    def data(self) -> Images | Drawn:
        """The training images, opened on first use."""
        return open_data(self.config, progress=False)

    # -------------------------------------------------------------------------------------------- images and attention

    def inspect(self, request: InspectionRequest) -> Inspection:
        """The image of a request, and the attention of the layer for it.

        Raises
        ------
        ParameterError, WorkbenchError
            If there is no such layer, checkpoint or image.
        """
        self.check(request)
        with self._lock:
            if request.source == "recorded":
                return self._recorded(request)
            request = replace(request, step=self._step(request))  # a fixed step: the newest may change meanwhile
            inputs, about = self._inputs(request)
            network = self._network(request)
            inspection = attention.inspect_layer(network, inputs, request.path, attention_off=self.gamma0, **self._intervention(request))
        y = inputs[1]
        return replace(inspection, **self._words(request, about, None if y is None else int(y[0])))

    def causal_map(self, request: InspectionRequest, query: int) -> Tensor:
        """How much the image at a query (for D: the logit) changes without one key, for each key (M,)."""
        self.check(request)
        request.require_network()
        require(is_whole(query), "query", query, "a position of the layer")
        with self._lock:
            (x, y), _ = self._inputs(request)
            network = self._network(request)
            weight = next(network.parameters())
            inputs = (x.to(weight), None if y is None else y.to(weight.device))
            gamma = 0.0 if self.gamma0 or request.gamma0 else None
            return attention.causal_map(network, inputs, request.path, query, gamma=gamma)

    def explain(self, request: InspectionRequest, query: int) -> Explanation:
        """What a query of the layer does as it was learned, in words; of a snapshot, which keeps no network, only where it attends."""
        require(is_whole(query), "query", query, "a position of the layer")
        seen = self.inspect(replace(request, gamma0=False, forbid=(), queries=None, replace=""))
        return attention.explain(seen, query, None if request.source == "recorded" else self.causal_map(request, query))

    def every_layer(self, request: InspectionRequest) -> tuple[Tensor, dict[str, Projections]]:
        """The image (3, S, S) of a request, and the projections of every attention layer for it: of G if it generates the image, and of D.

        Gamma is the learned one.
        """
        self.check(request)
        with self._lock:
            if request.source == "recorded":
                snapshot, number = self._snapshot(request), request.sample
                self._check_recorded(snapshot, number)
                part = slice(number, number + 1)
                return to_unit(snapshot.images[part])[0], {name: layer[part] for name, layer in snapshot.layers.items()}
            layers: dict[str, Projections] = {}
            step = self._step(request)

            def run(name: str, weights: str | None, inputs: tuple) -> Tensor:
                # Not kept open: the networks of many steps would close those that are looked at.
                output, projections = attention.every_projection(self._load(step, weights), inputs)
                layers.update({f"{name}/{path}": layer for path, layer in projections.items()})
                return output

            if request.source == "samples":
                z, y = self._latents(request, 1)
                x = run("G", self._saved_weights(request), (z, y))
            else:
                (x, y), _ = self._inputs(request)
            if any(layer["network"] == "D" for layer in self.layers):
                run("D", None, (x, y))
            return x[0], layers

    def offsets(self, request: InspectionRequest, count: int = 16) -> Tensor:
        """Where queries look relative to themselves, mean over `count` samples of the request's class: (2 side - 1, 2 side - 1)."""
        return attention.mean_offsets(self.projections(request, count))

    def projections(self, request: InspectionRequest, count: int) -> Projections:
        """The projections of the request's layer for the first `count` samples of its class and seed."""
        self.check(request)
        request.require_network()
        with self._lock:
            z, y = self._latents(replace(request, sample=0, towards=None), count)
            x = z if request.network == "G" else sampling.images(self._generator(request), z, y)
            return attention.collect_projections(self._network(request), (x, y), request.path, attention_off=self.gamma0)

    def strip(self, request: InspectionRequest) -> tuple[list[str], Tensor]:
        """Labels and images (B, 3, S, S) to choose from: `STRIP` samples or real images from the request's on, or all of another source."""
        self.check(request)
        start = request.sample
        with self._lock:
            if request.source == "dropped":
                return [name for name, _ in self.dropped], torch.cat([x for _, x in self.dropped]) if self.dropped else torch.empty(0)
            if request.source == "recorded":
                snapshot = self._snapshot(request)
                return [self._about(y, f"latent {k}") for k, y in enumerate(snapshot.labels)], to_unit(snapshot.images)
            if request.source == "real":
                x, real_labels, indices = self._real(request, STRIP)
                return [self._about(label, f"image {index}") for label, index in zip(real_labels, indices, strict=True)], x
            z, y = self._latents(replace(request, towards=None), STRIP)
            names = [self._about(None if y is None else y[k], f"sample {start + k}") for k in range(STRIP)]
            generator = self._generator(request)
            if not self.gamma0 or request.network == "D":
                return names, sampling.images(generator, z, y)
            with attention.intervene(generator, request.path, gamma=0.0):
                return names, sampling.images(generator, z, y)

    def drop(self, name: str, content: bytes) -> int:
        """Add an image file; returns its number among the dropped images."""
        if not isinstance(name, str) or not name or len(name) > 1000:
            raise WorkbenchError(f"name={short_repr(name)} is not the name of a dropped image file")
        if len(content) > MAX_DROPPED_BYTES:
            raise WorkbenchError(f"{name!r} has {len(content) / 1e6:,.0f} MB; the limit is {MAX_DROPPED_BYTES / 1e6:,.0f} MB")
        try:
            x = decode(bytes(content), self.config.image_size)
        except Exception as error:
            raise WorkbenchError(f"{name!r} cannot be read as an image: {' '.join(str(error).split())[:200]}") from None
        self.dropped.append((name, to_unit(torch.tensor(x).permute(2, 0, 1)[None])))
        return len(self.dropped) - 1

    # -------------------------------------------------------------------------------------------- requests

    def check(self, request: InspectionRequest) -> None:
        """Raise a WorkbenchError unless the run has the layer, positions and class of a request."""
        if self.gamma0:
            request.require_network()
        sides = self._sides
        if request.layer not in sides:
            raise WorkbenchError(
                f"run {self.name!r} has no attention layer {request.layer!r}; {nearest(request.layer, sides)}"
                f"there are: {', '.join(sides) or 'none'}"
            )
        side, key_side = sides[request.layer]
        for name, limit in (("forbid", key_side**2), ("queries", side**2)):
            positions = getattr(request, name) or ()
            require(len(positions) <= limit, name, positions, f"a selection of the {limit} positions of {request.layer}")
            if outside := [k for k in positions if k >= limit]:
                raise ParameterError(f"{name}={outside[0]} is no position of {request.layer}, which has {limit}")
        count = self.config.num_classes or 0
        if request.label >= max(1, count):
            raise ParameterError(f"label={request.label} is no class of run {self.name!r}, which has {count}")

    @property
    def _sides(self) -> dict[str, tuple[int, int]]:
        return {layer["id"]: (layer["side"], layer["key_side"]) for layer in self.layers}

    def _intervention(self, request: InspectionRequest) -> dict:
        """The arguments of `intervene`; None where a request changes nothing."""
        side, key_side = self._sides[request.layer]
        mask = positions_mask(request.queries, request.forbid, (side**2, key_side**2)) if request.forbid else None
        return dict(gamma=0.0 if request.gamma0 else None, forbid=mask, replace=request.replace or None)

    # -------------------------------------------------------------------------------------------- networks

    def _step(self, request: InspectionRequest) -> int:
        return int(self.run.checkpoint_path(request.step).name)

    def _network(self, request: InspectionRequest) -> nn.Module:
        return self._generator(request) if request.network == "G" else self._open(self._step(request), None)

    def _generator(self, request: InspectionRequest) -> Generator:
        generator = self._open(self._step(request), self._saved_weights(request))
        assert isinstance(generator, Generator)
        return generator

    def _saved_weights(self, request: InspectionRequest) -> str:
        saved = self.require_weights()
        return request.weights if request.weights in saved else saved[0]

    def _load(self, step: int, weights: str | None) -> nn.Module:
        """G with these weights, or D (None), on the device."""
        network = self.run.discriminator(step) if weights is None else self.run.generator(step, weights)
        return network.to("cuda" if torch.cuda.is_available() else "cpu")

    # -------------------------------------------------------------------------------------------- images

    def _inputs(self, request: InspectionRequest) -> tuple[tuple[Tensor, Tensor | None], str]:
        """The inputs of the request's network, a batch of one: latent or image, and class; and their description."""
        if request.source == "samples":
            z, y = self._latents(request, 1)
            about = self._about(None if y is None else y[0], f"seed {request.seed}, sample {request.sample}")
            if request.towards:
                about += f", {request.mix:.0%} towards seed {request.towards[0]}, sample {request.towards[1]}"
            about += f", truncation {request.truncation:g}" if request.truncation else ""
            return (z if request.network == "G" else sampling.images(self._generator(request), z, y), y), about
        if request.source == "real":
            x, y, indices = self._real(request, 1)
            return (x, y if self.config.num_classes else None), self._about(y[0], f"real image {indices[0]}")
        if not 0 <= request.sample < len(self.dropped):
            raise WorkbenchError(f"sample={request.sample}: no such image was dropped here; there are {len(self.dropped)}")
        name, x = self.dropped[request.sample]
        y = torch.tensor([max(0, request.label)]) if self.config.num_classes else None
        return (x, y), self._about(None if y is None else y[0], name)

    def _latents(self, request: InspectionRequest, count: int) -> tuple[Tensor, Tensor | None]:
        z = sampling.latents(count, self.config.z_dim, request.seed, request.sample, request.truncation)
        if request.towards:
            seed, sample = request.towards
            z = sampling.interpolate(z, sampling.latents(count, self.config.z_dim, seed, sample, request.truncation), request.mix)
        y = sampling.labels(count, self.config.num_classes or 0, request.sample)
        return z, y if y is None or request.label < 0 else torch.full_like(y, request.label)

    def _real(self, request: InspectionRequest, count: int) -> tuple[Tensor, Tensor, np.ndarray]:
        """`count` real images from the request's on, of its class, with their labels and indices in the data; again from the first at the end."""
        numbers = np.arange(request.sample, request.sample + count)
        indices = numbers % (self.data.length or ENDLESS) if request.label < 0 else self._of_class(request.label, numbers)
        x, y = self.data.batch(indices)
        return to_unit(x), y, indices

    def _of_class(self, label: int, numbers: np.ndarray) -> np.ndarray:
        """The indices in the data of the images of these numbers among those of a class."""
        if isinstance(self.data, Images):
            members = np.flatnonzero(self.data.labels == label)
            return members[numbers % len(members)]
        numbers = numbers % MAX_OF_CLASS
        while np.count_nonzero(self._drawn_labels == label) <= numbers.max():
            start = len(self._drawn_labels)
            labels = self.data.batch(np.arange(start, start + 64))[1]
            self._drawn_labels = np.concatenate([self._drawn_labels, labels.numpy()])
        return np.flatnonzero(self._drawn_labels == label)[numbers]

    def _recorded(self, request: InspectionRequest) -> Inspection:
        steps = self.run.attention_steps()
        request = replace(request, step=steps[-1] if request.step is None and steps else request.step)
        snapshot, number = self._snapshot(request), request.sample
        if request.layer not in snapshot.layers:
            raise UnreadableError(self.run.attention_path(request.step), f"it holds nothing of {request.layer}")
        self._check_recorded(snapshot, number)
        label, part = snapshot.labels[number], slice(number, number + 1)
        about = self._about(label, f"recorded latent {number}, step {request.step}")
        inspection = Inspection(request.layer, to_unit(snapshot.images[part])[0], snapshot.layers[request.layer][part])
        return replace(inspection, **self._words(request, about, label))

    def _check_recorded(self, snapshot: Snapshot, number: int) -> None:
        if number >= len(snapshot.images):
            raise WorkbenchError(f"sample={number}: the training recorded {len(snapshot.images)} latents")

    def _snapshot(self, request: InspectionRequest) -> Snapshot:
        """The recorded snapshot; UnreadableError if it does not fit the run."""
        path = self.run.attention_path(request.step)
        snapshot, sides, size = load_snapshot(path), self._sides, self.config.image_size
        fits = snapshot.images.shape[2] == size and all(
            sides.get(name) == (layer.side, layer.key_side) for name, layer in snapshot.layers.items()
        )
        if not fits:
            raise UnreadableError(path, "its images or layers are not those of this run")
        return snapshot

    def _words(self, request: InspectionRequest, about: str, label: int | None) -> dict:
        name = "" if label is None else self._class_name(label)
        return dict(layer=request.layer, network=f"{self.label}, step {request.step:,}", about=about, label=label, class_name=name)

    def _about(self, label, rest: str) -> str:
        return f"{self._class_name(int(label))}, {rest}" if label is not None and self.config.num_classes else rest

    def _class_name(self, label: int) -> str:
        names = self.class_names
        return names[label] if 0 <= label < len(names) else str(label)
