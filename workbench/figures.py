"""Figures: functions that return something Jupyter can show, and never show it themselves.

Interactive plots are plotly figures that carry a static PNG, drawn by matplotlib, so that an executed notebook shows a picture where
no JavaScript runs (an untrusted notebook, a page of a git host). plotly's own PNG export would need a Chrome on the user's machine.
"""

from __future__ import annotations

import base64
import csv
import html
import io
import json
import textwrap
from dataclasses import asdict
from os import PathLike
from pathlib import Path

import torch
import torchvision
from PIL import Image

from . import augment, sampling
from .config import Config
from .diagnostics import effective, largest_of_all
from .files import replace_text
from .inspection import AttentionView, Look, Scene, Subject
from .metrics.protocols import brief, differences, published, require_comparable
from .parameters import ParameterError, WorkbenchError, nearest
from .runs import Run, describe_machine, git_state

CURVES = {  # title of a panel, unit of its y axis -> column of the history: name in the legend
    ("hinge losses", "loss"): {"loss_d": "D", "loss_g": "G"},
    ("D's output", "logit"): {"d_real": "real", "d_fake": "fake"},
    ("gamma of the attention layers", "gamma"): "gamma_",
    ("learning rates", "rate"): {"lr_d": "D", "lr_g": "G"},
}
QUERY_COLOURS = ("#ff3b30", "#34c759", "#0a84ff", "#ff9f0a", "#bf5af2", "#00b8c4", "#ff6fb5", "#a2845e")  # as in the inspector


class Drawing:
    """A matplotlib figure together with the recipe that it can be drawn from again.

    Attributes
    ----------
    figure
        The `matplotlib.figure.Figure`.
    """

    def __init__(self, figure, name: str, parameters: dict):
        self.figure, self._name, self._parameters = figure, name, parameters

    @property
    def recipe(self) -> dict:
        """What a sidecar keeps: name and parameters of the figure, and commit and versions that drew it."""
        machine = describe_machine()
        made_by = dict(git=git_state(), python=machine["python"], versions=machine["versions"])
        return dict(figure=self._name, parameters=self._parameters, **made_by)

    def png(self, dpi: int = 110) -> bytes:
        """The figure as PNG bytes."""
        return _bytes(self.figure, dpi)

    def save(self, path: str | PathLike) -> Path:
        """Write the figure as PNG, SVG or PDF, by the ending, with its recipe beside it (`redraw` takes that).

        Raises
        ------
        ParameterError
            For another ending.
        """
        path = Path(path)
        if path.suffix not in (".png", ".svg", ".pdf"):
            raise ParameterError(f"path={str(path)!r} ends in {path.suffix!r}; a figure can be .png, .svg or .pdf")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.figure.savefig(path, dpi=300)
        replace_text(path.with_name(path.name + ".json"), json.dumps(self.recipe, indent=2))
        return path

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"image/png": base64.b64encode(self.png()).decode()}


