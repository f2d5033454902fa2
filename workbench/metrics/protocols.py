"""Protocols: everything that a score depends on besides the generator, stored with every score.

The FID of the same weights differs by several points between protocols, so such scores are not compared (`require_comparable`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import ClassVar

import torch
from torch import Tensor

from ..messages import ParameterError, WorkbenchError, nearest, short_repr
from ..parameters import Parameters, parameter


@dataclass(frozen=True)
class Protocol(Parameters):
    """How images are sampled, quantised and scored; by default as in the authors' released code, "official"."""

    name: str = parameter("official", "the protocol in PROTOCOLS that this one is based on")
    n: int = parameter(50_000, "generated images", low=2)
    per_class: int = parameter(0, "generated images per class, from which n follows; 0: n counts", low=0)
    reference_n: int = parameter(50_000, "real images, or all if there are fewer; 0: all", low=0)
    weights: str = parameter("raw", "of G: EMA, raw, or EMA if available; none: given images", choices=("ema", "raw", "auto", "none"))
    statistics: str = parameter(
        "running", "of batch norm in G: saved, re-estimated, or of each batch of 64", choices=("running", "standing", "batch")
    )
    standing_batches: int = parameter(16, "batches of 64 that standing statistics are estimated on", low=1)
    truncation: float = parameter(0.0, "latents are truncated to [-truncation, truncation]; 0: no truncation", low=0)
    pixels: str = parameter(
        "float", "of generated images: not quantised, rounded to 8 bits, or floored to 8 bits", choices=("float", "round", "floor")
    )
    white: int = parameter(256, "white (255) for the extractor: 255, or 256, so that Inception's input ends at 1", choices=(255, 256))
    logit_bias: bool = parameter(True, "whether Inception's logits keep their bias")
    splits: int = parameter(10, "parts of the samples for the mean and deviation of IS", low=1)
    shuffle_seed: int | None = parameter(None, "seed of the order in which samples fill the splits; None: the order of generation", low=0)
    k_precision: int = parameter(3, "neighbours of precision and recall", low=1)
    k_density: int = parameter(5, "neighbours of density and coverage", low=1)
    neighbours_n: int = parameter(10_000, "generated images, and real ones, for these four scores; 0: all", low=0)
    kid_n: int = parameter(10_000, "generated images for KID; 0: all", low=0)

    none: ClassVar[str] = "the protocol's value"

    def to_pixels(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), uint8 or floats in [-1, 1], converted for the extractor: float32 in [0, `white`]."""
        if images.dtype == torch.uint8:
            x = images.float()
        else:
            x = (images.float() + 1) * 127.5
            if self.pixels != "float":
                x = (x + 0.5 if self.pixels == "round" else x).floor().clamp(0, 255)  # halves go up
        return x * (self.white / 255)

    def replace(self, **changes) -> Protocol:
        """A copy with some values replaced; None leaves a value as it is."""
        self.refuse_unknown(changes)
        return replace(self, **{name: value for name, value in changes.items() if value is not None})

    def __str__(self) -> str:
        return self.line()

    def line(self, real: int | None = None, crops: int = 1) -> str:
        """One line with all values; `real` is the actual number of real images, `crops` that of the extractor's crops of an image."""
        words = [f"n={self.n:,}"] + ([f"each image scored as {crops} crops"] if crops > 1 else [])
        limit = f"at most {self.reference_n:,}" if self.reference_n else "all"
        words.append(f"against {limit if real is None else f'{real:,}'} real images")
        statistics = {"running": "saved", "standing": f"standing ({self.standing_batches} x 64)", "batch": "batch (64)"}[self.statistics]
        if self.weights == "none":
            words.append("images as given")
        else:
            words.append({"ema": "EMA weights", "raw": "raw weights", "auto": "EMA weights if available"}[self.weights])
            words.append(f"{statistics} statistics")
            words.append(f"truncated at {self.truncation:g}" if self.truncation else "not truncated")
        words.append({"float": "not quantised", "round": "rounded to 8 bits", "floor": "floored to 8 bits"}[self.pixels])
        words.append(f"logits {'with' if self.logit_bias else 'without'} bias")
        order = "in order" if self.shuffle_seed is None else f"shuffled by seed {self.shuffle_seed}"
        words.append(f"{self.splits} splits {order}")
        words.append(
            f"KID on {f'{self.kid_n:,}' if self.kid_n else 'all'}, neighbours on {f'{self.neighbours_n:,}' if self.neighbours_n else 'all'}"
        )
        return f"{self.brief}: {', '.join(words)}"

    @property
    def brief(self) -> str:
        """The name of the protocol, with the values that differ from it."""
        base = PROTOCOLS[self.name]
        free = {"weights"} if base.weights == "auto" or self.weights == "none" else set()
        free |= {"n"} if base.per_class else set()
        names = [f.name for f in fields(self) if f.name not in free and getattr(self, f.name) != getattr(base, f.name)]
        changes = [f"{name}={getattr(self, name)}" for name in names]
        return f"{self.name} (but {', '.join(changes)})" if changes else self.name


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        # brain-research/self-attention-gan, eval_imagenet.py: G's floats, raw weights, 50,000 real images, IS of the whole set.
        Protocol(),
        # The default of this package: as official, but with EMA if available.
        Protocol("workbench", weights="auto"),
        # torch-fidelity 0.4: its defaults, with 8-bit images floored as in its example.
        Protocol("torch-fidelity", weights="auto", reference_n=0, pixels="floor", white=255, logit_bias=False, shuffle_seed=2020, kid_n=0),
        # Brock et al. (2019), not the torchvision network of BigGAN-PyTorch: all training images, standing statistics of 100 batches, 10
        # splits; the 8 bits and the missing bias are those of the scoring script that came with the PyTorch code.
        Protocol(
            "biggan", weights="ema", reference_n=0, statistics="standing", standing_batches=100, pixels="floor", white=255, logit_bias=False
        ),
        # FID as in mmgeneration. Its IS resizes images by another method and cannot be compared.
        Protocol("mmgeneration", weights="auto", reference_n=0, pixels="round", white=255, logit_bias=False),
        # Miyato & Koyama (2018): intra-FID from 5,000 images of each class, raw weights.
        Protocol("miyato-koyama", per_class=5000, reference_n=0, pixels="floor", white=255, logit_bias=False),
    )
}


