"""What `tour.ipynb` calls: views of one trained run."""

from __future__ import annotations

from PIL import Image

from .. import attention, figures
from ..config import Config
from ..data import open_data, twins
from ..figures import Drawing, Note, Plot
from ..messages import WorkbenchError
from ..model import sampling
from ..runs import Run
from ..studies import shape
from ..studies.twin_runs import require_one_pair
from . import train


class Tour:
    """The views of one run.

    Parameters
    ----------
    run
        Name of a run on twins with attention in G.

    Raises
    ------
    WorkbenchError
        If there is no such run, or it is not on twins, or has no attention in G.
    """

    def __init__(self, run: str = "demo"):
        self.run = Run(run)
        require_one_pair(self.run)
        config = self.run.config
        if not config.sites_g or config.attention_block != "attention":
            raise WorkbenchError(f"run {run!r} has no attention in G; the tour needs a run with attention in G")
        self.path = f"attention.{config.sites_g[0]}"
        self.generator = self.run.generator(weights="auto")

    def settings(self) -> dict:
        """The settings of the run that differ from those of its preset."""
        config = self.run.config
        return config.changes(Config.preset(config.preset))

    def real_images(self) -> Image.Image:
        """Images of its training data."""
        return train.real_images(open_data(self.run.config), self.run.config)

    def samples(self) -> Image.Image | Note:
        """Samples: a row for each class, the same latents in every row."""
        return train.samples(self.run)

    def curves(self) -> Plot:
        """Losses, D's outputs, gammas and learning rates over steps."""
        return train.curves(self.run)

    def attention(self) -> Drawing | Note | None:
        """Where the generator looks, as a figure."""
        return train.attention(self.run)

    def without_attention(self, n: int = 48) -> Drawing | None:
        """The same latents with attention and with gamma = 0, and the distance of the hues of both glyphs (median over `n` samples)."""
        z, y = sampling.latents(n, self.generator.z_dim, seed=1), sampling.labels(n, self.generator.num_classes)
        effect = attention.effect(self.generator, (z, y), self.path, gamma=0.0)
        rows = []
        for name, images in (("trained", effect.before), ("gamma = 0", effect.after)):
            hue = twins.disagreement(images)["hue"].median().item()
            rows.append((f"{name}\nhues {hue:.4f} apart", images[:8]))
        return figures.strips(rows, f"{self.run.name}, G/{self.path}: what attention does")

    def shape(self) -> Drawing:
        """How much of the attention of a glyph's positions falls on its twin, beside the nulls, with a test."""
        return figures.shape_study(shape.study(self.run, f"G/{self.path}"))
