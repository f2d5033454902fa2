"""What an intervention on an attention layer changes, in the mean over samples; for knocked-out keys, beside as many random ones.

Shapes: B images, N = side^2 queries, M = key_side^2 keys; positions in row-major order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ..attention import intervene
from ..attention.capture import capture_projections
from ..attention.inspect import positions_mask, run_network
from ..messages import WorkbenchError
from ..model import sampling
from .significance import bootstrap

SAMPLES = 64
# Each quantity in words. Those that have a value without the intervention are signed differences to it; the others are sizes of a change.
QUANTITIES = {
    "image": "change of the image (RMS)",
    "pins": "change at the pins (RMS)",
    "hue": "change of the twins' hue disagreement",
    "logit": "change of D's logit",
}

Numbers = dict[str, tuple[Tensor, ...]]
Read = Callable[[Tensor, Tensor | None], Tensor]


def batches(image_size: int, n: int = SAMPLES) -> list[range]:
    """The indices of `n` samples in batches that are small enough for other requests not to wait long between two of them."""
    size = max(1, 16 * 32**2 // image_size**2)
    return [range(n)[k : k + size] for k in range(0, n, size)]


@torch.no_grad()
def measure(
    network: nn.Module,
    inputs: tuple,
    layer: str,
    *,
    samples: range | None = None,
    keys: Sequence[int] = (),
    queries: Sequence[int] | None = None,
    gamma: float | None = None,
    replace: str | None = None,
    attention_off: bool = False,
    hue: Read | None = None,
) -> Numbers:
    """What an intervention changes in each image of a batch, and what knocking out as many random keys does.

    Parameters
    ----------
    network, inputs
        G or D, and its inputs: latents or images (B, ...), classes (B,) or None.
    layer
        `named_modules` path of the attention layer.
    samples
        Indices of the images, on which random keys depend, so that they do not depend on batches; by default from 0 on.
    keys, queries
        Knocked-out keys, for these queries (None: all).
    gamma, replace
        As `intervene` takes them.
    attention_off
        Gamma is 0 also without the intervention.
    hue
        For a generator: a reading (B,) of images and classes, such as that of `twins.disagreement`.

    Returns
    -------
    dict
        Name of QUANTITIES -> (B,) float64: its value before, with the intervention, and with random keys in place of `keys`; those of a size
        of a change are 0 before. Without keys, and with a local map, of which random keys may leave nothing, there is no third.

    Raises
    ------
    WorkbenchError, ParameterError
        As `intervene` does.
    """
    # Through the same arithmetic: what changes nothing changes nothing, to the last bit.
    with intervene(network, layer, gamma=0.0 if attention_off else None), capture_projections(network) as captured:
        before = run_network(network, inputs)
    shape = (captured[layer].query.shape[-2], captured[layer].key.shape[-2])
    masks: list[Tensor | None] = [positions_mask(queries, keys, shape) if keys else None]
    if keys and replace != "local":
        rngs = (sampling.rng(0, 11, k) for k in samples or range(len(before)))
        draws = [torch.randperm(shape[1], generator=rng)[: len(keys)].tolist() for rng in rngs]
        masks.append(torch.stack([positions_mask(queries, draw, shape) for draw in draws]))
    outputs = [before]
    for mask in masks:
        with intervene(network, layer, forbid=mask, gamma=0.0 if attention_off else gamma, replace=replace):
            outputs.append(run_network(network, inputs))
    if before.ndim == 1:
        return {"logit": tuple(output.double() for output in outputs)}
    changes = [(output - before).double().square().mean(1) for output in outputs]  # (B, S, S)
    numbers = {"image": tuple(change.mean((1, 2)).sqrt() for change in changes)}
    if queries is not None:
        on = torch.zeros(shape[0])
        on[list(queries)] = 1
        side = round(shape[0] ** 0.5)
        pixels = interpolate(on.view(1, 1, side, side), size=before.shape[-2:])[0, 0].bool()
        numbers["pins"] = tuple(change[:, pixels].mean(1).sqrt() for change in changes)
    if hue:
        numbers["hue"] = tuple(hue(output, inputs[1]).double() for output in outputs)
    return numbers


def summarise(batches: Sequence[Numbers]) -> list[dict]:
    """The rows of a table: means of what `measure` gave for batches of samples, with 95 % percentile bootstrap intervals over the samples.

    Returns
    -------
    list of dict
        For each quantity: quantity (in words), n; before (mean; None for a size of a change); change, low, high: the mean difference to
        before and its interval; null, null_low, null_high: the same with random keys; more, more_low, more_high: what `keys` change beyond
        random ones, paired by sample. Those without random keys are None.
    """
    rows = []
    for name in batches[0]:
        before, *outputs = (torch.cat(parts).numpy() for parts in zip(*(batch[name] for batch in batches), strict=True))
        change, *null = (values - before for values in outputs)
        if not np.isfinite(outputs).all():
            raise WorkbenchError(f"{QUANTITIES[name]}: some values are not finite, so there is no mean; the network has diverged")
        row = dict(quantity=QUANTITIES[name], n=len(before), before=float(before.mean()) if name in ("hue", "logit") else None)
        for part, values in (("change", change), ("null", null[0] if null else None), ("more", change - null[0] if null else None)):
            row |= _interval(part, values)
        rows.append(row)
    return rows


def _interval(name: str, values: np.ndarray | None) -> dict:
    prefix = "" if name == "change" else f"{name}_"
    if values is None:
        return {name: None, f"{prefix}low": None, f"{prefix}high": None}
    low, high = bootstrap(values)
    return {name: float(values.mean()), f"{prefix}low": low, f"{prefix}high": high}
