"""Where a network looks: images with their queries, and a map for each."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ..attention import Inspection
from ..parameters import ParameterError
from .drawing import Drawing

# A query has the same colour in the inspector (stage.js).
QUERY_COLOURS = ("#ff3b30", "#34c759", "#0a84ff", "#ff9f0a", "#bf5af2", "#00b8c4", "#ff6fb5", "#a2845e")


def attention_maps(inspections: Sequence[Inspection], reading: str = "outgoing", title: str = "", captions: Sequence[str] = ()) -> Drawing:
    """Images with their queries, and a map for each; where the layer was changed, also the image after it and the difference.

    Parameters
    ----------
    inspections
        Images with the attention of a layer, and the queries to show.
    reading
        How maps are read, see `Inspection.heat`.
    title
        In place of one that names networks, layer and reading.
    captions
        Of the images, one each.

    Raises
    ------
    ParameterError
        For more queries than there are colours.
    """
    most = max(len(inspection.queries) for inspection in inspections)
    if most > len(QUERY_COLOURS):
        raise ParameterError(f"queries are {most} places; a figure shows at most {len(QUERY_COLOURS)}")
    rows = [_row(inspection, reading) for inspection in inspections]
    return _drawing(rows, title or _title(inspections, reading), list(captions))


def attention_maps_again(rows: list[dict], title: str, captions: list[str]) -> Drawing:
    """The figure of a recipe of `attention_maps`."""
    arrays = ("image", "maps", "after", "difference")
    return _drawing([row | {name: _decoded(row[name]) for name in arrays if name in row} for row in rows], title, captions)


def _row(inspection: Inspection, reading: str) -> dict:
    """What is drawn of an inspection: image (S, S, 3) uint8, queries, and their maps (Q, side, side); perhaps image after and difference."""
    side = inspection.projections.side
    maps = [inspection.heat(reading, query).numpy() for query in inspection.queries]
    row = dict(image=_rgb(inspection.image), queries=list(inspection.queries), maps=np.stack(maps) if maps else np.zeros((0, side, side)))
    if inspection.after is None:
        return row
    change = inspection.after - inspection.image
    return row | dict(after=_rgb(inspection.after), difference=_rgb(change / change.abs().max().clamp(min=1e-6)))


def _rgb(image: Tensor) -> np.ndarray:
    """(3, S, S) in [-1, 1] as (S, S, 3) uint8."""
    return ((image.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()


def _drawing(rows: list[dict], title: str, captions: list[str]) -> Drawing:
    from .pictures import Picture

    across = max(1 + len(row["queries"]) + 2 * ("after" in row) for row in rows)
    upright = len(rows) > 2  # many images stand side by side, each above its maps
    columns, lines = (len(rows), across) if upright else (across, len(rows))
    picture = Picture(figsize=(1.5 * columns, 1.5 * lines + 0.42), facecolor="white")
    grid = picture.subplots(lines, columns, squeeze=False, gridspec_kw=dict(wspace=0.04, hspace=0.04))
    grid = grid.T if upright else grid
    for panel in grid.flat:
        panel.axis("off")
    for row, panels in zip(rows, grid, strict=True):
        _draw_row(row, panels)
    for caption, panels in zip(captions, grid, strict=False):
        panels[0].set_title(caption, fontsize=7, pad=2)
    picture.suptitle(title, fontsize=9, x=0.01, ha="left", y=1 - 0.04 / picture.get_figheight(), va="top")
    picture.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=1 - 0.4 / picture.get_figheight())
    recipe = [{name: _encoded(value) if isinstance(value, np.ndarray) else value for name, value in row.items()} for row in rows]
    return Drawing(picture, "attention_maps", dict(rows=recipe, title=title, captions=captions))


def _draw_row(row: dict, panels) -> None:
    def show(panel, image):
        panel.imshow(image, interpolation="nearest", vmin=0, vmax=1, cmap="gray")

    image = row["image"] / 255
    size, side = len(image), row["maps"].shape[-1]
    show(panels[0], image)
    for query, heat, colour, panel in zip(row["queries"], row["maps"], QUERY_COLOURS, panels[1:], strict=False):
        show(panel, image.mean(2) / 1.6)
        alpha = 0.45 + 0.5 * heat / max(heat.max(), 1e-12)  # what is not looked at stays visible below
        panel.imshow(heat, cmap="inferno", alpha=alpha, extent=(-0.5, size - 0.5, size - 0.5, -0.5), interpolation="nearest")
        y, x = ((at + 0.5) * size / side - 0.5 for at in divmod(query, side))
        for marked in (panels[0], panel):
            marked.plot(x, y, "o", color=colour, markersize=6, markeredgecolor="white", markeredgewidth=1)
    if "after" in row:
        show(panels[-2], row["after"])
        show(panels[-1], row["difference"])


def _title(inspections: Sequence[Inspection], reading: str) -> str:
    first, layer = inspections[0], inspections[0].projections
    variant = "paper" if layer.key_side == layer.side else "official"  # which pools its keys
    network = first.layer.partition("/")[0]
    words = [f"{network}, {layer.side}x{layer.side} ({variant}), gamma {layer.gamma:+.3f}, {reading} attention"]
    if len(inspections) == 1:
        words.append(_about(first))
    if any(inspection.after is not None for inspection in inspections):
        words.append("last: with the layer changed, and the difference")
    return " against ".join(dict.fromkeys(inspection.network for inspection in inspections)) + "\n" + "; ".join(words)


def _about(inspection: Inspection) -> str:
    """Which image it is, in words; the class by its number where no font has its name."""
    from .pictures import drawable

    name = inspection.class_name
    if not name or drawable(name) or not inspection.about.startswith(name):
        return inspection.about
    return f"class {inspection.label}{inspection.about.removeprefix(name)}"


def _encoded(array: np.ndarray) -> dict:
    return dict(dtype=str(array.dtype), shape=list(array.shape), base64=base64.b64encode(np.ascontiguousarray(array)).decode())


def _decoded(array: dict) -> np.ndarray:
    return np.frombuffer(base64.b64decode(array["base64"]), np.dtype(array["dtype"])).reshape(array["shape"])
