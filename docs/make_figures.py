"""Draw `experiments.png` from the numbers of `results/two-cores.json`, and `transplant.png` from the shipped run:

python docs/make_figures.py
"""

import json
from dataclasses import replace
from pathlib import Path

from workbench import Run, figures
from workbench.figures.figure import Plot
from workbench.studies.patching import study

DOCS = Path(__file__).parent
SCORE = "fd_twins@ccefd6a8"
SHARED = {"equal rates, 1:1": "SN on G and D", "SAGAN": "feat16"}  # arms of the same runs

results = json.loads((DOCS / "results" / "two-cores.json").read_text())
runs: dict[str, list[dict]] = {}
for row in results["long_range"]:
    runs.setdefault(row["arm"], []).append(row)


def arm(name: str) -> figures.Arm:
    """The last scores of the runs of an arm."""
    rows = runs[SHARED.get(name, name)]
    points = [figures.ScorePoint(name, row["run"], row["step"], row[SCORE], row["protocol"], row["step"]) for row in rows]
    return figures.Arm(name, [row["run"] for row in rows], points, [{} for _ in rows], rows[0]["step"])


names = ("attention_site", "spectral_norm", "ttur", "baseline")
arms = {name: [arm(row["arm"]) for row in results["tables"][name]["rows"] if "fd_twins" in row] for name in names}
chart = figures.experiments(arms, SCORE).description
last = replace(chart, panels=chart.panels[::3], columns=2, widths=())  # the scores at the end; the file has no others
(DOCS / "experiments.png").write_bytes(Plot(last).png())
(DOCS / "transplant.png").write_bytes(figures.patching_study(study(Run("demo"), "G/attention.16")).png())
