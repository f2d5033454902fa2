"""A request to inspect one image and one attention layer of a run, perhaps with a change of the layer."""

from __future__ import annotations

from dataclasses import dataclass

from ..messages import short_repr
from ..parameters import ParameterError
from ..readers import MAX_INTEGER

SOURCES = ("samples", "real", "recorded", "dropped")


@dataclass(frozen=True)
class InspectionRequest:
    """One image and one attention layer of a run.

    Attributes
    ----------
    layer
        Network and `named_modules` path: "G/attention.16".
    step, weights
        Checkpoint (None: the newest) and weights of G, "ema" or "raw"; with `source="recorded"`, the step of a snapshot.
    source
        "samples": latent number `sample` of `seed`; "real": image number `sample` of the data; "recorded": latent number `sample` of the
        snapshots; "dropped": image file number `sample` that the user dropped.
    label
        Class; -1: every class in turn, by the number of the sample.
    towards, mix
        Another latent (seed, sample), and the fraction of the way to it on the sphere, 0 to 1.
    gamma0, forbid, queries, replace
        Changes of the layer: gamma is 0; forbidden keys, for these queries (None: all); the map is "uniform" or "local".

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
    forbid: tuple[int, ...] = ()
    queries: tuple[int, ...] | None = None
    replace: str = ""

    def __post_init__(self):
        for name, choices in (("weights", ("ema", "raw")), ("source", SOURCES), ("replace", ("", "uniform", "local"))):
            if not isinstance(getattr(self, name), str) or getattr(self, name) not in choices:
                raise ParameterError(f"{name}={getattr(self, name)!r} is not one of {', '.join(filter(None, choices))}")
        require(self.step is None or is_whole(self.step), "step", self.step, "the step of a checkpoint")
        require(is_whole(self.label, -1), "label", self.label, "a class, by number, or -1")
        for name in ("seed", "sample"):
            require(is_whole(getattr(self, name)), name, getattr(self, name), "a whole number from 0 on")
        for name, high in (("truncation", 1e6), ("mix", 1)):
            value = getattr(self, name)
            fits = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= high
            require(fits, name, value, f"a number from 0 to {high:g}")
        require(isinstance(self.gamma0, bool), "gamma0", self.gamma0, "true or false")
        for name in ("forbid", "queries"):
            places = getattr(self, name)
            fits = (places is None and name == "queries") or (isinstance(places, tuple) and all(is_whole(place) for place in places))
            require(fits, name, places, "places of the layer, whole numbers from 0 on")
        if self.towards is not None:
            fits = isinstance(self.towards, tuple) and len(self.towards) == 2 and all(map(is_whole, self.towards))
            require(fits, "towards", self.towards, "a seed and a sample")
        if not isinstance(self.layer, str) or self.network not in ("G", "D") or not self.path:
            raise ParameterError(f"layer={self.layer!r} is not a network and a layer, such as 'G/attention.32'")
        if self.network == "G" and self.source in ("real", "dropped"):
            raise ParameterError(f"source={self.source!r} needs a layer of D: G generates its images")
        if self.source == "recorded" and self.changes_the_layer:
            raise ParameterError(
                "a recorded image cannot be changed, because its network was not kept; choose a checkpoint (source='samples')"
            )

    @property
    def network(self) -> str:
        """ "G" or "D"."""
        return self.layer.partition("/")[0]

    @property
    def path(self) -> str:
        """The layer's `named_modules` path."""
        return self.layer.partition("/")[2]

    @property
    def changes_the_layer(self) -> bool:
        return bool(self.gamma0 or self.forbid or self.replace)


def is_whole(value, low: int = 0) -> bool:
    """Whether a value is a whole number from `low` to the largest exact one of JavaScript."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value < MAX_INTEGER


def require(fits: bool, name: str, value, right: str) -> None:
    """Raise a ParameterError that names the value and the right one, unless it fits."""
    if not fits:
        raise ParameterError(f"{name}={short_repr(value)} is not {right}")
