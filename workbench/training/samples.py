"""Sample grids, attention snapshots and spectra that a training records every `sample_every` steps."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..attention.capture import capture_projections
from ..attention.snapshots import Snapshot, save_snapshot
from ..config import Config
from ..data import to_uint8, to_unit
from ..files import replace_bytes, storing
from ..model import Generator, sampling
from ..runs import Run
from .diagnostics import spectra
from .setup import Networks

COLUMNS = 10  # of the grid, which has a row for each of at most 10 classes
SNAPSHOTS = 4  # samples whose attention is recorded


class FixedSamples:
    """The latents z (B, z_dim) and classes y (B,) or None of all sample grids of a run, and the `spread` of real images."""

    def __init__(self, config: Config, data):
        self.z, self.y = sampling.grid(config.num_classes, config.z_dim, config.seed, COLUMNS)
        self.real_spread = spread(to_unit(data.batch(np.arange(min(64, data.length or 64)))[0]))


def spread(x: Tensor, y: Tensor | None = None) -> float:
    """How much images (B, 3, S, S) differ: the standard deviation of each pixel over the images, averaged over the pixels.

    With classes y (B,), over the images of a class, averaged over the classes: one image for each class is a collapse too.
    """
    parts = [x] if y is None else [x[y == k] for k in y.unique()]
    return sum(part.std(0).mean().item() for part in parts) / len(parts)


def write_samples(nets: Networks, generator: Generator, run: Run, step: int, fixed: FixedSamples) -> Tensor:
    """Write `samples/<step>.png`, `attention/<step>.safetensors` and a line of `spectra.jsonl`; return the samples (B, 3, S, S) in [-1, 1].

    `generator` is the EMA if available, else G.
    """
    x = sampling.images(generator, fixed.z, fixed.y)
    png = io.BytesIO()
    Image.fromarray(sampling.tile(x, COLUMNS).permute(1, 2, 0).numpy()).save(png, "PNG")
    with storing(run.path / "samples"):
        run.sample_path(step).parent.mkdir(exist_ok=True)
    replace_bytes(run.sample_path(step), png.getvalue())
    few = torch.linspace(0, len(x) - 1, SNAPSHOTS).long()
    snapshot = _snapshot(nets, generator, fixed.z[few], None if fixed.y is None else fixed.y[few])
    save_snapshot(run.new_attention_path(step), snapshot)
    run.append("spectra.jsonl", dict(step=step, layers=spectra(nets.generator, nets.discriminator)))
    return x


@torch.no_grad()
def _snapshot(nets: Networks, generator: Generator, z: Tensor, y: Tensor | None) -> Snapshot:
    """The queries and keys of every attention layer: of G on these latents, of D on G's images."""
    with capture_projections(generator) as layers_g:
        x = sampling.images(generator, z, y)
    weight = next(nets.discriminator.parameters())
    with capture_projections(nets.discriminator) as layers_d:
        nets.discriminator(x.to(weight), None if y is None else y.to(weight.device))
    layers = {f"G/{path}": layer for path, layer in layers_g.items()} | {f"D/{path}": layer for path, layer in layers_d.items()}
    return Snapshot(to_uint8(x), z, y, layers)
