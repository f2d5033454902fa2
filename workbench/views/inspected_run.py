# ruff: noqa: RUF001
"""Inspecting a run: its checkpoints, samples, real images and recorded snapshots, passed to `attention.inspect`.

Used by everything that shows attention: the view of `attention.ipynb` and the inspector.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .. import attention
from ..attention import Inspection, Layout, Projections
from ..attention.inspect import on_device
from ..attention.snapshots import Snapshot, load_snapshot
from ..config import Config
from ..data import Images, open_data, to_unit
from ..data.datasets import Drawn
from ..data.decode import decode_all
from ..data.twins import disagreement
from ..files import UnreadableError
from ..gpus import on_cpu
from ..messages import ParameterError, WorkbenchError, short_repr
from ..model import Generator, sampling
from ..model.directions import main_directions
from ..parameters import whole
from ..readers import split_step
from ..records import is_whole
from ..runs import Run
from ..studies import effects
from .inspected import STRIP, Inspected, layer_entry
from .inspection_request import InspectionRequest, require
from .view_line import GAMMA0

MAX_OPEN_NETWORKS = 4
DIRECTIONS = 6  # main directions of the latent to offer
ENDLESS = 1_000_000  # real images to page through: their number is unknown until the data is opened
MAX_OF_CLASS = 1_000  # images of a class of drawn data, which are found by drawing images one after the other
MAX_DROPPED_BYTES = 100_000_000


class InspectedRun(Inspected):
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

    real = ENDLESS
    tools = ("pin", "drag", "brush", "paint", "measure", "explain", "overview", "copy")

    def __init__(self, run: Run | str, step: int | None = None, gamma0: bool = False):
        self.run = run if isinstance(run, Run) else Run(run)
        self.config, self.gamma0 = self.run.config, gamma0
        if step is not None:
            self.run.checkpoint_path(step)  # raises if there is none
        self.start = step
        size = self.config.image_size
        self.name, self.views, self.layers = self.run.name, self.run.views, _layers(self.config)
        self.num_classes, self.image_size = self.config.num_classes or 0, (size, size)
        self.directions = min(DIRECTIONS, self.config.z_dim)
        self.about = f"{Path(self.config.data).name} · {size}×{size} · {self.config.attention_variant} attention"
        self.dropped: list[tuple[str, Tensor]] = []
        self._drawn_labels = np.empty(0, np.int64)  # of the first images of drawn data
        self._open = lru_cache(maxsize=MAX_OPEN_NETWORKS)(self._load)
        self._directions = lru_cache(maxsize=1)(main_directions)
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
    def reference(self) -> str:
        return GAMMA0 if self.gamma0 else self.run.reference

    @property
    def steps(self) -> list[int]:
        """Steps of the checkpoints."""
        return self.run.checkpoint_steps()

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
        self.check(request)
        with self._lock:
            if request.source == "recorded":
                return self._recorded(request)
            request = replace(request, step=self._step(request))  # a fixed step: the newest may change meanwhile
            inputs, about = self._inputs(request)
            network = self._network(request)
            source = self._inputs(_unmoved(request, request.paint_from))[0] if request.paint and request.paint_from is not None else None
            inspection = attention.inspect_layer(
                network, inputs, request.path, attention_off=self.gamma0, source=source, **self.intervention(request)
            )
        y = inputs[1]
        return replace(inspection, **self._words(request, about, None if y is None else int(y[0])))

    def causal_map(self, request: InspectionRequest, query: int) -> Tensor:
        self.check(request)
        request.require_network()
        require(is_whole(query), "query", query, "a position of the layer")
        with self._lock:
            network = self._network(request)
            inputs = on_device(network, self._inputs(request)[0])
            gamma = 0.0 if self.gamma0 or request.gamma0 else None
            return attention.causal_map(network, inputs, request.path, query, gamma=gamma)

    def every_layer(self, request: InspectionRequest) -> tuple[Tensor, dict[str, Projections]]:
        self.check(request)
        with self._lock:
            if request.source == "recorded":
                snapshot, number = self._snapshot(request), request.sample
                self._check_recorded(snapshot, number)
                part = slice(number, number + 1)
                return to_unit(snapshot.images[part])[0], {name: layer[part] for name, layer in snapshot.layers.items()}
            layers: dict[str, Projections] = {}
            step = self._step(request)

            def run(name: str, network: nn.Module, inputs: tuple) -> Tensor:
                output, projections = attention.every_projection(network, inputs)
                layers.update({f"{name}/{path}": layer for path, layer in projections.items()})
                return output

            # Not kept open: the networks of many steps would close those that are looked at.
            if request.source == "samples":
                generator = self._load(step, self._saved_weights(request))
                z, y = self._latents(request, 1, generator)
                x = run("G", generator, (z, y))
            else:
                (x, y), _ = self._inputs(request)
            if any(layer["network"] == "D" for layer in self.layers):
                run("D", self._load(step, None), (x, y))
            return x[0], layers

    def projections(self, request: InspectionRequest, count: int) -> Projections:
        self.check(request)
        request.require_network()
        with self._lock:
            inputs = self._generated(_unmoved(request, 0), count)
            return attention.collect_projections(self._network(request), inputs, request.path, attention_off=self.gamma0)

    def measure(self, request: InspectionRequest, samples: range) -> effects.Numbers:
        """What the request's intervention changes in samples or real images of its class and seed, by number.

        See `studies.effects.measure`. Sample, directions and painting of the request have no effect.
        """
        self.check(request)
        if request.source not in ("samples", "real"):
            raise ParameterError(f"source={request.source!r} has no images to measure over; choose samples or real images")
        if not (request.gamma0 or request.gamma is not None or request.forbid or request.replace):
            raise ParameterError("nothing to measure: the request forbids no keys, and neither gamma nor the map is changed")
        with self._lock:
            first, count = _unmoved(request, samples.start), len(samples)
            inputs = self._generated(first, count) if request.source == "samples" else self._real(first, count)[0]
            return effects.measure(
                self._network(request), inputs, request.path, samples=samples, keys=request.forbid, queries=request.queries,
                gamma=0.0 if request.gamma0 else request.gamma, replace=request.replace or None, attention_off=self.gamma0,
                hue=self._hue if request.network == "G" and self.config.data == "twins" else None,
            )  # fmt: skip

    def _hue(self, images: Tensor, labels: Tensor | None) -> Tensor:
        return disagreement(images, labels, self.config.pairs)["hue"]

    def strip(self, request: InspectionRequest) -> tuple[list[str], Tensor]:
        self.check(request)
        start = request.sample
        with self._lock:
            if request.source == "dropped":
                return [name for name, _ in self.dropped], torch.cat([x for _, x in self.dropped]) if self.dropped else torch.empty(0)
            if request.source == "recorded":
                snapshot = self._snapshot(request)
                return [self._about(y, f"latent {k}") for k, y in enumerate(snapshot.labels)], to_unit(snapshot.images)
            if request.source == "real":
                (x, _), real_labels, indices = self._real(request, STRIP)
                return [self._about(label, f"image {index}") for label, index in zip(real_labels, indices, strict=True)], x
            z, y = self._latents(_unmoved(request, start), STRIP)
            names = [self._about(None if y is None else y[k], f"sample {start + k}") for k in range(STRIP)]
            generator = self._generator(request)
            if not self.gamma0 or request.network == "D":
                return names, sampling.images(generator, z, y)
            with attention.intervene(generator, request.path, gamma=0.0):
                return names, sampling.images(generator, z, y)

    def drop(self, name: str, content: bytes) -> int:
        if not isinstance(name, str) or not name or len(name) > 1000:
            raise WorkbenchError(f"name={short_repr(name)} is not the name of a dropped image file")
        if len(content) > MAX_DROPPED_BYTES:
            raise WorkbenchError(f"{name!r} has {len(content) / 1e6:,.0f} MB; the limit is {MAX_DROPPED_BYTES / 1e6:,.0f} MB")
        (decoded,) = decode_all([content], self.config.image_size, threads=1)
        if decoded.pixels is None:
            raise WorkbenchError(f"{name!r} cannot be read as an image: {decoded.error}")
        self.dropped.append((name, to_unit(torch.tensor(decoded.pixels).permute(2, 0, 1)[None])))
        return len(self.dropped) - 1

    def check(self, request: InspectionRequest) -> None:
        most = self.config.z_dim
        require(len(request.directions) <= most, "directions", request.directions, f"at most {most} amounts: z has no more directions")
        super().check(request)

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
        return network.to("cpu" if on_cpu("auto") else "cuda")

    # -------------------------------------------------------------------------------------------- images

    def _inputs(self, request: InspectionRequest) -> tuple[tuple[Tensor, Tensor | None], str]:
        """The inputs of the request's network, a batch of one: latent or image, and class; and their description."""
        if request.source == "samples":
            inputs = self._generated(request, 1)
            about = self._about(None if inputs[1] is None else inputs[1][0], f"seed {request.seed}, sample {request.sample}")
            if request.towards:
                about += f", {request.mix:.0%} towards seed {request.towards[0]}, sample {request.towards[1]}"
            about += f", truncation {request.truncation:g}" if request.truncation else ""
            about += "".join(f", direction {k} {amount:+.3g} sd" for k, amount in enumerate(request.directions, 1) if amount)
            return inputs, about
        if request.source == "real":
            inputs, labels, indices = self._real(request, 1)
            return inputs, self._about(labels[0], f"real image {indices[0]}")
        if not 0 <= request.sample < len(self.dropped):
            raise WorkbenchError(f"sample={request.sample}: no such image was dropped here; there are {len(self.dropped)}")
        name, x = self.dropped[request.sample]
        y = torch.tensor([max(0, request.label)]) if self.config.num_classes else None
        return (x, y), self._about(None if y is None else y[0], name)

    def _latents(self, request: InspectionRequest, count: int, generator: nn.Module | None = None) -> tuple[Tensor, Tensor | None]:
        """Latents and classes of the request; `generator` if it is not one that is kept open."""
        z = sampling.latents(count, self.config.z_dim, request.seed, request.sample, request.truncation)
        if request.towards:
            seed, sample = request.towards
            z = sampling.interpolate(z, sampling.latents(count, self.config.z_dim, seed, sample, request.truncation), request.mix)
        if request.directions:
            directions = self._directions(generator or self._generator(request))[: len(request.directions)]
            z = z + torch.tensor(request.directions, dtype=torch.float32) @ directions
        y = sampling.labels(count, self.config.num_classes or 0, request.sample)
        return z, y if y is None or request.label < 0 else torch.full_like(y, request.label)

    def _generated(self, request: InspectionRequest, count: int) -> tuple[Tensor, Tensor | None]:
        """The inputs of the request's network for `count` samples: latents or their images, and classes."""
        z, y = self._latents(request, count)
        return z if request.network == "G" else sampling.images(self._generator(request), z, y), y

    def _real(self, request: InspectionRequest, count: int) -> tuple[tuple[Tensor, Tensor | None], Tensor, np.ndarray]:
        """The inputs of D for `count` real images from the request's on, of its class, their labels, and their indices in the data; at the end,
        again from the first."""
        numbers = np.arange(request.sample, request.sample + count)
        indices = numbers % (self.data.length or ENDLESS) if request.label < 0 else self._of_class(request.label, numbers)
        x, y = self.data.batch(indices)
        return (to_unit(x), y if self.config.num_classes else None), y, indices

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
        snapshot, sides = load_snapshot(path), {layer["id"]: (layer["side"], layer["key_side"]) for layer in self.layers}
        fits = snapshot.images.shape[2] == self.config.image_size and all(
            sides.get(name) == (layer.side, layer.key_side) for name, layer in snapshot.layers.items()
        )
        if not fits:
            raise UnreadableError(path, "its images or layers are not those of this run")
        return snapshot

    def _words(self, request: InspectionRequest, about: str, label: int | None) -> dict:
        name = "" if label is None else self.class_name(label)
        return dict(layer=request.layer, network=f"{self.label}, step {request.step:,}", about=about, label=label, class_name=name)

    def _about(self, label, rest: str) -> str:
        return f"{self.class_name(int(label))}, {rest}" if label is not None and self.config.num_classes else rest


def _unmoved(request: InspectionRequest, sample: int) -> InspectionRequest:
    """The request of a sample itself, not on the way to another one, nor moved along directions."""
    return replace(request, sample=sample, towards=None, directions=())


def _layers(config: Config) -> list[dict]:
    """The attention layers of both networks, the largest maps last."""
    if config.attention_block != "attention":
        return []
    pooled = 2 if config.attention_variant == "official" else 1
    sites = [("G", site) for site in config.sites_g] + [("D", site) for site in sorted(config.sites_d)]
    return [
        layer_entry(net, f"attention.{site}", f"{net} · {site}×{site}", Layout((site, site), (site // pooled, site // pooled)))
        for net, site in sites
    ]
