"""Figures and tables of plain data: functions that return something Jupyter can show, and never show it themselves.

A figure is described by a `Chart` or a `Sheet` (`charts`): data that JSON holds. `histories`, `evaluations`, `studies` and `images` make
them, `interactive` (plotly) and `print` (matplotlib) draw them. They are also the sidecars of saved figures: `redraw` needs no run.
"""

from .charts import Chart, Sheet
from .evaluations import Arm, ScorePoint, against, experiments, scores, scores_of_run
from .figure import Drawing, Note, Plot, listing, redraw, write
from .histories import RunRecords, curves, curves_by_group, diagnostics, growth, singular_values
from .images import QUERY_COLOURS, attention_maps, enlarged, strips
from .studies import long_range, patching_study, shape_study
from .tables import Measured, Table, measured, score_table, table

__all__ = [
    "QUERY_COLOURS", "Arm", "Chart", "Drawing", "Measured", "Note", "Plot", "RunRecords", "ScorePoint", "Sheet", "Table", "against", "attention_maps",
    "curves", "curves_by_group", "diagnostics", "enlarged", "experiments", "growth", "listing", "long_range", "measured", "patching_study", "redraw",
    "score_table", "scores", "scores_of_run", "shape_study", "singular_values", "strips", "table", "write",
]  # fmt: skip
