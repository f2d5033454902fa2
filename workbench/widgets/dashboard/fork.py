"""A form that forks a run: a new run from one of its checkpoints, with other values."""

from __future__ import annotations

import html
from collections.abc import Callable

import ipywidgets

from ...config import Config
from ...messages import WorkbenchError
from ...readers import assignments
from ...training import launch


class Fork:
    """A button that opens the form.

    Parameters
    ----------
    dashboard : Dashboard
        Of the run to fork.
    started
        Is called with a fork that has started.
    """

    def __init__(self, dashboard, started: Callable) -> None:
        self._dashboard, self._started = dashboard, started
        self._offered: tuple = ()  # checkpoints, and the step of the samples
        self._step = ipywidgets.Dropdown(description="checkpoint", layout=dict(width="100%"))
        self._changes = ipywidgets.Text(placeholder="changed values: lr_d=4e-4; steps=3000", layout=dict(width="100%"))
        self._run = ipywidgets.Text(placeholder="name (made from the changes)", layout=dict(width="100%"))
        self._start = ipywidgets.Button(description="Fork", tooltip="Start a new run from this checkpoint, with these values")
        self._answer = ipywidgets.HTML()
        self._start.on_click(lambda _: self.start())
        form = ipywidgets.VBox([self._step, self._changes, self._run, self._start, self._answer])
        self.root = ipywidgets.Accordion([form], titles=["Fork from here"])

    def update(self, shown: int | None) -> None:
        """Offer the checkpoints of the run; that of the samples that are shown, or the last one before them, is chosen."""
        steps = self._dashboard.run.checkpoint_steps()
        if (steps, shown) == self._offered:
            return
        chosen = self._step.value
        if steps != list(self._step.options):
            self._step.options = steps
        if not self._offered or shown != self._offered[1]:
            chosen = max((step for step in steps if shown is None or step <= shown), default=None)
        self._step.value = chosen if chosen in steps else next(iter(steps), None)
        self._offered, self._start.disabled = (steps, shown), not steps

    def start(self) -> None:
        """Start the fork that the form describes, or say what is wrong with it."""
        try:
            changes = assignments("changes", self._changes.value) if self._changes.value.strip() else {}
            name = dict(run=self._run.value.strip()) if self._run.value.strip() else {}
            source = f"{self._dashboard.run.reference}@{self._step.value}"
            run = launch(Config.from_parameters(dict(resume=source) | changes | name))
        except WorkbenchError as error:
            self._answer.value = f"<span class='alarm' role='alert'>{html.escape(str(error))}</span>"
            return
        self._answer.value = f"{html.escape(run.name)} trains; its dashboard is below"
        self._started(run)
