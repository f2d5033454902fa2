"""Figures and tables of plain data: functions that return objects which Jupyter can show.

A `Chart` or a `Sheet` (`charts`) describes a figure as data that JSON can hold. `histories`, `evaluations`, `studies` and `images` make it;
`interactive` (plotly) and `print` (matplotlib) draw it. It is also the sidecar of a saved figure, from which `redraw` works without runs.
"""

from .charts import Chart, Composition, Sheet
from .evaluations import Arm, ScorePoint, against, experiments, scores, scores_of_run
from .figure import Drawing, Note, Plot, compose, listing, redraw, write
from .histories import RunRecords, curves, curves_by_group, diagnostics, growth, singular_values
from .images import QUERY_COLOURS, attention_maps, enlarged, strips
from .overview import Glance, overview
from .studies import long_range, patching_study, shape_study
from .tables import Measured, Table, measured, score_table, table

__all__ = [
    "QUERY_COLOURS", "Arm", "Chart", "Composition", "Drawing", "Glance", "Measured", "Note", "Plot", "RunRecords", "ScorePoint", "Sheet", "Table", "against", "attention_maps",
    "compose", "curves", "curves_by_group", "diagnostics", "enlarged", "experiments", "growth", "listing", "long_range", "measured", "overview", "patching_study", "redraw",
    "score_table", "scores", "scores_of_run", "shape_study", "singular_values", "strips", "table", "write",
]  # fmt: skip
