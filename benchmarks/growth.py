"""Time and memory of a step over the sizes of images, batch and attention map, with and without attention."""

from __future__ import annotations

from pathlib import Path

from workbench import Config
from workbench.figures.charts import COLOURS

from .timing import in_turn
from .variants import StepProcess


def growth(config: Config, rounds: int) -> list[dict]:
    """Seconds and bytes per image of a full step, over image size, batch and size of the attention map.

    Other settings are those of `config`; attention is at half the image's size unless it varies.
    """

    def at(attention: int | str, **changes) -> Config:
        return config.replace(**changes, attention_g=str(attention), attention_d=str(attention), batch_norm_group=None)

    half = config.image_size // 2
    plan: list[tuple[str, int | str, Config]] = []
    plan += [("size", size, at(site, image_size=size)) for size in (32, 64, 128, 256) for site in (size // 2, "none")]
    plan += [("batch", batch, at(half, batch_size=batch)) for batch in (2, 4, 8, 16, 32)]
    plan += [("attention", site, at(site)) for site in ["none", *(2**k for k in range(3, config.image_size.bit_length() - 1))]]
    rows = []
    for axis, value, settings in plan:
        with StepProcess(settings, "fast") as process:
            times = in_turn({"fast": process.seconds}, rounds, warmup=2)["fast"]
            process_memory = process.peak_bytes()
        duration, memory = min(times) / settings.batch_size, process_memory / settings.batch_size
        rows.append(dict(axis=axis, value=value, attention=settings.attention_g, seconds=duration, bytes=memory))
        cost = f"{duration * 1e3:.3g} ms, {memory / 2**20:.3g} MiB an image"
        print(f"  {axis} {value}, attention at {settings.attention_g}: {cost}", flush=True)
    return rows


def dominating(rows: list[dict]) -> int | None:
    """The smallest measured map whose attention takes more than half of a step; None if none does."""
    by_size = {(row["value"], row["attention"]): row["seconds"] for row in rows if row["axis"] == "size"}
    shares = {int(site): 1 - by_size[size, "none"] / seconds for (size, site), seconds in by_size.items() if site != "none"}
    return min((site for site, share in shares.items() if share > 0.5), default=None)


def draw_growth(rows: list[dict], path: Path, title: str) -> None:
    """Draw time (above) and memory (below) per image over size, batch and the attention map."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.5), layout="constrained")
    panels = figure.subplots(2, 3, sharex="col")
    labels = {"size": "image size (attention at half of it)", "batch": "batch", "attention": "size of the attention map"}
    units = (("seconds", 1e3, "ms an image"), ("bytes", 1 / 2**20, "MiB an image"))
    without = dict(color="0.6", linestyle="--", label="without")
    for column, (axis, label) in zip(panels.T, labels.items(), strict=True):
        of_axis = [row for row in rows if row["axis"] == axis]
        curve, baseline = ([row for row in of_axis if (row["attention"] == "none") == off] for off in (False, True))
        for panel, (key, factor, unit) in zip(column, units, strict=True):
            panel.plot(
                [row["value"] for row in curve], [row[key] * factor for row in curve], marker="o", color=COLOURS[0], label="with attention"
            )
            if axis == "attention":
                panel.axhline(baseline[0][key] * factor, **without)
            else:
                panel.plot([row["value"] for row in baseline], [row[key] * factor for row in baseline], marker="o", **without)
            panel.set_xscale("log", base=2)
            panel.set(yscale="log") if axis == "size" else panel.set_ylim(bottom=0)
            panel.grid(alpha=0.3)
            if axis == "size":
                panel.set_ylabel(unit)
        ticks = sorted(row["value"] for row in curve)
        column[1].set_xticks(ticks, [str(tick) for tick in ticks])
        column[1].set_xlabel(label)
    panels[0, 0].legend(frameon=False)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=110)
