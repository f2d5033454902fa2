"""Where a network looks: images with their queries, and a map for each."""

from __future__ import annotations

import base64
from dataclasses import asdict

import torch

from ..messages import say_once
from ..parameters import ParameterError, WorkbenchError
from ..runs import Run
from ..views.attention import MOST_QUERIES, AttentionView, Look, Scene, Subject
from .drawing import Drawing, Note
from .grids import pixels

QUERY_COLOURS = ("#ff3b30", "#34c759", "#0a84ff", "#ff9f0a", "#bf5af2", "#00b8c4", "#ff6fb5", "#a2845e")  # as in the inspector


def attention(what: Run | AttentionView) -> Drawing | Note | None:
    """Where a network looks: images with one coloured dot per query, and the map of each dot (as in Figures 1 and 5 of the paper).

    Returns
    -------
    Drawing, Note or None
        None when the network has no attention layer; a note where there is no checkpoint, or it cannot be read.

    Raises
    ------
    ParameterError
        If the view does not fit the run.
    """
    view = AttentionView() if isinstance(what, Run) else what
    try:
        subjects = [Subject(what)] if isinstance(what, Run) else view.subjects()
        looks = [(subject, subject.look(scene)) for subject in subjects for scene in view.scenes(subject)]
    except ParameterError:
        raise
    except WorkbenchError as error:
        return Note(error)
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
    from .pictures import Picture

    if any(len(places) > MOST_QUERIES for places in queries):
        raise ParameterError(f"queries are {max(map(len, queries))} places; a figure shows at most {MOST_QUERIES}")
    changed = any(look.after is not None for _, look in looks)
    across = 1 + max(map(len, queries)) + 2 * changed
    upright = len(looks) > 2  # many images stand side by side, each above its maps
    columns, rows = (len(looks), across) if upright else (across, len(looks))
    picture = Picture(figsize=(1.5 * columns, 1.5 * rows + 0.42), facecolor="white")
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
    image = pixels(look.image)
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
        show(panels[-2], pixels(look.after))
        show(panels[-1], (0.5 + 0.5 * change / change.abs().max().clamp(min=1e-6)).permute(1, 2, 0).numpy())


def _attention_title(looks: list[tuple[Subject, Look]], reading: str) -> str:
    (subject, look), others = looks[0], looks[1:]
    scene, layer = look.scene, look.projections
    names = dict.fromkeys(f"{one.label}, step {seen.scene.step:,}" for one, seen in looks if seen.scene.step is not None)
    kind = subject.config.attention_variant
    lines = [" against ".join(names), f"{scene.network}, {layer.side}x{layer.side} ({kind}), gamma {layer.gamma:+.3f}, {reading} attention"]
    if not others:
        lines[1] += f"; {_about(subject, look)}"
    if any(seen.after is not None for _, seen in looks):
        lines[1] += "; last: with the layer changed, and the difference"
    return "\n".join(lines)


def _about(subject: Subject, look: Look) -> str:
    """What was looked at, in words; the class by its number where no font has its name."""
    from .pictures import drawable

    name = "" if look.label is None else subject.class_name(look.label)
    if not name or drawable(name) or not look.about.startswith(name):
        return look.about
    return f"class {look.label}{look.about.removeprefix(name)}"


def _attention_recipe(looks: list[tuple[Subject, Look]], queries: list[list[int]], reading: str) -> dict:
    recipe = []
    for (subject, look), places in zip(looks, queries, strict=True):
        one = dict(run=subject.run.reference, gamma0=subject.gamma0, about=look.about, scene=asdict(look.scene), queries=places)
        if look.scene.source == "dropped":
            one["image"] = subject.dropped_png(look.scene.sample)
        recipe.append(one)
    return dict(looks=recipe, reading=reading)


def attention_maps_again(looks: list[dict], reading: str) -> Drawing:
    """The figure of a recipe of `attention_maps`."""
    subjects: dict[tuple, Subject] = {}
    seen = []
    for one in looks:
        subject = subjects.setdefault((one["run"], one["gamma0"]), Subject(one["run"], gamma0=one["gamma0"]))
        scene = Scene.of(one["scene"])
        if "image" in one:
            scene = scene.changed(sample=subject.drop("image of the sidecar", base64.b64decode(one["image"])))
        seen.append((subject, subject.look(scene)))
    return attention_maps(seen, [one["queries"] for one in looks], reading)


def attention_through_training(what: Run | AttentionView, count: int = 8) -> Drawing | Note | None:
    """The map of one query at steps of the training, from what it wrote down: an image and its map for each of `count` steps.

    Returns
    -------
    Drawing, Note or None
        None when nothing was written down; a note where nothing of it can be read. Single snapshots that cannot be are left out, and that
        is said.
    """
    view = AttentionView() if isinstance(what, Run) else what
    try:
        subject = Subject(what) if isinstance(what, Run) else view.subjects()[0]
        layer, steps = view.chosen_layer(subject), subject.run.attention_steps()
    except ParameterError:
        raise
    except WorkbenchError as error:
        return Note(error)
    if not layer or not steps:
        return None
    chosen, looks = [steps[round(k)] for k in torch.linspace(0, len(steps) - 1, min(count, len(steps))).tolist()], []
    for step in chosen:
        try:
            looks.append((subject, subject.look(Scene(layer["id"], step, source="recorded"))))
        except WorkbenchError as error:
            say_once(str(error))
            reason = error
    if not looks:
        return Note(reason)
    return _through_training(looks, layer["id"], view.chosen_queries(looks[-1][1])[0], view.reading)


def through_training_again(run: str, layer: str, steps: list[int], query: int, reading: str) -> Drawing:
    """The figure of a recipe of `attention_through_training`."""
    subject = Subject(run)
    return _through_training([(subject, subject.look(Scene(layer, step, source="recorded"))) for step in steps], layer, query, reading)


def _through_training(looks: list[tuple[Subject, Look]], layer: str, query: int, reading: str) -> Drawing:
    subject, steps = looks[0][0], [look.scene.step for _, look in looks]
    picture = attention_maps(looks, [[query]] * len(looks), reading).figure
    across = 1 if len(looks) <= 2 else len(looks)  # as `attention_maps` lays them out: the images are the first panels of their rows
    for k, (_, look) in enumerate(looks):
        picture.axes[k if across > 1 else 2 * k].set_title(f"step {look.scene.step:,}", fontsize=7, pad=2)
    picture.suptitle(f"{subject.label}: {layer} through training, one latent, one query", fontsize=9, x=0.01, ha="left")
    return Drawing(
        picture, "attention_through_training", dict(run=subject.run.reference, layer=layer, steps=steps, query=query, reading=reading)
    )
