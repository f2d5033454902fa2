"""Scores that others reported: the tables of the paper, and published scores with their data, size and protocol."""

from __future__ import annotations

from dataclasses import asdict

from ..records import is_comparable
from .protocols import PROTOCOLS

# Zhang et al. (2019), as reported: Fréchet Inception distance and Inception score, by the labels of this package's experiments.
PAPER = "as reported by Zhang et al. (2019): ImageNet at 128x128, one million steps, no spread is given"
TABLE_1 = {
    "no attention": {"fid": 22.96, "is": 42.87},
    "feat8": {"fid": 22.98, "is": 43.15},
    "feat16": {"fid": 22.14, "is": 45.94},
    "feat32": {"fid": 18.28, "is": 51.43},
    "feat64": {"fid": 18.65, "is": 52.52},
    "feat8, residual": {"fid": 42.13, "is": 23.17},
    "feat16, residual": {"fid": 22.40, "is": 44.49},
    "feat32, residual": {"fid": 27.33, "is": 38.50},
    "feat64, residual": {"fid": 28.82, "is": 38.96},
}
TABLE_2 = {
    "SNGAN-projection": {"fid": 27.62, "intra_fid": 92.4, "is": 36.8},
    "SAGAN": {"fid": 18.65, "intra_fid": 83.7, "is": 52.52},
}

# Score, value, source. PyTorch-StudioGAN's scores are missing: they use test or validation images and another way of resizing.
PUBLISHED = {
    ("imagenet", 128, "official"): [
        (score, TABLE_2[method][score], f"{method} as reported") for method in ("SAGAN", "SNGAN-projection") for score in ("fid", "is")
    ],
    ("imagenet", 128, "miyato-koyama"): [("intra_fid_n5000", TABLE_2["SNGAN-projection"]["intra_fid"], "SNGAN-projection as reported")],
    ("imagenet", 128, "mmgeneration"): [
        ("fid", 12.83, "mmgeneration, BigGAN schedule, averaged"),
        ("fid", 34.78, "mmgeneration, raw weights"),
    ],
    ("cifar10", 32, "mmgeneration"): [("fid", 9.43, "mmgeneration, raw weights")],
}


def published(record: dict) -> list[tuple[str, float, str]]:
    """(score, value, source) of the published scores of the same data, size and protocol as a record; none if it does not say them."""
    if not is_comparable(record):
        return []
    settings, real = record["settings"], record["reference"]
    if settings["name"] not in PROTOCOLS or real is None or record["extractor"] is None:
        return []
    base = asdict(PROTOCOLS[settings["name"]])
    free = {"weights", "n"} if base["per_class"] else {"weights"}  # whether to use EMA is part of the method, not of the protocol
    same = all(settings.get(key) == value for key, value in base.items() if key not in free)
    return PUBLISHED.get((real["data"], real["size"], settings["name"]), []) if same and record["extractor"]["reference"] else []
