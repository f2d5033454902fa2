"""Figures of attention: where a run looks, and how that came about in training."""

from __future__ import annotations

import torch

from ..figures import Drawing, Note, attention_maps
from ..parameters import ParameterError, WorkbenchError, say_once
from ..runs import Run
from .attention import AttentionView, Scene, Subject


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
    query = view.chosen_queries(looks[-1][1])[0]
    title = f"{subject.label}: {layer['id']} through training, one latent, one query"
    titles = [f"step {look.scene.step:,}" for _, look in looks]
    return attention_maps(looks, [[query]] * len(looks), view.reading, title, titles)
