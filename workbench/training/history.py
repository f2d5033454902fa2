"""The lines of `history.jsonl`: means of what the steps report, summed on the device so that no step waits for it."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor

from .setup import Networks


class Window:
    """The reports of the steps since the last line of history.

    Attributes
    ----------
    state
        0-d float64 by name: of each quantity the sum over steps, of means over the D steps of each; and `largest_d` and `largest_g`, the
        largest gradient norms. Empty before the first step. A checkpoint contains it, so that a resumed run writes the same lines.
    """

    def __init__(self, state: dict[str, Tensor] | None = None):
        self.state = state or {}

    def add(self, d_reports: list[dict[str, Tensor]], g_report: dict[str, Tensor]) -> None:
        """Add the reports of the D steps and of the G step of one step."""
        d = torch.stack([torch.stack([*report.values()]) for report in d_reports]).double()  # (d_steps, names of D)
        g = torch.stack([*g_report.values()]).double()  # (names of G,)
        sums = dict(zip((*d_reports[0], *g_report), (*d.mean(0), *g), strict=True))
        largest = dict(largest_d=d[:, [*d_reports[0]].index("grad_norm_d")].amax(), largest_g=sums["grad_norm_g"])
        before = {name: value.to(d.device) for name, value in self.state.items()}  # those from a checkpoint are on the CPU
        zero = d.new_zeros(())
        sums = {name: before.get(name, zero) + value for name, value in sums.items()}
        self.state = sums | {name: before.get(name, zero).maximum(value) for name, value in largest.items()}

    def take(self, accelerator: Accelerator, steps: int) -> dict[str, float]:
        """Means over `steps` steps and all processes by name, `largest_d` and `largest_g`; empties the window. All processes call this."""
        largest = {name: self.state.pop(name).item() for name in ("largest_d", "largest_g")}  # equal in all processes, as gradients are
        means = accelerator.reduce(torch.stack([*self.state.values()]), "mean") / steps
        names, self.state = [*self.state], {}
        return dict(zip(names, means.tolist(), strict=True)) | largest


def history_row(nets: Networks, window: Window, step: int, steps: int, seconds: float) -> dict[str, float]:
    """The line of history at `step`: means over the last `steps` steps. All processes call this.

    Gradient norms are means over the steps with finite gradients; with float16, the others are skipped.
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
