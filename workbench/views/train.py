"""What `train.ipynb` calls: a check of the settings, the images that D sees, samples, curves, diagnostics, and attention maps."""

from __future__ import annotations

import html
import io
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path

import torch
from PIL import Image

from .. import figures
from ..config import Config, read_config
from ..data import Images, augment, batch_indices, to_unit
from ..data.datasets import Drawn
from ..figures import Drawing, Note, Plot
from ..figures.charts import MAX_PIXELS
from ..files import UnreadableError
from ..messages import ParameterError, WorkbenchError
from ..model import sampling
from ..parameters import in_words
from ..runs import Run, require_startable
from ..runs.create import derived_name
from ..runs.resume import parent_folder
from ..training.memory import require_feasible
from .attention import AttentionView


def check(config: Config) -> Settings:
    """All settings of a run that is about to start; those that differ from its preset, or from the run that it resumes, are marked.

    Raises
    ------
    ParameterError, UnreadableError
        If the name of the run is taken, `resume` does not fit, or this machine has too little memory.
    """
    require_startable(config)
    require_feasible(config)
    base = read_config(parent_folder(config)) if config.resume else Config.preset(config.preset)
    return Settings(config, base, config.run or derived_name(config))


@dataclass(frozen=True)
class Settings:
    """Settings as a table, under the headings of `Config`."""

    config: Config
    base: Config
    name: str

    @property
    def title(self) -> str:
        source = f"run {self.config.resume}" if self.config.resume else f"preset {self.config.preset}"
        return f"{self.name}: {len(self.config.changes(self.base))} of {len(fields(self.config))} settings differ from {source}"

    @property
    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """Section, parameter, value, the value of `base` if that differs (else empty), and meaning."""
        changes, section, rows = self.config.changes(self.base), "", []
        for f in fields(self.config):
            section = f.metadata["section"] or section
            value, default = (" ".join(in_words(f, getattr(config, f.name)).split()) for config in (self.config, self.base))
            rows.append((section, f.name, value, default if f.name in changes else "", f.metadata["meaning"]))
        return rows

    def __repr__(self) -> str:
        lines = [self.title]
        for section, rows in groupby(self.rows, lambda row: row[0]):
            lines += ["", section]
            lines += [f"{'*' if base else ' '} {name:<22} {value}{f'  (not {base})' if base else ''}" for _, name, value, base, _ in rows]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        body = []
        for section, rows in groupby(self.rows, lambda row: row[0]):
            body.append(f'<tr><th colspan="4" style="text-align: left">{html.escape(section)}</th></tr>')
            for _, *texts in rows:
                name, value, base, meaning = map(html.escape, texts)
                cells = (f"<b>{name}</b>", f"<mark>{value}</mark>", f"not {base}", meaning) if base else (name, value, base, meaning)
                body.append("<tr>" + "".join(f'<td style="text-align: left">{cell}</td>' for cell in cells) + "</tr>")
        return f"<p>{html.escape(self.title)}</p><table><tbody>{''.join(body)}</tbody></table>"


def real_images(data: Images | Drawn, config: Config, columns: int = 10) -> Image.Image:
    """The first real images of the training as D will see them, after every transform, in a grid."""
    count = min(4 * columns, data.length or 4 * columns)
    x = to_unit(data.batch(batch_indices(data.length, config.seed, 0, count))[0])
    u = torch.rand(len(x), augment.NUMBERS, generator=sampling.rng(config.seed, 3))
    grid = sampling.tile(augment.apply(config.augment, x, u, real=True), columns)
    return figures.enlarged(Image.fromarray(grid.permute(1, 2, 0).numpy()))


def samples(run: Run, step: int | None = None, width: int = 800) -> Image.Image | Note:
    """The sample grid of a step (by default the newest), enlarged without blur to about `width` pixels.

    Returns
    -------
    Image or Note
        A note if there are no samples yet, or those of the step cannot be read.

    Raises
    ------
    ParameterError
        If there are no samples of `step`.
    """
    steps = run.sample_steps()
    if not steps:
        return Note(f"run {run.name!r} has no samples yet; they come every {run.config.sample_every} steps")
    if step is not None and step not in steps:
        raise ParameterError(f"step={step!r}: run {run.name!r} has no samples of this step; it has those of: {', '.join(map(str, steps))}")
    try:
        return figures.enlarged(sample_grid(run.sample_path(steps[-1] if step is None else step)), width)
    except WorkbenchError as error:
        return Note(error)


def sample_rows(run: Run) -> list[str]:
    """The names of the classes of the rows of the run's sample grids; [] without classes."""
    names = run.class_names
    _, labels = sampling.grid(len(names), 1, 0, columns=1)
    return [] if labels is None else [names[label] for label in labels.tolist()]


def sample_grid(path: Path) -> Image.Image:
    """The sample grid in a PNG file.

    Raises
    ------
    UnreadableError
        If the file is missing, damaged, no PNG, or far larger than any grid.
    """
    if not path.is_file():  # reading a pipe would block
        raise UnreadableError(path, "missing, or not a regular file")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UnreadableError(path, error.strerror or str(error)) from None
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            size = image.size
            if size[0] * size[1] <= MAX_PIXELS:
                image.load()
                return image
    except Exception:  # Pillow raises almost anything on a broken file
        raise UnreadableError(path, "no PNG, or a damaged one" if content.strip(b"\0") else "empty") from None
    raise UnreadableError(path, f"{size[0]}x{size[1]} pixels, far more than a sample grid has")


def curves(run: Run) -> Plot:
    """Losses, D's outputs, gammas and gradient norms over steps."""
    return figures.curves(run.name, run.history())


def scores(run: Run) -> Plot | Note:
    """The scores that were measured in training, over steps; a note if there are none."""
    plot = figures.scores_of_run(run.name, run.evaluations())
    return (
        plot if plot.description.panels else Note(f"run {run.name!r} has no scores yet; they come every {run.config.evaluate_every} steps")
    )


def diagnostics(run: Run) -> Plot:
    """D's margin and saturation, and the largest singular value of every layer; see `figures.diagnostics`."""
    return figures.diagnostics(run.name, run.history(), run.spectra())


def singular_values(run: Run, network: str = "G") -> Plot:
    """Singular values of the weight of every layer of "G" or "D"; see `figures.singular_values`."""
    return figures.singular_values(run.name, run.spectra(), network)


def attention(run: Run) -> Drawing | Note | None:
    """Where the generator looks; see `AttentionView.figure`."""
    return AttentionView(run=run.reference).figure()


def summary_png(run: Run) -> bytes:
    """The newest sample grid above the curves: the static picture of a run."""
    grid, chart = samples(run, width=980), Image.open(io.BytesIO(curves(run).png()))
    parts = [chart] if isinstance(grid, Note) else [grid, chart]
    width = max(part.width for part in parts)
    sheet = Image.new("RGB", (width, sum(part.height for part in parts)), "white")
    top = 0
    for part in parts:
        sheet.paste(part.convert("RGB"), ((width - part.width) // 2, top))
        top += part.height
    stream = io.BytesIO()
    sheet.save(stream, "PNG", optimize=True)
    return stream.getvalue()
