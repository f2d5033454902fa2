"""The film of a run: what its folder has for every step with samples."""

from __future__ import annotations

import math
import textwrap
from bisect import bisect_right
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from ..attention import Inspection
from ..data import to_uint8
from ..figures import QUERY_COLOURS, curves, scores_of_run
from ..figures.charts import Chart
from ..figures.film import Film, Frame, over_image
from ..messages import ParameterError, WorkbenchError, counted
from ..model import sampling
from ..records import is_number
from ..runs import Run
from .attention import AttentionView
from .inspected_run import InspectedRun
from .inspection_request import InspectionRequest
from .train import sample_grid

POINTS = 3000  # of all curves
PANELS = 3
GAP = 16  # the space between the image and the maps is this part of the image
WRAP = 168  # characters of a line of the caption
MOST_GAMMAS = 6


class _Recorded:
    """The records of a run, as the frames of its film need them."""

    def __init__(self, run: InspectedRun, view: AttentionView, sample: int):
        self.run, self.sample = run, sample
        self.history, self.evaluations = run.run.history(), run.run.evaluations()
        self.snapshots, grids = run.recorded_steps, run.run.sample_steps()
        self.from_snapshots = len(grids) < 2 <= len(self.snapshots)
        self.steps = self.snapshots if self.from_snapshots else grids
        if view.layer is not None and not run.layers:
            raise ParameterError(f"layer={view.layer}: run {run.name!r} has no attention layer")
        layer = view.layer_of(run) or next(reversed(run.layers), None)
        self.layer = layer if self.snapshots else None
        self.queries: list[int] = []
        if self.layer:
            self.queries = view.queries_of(self.inspect(self.snapshots[-1]))

    def require_steps(self) -> None:
        """Raise a WorkbenchError unless there is something to show."""
        name, every = self.run.name, self.run.config.sample_every
        if not self.steps:
            raise WorkbenchError(
                f"run {name!r} has no samples yet; they come every {counted(every, 'step')}, and a film needs those of two"
            )
        if len(self.steps) < 2:
            raise WorkbenchError(
                f"run {name!r} has samples of step {self.steps[0]} alone; a film needs two steps, and they come every {every}"
            )

    def inspect(self, step: int) -> Inspection:
        """The chosen layer and latent in the snapshot of a step."""
        assert self.layer
        return self.run.inspect(InspectionRequest(self.layer["id"], step, source="recorded", sample=self.sample))

    def frame(self, step: int) -> Frame:
        if self.from_snapshots and self.layer:
            images = self.run.strip(InspectionRequest(self.layer["id"], step, source="recorded"))[1]
            samples = Image.fromarray(sampling.tile(images, len(images)).permute(1, 2, 0).numpy())
        else:
            samples = sample_grid(self.run.run.sample_path(step)).convert("RGB")
        return Frame(step, samples, self.maps(step), self.numbers(step))

    def maps(self, step: int) -> Image.Image | None:
        """The image, and beside it the map of each query, in the newest snapshot until a step; transparent before the first one."""
        if not self.layer:
            return None
        size, tiles = self.run.config.image_size, 1 + len(self.queries)
        pitch = size + max(1, size // GAP)
        strip = np.zeros((size, tiles * pitch - (pitch - size), 4), np.uint8)
        known = bisect_right(self.snapshots, step)
        if known:
            seen = self.inspect(self.snapshots[known - 1])
            image = to_uint8(seen.image).permute(1, 2, 0).numpy()
            parts = [image, *(over_image(image, _place(seen.heat("outgoing", query), seen).numpy()) for query in self.queries)]
            for k, part in enumerate(parts):
                strip[:, k * pitch : k * pitch + size] = np.dstack([part, np.full((size, size), 255, np.uint8)])
        return Image.fromarray(strip)

    def dots(self) -> list[tuple[float, float, str]]:
        """Every query on the image, and each one on its map, see `Film.dots`."""
        if not self.layer:
            return []
        side, tiles = self.layer["side"], 1 + len(self.queries)
        size = self.run.config.image_size
        pitch = size + max(1, size // GAP)
        width, dots = tiles * pitch - (pitch - size), []
        for k, (query, colour) in enumerate(zip(self.queries, QUERY_COLOURS, strict=False)):
            row, column = divmod(query, side)
            for tile in (0, k + 1):
                dots.append(((tile * pitch + (column + 0.5) * size / side) / width, (row + 0.5) / side, colour))
        return dots

    def numbers(self, step: int) -> str:
        """The newest numbers until a step."""
        words = []
        rows = [row for row in self.history if row["step"] <= step]
        if rows:
            row = rows[-1]
            words += (
                [f"loss D {row['loss_d']:.2f}, G {row['loss_g']:.2f}"]
                if is_number(row.get("loss_d")) and is_number(row.get("loss_g"))
                else []
            )
            gammas = [f"{key.removeprefix('gamma_')} {row[key]:+.3f}" for key in row if key.startswith("gamma_") and is_number(row[key])]
            words += [f"gamma {', '.join(gammas[:MOST_GAMMAS])}{', …' * (len(gammas) > MOST_GAMMAS)}"] if gammas else []
        score = main_score(self.evaluations)
        values = [(row["step"], row["scores"][score]) for row in self.evaluations if row["step"] <= step and score in row["scores"]]
        if values:
            at, value = max(values, key=lambda pair: pair[0])
            words.append(f"{score.partition('@')[0]} {value:.3g}{f' (step {at:,})' if at < step else ''}")
        return " · ".join(words)

    def chart(self) -> Chart:
        """Losses, gammas and a score, else the outputs of D, over steps."""
        score = main_score(self.evaluations)
        known = {panel.title.partition(" (")[0]: panel for panel in curves("", self.history).description.panels}
        of_score = [row | dict(scores={score: row["scores"][score]}) for row in self.evaluations if score in row["scores"]]
        panels = [known[name] for name in ("hinge losses", "gamma") if name in known]
        panels += [*scores_of_run("", of_score).description.panels[:1], known["D's output"]]
        last = float(max([self.steps[-1], *(row["step"] for row in self.history[-1:])]))
        panels = [replace(panel, x=replace(panel.x, range=(0.0, last), title="")) for panel in panels[:PANELS]]
        panels[-1] = replace(panels[-1], x=replace(panels[-1].x, title="G step"))
        return Chart("", tuple(panels), columns=1, height=260, legend="panels").focused().thinned(POINTS)

    def caption(self) -> str:
        """What is shown, in words."""
        parts = []
        if self.from_snapshots:
            parts.append("Above: the latents of the attention snapshots, at their steps.")
        else:
            parts.append("Every step with samples.")
        if self.layer:
            seen = self.inspect(self.snapshots[-1])
            keys = self.layer["key_side"] ** 2
            parts.append(
                f"Maps: where the dots look in {self.layer['id']}, for latent {self.sample}{f' ({seen.class_name})' if seen.class_name else ''}, in the "
                f"newest snapshot until the step; black: uniform (1/{keys}) or less, brightest: all on one key (logarithmic)."
            )
        parts.append("Numbers: the newest until the step.")
        return "\n".join(textwrap.wrap(" ".join(parts), WRAP))


def film_of(run: Run | str, network: str, layer: int | None, sample: int, queries: str) -> Film:
    """The film of a run, see `widgets.film.film`."""
    view = AttentionView(run=run.reference if isinstance(run, Run) else run, network=network, layer=layer, queries=queries)
    records = _Recorded(view.runs()[0], view, sample)
    records.require_steps()
    return Film(records.run.name, records.caption(), tuple(records.steps), records.frame, records.chart(), tuple(records.dots()))


def main_score(evaluations: list[dict]) -> str:
    """The score that a film shows: the first Fréchet distance, else the first score; "" without one."""
    names = list(dict.fromkeys(name for row in evaluations for name in row["scores"]))
    return next((name for name in names if name.startswith(("fid", "fd"))), next(iter(names), ""))


def _place(heat: torch.Tensor, seen: Inspection) -> torch.Tensor:
    """Weights of positions (side, side) as places among the colours: 0 for uniform weights or less, 1 if all is on one key, logarithmic."""
    side, keys = len(heat), seen.projections.key_side**2
    weights = heat * side**2 / keys  # of the keys, which share theirs among their positions
    return ((weights * keys).clamp(min=1).log() / max(math.log(keys), 1e-9)).clamp(0, 1)
