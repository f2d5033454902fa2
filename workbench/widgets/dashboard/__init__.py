"""The live view of a run: progress, curves, samples, and buttons to stop and to fork it.

Training writes the run folder and the dashboard reads it; neither needs the other. After a closed tab or a restarted kernel,
`await Dashboard("name").follow()` shows the same run again. `follow` reads the folder; `view` shows it in a notebook, with `samples`,
`charts` and `fork`.
"""

from .follow import Dashboard

__all__ = ["Dashboard"]
