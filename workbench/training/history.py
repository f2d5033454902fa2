"""The lines of `history.jsonl`: means of what the steps report, gathered on the device so that no step waits for it."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor

from .setup import Networks


class Window:
    """Reports of the steps since the last line of history: sums by name, and the largest norms of gradients.

    Its `state` is part of a checkpoint, so that a resumed run writes the same lines as an uninterrupted one.
    """

    def __init__(self, state: dict[str, Tensor] | None = None):
        self._loaded = state or {}  # from a checkpoint, until the next step
        self._names: tuple[str, ...] = ()
        self._sums: Tensor | None = None  # (names,) float64: sums over steps, of means over the D steps of each
        self._largest: Tensor | None = None  # (2,) float64: largest norms of D's and of G's gradient

    def add(self, d_reports: list[dict[str, Tensor]], g_report: dict[str, Tensor]) -> None:
        """Add the reports of the D steps and of the G step of a step."""
        names = (*d_reports[0], *g_report)
        d = torch.stack([torch.stack([*report.values()]) for report in d_reports]).double()  # (d_steps, names of D)
        values = torch.cat([d.mean(0), torch.stack([*g_report.values()]).double()])  # (names,)
        norms = torch.stack([d[:, names.index("grad_norm_d")].amax(), values[names.index("grad_norm_g")]])
        if self._loaded:
            self._sums = torch.stack([self._loaded[name] for name in names]).to(values)
            self._largest = torch.stack([self._loaded["largest_d"], self._loaded["largest_g"]]).to(values)
            self._loaded = {}
        self._sums = values if self._sums is None else self._sums + values
        self._largest = norms if self._largest is None else torch.maximum(self._largest, norms)
        self._names = names

    def state(self) -> dict[str, Tensor]:
        """Its numbers by name, for a checkpoint; {} if it is empty."""
        if self._sums is None or self._largest is None:
            return self._loaded
        return dict(zip((*self._names, "largest_d", "largest_g"), torch.cat([self._sums, self._largest]).cpu().unbind(), strict=True))

    def take(self, accelerator: Accelerator, steps: int) -> dict[str, float]:
        """Means over `steps` steps and all processes by name, `largest_d` and `largest_g`; empties the window. All processes call this."""
        means = (accelerator.reduce(self._sums, "mean") / steps).tolist()
        largest = self._largest.tolist()  # the same in all processes, as the gradients are
        self._sums = self._largest = None
        return dict(zip(self._names, means, strict=True)) | dict(largest_d=largest[0], largest_g=largest[1])


def history_row(nets: Networks, window: Window, step: int, steps: int, seconds: float) -> dict[str, float]:
    """The line of history of a step: means over the last `steps` steps. All processes call this.

    Norms of gradients are means over the steps with finite gradients: with float16 the others are skipped.
    """
    config, means = nets.config, window.take(nets.accelerator, steps)
    line = dict(step=step, images=step * config.batch_size, seconds=round(seconds, 3))
    line |= {name: means[name] for name in ("loss_d", "loss_g", "d_real", "d_fake")}
    for letter in "dg":
        if means[f"finite_{letter}"] > 0:
            line[f"grad_norm_{letter}"] = means[f"grad_norm_{letter}"] / means[f"finite_{letter}"]
            line[f"grad_norm_{letter}_max"] = means[f"largest_{letter}"]
    line |= {name: means[name] for name in ("saturated_real", "saturated_fake")}
    if config.attention_block == "attention":
        for letter, net in (("g", nets.generator), ("d", nets.discriminator)):
            line |= {f"gamma_{letter}{size}": layer.gamma.item() for size, layer in net.attention.items()}
    return line | dict(lr_g=config.lr_g, lr_d=config.lr_d)
