# ruff: noqa: RUF001
"""Looking at runs: one image, one attention layer, and what it did there; what the inspector, figures and `attention.ipynb` call.

A `Scene` says what to look at, a `Subject` is an opened run that looks at it, a `Look` is what it saw: the image, and the layer's queries
and keys, from which every map follows. `AttentionView` are the parameters of the notebook.
"""

from __future__ import annotations

import base64
import io
import threading
from collections import OrderedDict
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .. import attention
from ..attention import Projections
from ..attention.snapshots import Snapshot, load_snapshot
from ..data import Images, open_data, to_uint8, to_unit
from ..data.decode import decode
from ..data.twins import Twins
from ..files import UnreadableError
from ..messages import nearest, say_once, shown
from ..model import Generator, sampling
from ..parameters import ParameterError, Parameters, WorkbenchError, parameter, whole
from ..progress import progress
from ..readers import latents, places, quote, read_list, split_step, words
from ..runs import Run, list_runs

STATISTICS = ("entropy", "distance", "outside_3", "outside_9", "strength", "received")
SOURCES = ("samples", "real", "recorded", "dropped")
STRIP = 8  # images to pick from
KEPT_NETWORKS = 4  # opened checkpoints in memory
ENDLESS = 1_000_000  # real images to page through: how many there are is known when one is asked for
CAUSAL_BATCH = 256
MOST_QUERIES = 8  # places that a view shows, a colour each
MOST_IMAGES = 60  # of a view: more make no picture
MOST_NUMBER = 2**53  # of seeds, samples and steps: what JavaScript counts to
MOST_DROPPED_BYTES = 100_000_000

# ------------------------------------------------------------------------------------------------------- what to look at


@dataclass(frozen=True)
class Scene:
    """One image and one attention layer; in the inspector's messages, the same by the same names.

    Attributes
    ----------
    layer
        Network and `named_modules` path: "G/attention.16".
    step, weights
        Checkpoint (None: the newest) and weights of G, "ema" or "raw"; with `source="recorded"`, the step of a snapshot.
    source
        "samples": G's, of the latent number `sample` of `seed`; "real": image `sample` of the data; "recorded": latent number `sample` of
        those that the training wrote down; "dropped": an image of the user's.
    label
        Class; -1: every class in turn, by the number of the sample.
    towards, mix
        Another latent (seed, sample), and how far to go there on the sphere, 0 to 1.
    gamma0, forbid, queries, replace
        What is done to the layer: gamma is 0; keys that are forbidden, to these queries (None: all); the map is "uniform" or "local".
    """

    layer: str
    step: int | None = None
    weights: str = "ema"
    source: str = "samples"
    label: int = -1
    seed: int = 0
    sample: int = 0
    truncation: float = 0.0
    towards: tuple[int, int] | None = None
    mix: float = 0.0
    gamma0: bool = False
    forbid: tuple[int, ...] = ()
    queries: tuple[int, ...] | None = None
    replace: str = ""

    def __post_init__(self):
        for name, known in (("weights", ("ema", "raw")), ("source", SOURCES), ("replace", ("", "uniform", "local"))):
            if not isinstance(getattr(self, name), str) or getattr(self, name) not in known:
                raise ParameterError(f"{name}={getattr(self, name)!r} is not one of {', '.join(filter(None, known))}")
        for name, low, what in _WHOLE:
            value = getattr(self, name)
            _require(_is_whole(value, low) or (value is None and name == "step"), name, value, what)
        for name, high in (("truncation", 1e6), ("mix", 1)):
            value = getattr(self, name)
            fits = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= high
            _require(fits, name, value, f"a number from 0 to {high:g}")
        _require(isinstance(self.gamma0, bool), "gamma0", self.gamma0, "true or false")
        for name in ("forbid", "queries"):
            places = getattr(self, name)
            fits = (places is None and name == "queries") or (isinstance(places, tuple) and all(_is_whole(place, 0) for place in places))
            _require(fits, name, places, "places of the layer, whole numbers from 0 on")
        if self.towards is not None:
            fits = isinstance(self.towards, tuple) and len(self.towards) == 2 and all(_is_whole(value, 0) for value in self.towards)
            _require(fits, "towards", self.towards, "a seed and a sample")
        if not isinstance(self.layer, str) or self.network not in ("G", "D") or not self.path:
            raise ParameterError(f"layer={self.layer!r} is not a network and a layer, such as 'G/attention.32'")
        if self.network == "G" and self.source in ("real", "dropped"):
            raise ParameterError(f"source={self.source!r} goes with a layer of D: G makes its images itself")
        if self.source == "recorded" and self.changes_the_layer:
            raise ParameterError("a recorded image cannot be changed, for its network was not kept; choose a checkpoint (source='samples')")

    @classmethod
    def of(cls, request: dict) -> Scene:
        """From a message, whose further entries are left out and whose lists become tuples."""
        known = {f.name for f in fields(cls)}
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in request.items() if k in known})

    @property
    def network(self) -> str:
        return self.layer.partition("/")[0]

    @property
    def path(self) -> str:
        return self.layer.partition("/")[2]

    @property
    def changes_the_layer(self) -> bool:
        return bool(self.gamma0 or self.forbid or self.replace)

    def changed(self, **changes) -> Scene:
        return replace(self, **changes)


