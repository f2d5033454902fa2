"""The paper's experiments: the arms of each, as settings that differ, and the paper's claims about them.

An experiment is a function of the common settings of its runs, so it can be repeated at any size.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..config import Config
from ..messages import ParameterError
from ..metrics.reported import TABLE_1, TABLE_2

LAST, LAST_OVER_BEST = "last", "last / best"


@dataclass(frozen=True)
class Claim:
    """A claim of the paper: the arm with the label `better` is better than the arm with the label `worse`.

    Attributes
    ----------
    measure
        LAST, the score at the end of training, or LAST_OVER_BEST, that over the best score of the run: does it stay good?
    control
        Two more arms: `better` improves on `worse` by more than the first of these improves on the second. It is tested seed by seed.
    relevant
        With `control`: the smallest difference of improvements of interest, in the unit of the score.
    learned
        With `control`: the score, higher is better, that an arm of the control has to reach on average. What no arm learns where it is easy
        says nothing about where it is hard, so there is no verdict.
    """

    text: str
    better: str
    worse: str
    measure: str = LAST
    control: tuple[str, str] | None = None
    relevant: float = 0.1
    learned: float = 0.3


@dataclass(frozen=True)
class Experiment:
    """Arms, and claims about them.

    Attributes
    ----------
    about
        A description in one line.
    arms
        Label -> parameters that differ from the common settings.
    reported
        The paper's scores: label -> {"fid": ..., "is": ...}; see `metrics.reported.PAPER`.
    """

    about: str
    arms: dict[str, dict]
    claims: tuple[Claim, ...] = ()
    reported: Mapping[str, dict[str, float]] = field(default_factory=dict)

    @property
    def paired(self) -> bool:
        """Whether the claims compare improvements, seed by seed."""
        return any(claim.control for claim in self.claims)


def attention_site(base: Config) -> Experiment:
    """Table 1: attention at each feature map, against none, and against a residual block of equal size."""
    sites = [site for site in base.maps_g if site in base.maps_d and site < 128]  # below the image size; the paper has none of 128
    arms = {"no attention": dict(attention_g="none", attention_d="none")}
    for site in sites:
        sites_of_arm = dict(attention_g=str(site), attention_d=str(site))
        arms[f"feat{site}"] = sites_of_arm | dict(attention_block="attention")
        arms[f"feat{site}, residual"] = sites_of_arm | dict(attention_block="residual")
    high = [f"feat{site}" for site in sites[-2:]]
    claims = [Claim(f"attention at {arm} improves on none", arm, "no attention") for arm in high]
    claims += [Claim(f"{arm}: attention improves on a residual block of equal size", arm, f"{arm}, residual") for arm in high]
    if len(sites) > 2:
        claims += [Claim(f"{high[0]} improves on feat{sites[0]}: middle-to-high maps are the place", high[0], f"feat{sites[0]}")]
    return Experiment("Table 1: the site of attention, and attention against a residual block", arms, tuple(claims), TABLE_1)


def spectral_norm(base: Config) -> Experiment:
    """RQ2: spectral normalization in G and D, or in D alone; as in the paper at 1:1 and equal rates, without two time scales."""
    equal = dict(lr_g=_rate(base), lr_d=_rate(base), d_steps=1)
    arms = {"SN on D": dict(sn_g=False, sn_d=True) | equal, "SN on G and D": dict(sn_g=True, sn_d=True) | equal}
    claims = (
        Claim("spectral normalization of G, beside D's, improves the result", "SN on G and D", "SN on D"),
        Claim("spectral normalization of G, beside D's, keeps the score near its best", "SN on G and D", "SN on D", LAST_OVER_BEST),
    )
    return Experiment("RQ2: spectral normalization in G and D, or in D alone, at equal rates 1:1", arms, claims)


def ttur(base: Config) -> Experiment:
    """RQ3: two time scales (D learns four times as fast as G), against equal rates of the same geometric mean, 1:1 and 5:1.

    In equal computing time: a G step costs two steps at 1:1 and six at 5:1, so 1:1 takes three times as many.
    """
    rate, third = _rate(base), max(1, round(base.steps / 3))
    arms = {
        "TTUR, 1:1": dict(lr_g=rate / 2, lr_d=rate * 2, d_steps=1, steps=3 * third),
        "equal rates, 1:1": dict(lr_g=rate, lr_d=rate, d_steps=1, steps=3 * third),
        "equal rates, 5:1": dict(lr_g=rate, lr_d=rate, d_steps=5, steps=third),
    }
    claims = (
        Claim("with one D step, two time scales improve on equal rates", "TTUR, 1:1", "equal rates, 1:1"),
        Claim("two time scales with one D step improve on equal rates with five", "TTUR, 1:1", "equal rates, 5:1"),
    )
    return Experiment("RQ3: two time scales against equal rates, in equal computing time", arms, claims)


def variant(base: Config) -> Experiment:
    """The formula of the paper against the released code; the paper claims nothing about it."""
    arms = {"official": dict(attention_variant="official"), "paper": dict(attention_variant="paper")}
    return Experiment("Released code against the formula of the paper", arms)


def baseline(base: Config) -> Experiment:
    """Table 2: SAGAN against SNGAN with projection (SN on D alone, narrow blocks in D, no attention, five D steps of equal rates).

    For as many G steps, as in the paper: SNGAN's take three times the computing time.
    """
    rate = _rate(base)
    sngan = dict(attention_g="none", attention_d="none", sn_g=False, sn_d=True, d_narrow=True, d_steps=5, lr_g=rate, lr_d=rate)
    claim = Claim("SAGAN improves on SNGAN-projection", "SAGAN", "SNGAN-projection")
    return Experiment(
        "Table 2: SAGAN against SNGAN-projection, for as many G steps", {"SNGAN-projection": sngan, "SAGAN": {}}, (claim,), TABLE_2
    )


def binding(base: Config) -> Experiment:
    """RQ1 on `binding`: does attention help more than a residual block where tiles that belong together are far apart, not side by side?

    It needs the preset `binding32`, or other settings with `data=binding`.
    """
    if base.data != "binding":
        raise ParameterError(f"experiments=binding needs data=binding, as in preset=binding32; given: data={base.data!r}")
    blocks = {"none": dict(attention_g="none", attention_d="none"), "attention": {}, "residual": dict(attention_block="residual")}
    places = {"far": dict(data="binding"), "near": dict(data="binding-near")}
    arms = {f"{block}, {place}": changes | where for place, where in places.items() for block, changes in blocks.items()}
    claim = Claim(
        "attention improves on a residual block of equal size by more where pairs are far apart than where they are side by side",
        "attention, far", "residual, far", control=("attention, near", "residual, near"),
    )  # fmt: skip
    return Experiment("RQ1 on binding: no attention, attention, or a residual block; pairs far apart or side by side", arms, (claim,))


def sweep(grid: Mapping[str, list[str]]) -> Experiment:
    """Every combination of the values of some parameters."""
    arms = {}
    for values in itertools.product(*grid.values()):
        changes = dict(zip(grid, values, strict=True))
        arms[", ".join(f"{name}={value}" for name, value in changes.items())] = changes
    return Experiment(f"A grid of {', '.join(grid)}", arms)


def _rate(base: Config) -> float:
    """The geometric mean of both learning rates, to three significant digits."""
    return float(f"{math.sqrt(base.lr_g * base.lr_d):.3g}")


EXPERIMENTS: dict[str, Callable[[Config], Experiment]] = dict(
    attention_site=attention_site, spectral_norm=spectral_norm, ttur=ttur, variant=variant, baseline=baseline, binding=binding
)
ALL = tuple(name for name in EXPERIMENTS if name != "binding")  # those that need no data of their own
