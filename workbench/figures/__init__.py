"""Figures and tables of plain data: functions that return something Jupyter can show, and never show it themselves.

What a figure shows is described in `charts`, as data that JSON holds. `histories`, `evaluations`, `studies` and `images` make figures of
such descriptions, which `interactive` (plotly) and `print` (matplotlib) draw, and which are their sidecars: `redraw` needs no run.
"""

from .charts import Chart, Sheet
from .evaluations import Arm, ScorePoint, against, experiments, scores, scores_of_run
from .figure import Drawing, Note, Plot, listing, redraw, write
from .histories import RunRecords, curves, curves_by_group, diagnostics, growth, singular_values
from .images import QUERY_COLOURS, attention_maps, enlarged, strips
from .studies import correspondence, long_range, transplant
from .tables import Measured, Table, measured, score_table, table

__all__ = [
    "QUERY_COLOURS", "Arm", "Chart", "Drawing", "Measured", "Note", "Plot", "RunRecords", "ScorePoint", "Sheet", "Table", "against", "attention_maps",
    "correspondence", "curves", "curves_by_group", "diagnostics", "enlarged", "experiments", "growth", "listing", "long_range", "measured", "redraw",
    "score_table", "scores", "scores_of_run", "singular_values", "strips", "table", "transplant", "write",
]  # fmt: skip