_WHOLE = (  # of a scene: name, smallest value, what would be right
    ("step", 0, "the step of a checkpoint"), ("label", -1, "a class, by number, or -1"), ("seed", 0, "a whole number from 0 on"),
    ("sample", 0, "a whole number from 0 on"),
)  # fmt: skip


def _is_whole(value, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value < MOST_NUMBER


def _require(fits: bool, name: str, value, what: str) -> None:
    if not fits:
        shown = repr(value)
        raise ParameterError(f"{name}={shown if len(shown) < 80 else shown[:77] + '...'} is not {what}")


@dataclass(frozen=True)
class Look:
    """What was seen in a scene.

    Attributes
    ----------
    scene, about
        What was looked at, and in words.
    image, after
        (3, S, S) in [-1, 1]; `after`: with the layer changed, None where it is not.
    projections
        Of the scene's layer, for this one image.
    logit, logit_after
        D's output, where the layer is D's.
    label
        Class of the image; None without classes.
    """

    scene: Scene
    about: str
    image: Tensor
    projections: Projections
    after: Tensor | None = None
    logit: float | None = None
    logit_after: float | None = None
    label: int | None = None

    @cached_property
    def beta(self) -> Tensor:
        """The attention map (N, M)."""
        return self.projections.maps()[0]

    @cached_property
    def statistics(self) -> dict[str, Tensor]:
        """(N,) each, see `attention.statistics`."""
        return {name: values[0] for name, values in attention.statistics(self.projections, self.image.shape[-1]).items()}

    def heat(self, reading: str, query: int) -> Tensor:
        """A reading of the map for a query, (side, side): outgoing, incoming, moved, or a statistic of all queries."""
        layer = self.projections
        if reading == "outgoing":
            return attention.outgoing(self.beta[None], query)[0]
        if reading == "incoming":
            return attention.incoming(self.beta[None], query)[0]
        if reading == "moved":
            return attention.value_weighted(self.beta[None], layer.value_norm, query)[0]
        if reading in self.statistics:
            return self.statistics[reading].view(layer.side, layer.side)
        raise ParameterError(f"reading={reading!r} is not one of {', '.join(READINGS)}")

    def message(self) -> tuple[dict, list[bytes]]:
        """The form in which the inspector's front end takes it."""
        layer = self.projections
        scores = layer.query[0] @ layer.key[0].T
        buffers = [
            layer.query[0],
            layer.key[0],
            layer.value_norm[0],
            scores.logsumexp(1),
            torch.stack([self.statistics[s] for s in STATISTICS]),
        ]
        pictures = [_bytes(self.image)] + ([] if self.after is None else [_bytes(self.after)])
        header = dict(
            size=self.image.shape[-1], side=layer.side, key_side=layer.key_side, d=layer.query.shape[-1], gamma=layer.gamma,
            logit=self.logit, logit_after=self.logit_after, after=self.after is not None, about=self.about,
        )  # fmt: skip
        return header, [pictures[0], *(b.contiguous().numpy().tobytes() for b in buffers), *pictures[1:]]


READINGS = ("outgoing", "incoming", "moved", *STATISTICS)


def _bytes(image: Tensor) -> bytes:
    """(..., 3, S, S) in [-1, 1] as RGB bytes, row by row."""
    return to_uint8(image).movedim(-3, -1).contiguous().numpy().tobytes()


# ---------------------------------------------------------------------------------------------------------- who looks


class Subject:
    """An opened run, and the scenes in it.

    Parameters
    ----------
    run
        A run, or its name.
    step
        Where to start; None: the newest checkpoint.
    gamma0
        Gamma of the layer that is looked at is always 0: what the network would do without it.
    """

    def __init__(self, run: Run | str, step: int | None = None, gamma0: bool = False):
        self.run = run if isinstance(run, Run) else Run(run)
        self.config, self.gamma0 = self.run.config, gamma0
        if step is not None:
            self.run.checkpoint_path(step)  # raises where there is none
        self.start = step
        self.dropped: list[tuple[str, Tensor]] = []
        self._networks: OrderedDict[tuple, nn.Module] = OrderedDict()
        self._lock = threading.Lock()  # the front end's messages may come in by several threads

    @classmethod
    def of(cls, what: Run | str, beside: Subject | None = None) -> Subject:
        """From a `Run`, "run", "run@step", or, beside another, "@step" of the same run and "gamma0" (or "gamma=0")."""
        if isinstance(what, Run):
            return cls(what)
        if what in ("gamma=0", "gamma0") and beside:
            return cls(beside.run, beside.start, gamma0=True)
        name, step = split_step(str(what))
        if step is not None and whole(step) is None:
            raise ParameterError(f"{what!r}: {step!r} is not a step")
        return cls(name or (beside.run if beside else name), whole(step) if step else None)

    @property
    def label(self) -> str:
        return self.run.name + (", γ = 0" if self.gamma0 else "")

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
    def weights(self) -> list[str]:
        """Which weights of G there are."""
        if not self.run.checkpoint_steps():
            return []
        folder = self.run.checkpoint_path()
        return [weights for weights, file in (("ema", "ema"), ("raw", "generator")) if (folder / f"{file}.safetensors").exists()]

    def catalog(self) -> dict:
        """What the inspector's controls offer."""
        config = self.config
        classes = self._class_names()
        about = f"{Path(config.data).name} · {config.image_size}×{config.image_size} · {config.attention_variant} attention"
        return dict(
            label=self.label, about=about, steps=self.run.checkpoint_steps(), start=self.start,
            recorded=[] if self.gamma0 else self.run.attention_steps(),  # attention was on when that was written down
            weights=self.weights, image_size=config.image_size, classes=classes, seed=config.seed, real=ENDLESS, layers=self.layers,
            gamma0=self.gamma0,
        )  # fmt: skip

    def _class_names(self) -> list[str]:
        # From the record: to open the data might take hours, where it was packed on another machine.
        count = self.config.num_classes or 0
        try:
            names = self.run.provenance["data"]["classes"]
        except (WorkbenchError, KeyError, TypeError):
            names = ()
        if not isinstance(names, list) or len(names) != count or not all(isinstance(name, str) for name in names):
            return [str(k) for k in range(count)]
        return [name.encode(errors="replace").decode() for name in names]  # of a folder whose name is not UTF-8

    def class_name(self, label: int) -> str:
        """The name of a class; its number where nothing tells its name."""
        names = self._class_names()
        return names[label] if 0 <= label < len(names) else str(label)

    @cached_property
    def data(self) -> Images | Twins:
        """The images that the run was trained on, opened when one is asked for."""
        return open_data(self.config, progress=False)

    # ------------------------------------------------------------------------------------------------- scenes

    def look(self, scene: Scene) -> Look:
        """What is seen in a scene.

        Raises
        ------
        ParameterError, WorkbenchError
            If there is no such layer, checkpoint or image.
        """
        self._check(scene)
        with self._lock:
            if scene.source == "recorded":
                return self._recorded(scene)
            scene = scene.changed(step=self._step(scene))  # the newest may be another tomorrow
            x, y, about = self._image(scene, G=scene.network == "D")
            network = self._network(scene)
            with self._layer_off(network, scene), attention.capture_projections(network) as found:
                seen = self._run(network, x, y)
            projections = self._as_set(found[scene.path])
            changed = None
            if scene.changes_the_layer:
                with attention.intervene(network, scene.path, **self._intervention(scene, projections)):
                    changed = self._run(network, x, y)
        label = None if y is None else int(y[0])
        if scene.network == "G":
            return Look(scene, about, seen[0], projections, None if changed is None else changed[0], label=label)
        return Look(scene, about, x[0], projections, None, seen.item(), None if changed is None else changed.item(), label)

    def causal(self, scene: Scene, query: int) -> Tensor:
        """How much the image at a query (for D: the logit) changes when it may not look at a key, for each key (M,)."""
        self._check(scene)
        self._require_network(scene)
        _require(_is_whole(query, 0), "query", query, "a place of the layer")
        with self._lock:
            x, y, _ = self._image(scene, G=scene.network == "D")
            network = self._network(scene)
            weight = next(network.parameters())
            inputs = (x.to(weight), None if y is None else y.to(weight.device))
            gamma = 0.0 if self.gamma0 or scene.gamma0 else None
            return attention.causal_map(network, inputs, scene.path, query, batch_size=CAUSAL_BATCH, gamma=gamma)

    def offsets(self, scene: Scene, count: int = 16) -> Tensor:
        """Where queries look, relative to themselves, on average over `count` images of the scene's class: (2 side - 1, 2 side - 1)."""
        layer = self.projections(scene, count)
        # Image by image: their maps may not fit into memory together.
        return torch.stack([attention.relative_offsets(layer[k : k + 1].maps()) for k in range(count)]).mean(0)

    def projections(self, scene: Scene, count: int) -> Projections:
        """Of the scene's layer, for `count` samples of its class and seed, starting with the first."""
        self._check(scene)
        self._require_network(scene)
        with self._lock:
            z, y = self._latents(scene.changed(sample=0, towards=None), count)
            x = z if scene.network == "G" else self._samples(scene, z, y)
            network = self._network(scene)
            with self._layer_off(network, scene), attention.capture_projections(network) as found:
                self._run(network, x, y)
            return self._as_set(found[scene.path])

    def strip(self, scene: Scene, start: int = 0) -> tuple[list[str], Tensor]:
        """Images to pick from, and a label each: samples or real images number `start` and following, or all recorded or dropped ones."""
        self._check(scene)
        _require(_is_whole(start, 0), "start", start, "the number of an image")
        with self._lock:
            if scene.source == "dropped":
                return [name for name, _ in self.dropped], torch.cat([x for _, x in self.dropped]) if self.dropped else torch.empty(0)
            if scene.source == "recorded":
                snapshot = self._snapshot(scene)
                return [self._say(y, f"latent {k}") for k, y in enumerate(snapshot.labels)], to_unit(snapshot.images)
            if scene.source == "real":
                x, y = self._real(start, STRIP)
                return [self._say(label, f"image {start + k}") for k, label in enumerate(y)], x
            z, y = self._latents(scene.changed(sample=start, towards=None), STRIP)
            names = [self._say(None if y is None else y[k], f"sample {start + k}") for k in range(STRIP)]
            off = self._layer_off(self._generator(scene), scene) if scene.network == "G" else nullcontext()
            with off:
                return names, self._samples(scene, z, y)

    def drop(self, name: str, content: bytes) -> int:
        """Take in an image file of the user's; its number among those."""
        if not isinstance(name, str) or not name or len(name) > 1000:
            raise WorkbenchError("a dropped image needs the name of its file")
        if len(content) > MOST_DROPPED_BYTES:
            raise WorkbenchError(f"{name!r} has {len(content) / 1e6:,.0f} MB; an image can have {MOST_DROPPED_BYTES / 1e6:,.0f} MB")
        try:
            x = decode(io.BytesIO(content), self.config.image_size)
        except Exception as error:
            raise WorkbenchError(f"{name!r} cannot be read as an image: {' '.join(str(error).split())[:200]}") from None
        self.dropped.append((name, to_unit(torch.tensor(x).permute(2, 0, 1)[None])))
        return len(self.dropped) - 1

    def dropped_png(self, number: int) -> str:
        """A dropped image as base64 text: what a sidecar keeps."""
        stream = io.BytesIO()
        size = self.config.image_size
        Image.frombytes("RGB", (size, size), _bytes(self.dropped[number][1][0])).save(stream, "PNG")
        return base64.b64encode(stream.getvalue()).decode()

    # ------------------------------------------------------------------------------------------------- their parts

    def _check(self, scene: Scene) -> None:
        if self.gamma0 and scene.source == "recorded":
            raise ParameterError(
                "a recorded image is one with attention on, for its network was not kept; choose a checkpoint (source='samples')"
            )
        known = [layer["id"] for layer in self.layers]
        if scene.layer not in known:
            raise WorkbenchError(
                f"run {self.run.name!r} has no attention layer {scene.layer!r}; {nearest(scene.layer, known)}"
                f"there are: {', '.join(known) or 'none'}"
            )
        layer = next(layer for layer in self.layers if layer["id"] == scene.layer)
        for name, limit in (("forbid", layer["key_side"] ** 2), ("queries", layer["side"] ** 2)):
            places = getattr(scene, name) or ()
            _require(len(places) <= limit, name, places, f"a choice of the {limit} places of {scene.layer}")
            wrong = [k for k in places if k >= limit]
            if wrong:
                raise ParameterError(f"{name}={wrong[0]} is no place of {scene.layer}, which has {limit}")
        count = self.config.num_classes
        if scene.label >= (count or 1) or scene.label < -1:
            raise ParameterError(f"label={scene.label} is no class of run {self.run.name!r}, which has {count or 0}")

    @staticmethod
    def _require_network(scene: Scene) -> None:
        if scene.source == "recorded":
            raise ParameterError("a recorded image has no network to ask, for that was not kept; choose a checkpoint (source='samples')")

    def _as_set(self, projections: Projections) -> Projections:
        """Projections as they count here: where gamma is always 0, the layer adds nothing."""
        return replace(projections, strength=torch.zeros_like(projections.strength), gamma=0.0) if self.gamma0 else projections

    def _network(self, scene: Scene) -> nn.Module:
        return self._generator(scene) if scene.network == "G" else self._opened(("D", self._step(scene)))

    def _generator(self, scene: Scene) -> Generator:
        weights = self._some_weights()
        return self._opened(("G", self._step(scene), scene.weights if scene.weights in weights else weights[0]))

    def _some_weights(self) -> list[str]:
        """Which weights of G there are; WorkbenchError where there are none."""
        folder = self.run.checkpoint_path()  # raises where there is none
        if not self.weights:
            raise WorkbenchError(f"unreadable: {folder} (it holds no weights of G: neither ema.safetensors nor generator.safetensors)")
        return self.weights

    def _step(self, scene: Scene) -> int:
        return int(self.run.checkpoint_path(scene.step).name)

    def _opened(self, key: tuple) -> nn.Module:
        if key not in self._networks:
            network = self.run.generator(key[1], key[2]) if key[0] == "G" else self.run.discriminator(key[1])
            self._networks[key] = network.to("cuda" if torch.cuda.is_available() else "cpu")
            while len(self._networks) > KEPT_NETWORKS:
                self._networks.popitem(last=False)
        self._networks.move_to_end(key)
        return self._networks[key]

    def _layer_off(self, network: nn.Module, scene: Scene):
        return attention.intervene(network, scene.path, gamma=0.0) if self.gamma0 else nullcontext()

    def _intervention(self, scene: Scene, projections: Projections) -> dict:
        how = dict(gamma=0.0 if scene.gamma0 or self.gamma0 else None, replace=scene.replace or None)
        if scene.forbid:
            forbid = torch.zeros(projections.query.shape[1], projections.key.shape[1], dtype=torch.bool)
            queries = torch.arange(len(forbid)) if scene.queries is None else torch.tensor(scene.queries, dtype=torch.long)
            forbid[queries[:, None], torch.tensor(scene.forbid)] = True
            how["forbid"] = forbid
        return how

    @staticmethod
    @torch.no_grad()
    def _run(network: nn.Module, x: Tensor, y: Tensor | None) -> Tensor:
        if isinstance(network, Generator):
            return sampling.images(network, x, y)
        weight = next(network.parameters())
        with parametrize.cached():
            return network(x.to(weight), None if y is None else y.to(weight.device)).float().cpu()

    def _image(self, scene: Scene, G: bool) -> tuple[Tensor, Tensor | None, str]:
        """What the network of the scene is given, one of it: a latent, or with `G` an image; its class; and both in words."""
        if scene.source == "samples":
            z, y = self._latents(scene, 1)
            about = self._say(None if y is None else y[0], f"seed {scene.seed}, sample {scene.sample}")
            if scene.towards:
                about += f", {scene.mix:.0%} towards seed {scene.towards[0]}, sample {scene.towards[1]}"
            about += f", truncation {scene.truncation:g}" if scene.truncation else ""
            return (self._samples(scene, z, y) if G else z), y, about
        if scene.source == "real":
            x, y = self._real(scene.sample, 1)
            return x, y if self.config.num_classes else None, self._say(y[0], f"real image {scene.sample}")
        if not 0 <= scene.sample < len(self.dropped):
            raise WorkbenchError(f"image {scene.sample} was not dropped here; there are {len(self.dropped)}")
        name, x = self.dropped[scene.sample]
        y = torch.tensor([max(0, scene.label)]) if self.config.num_classes else None
        return x, y, self._say(None if y is None else y[0], name)

    def _latents(self, scene: Scene, count: int) -> tuple[Tensor, Tensor | None]:
        z = sampling.latents(count, self.config.z_dim, scene.seed, scene.sample, scene.truncation)
        if scene.towards:
            seed, sample = scene.towards
            z = sampling.interpolate(z, sampling.latents(count, self.config.z_dim, seed, sample, scene.truncation), scene.mix)
        y = sampling.labels(count, self.config.num_classes, scene.sample)
        return z, y if y is None or scene.label < 0 else torch.full_like(y, scene.label)

    def _samples(self, scene: Scene, z: Tensor, y: Tensor | None) -> Tensor:
        return sampling.images(self._generator(scene), z, y)

    def _real(self, start: int, count: int) -> tuple[Tensor, Tensor]:
        indices = np.arange(start, start + count) % (self.data.length or ENDLESS)
        x, y = self.data.batch(indices)
        return to_unit(x), y

    def _recorded(self, scene: Scene) -> Look:
        scene = scene.changed(step=self.run.attention_steps()[-1] if scene.step is None and self.run.attention_steps() else scene.step)
        snapshot = self._snapshot(scene)
        if scene.layer not in snapshot.layers:
            raise UnreadableError(self.run.attention_path(scene.step), f"it holds nothing of {scene.layer}")
        if not 0 <= scene.sample < len(snapshot.images):
            raise WorkbenchError(f"sample={scene.sample}: the training recorded {len(snapshot.images)} latents")
        label = snapshot.labels[scene.sample]
        image = to_unit(snapshot.images[scene.sample : scene.sample + 1])[0]
        projections = snapshot.layers[scene.layer][scene.sample : scene.sample + 1]
        return Look(scene, self._say(label, f"recorded latent {scene.sample}, step {scene.step}"), image, projections, label=label)

    def _snapshot(self, scene: Scene) -> Snapshot:
        """What the training wrote down, if it fits the run."""
        path = self.run.attention_path(scene.step)
        snapshot, layers, size = load_snapshot(path), {layer["id"]: layer for layer in self.layers}, self.config.image_size
        fits = snapshot.images.shape[2] == size and all(
            name in layers and (of.side, of.key_side) == (layers[name]["side"], layers[name]["key_side"])
            for name, of in snapshot.layers.items()
        )
        if not fits:
            raise UnreadableError(path, "its images or layers are not those of this run")
        return snapshot

    def _say(self, label, rest: str) -> str:
        return f"{self.class_name(int(label))}, {rest}" if label is not None and self.config.num_classes else rest


# ----------------------------------------------------------------------------------------------------- the notebook's view


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

    def subjects(self) -> list[Subject]:
        """The run, and what it is compared with."""
        first = Subject.of(self.run or _newest())
        return [first] + ([Subject.of(self.compare, first)] if self.compare else [])

    def scenes(self, subject: Subject) -> list[Scene]:
        """What is looked at, image by image.

        Raises
        ------
        ParameterError, WorkbenchError
            If the run has no such layer, class or step.
        """
        layer = self.chosen_layer(subject)
        if layer is None:
            return []
        step = int(subject.run.checkpoint_path(subject.start if self.step is None else self.step).name)
        weights = self.chosen_weights(subject)
        labels, seeds = self._labels(subject), latents("seeds", self.seeds)
        if not seeds:  # one image per class, each of another latent
            pairs = [(label, (subject.config.seed, k)) for k, label in enumerate(labels if labels != [-1] else [-1] * 6)]
        else:
            pairs = [(label, seed) for label in labels for seed in seeds]
        if self.source == "real":
            pairs = [(-1, (0, k)) for k in range(len(pairs))]
        if len(pairs) > MOST_IMAGES:
            raise ParameterError(f"classes and seeds give {len(pairs):,} images; a view shows at most {MOST_IMAGES}: choose fewer")
        common = dict(layer=layer["id"], step=step, weights=weights, source=self.source, truncation=self.truncation)
        return [Scene(**common, label=label, seed=seed, sample=sample) for label, (seed, sample) in pairs]

    def chosen_weights(self, subject: Subject) -> str:
        """Which weights of G."""
        known = subject._some_weights()
        if self.weights != "auto" and self.weights not in known:
            raise ParameterError(f"weights={self.weights!r}: run {subject.run.name!r} keeps no such weights; use {known[0]!r}")
        return known[0] if self.weights == "auto" else self.weights

    def chosen_layer(self, subject: Subject) -> dict | None:
        """The attention layer; None where the run has none at all."""
        layers = [layer for layer in subject.layers if layer["network"] == self.network]
        if not subject.layers or (not layers and self.layer is None):
            return None
        if self.layer is None:
            return max(layers, key=lambda layer: layer["side"])
        for layer in layers:
            if layer["side"] == self.layer:
                return layer
        there = ", ".join(str(layer["side"]) for layer in layers) or "none"
        raise ParameterError(f"layer={self.layer}: {self.network} of run {subject.run.name!r} has attention at: {there}")

    def chosen_queries(self, look: Look) -> list[int]:
        """The queries (row-major) of a look."""
        side = look.projections.side
        if self.queries == "auto":
            return list(salient(look.image, side))
        positions = places("queries", self.queries, side)
        if not 1 <= len(positions) <= MOST_QUERIES:
            raise ParameterError(f"{quote('queries', self.queries)} are {len(positions)} places; give 1 to {MOST_QUERIES}, or auto")
        return positions

    def _labels(self, subject: Subject) -> list[int]:
        names, count = subject._class_names(), subject.config.num_classes or 0
        if not count:
            return [-1]
        if self.classes == "all":
            return np.linspace(0, count - 1, min(6, count)).round().astype(int).tolist()
        found = []
        for part in words(self.classes):
            number = whole(part)
            if part not in names and (number is None or number >= count):
                known = ", ".join(names[:20]) + (", ..." if count > 20 else "")
                raise ParameterError(f"{quote('classes', self.classes)}: {shown(part)} is no class; {nearest(part, names)}classes: {known}")
            found.append(names.index(part) if part in names else number)
        if not found:
            raise ParameterError(f"{quote('classes', self.classes)} names no class; give names or numbers, or all")
        return found


def _newest() -> Run | str:
    """The newest run that has a checkpoint, else the demo."""
    runs = [run for run in list_runs() if run.checkpoint_steps()]
    return runs[-1] if runs else "demo"


def salient(image: Tensor, side: int) -> tuple[int, int, int]:
    """Positions, in row-major order on a side x side map, worth asking about in an image (3, S, S): what stands out most from its median
    colour on the left, the same on the right, and what stands out least."""
    median = image.flatten(1).median(1).values
    salience = nn.functional.adaptive_avg_pool2d((image - median[:, None, None]).abs().sum(0, keepdim=True), side)[0]
    right = torch.arange(side) >= side // 2
    return tuple(int(v.argmax()) for v in (salience.masked_fill(right, -1), salience.masked_fill(~right, -1), -salience))


def statistics(view: AttentionView, most: int = 12) -> list[dict]:
    """Means of the statistics of every attention layer of a view's runs, over all queries of `view.n` samples of all classes.

    Parameters
    ----------
    most
        Checkpoints to look at, evenly chosen among those there are; the first and the last are among them.

    Returns
    -------
    list of dict
        Without what cannot be read, which is said: run, step, layer, gamma, and the mean of each statistic (see `attention.statistics`; but for `received`, whose mean is always 1).
    """
    rows = []
    for subject in view.subjects():
        steps = subject.run.checkpoint_steps() if subject.layers else []
        chosen = [steps[round(k)] for k in np.linspace(0, len(steps) - 1, min(most, len(steps)))]
        weights = view.chosen_weights(subject) if chosen else ""
        with progress(len(chosen), f"checkpoints of {subject.label}") as advance:
            for step, layer in product(chosen, subject.layers):
                scene = Scene(layer["id"], step, weights, truncation=view.truncation)
                try:
                    projections = subject.projections(scene, view.n)
                except ParameterError:
                    raise
                except WorkbenchError as error:
                    say_once(str(error))
                    continue
                means = attention.statistics(projections, subject.config.image_size)
                values = {name: means[name].mean().item() for name in STATISTICS if name != "received"}
                rows.append(dict(run=subject.label, step=step, layer=layer["id"], gamma=projections.gamma) | values)
                advance(layer is subject.layers[-1])
    return rows
