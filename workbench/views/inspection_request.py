"""A request to inspect one image and one attention layer of a network, with or without an intervention on the layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..messages import ParameterError, counted, short_repr
from ..readers import MAX_INTEGER
from ..records import is_number, is_whole

NETWORKS = ("G", "D", "network")
SOURCES = ("samples", "real", "recorded", "dropped")
MOST = 100  # standard deviations; more than 3 are rare among latents


@dataclass(frozen=True)
class InspectionRequest:
    """One image and one attention layer of a run, or of a network without one.

    Attributes
    ----------
    layer
        Network and `named_modules` path: "G/attention.16"; "network" stands for one that is neither G nor D.
    step, weights
        Checkpoint (None: the newest) and weights of G, "ema" or "raw"; with `source="recorded"`, the step of a snapshot.
    source
        "samples": latent number `sample` of `seed`; "real": image number `sample` of the data, or of the class in it; "recorded": latent number `sample` of the
        snapshots; "dropped": image file number `sample` that the user dropped.
    label
        Class; -1: every class in turn, by the number of the sample; of real images, all.
    towards, mix
        Another latent (seed, sample), and the fraction of the way to it on the sphere, 0 to 1.
    directions
        How far the latent moves along the first main directions, in standard deviations; see `model.directions`.
    gamma0, gamma, forbid, queries, replace
        Interventions on the layer: gamma is 0, or this number (None: the learned one); forbidden keys, for these queries (None: all); the map is "uniform" or "local".
    paint, paint_from, paint_shift
        Another: these keys take the values of sample `paint_from` (None: of this image), from the keys `paint_shift` = (rows, columns) away.
    head
        The head to read; -1: the mean of all.

    Raises
    ------
    ParameterError
        Names the parameter that does not fit.
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
    gamma: float | None = None
    forbid: tuple[int, ...] = ()
    queries: tuple[int, ...] | None = None
    replace: str = ""
    directions: tuple[float, ...] = ()
    paint: tuple[int, ...] = ()
    paint_from: int | None = None
    paint_shift: tuple[int, int] = (0, 0)
    head: int = -1

    def __post_init__(self):
        positions = "positions of the layer, whole numbers from 0 on"
        for name, fits, right in (
            ("layer", isinstance(self.layer, str) and self.network in NETWORKS and "/" in self.layer, "a network and a layer, such as 'G/attention.32'"),
            ("step", self.step is None or is_whole(self.step), "the step of a checkpoint"),
            ("weights", self.weights in ("ema", "raw"), "one of ema, raw"),
            ("source", self.source in SOURCES, f"one of {', '.join(SOURCES)}"),
            ("label", is_whole(self.label, -1), "a class, by number, or -1"),
            ("seed", is_whole(self.seed), "a whole number from 0 on"),
            ("sample", is_whole(self.sample), "a whole number from 0 on"),
            ("truncation", _is_number(self.truncation, 1e6), "a number from 0 to 1e+06"),
            ("towards", self.towards is None or (are_whole(self.towards) and len(self.towards) == 2), "a seed and a sample"),
            ("mix", _is_number(self.mix, 1), "a number from 0 to 1"),
            ("gamma0", isinstance(self.gamma0, bool), "true or false"),
            ("gamma", self.gamma is None or _is_number(self.gamma, 1e6, low=-1e6), "a number from -1e+06 to 1e+06"),
            ("forbid", are_whole(self.forbid), positions),
            ("queries", self.queries is None or are_whole(self.queries), positions),
            ("replace", self.replace in ("", "uniform", "local"), "one of uniform, local"),
            ("directions", are_amounts(self.directions), f"amounts of at most {MOST} standard deviations"),
            ("paint", are_whole(self.paint), positions),
            ("paint_from", self.paint_from is None or is_whole(self.paint_from), "the number of a sample"),
            ("paint_shift", are_whole(self.paint_shift, -MAX_INTEGER) and len(self.paint_shift) == 2, "a number of rows and one of columns"),
            ("head", is_whole(self.head, -1), "a head, by number, or -1"),
        ):  # fmt: skip
            require(fits, name, getattr(self, name), right)
        if self.network != "D" and self.source in ("real", "dropped"):
            raise ParameterError(f"source={self.source!r} needs a layer of D: G generates its images")
        if self.gamma0 or self.gamma is not None or self.forbid or self.replace or self.paint:
            self.require_network()

    def require_network(self) -> None:
        """Raise a ParameterError if the image is of a snapshot."""
        if self.source == "recorded":
            raise ParameterError(
                "source='recorded': snapshots keep no network, so a recorded image cannot be changed or computed anew; choose a checkpoint "
                "(source='samples')"
            )

    @property
    def unchanged(self) -> InspectionRequest:
        """The same image and layer as it was learned, with all heads: without an intervention."""
        return replace(
            self, gamma0=False, gamma=None, forbid=(), queries=None, replace="", paint=(), paint_from=None, paint_shift=(0, 0), head=-1
        )

    @property
    def intervention(self) -> str:
        """The intervention in words, without painting; empty if there is none."""
        keys, queries = len(self.forbid), "" if self.queries is None else f" for {counted(len(self.queries), 'pin')}"
        words = [
            "gamma = 0" if self.gamma0 else "" if self.gamma is None else f"gamma = {self.gamma:g}",
            f"{self.replace} map" if self.replace else "",
            f"{counted(keys, 'key')} knocked out{queries}" if keys else "",
        ]
        return ", ".join(filter(None, words))

    @property
    def network(self) -> str:
        """ "G", "D" or "network"."""
        return self.layer.partition("/")[0]

    @property
    def path(self) -> str:
        """The layer's `named_modules` path."""
        return self.layer.partition("/")[2]


def intervention_of(view: Mapping) -> dict:
    """The entries of a request that change the layer, of a view: gamma0, gamma, replace, and `forbid` with `scope`, "all" or "pins", whose queries
    may not look at those keys."""
    if view["gamma0"]:  # other interventions have no effect then
        return dict(gamma0=view["gamma0"])
    queries, other = tuple(sorted(view["pins"])) if view["scope"] == "pins" else None, dict(gamma=view["gamma"], replace=view["replace"])
    if not view["forbid"] or queries == ():
        return other
    return other | dict(forbid=tuple(sorted(view["forbid"])), queries=queries)


def are_whole(values, low: int = 0) -> bool:
    """Whether a value is a list or tuple of whole numbers, from `low` on."""
    return isinstance(values, list | tuple) and all(is_whole(value, low) for value in values)


def are_amounts(values) -> bool:
    """Whether a value is a list or tuple of numbers from -MOST to MOST."""
    return isinstance(values, list | tuple) and all(_is_number(value, MOST, -MOST) for value in values)


def _is_number(value, high: float, low: float = 0) -> bool:
    return is_number(value) and low <= value <= high


def require(fits, name: str, value, right: str) -> None:
    """Raise a ParameterError that names the value and the right one, unless it fits."""
    if not fits:
        raise ParameterError(f"{name}={short_repr(value)} is not {right}")
