"""Figures: functions that return something Jupyter can show, and never show it themselves.

Interactive plots are plotly figures that carry a static PNG, drawn by matplotlib, so that an executed notebook shows a picture where
no JavaScript runs (an untrusted notebook, a page of a git host). plotly's own PNG export would need a Chrome on the user's machine.
"""

from __future__ import annotations

import io
from base64 import b64encode

import torch
import torchvision
from PIL import Image

from . import attention as attention_maps
from . import augment, sampling
from .config import Config
from .runs import Run

CURVES = {  # title of a panel, unit of its y axis -> column of the history: name in the legend
    ("hinge losses", "loss"): {"loss_d": "D", "loss_g": "G"},
    ("D's output", "logit"): {"d_real": "real", "d_fake": "fake"},
    ("gamma of the attention layers", "gamma"): "gamma_",
    ("learning rates", "rate"): {"lr_d": "D", "lr_g": "G"},
}
QUERY_COLOURS = ("#ff3b30", "#34c759", "#0a84ff")


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
        return {"application/vnd.plotly.v1+json": self.figure.to_plotly_json(), "image/png": b64encode(self.png()).decode()}


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


def static_png(figure, dpi: int = 100) -> bytes:
    """A plotly figure of line traces in panels, drawn by matplotlib: PNG bytes."""
    from matplotlib.figure import Figure

    layout = figure.layout
    picture = Figure(figsize=((layout.width or 900) / 100, (layout.height or 500) / 100), dpi=dpi, facecolor="white")
    axes = {}
    for trace in figure.data:
        x, y = trace.xaxis or "x", trace.yaxis or "y"
        if y not in axes:
            xaxis, yaxis = layout["xaxis" + x[1:]], layout["yaxis" + y[1:]]
            (left, right), (bottom, top) = xaxis.domain or (0, 1), yaxis.domain or (0, 1)
            box = [0.08 + 0.9 * left, 0.09 + 0.79 * bottom, 0.9 * (right - left), 0.79 * (top - bottom)]
            axes[y] = picture.add_axes(box, xlabel=xaxis.title.text, ylabel=yaxis.title.text)
            axes[y].grid(alpha=0.3)
        label = trace.name if len(trace.x or ()) else None
        axes[y].plot(trace.x or (), trace.y or (), label=label, linewidth=1.2)
    for panel in axes.values():
        if panel.get_legend_handles_labels()[0]:
            panel.legend(fontsize=8)
    for note in layout.annotations:
        picture.text(0.08 + 0.9 * note.x, 0.095 + 0.79 * note.y, note.text, ha="center", va="bottom", fontsize=11)
    if layout.title.text:
        picture.suptitle(layout.title.text, x=0.08, ha="left", fontsize=12, y=0.985)
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


def attention(run: Run, step: int | None = None, count: int = 6) -> Image.Image | None:
    """Where the generator looks: images with one coloured dot per query, and the map of each dot (as in Figure 1 of the paper).

    The queries are the places that stand out most in the left and in the right half of an image, and the one that stands out least.

    Returns
    -------
    Image or None
        None when G has no attention layer. Of several layers the one on the largest feature map is shown.
    """
    from matplotlib.figure import Figure

    config = run.config
    if not config.sites_g or config.attention_block != "attention":
        return None
    generator = run.generator(step, weights="ema" if config.ema_decay else "raw")
    z, y = sampling.grid(config.num_classes, config.z_dim, config.seed, columns=1 if config.num_classes else count, rows=count)
    z, y = z[:count], None if y is None else y[:count]
    if y is not None:
        z = sampling.latents(len(y), config.z_dim, config.seed)  # another latent for every class
    path = f"attention.{max(config.sites_g)}"
    with attention_maps.capture(generator) as maps:
        x = sampling.images(generator, z, y)
    side, size = max(config.sites_g), config.image_size
    picture = Figure(figsize=(1.5 * len(x), 1.5 * (1 + len(QUERY_COLOURS)) + 0.3), facecolor="white")
    panels = picture.subplots(1 + len(QUERY_COLOURS), len(x), squeeze=False, gridspec_kw=dict(wspace=0.04, hspace=0.04))
    for k in range(len(x)):
        image = ((x[k] + 1) / 2).clamp(0, 1).permute(1, 2, 0).numpy()
        panels[0, k].imshow(image, interpolation="nearest")
        for q, (query, colour) in enumerate(zip(_queries(x[k], side), QUERY_COLOURS, strict=True), start=1):
            beta = maps[path][k, query]
            heat = beta.view(int(len(beta) ** 0.5), -1).numpy()
            panels[q, k].imshow(image.mean(2), cmap="gray", vmin=0, vmax=1.6, interpolation="nearest")
            panels[q, k].imshow(heat, cmap="inferno", alpha=0.75, extent=(-0.5, size - 0.5, size - 0.5, -0.5), interpolation="nearest")
            row, column = ((at + 0.5) * size / side - 0.5 for at in divmod(query, side))
            for panel in (panels[0, k], panels[q, k]):
                panel.plot(column, row, "o", color=colour, markersize=6, markeredgecolor="white", markeredgewidth=1)
    for panel in panels.flat:
        panel.set(xticks=[], yticks=[])
    step = step or run.checkpoint_steps()[-1]
    gamma = generator.attention[str(side)].gamma.item()
    picture.suptitle(
        f"{run.name}, step {step}: attention of G at {side}x{side} ({config.attention_variant}), gamma {gamma:+.3f}", fontsize=10, y=0.995
    )
    picture.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.94)
    return Image.open(io.BytesIO(_bytes(picture, 110)))


def _queries(image: torch.Tensor, side: int) -> tuple[int, int, int]:
    """Positions, in row-major order on a side x side map, worth asking about in an image (3, S, S): what stands out most from its median
    colour on the left, the same on the right, and what stands out least."""
    median = image.flatten(1).median(1).values
    salience = torch.nn.functional.adaptive_avg_pool2d((image - median[:, None, None]).abs().sum(0, keepdim=True), side)[0]
    right = torch.arange(side) >= side // 2
    return tuple(int(v.argmax()) for v in (salience.masked_fill(right, -1), salience.masked_fill(~right, -1), -salience))


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


def _bytes(picture, dpi: int | None = None) -> bytes:
    stream = io.BytesIO()
    picture.savefig(stream, format="png", dpi=dpi or picture.dpi)
    return stream.getvalue()
