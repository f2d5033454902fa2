"""What `evaluate.ipynb` calls: tables and figures of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .. import figures
from ..data import to_unit
from ..evaluation import Evaluation
from ..evaluation.checkpoints import EvaluatedRun, run_to_evaluate
from ..metrics.prdc import nearest_neighbours
from ..metrics.protocols import brief, differences
from ..metrics.scores import higher_is_better
from ..model import sampling
from ..records import is_comparable
from . import across_runs


@dataclass
class EvaluationView:
    """An evaluation and the records that `evaluate` returned; a folder of images has no samples to show."""

    evaluation: Evaluation
    records: list[dict]

    def score_table(self) -> figures.Table:
        """The scores, a column per checkpoint, with their protocols."""
        return figures.score_table(self.records)

    def scores_over_steps(self, others: bool = False) -> figures.Plot:
        """All evaluations of the run that compare with these; with `others`, also those of other protocols, such as those of training."""
        runs = [] if self.evaluation.samples else [run_to_evaluate(self.evaluation)]
        like = self.records[-1]
        plot = across_runs.scores(runs, like=None if others else like, across_protocols=others)
        hidden = (
            []
            if others
            else [row["protocol"] for run in runs for row in run.evaluations() if is_comparable(row) and differences(like, row)]
        )
        if not hidden:
            return plot
        said = f"left out: {len(hidden)} of other protocols ({brief(hidden[-1])}); scores_over_steps(others=True) shows them too"
        chart = plot.description
        return figures.Plot(replace(chart, notes=(*chart.notes, said)))

    def best_and_worst_classes(self, count: int = 3, columns: int = 10) -> figures.Drawing | None:
        """Samples of the best and worst classes by score, a row each, the best first; None without classes."""
        return figures.strips(self.class_rows(count, columns), "classes by score, best first")

    def class_rows(self, count: int, columns: int) -> list[tuple[str, Tensor]]:
        """Label and images (columns, 3, S, S) of the best and worst classes by their Fréchet distance, else by the first score per class."""
        evaluation, record = self.evaluation, self.records[-1]
        name = next((name for name in record["per_class"] if name.startswith("intra")), next(iter(record["per_class"]), None))
        if name is None or evaluation.samples:
            return []
        evaluated, values = EvaluatedRun(evaluation), record["per_class"][name]
        order = sorted(
            (k for k, value in enumerate(values) if value is not None), key=lambda k: values[k], reverse=bool(higher_is_better(name))
        )
        classes = order if len(order) <= 2 * count else [*order[:count], *order[-count:]]
        generator = evaluated.samples(record["step"]).generator
        z = sampling.latents(columns, generator.z_dim, evaluation.seed, truncation=evaluated.protocol.truncation)
        rows = []
        for k in classes:
            images = sampling.images(generator, z, torch.full((columns,), k))
            rows.append((f"{evaluated.image_set.classes[k]}\n{name.partition('@')[0]} {values[k]:.4g}", images))
        return rows

    def nearest_real_images(self, count: int = 6, neighbours: int = 6, among: int = 512) -> figures.Drawing | None:
        """The samples nearest to a real image in feature space, each with its nearest real images; prints the median distances.

        Much smaller distances of samples than of other real images mean that training images are repeated.

        Parameters
        ----------
        count, neighbours, among
            Samples to show, real images beside each, and samples to choose from.
        """
        rows, text = self.nearest_rows(count, neighbours, among)
        print(text)
        return figures.strips(rows, "samples (first column) and their nearest real images")

    def nearest_rows(self, count: int, neighbours: int, among: int) -> tuple[list[tuple[str, Tensor]], str]:
        """Label and images (1 + neighbours, 3, S, S), the sample first; and the median distances to the nearest real image in words."""
        if self.evaluation.samples:
            return [], ""
        evaluated = EvaluatedRun(self.evaluation)
        real, samples = evaluated.reference(), evaluated.samples()
        parts = [samples(start, min(64, among - start))[0] for start in range(0, among, 64)]
        features = torch.cat([evaluated.extractor(evaluated.protocol.to_pixels(images))[0].cpu() for images in parts])
        images = torch.cat(parts)
        indices, distances = nearest_neighbours(features, real.features, min(neighbours, len(real.features)))
        others = np.sort(np.random.default_rng(3).permutation(len(real.features))[:among])
        between = nearest_neighbours(torch.as_tensor(real.features[others]), real.features, 2)[1][:, 1]  # the first is the image itself
        rows = []
        for k in distances[:, 0].argsort()[:count].tolist():
            near = to_unit(evaluated.data.batch(real.indices[indices[k].cpu().numpy()])[0])
            sample = k // evaluated.extractor.crops
            rows.append((f"sample {sample}\ndistance {distances[k, 0]:.3g}", torch.cat([images[sample : sample + 1], near])))
        text = (
            f"median distance to the nearest of {len(real.features):,} real images, {evaluated.extractor.label}: {distances[:, 0].median():.3g} "
            f"from {among} samples, {between.median():.3g} from other real images"
        )
        return rows, text