def redraw(sidecar: str | PathLike) -> Drawing:
    """The figure that a sidecar (`<figure>.json`) describes, drawn again.

    Raises
    ------
    WorkbenchError
        If it is no such file, or what it was drawn from is not there.
    """
    try:
        recipe = json.loads(Path(sidecar).read_text())
        draw = {"attention_maps": _redraw_attention_maps}[recipe["figure"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WorkbenchError(f"{str(sidecar)!r} is not the sidecar of a figure: {type(error).__name__}: {error}") from None
    return draw(**recipe["parameters"])


class Plot:
    """A plotly figure together with its static picture.

    Attributes
    ----------
    figure
        The `plotly.graph_objects.Figure`, of lines in a grid of panels.
    """

    def __init__(self, figure):
        self.figure = figure

    def png(self, dpi: int = 100) -> bytes:
        """The figure as PNG bytes."""
        return static_png(self.figure, dpi)

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"application/vnd.plotly.v1+json": self.figure.to_plotly_json(), "image/png": base64.b64encode(self.png()).decode()}


def curves(run: Run) -> Plot:
    """Losses, D's outputs, gammas and learning rates of a run over its steps."""
    from plotly import graph_objects
    from plotly.subplots import make_subplots

    history = run.history()
    figure = make_subplots(rows=2, cols=2, subplot_titles=[title for title, _ in CURVES], horizontal_spacing=0.09, vertical_spacing=0.16)
    for place, ((title, unit), columns) in enumerate(CURVES.items()):
        row, column = place // 2 + 1, place % 2 + 1
        if isinstance(columns, str):
            columns = {key: key.removeprefix(columns) for key in (history[-1] if history else {}) if key.startswith(columns)}
        for key, name in columns.items():
            rows = [r for r in history if key in r]
            line = graph_objects.Scatter(
                x=[r["step"] for r in rows],
                y=[r[key] for r in rows],
                name=name,
                mode="lines",
                legendgroup=title,
                legendgrouptitle_text=title,
            )
            figure.add_trace(line, row=row, col=column)
        figure.update_xaxes(title_text="G step", row=row, col=column)
        figure.update_yaxes(title_text=unit, row=row, col=column)
    figure.update_layout(title=run.name, height=560, width=980, template="plotly_white", margin=dict(l=60, r=20, t=70, b=50))
    return Plot(figure)


def scores(runs: Run | list[Run], names: str | list[str] = "", like: dict | None = None, across_protocols: bool = False) -> Plot:
    """Scores over steps, a panel for each, with published numbers where data set, size and protocol are theirs.

    Parameters
    ----------
    runs
        One run, or several to compare.
    names
        Scores to show, also as text with commas; by default all there are.
    like
        A record: leave out those that do not compare with it.
    across_protocols
        Show records of different protocols side by side, each curve with its own. Otherwise they are refused.

    Raises
    ------
    WorkbenchError
        If there is no such score, or records do not compare.
    """
    from plotly import graph_objects
    from plotly.subplots import make_subplots

    runs = runs if isinstance(runs, list) else [runs]
    found = [(run, record) for run in runs for record in run.evaluations() if "settings" in record]
    found = [(run, record) for run, record in found if not like or not differences(like, record)]
    known = list(dict.fromkeys(name for _, record in found for name in record["scores"]))
    wanted = [name.strip() for name in names.split(",")] if isinstance(names, str) and names else list(names) or known
    for name in wanted:
        if name not in known:
            raise WorkbenchError(f"there is no score {name!r} yet; {nearest(name, known)}there are: {', '.join(known) or 'none'}")
    columns = min(3, len(wanted)) or 1
    rows = -(-len(wanted) // columns) or 1
    figure = make_subplots(rows, columns, subplot_titles=wanted, horizontal_spacing=0.36 / columns, vertical_spacing=0.32 / rows)
    several = False
    for place, name in enumerate(wanted):
        at = dict(row=place // columns + 1, col=place % columns + 1)
        records = [(run, record) for run, record in found if name in record["scores"]]
        if not across_protocols:
            require_comparable([record for _, record in records])
        protocols = list(dict.fromkeys(record["protocol"] for _, record in records))
        several |= len(protocols) > 1
        for run in runs:
            for protocol in protocols:
                points = {r["step"]: r["scores"][name] for owner, r in records if owner is run and r["protocol"] == protocol}
                if points:
                    label = " · ".join([run.name] * (len(runs) > 1) + [brief(protocol)] * (len(protocols) > 1)) or run.name
                    steps = sorted(points)
                    hover = f"step %{{x}}: %{{y:.5g}}<br>{'<br>'.join(textwrap.wrap(protocol, 70))}<extra>{label}</extra>"
                    style = dict(mode="lines+markers", name=label, legendgroup=label, showlegend=place == 0, hovertemplate=hover)
                    figure.add_trace(graph_objects.Scatter(x=steps, y=[points[step] for step in steps], **style), **at)
        steps = sorted({record["step"] for _, record in records})
        for score, value, source in dict.fromkeys(line for _, record in records for line in published(record)):
            if score == name:
                line = dict(dash="dash", color="gray")
                figure.add_trace(graph_objects.Scatter(x=[steps[0], steps[-1]], y=[value] * 2, mode="lines", name=source, line=line), **at)
        figure.update_xaxes(title_text="G step", **at)
        figure.update_yaxes(title_text="<br>".join(textwrap.wrap(" | ".join(map(brief, protocols)), 30)), title_font_size=7, **at)
    title = ", ".join(run.name for run in runs) + (": different protocols, which do not compare" if several else "")
    figure.update_layout(title=title, height=100 + 240 * rows, width=980, template="plotly_white", margin=dict(l=60, r=20, t=70, b=50))
    return Plot(figure)


def score_table(records: list[dict]):
    """Scores as a table, a column per record; the tooltip of every number is its protocol."""
    from IPython.display import HTML

    names = list(dict.fromkeys(name for record in records for name in record["scores"]))
    tips = [html.escape(f"{record['protocol']}; {_against(record)}", quote=True) for record in records]
    what = [f"step {record['step']:,}" if "step" in record else record["samples"] for record in records]
    head = "".join(f'<th title="{tip}">{html.escape(text)}</th>' for text, tip in zip(what, tips, strict=True))
    lines = []
    for name in names:
        cells = []
        for record, tip in zip(records, tips, strict=True):
            text = f"{record['scores'][name]:.5g}" if name in record["scores"] else ""
            text += f" ± {record['errors'][name]:.2g}" if name in record["errors"] else ""
            cells.append(f'<td title="{tip}" style="text-align: right">{text}</td>')
        lines.append(f'<tr><th style="text-align: left">{html.escape(name)}</th>{"".join(cells)}</tr>')
    said = dict.fromkeys(f"{record['protocol']}; {_against(record)}" for record in records)
    notes = "".join(f"<li>{html.escape(line)}</li>" for line in said)
    return HTML(f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table><ul>{notes}</ul>")


def table(rows: list[dict], save: str | PathLike | None = None):
    """Rows of equal keys as a table, numbers to three digits; `save`: a CSV file that keeps all of them. None without rows."""
    from IPython.display import HTML

    if not rows:
        return None
    names = list(rows[0])
    if save:
        stream = io.StringIO()
        writer = csv.DictWriter(stream, names)
        writer.writeheader()
        writer.writerows(rows)
        Path(save).parent.mkdir(parents=True, exist_ok=True)
        replace_text(Path(save), stream.getvalue())

    def cell(value) -> str:
        text = f"{value:.3g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else html.escape(str(value))
        return f'<td style="text-align: {"left" if isinstance(value, str) else "right"}">{text}</td>'

    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "".join(f"<tr>{''.join(cell(row[name]) for name in names)}</tr>" for row in rows)
    return HTML(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")


def _against(record: dict) -> str:
    real = record["reference"]
    return f"{real['n']:,} real images of {real['data']} at {real['size']}x{real['size']}" if real else "no real images"


def strips(rows: list[tuple[str, torch.Tensor]], title: str, size: int = 64) -> Image.Image | None:
    """Rows of images (B, 3, S, S) in [-1, 1] with a label each, enlarged without blur to about `size` pixels; None without rows."""
    from matplotlib.figure import Figure

    if not rows:
        return None
    columns = max(len(images) for _, images in rows)
    picture = Figure(figsize=(2.6 + columns * size / 100, 0.5 + len(rows) * (size + 4) / 100), facecolor="white")
    panels = picture.subplots(len(rows), columns, squeeze=False, gridspec_kw=dict(wspace=0.05, hspace=0.05))
    for (label, images), line in zip(rows, panels, strict=True):
        for panel in line:
            panel.axis("off")
        for panel, image in zip(line, images, strict=False):
            panel.imshow(_pixels(image), interpolation="nearest")
        line[0].text(-0.1, 0.5, label, transform=line[0].transAxes, ha="right", va="center", fontsize=9)
    picture.suptitle(title, fontsize=10, x=0.01, ha="left", y=0.99)
    width, height = picture.get_size_inches()
    picture.subplots_adjust(left=2.4 / width, right=0.995, bottom=0.02, top=1 - 0.4 / height)
    return Image.open(io.BytesIO(_bytes(picture, 120)))


def static_png(figure, dpi: int = 100) -> bytes:
    """A plotly figure of line traces in panels, drawn by matplotlib: PNG bytes."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter

    layout = figure.layout
    width, height = layout.width or 900, layout.height or 500  # 100 of them to the inch
    picture = Figure(figsize=(width / 100, height / 100), dpi=dpi, facecolor="white")
    margins = dict(left=100, right=20, bottom=45, top=65)
    across, down = width - margins["left"] - margins["right"], height - margins["bottom"] - margins["top"]

    def place(x: float, y: float) -> tuple[float, float]:
        """A place among the panels, from 0 to 1, as a place in the whole picture."""
        return (margins["left"] + across * x) / width, (margins["bottom"] + down * y) / height

    axes = {}
    for trace in figure.data:
        x, y = trace.xaxis or "x", trace.yaxis or "y"
        if y not in axes:
            xaxis, yaxis = layout["xaxis" + x[1:]], layout["yaxis" + y[1:]]
            (left, right), (bottom, top) = xaxis.domain or (0, 1), yaxis.domain or (0, 1)
            (left, bottom), (right, top) = place(left, bottom), place(right, top)
            axes[y] = picture.add_axes([left, bottom, right - left, top - bottom])
            axes[y].set_xlabel(xaxis.title.text, labelpad=1)
            axes[y].set_ylabel((yaxis.title.text or "").replace("<br>", "\n"), fontsize=yaxis.title.font.size)
            axes[y].grid(alpha=0.3)
            axes[y].tick_params(labelsize=8)
            if yaxis.type == "log":
                axes[y].set_yscale("log")
                axes[y].yaxis.set_major_formatter(LogFormatter())
                axes[y].yaxis.set_minor_formatter(LogFormatter())
                axes[y].tick_params(which="minor", labelsize=6)
        label = trace.name if len(trace.x or ()) else None
        style = dict(linestyle="--") if trace.line.dash else dict(marker="o" if "markers" in trace.mode else None)
        style |= dict(color=trace.line.color, linewidth=trace.line.width or 1.2)
        if trace.showlegend is False and trace.legendgroup and trace.mode == "lines":
            label = None
        axes[y].plot(trace.x or (), trace.y or (), label=label, markersize=4, **style)
    for panel in axes.values():
        if panel.get_legend_handles_labels()[0]:
            panel.legend(fontsize=8)
    for note in layout.annotations:
        x, y = place(note.x, note.y)
        picture.text(x, y + 3 / height, note.text, ha="center", va="bottom", fontsize=10)
    if layout.title.text:
        picture.suptitle(layout.title.text, x=margins["left"] / width, ha="left", va="top", fontsize=12, y=1 - 8 / height)
    return _bytes(picture)


def samples(run: Run, step: int | None = None, width: int = 800) -> Image.Image:
    """The sample grid of a step (by default the newest), enlarged without blur to about `width` pixels."""
    steps = run.sample_steps()
    # RGBA, which JPEG cannot hold: Jupyter would keep a blurred JPEG beside the PNG.
    image = Image.open(run.sample_path(steps[-1] if step is None else step)).convert("RGBA")
    factor = max(1, round(width / image.width))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def real_images(data, config: Config, columns: int = 10) -> Image.Image:
    """What D will see: the first real images of the training after every transform, in a grid."""
    from .data import batch_indices, to_unit

    count = min(4 * columns, data.length or 4 * columns)
    x = to_unit(data.batch(batch_indices(data.length, config.seed, 0, count))[0])
    u = torch.rand(len(x), augment.NUMBERS, generator=sampling.generator_for(config.seed, 3))
    x = augment.apply(config.augment, x, u, real=True)
    return grid_image(x, columns)


def grid_image(x: torch.Tensor, columns: int = 10, width: int = 800) -> Image.Image:
    """Images (B, 3, S, S) in [-1, 1] in a grid, enlarged without blur to about `width` pixels."""
    grid = torchvision.utils.make_grid(x.clamp(-1, 1), nrow=columns, padding=2, normalize=True, value_range=(-1, 1))
    factor = max(1, round(width / grid.shape[2]))
    return Image.fromarray(
        (grid * 255).round().byte().permute(1, 2, 0).repeat_interleave(factor, 0).repeat_interleave(factor, 1).numpy()
    ).convert("RGBA")


def attention(what: Run | AttentionView) -> Drawing | None:
    """Where a network looks: images with one coloured dot per query, and the map of each dot (as in Figures 1 and 5 of the paper).

    Returns
    -------
    Drawing or None
        None when the network has no attention layer.
    """
    view = AttentionView() if isinstance(what, Run) else what
    subjects = [Subject(what)] if isinstance(what, Run) else view.subjects()
    looks = [(subject, subject.look(scene)) for subject in subjects for scene in view.scenes(subject)]
    return attention_maps(looks, [view.chosen_queries(look) for _, look in looks], view.reading) if looks else None


def attention_maps(looks: list[tuple[Subject, Look]], queries: list[list[int]], reading: str = "outgoing") -> Drawing:
    """Images with their queries, and a map for each; where the layer was changed, also the image after it and the difference.

    Parameters
    ----------
    looks
        What was seen, by whom.
    queries
        Row-major positions asked about, for each look.
    reading
        How maps are read, see `Look.heat`.
    """
    from matplotlib.figure import Figure

    changed = any(look.after is not None for _, look in looks)
    across = 1 + max(map(len, queries)) + 2 * changed
    upright = len(looks) > 2  # many images stand side by side, each above its maps
    columns, rows = (len(looks), across) if upright else (across, len(looks))
    picture = Figure(figsize=(1.5 * columns, 1.5 * rows + 0.42), facecolor="white")
    grid = picture.subplots(rows, columns, squeeze=False, gridspec_kw=dict(wspace=0.04, hspace=0.04))
    grid = grid.T if upright else grid
    for panel in grid.flat:
        panel.axis("off")
    for (_, look), places, panels in zip(looks, queries, grid, strict=True):
        _draw_look(look, places, reading, panels)
    picture.suptitle(_attention_title(looks, reading), fontsize=9, x=0.01, ha="left", y=1 - 0.04 / picture.get_figheight(), va="top")
    picture.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=1 - 0.4 / picture.get_figheight())
    return Drawing(picture, "attention_maps", _attention_recipe(looks, queries, reading))


def _draw_look(look: Look, queries: list[int], reading: str, panels) -> None:
    def show(panel, image):
        panel.imshow(image, interpolation="nearest", vmin=0, vmax=1, cmap="gray")

    side, size = look.projections.side, look.image.shape[-1]
    image = _pixels(look.image)
    show(panels[0], image)
    for query, colour, panel in zip(queries, QUERY_COLOURS, panels[1:], strict=False):
        heat = look.heat(reading, query).numpy()
        show(panel, image.mean(2) / 1.6)
        alpha = 0.45 + 0.5 * heat / max(heat.max(), 1e-12)  # what is not looked at stays visible below
        panel.imshow(heat, cmap="inferno", alpha=alpha, extent=(-0.5, size - 0.5, size - 0.5, -0.5), interpolation="nearest")
        row, column = ((at + 0.5) * size / side - 0.5 for at in divmod(query, side))
        for shown in (panels[0], panel):
            shown.plot(column, row, "o", color=colour, markersize=6, markeredgecolor="white", markeredgewidth=1)
    if look.after is not None:
        change = (look.after - look.image) / 2
        show(panels[-2], _pixels(look.after))
        show(panels[-1], (0.5 + 0.5 * change / change.abs().max().clamp(min=1e-6)).permute(1, 2, 0).numpy())


def _attention_title(looks: list[tuple[Subject, Look]], reading: str) -> str:
    (subject, look), others = looks[0], looks[1:]
    scene, layer = look.scene, look.projections
    names = dict.fromkeys(f"{one.label}, step {seen.scene.step:,}" for one, seen in looks if seen.scene.step is not None)
    kind = subject.config.attention_variant
    lines = [" against ".join(names), f"{scene.network}, {layer.side}x{layer.side} ({kind}), gamma {layer.gamma:+.3f}, {reading} attention"]
    if not others:
        lines[1] += f"; {look.about}"
    if any(seen.after is not None for _, seen in looks):
        lines[1] += "; last: with the layer changed, and the difference"
    return "\n".join(lines)


def _attention_recipe(looks: list[tuple[Subject, Look]], queries: list[list[int]], reading: str) -> dict:
    recipe = []
    for (subject, look), places in zip(looks, queries, strict=True):
        one = dict(run=subject.run.name, gamma0=subject.gamma0, about=look.about, scene=asdict(look.scene), queries=places)
        if look.scene.source == "dropped":
            one["image"] = subject.dropped_png(look.scene.sample)
        recipe.append(one)
    return dict(looks=recipe, reading=reading)


def _redraw_attention_maps(looks: list[dict], reading: str) -> Drawing:
    """The figure of a recipe; the runs must be in the outputs folder."""
    subjects: dict[tuple, Subject] = {}
    seen = []
    for one in looks:
        subject = subjects.setdefault((one["run"], one["gamma0"]), Subject(one["run"], gamma0=one["gamma0"]))
        scene = Scene.of(one["scene"])
        if "image" in one:
            scene = scene.changed(sample=subject.drop("image of the sidecar", base64.b64decode(one["image"])))
        seen.append((subject, subject.look(scene)))
    return attention_maps(seen, [one["queries"] for one in looks], reading)


def attention_through_training(what: Run | AttentionView, count: int = 8) -> Drawing | None:
    """The map of one query at steps of the training, from what it wrote down: an image and its map for each of `count` steps.

    Returns
    -------
    Drawing or None
        None when nothing was written down.
    """
    view = AttentionView() if isinstance(what, Run) else what
    subject = Subject(what) if isinstance(what, Run) else view.subjects()[0]
    layer, steps = view.chosen_layer(subject), subject.run.attention_steps()
    if not layer or not steps:
        return None
    chosen = [steps[round(k)] for k in torch.linspace(0, len(steps) - 1, min(count, len(steps))).tolist()]
    looks = [(subject, subject.look(Scene(layer["id"], step, source="recorded"))) for step in chosen]
    query = view.chosen_queries(looks[-1][1])[0]
    drawing = attention_maps(looks, [[query]] * len(looks), view.reading)
    for (_, look), panel in zip(looks, drawing.figure.axes, strict=False):
        panel.set_title(f"step {look.scene.step:,}", fontsize=7, pad=2)
    drawing.figure.suptitle(f"{subject.label}: {layer['id']} through training, one latent, one query", fontsize=9, x=0.01, ha="left")
    return drawing


def summary_png(run: Run) -> bytes:
    """The newest sample grid above the curves: the static picture of a run."""
    parts = [samples(run, width=980)] if run.sample_steps() else []
    parts.append(Image.open(io.BytesIO(curves(run).png())).convert("RGB"))
    width = max(part.width for part in parts)
    sheet = Image.new("RGB", (width, sum(part.height for part in parts)), "white")
    top = 0
    for part in parts:
        sheet.paste(part.convert("RGB"), ((width - part.width) // 2, top))
        top += part.height
    stream = io.BytesIO()
    sheet.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _pixels(image: torch.Tensor):
    """An image (3, S, S) in [-1, 1] as matplotlib takes it: (S, S, 3) in [0, 1]."""
    return ((image + 1) / 2).clamp(0, 1).permute(1, 2, 0).numpy()


def _bytes(picture, dpi: int | None = None) -> bytes:
    stream = io.BytesIO()
    picture.savefig(stream, format="png", dpi=dpi or picture.dpi)
    return stream.getvalue()


# -------------------------------------------------------------------------------------------------- diagnostics


def diagnostics(run: Run) -> Plot:
    """Why a training goes as it goes: gradient norms, D's margin and saturation, and the largest singular value of every layer.

    Margin: mean logit of D on real less that on fake images. Saturation: shares of images that D's hinge loss is flat at. The singular
    values are those of the weights; of the last panel those that the layers work with, after spectral normalization where there is any.
    """
    from plotly import graph_objects
    from plotly.subplots import make_subplots

    history, spectra = run.history(), run.spectra()
    panels = ("gradient norms", "margin of D", "saturation of D", "weights of G", "weights of D", "weights at work")
    units = ("norm", "logit", "share of images", *["largest singular value"] * 3)
    figure = make_subplots(rows=2, cols=3, subplot_titles=panels, horizontal_spacing=0.09, vertical_spacing=0.16)

    def add(panel: str, name: str, steps: list[int], values: list[float], **style) -> None:
        place = panels.index(panel)
        line = graph_objects.Scatter(x=steps, y=values, name=name, mode="lines", legendgroup=panel, legendgrouptitle_text=panel, **style)
        figure.add_trace(line, row=place // 3 + 1, col=place % 3 + 1)

    columns = {"gradient norms": ("grad_norm_d", "grad_norm_g"), "saturation of D": ("saturated_real", "saturated_fake")}
    for panel, keys in columns.items():
        for key, colour in zip(keys, _D_AND_G if "norm" in keys[0] else _REAL_AND_FAKE, strict=True):
            rows = [row for row in history if key in row]
            add(panel, _last_word(key), [row["step"] for row in rows], [row[key] for row in rows], line=dict(color=colour))
            if rows and f"{key}_max" in rows[-1]:
                add(
                    panel, f"{_last_word(key)}, max", [row["step"] for row in rows], [row[f"{key}_max"] for row in rows],
                    line=dict(color=colour, dash="dash", width=1),
                )  # fmt: skip
    steps = [row["step"] for row in history]
    add("margin of D", "real - fake", steps, [row["d_real"] - row["d_fake"] for row in history], line=dict(color=_D_AND_G[0]))
    for name in spectra[-1]["layers"] if spectra else ():
        rows = [row["layers"][name] for row in spectra]
        style = dict(
            line=dict(color=_D_AND_G[name[0] == "G"], width=1), showlegend=False, hovertemplate=f"{name}: %{{y:.4g}}<extra></extra>"
        )
        at = [row["step"] for row in spectra]
        add(f"weights of {name[0]}", name, at, [row["exact"][0] for row in rows], **style)
        add("weights at work", name, at, [effective(row) for row in rows], **style)
    for place, (panel, unit) in enumerate(zip(panels, units, strict=True)):
        at = dict(row=place // 3 + 1, col=place % 3 + 1)
        figure.update_xaxes(title_text="G step", **at)
        figure.update_yaxes(title_text=unit, type="log" if panel.startswith(("gradient", "weights")) else "linear", **at)
    figure.update_layout(title=run.name, height=560, width=1180, template="plotly_white", margin=dict(l=60, r=20, t=70, b=50))
    return Plot(figure)


def singular_values(run: Run, network: str = "G") -> Plot:
    """Singular values of the weight of every layer of a network through training, a panel for each layer.

    Solid: the largest two, exact. Dashed: the estimate that the layer divides its weight by, where it has spectral normalization.

    Parameters
    ----------
    network
        "G" or "D".

    Raises
    ------
    ParameterError, WorkbenchError
        For another network, or a run that wrote no spectra down.
    """
    from plotly import graph_objects
    from plotly.subplots import make_subplots

    if network not in ("G", "D"):
        raise ParameterError(f"network={network!r} is not one of G, D")
    spectra = run.spectra()
    if not spectra:
        raise WorkbenchError(f"run {run.name!r} has written down no singular values: it is older than they are, or has not begun")
    names = [name for name in spectra[-1]["layers"] if name[0] == network]
    columns, steps = 4, [row["step"] for row in spectra]
    lines = -(-len(names) // columns)
    figure = make_subplots(
        lines, columns, subplot_titles=[name[2:] for name in names], horizontal_spacing=0.05, vertical_spacing=min(0.4 / lines, 0.3)
    )
    for place, name in enumerate(names):
        at = dict(row=place // columns + 1, col=place % columns + 1)
        rows = [row["layers"][name] for row in spectra]
        curves = {
            "largest": ([row["exact"][0] for row in rows], dict(color="#1f77b4")),
            "second": ([(row["exact"] + [None])[1] for row in rows], dict(color="#9ecae1")),
            "estimate": ([row.get("estimate") for row in rows], dict(color="#d62728", dash="dash")),
        }
        for label, (values, line) in curves.items():
            if any(value is not None for value in values):
                style = dict(name=label, legendgroup=label, showlegend=place == 0, line=line, mode="lines")
                figure.add_trace(graph_objects.Scatter(x=steps, y=values, **style), **at)
    figure.update_annotations(font_size=11)
    title = f"{run.name}: singular values of the weights of {network}, through training (G steps)"
    figure.update_layout(title=title, height=100 + 170 * lines, width=1180, template="plotly_white", margin=dict(l=60, r=20, t=70, b=50))
    return Plot(figure)


def growth(runs: list[Run]) -> Plot:
    """The largest singular value of any layer of G and of D through training, of several runs: of the weights, and of those at work."""
    from plotly import graph_objects
    from plotly.subplots import make_subplots

    panels = {"sigma_g": "weights of G", "at_work_g": "G at work", "sigma_d": "weights of D", "at_work_d": "D at work"}
    figure = make_subplots(rows=2, cols=2, subplot_titles=list(panels.values()), horizontal_spacing=0.09, vertical_spacing=0.16)
    for place, key in enumerate(panels):
        at = dict(row=place // 2 + 1, col=place % 2 + 1)
        for number, run in enumerate(runs):
            found = [(row["step"], largest_of_all(row["layers"])) for row in run.spectra()]
            points = [(step, values[key]) for step, values in found if key in values]
            style = dict(name=run.name, legendgroup=run.name, showlegend=place == 0, line=dict(color=_TEN[number % 10]), mode="lines")
            figure.add_trace(graph_objects.Scatter(x=[step for step, _ in points], y=[value for _, value in points], **style), **at)
        figure.update_xaxes(title_text="G step", **at)
        figure.update_yaxes(title_text="largest singular value", type="log", **at)
    title = "Largest singular value of any layer; at work: after spectral normalization, where there is any"
    figure.update_layout(title=title, height=560, width=980, template="plotly_white", margin=dict(l=60, r=20, t=70, b=50))
    return Plot(figure)


_TEN = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf")
_D_AND_G, _REAL_AND_FAKE = ("#1f77b4", "#ff7f0e"), ("#2ca02c", "#9467bd")


def _last_word(key: str) -> str:
    return {"d": "D", "g": "G"}.get(word := key.rpartition("_")[2], word)