def brief(line: str) -> str:
    """`Protocol.brief` and the extractor, from the `protocol` of a record."""
    head, colon, rest = line.partition(": ")
    _, semicolon, extractor = rest.rpartition("; ")
    return f"{head}; {extractor}" if semicolon else head if colon else line


def protocol(name: str, **changes) -> Protocol:
    """The protocol of this name, with some values replaced; None leaves a value as it is.

    Raises
    ------
    ParameterError
        For an unknown protocol or value.
    """
    if name not in PROTOCOLS:
        raise ParameterError(f"protocol={short_repr(name)} is not known; {nearest(name, PROTOCOLS)}one of: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name].replace(**changes)


def differences(a: dict, b: dict) -> list[str]:
    """The settings, extractor and reference in which two records of `evaluations.jsonl` differ; empty if their scores can be compared."""
    a, b = (
        record["settings"] | {f"{part} {key}": value for part in ("extractor", "reference") for key, value in (record[part] or {}).items()}
        for record in (a, b)
    )
    return [f"{key}: {a.get(key)} and {b.get(key)}" for key in a | b if a.get(key) != b.get(key) and key != "name"]


def require_comparable(records: list[dict]) -> None:
    """Raise a WorkbenchError that lists the differences if records have different protocols."""
    for record in records[1:]:
        if difference := differences(records[0], record):
            raise WorkbenchError(
                f"these scores cannot be compared, because their protocols differ ({'; '.join(difference)}): select one protocol, or set "
                "across_protocols=True to show them together"
            )
