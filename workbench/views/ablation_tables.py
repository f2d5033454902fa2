"""The tables of `ablation.ipynb`: scores beside the paper's, verdicts on its claims, and the studies of attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..config import Config
from ..figures import Table, measured
from ..metrics.reported import PAPER
from ..parameters import WorkbenchError
from ..studies.long_range import SMALLEST_HUE
from ..studies.paper import Experiment
from ..studies.patching import SMALLEST_SHIFT, PatchingStudy
from ..studies.scores import CheckpointScore
from ..studies.shape import SMALLEST_MASS, ShapeStudy
from ..studies.significance import ALPHA, RELEVANT, Verdict


def score_table(
    experiments: Mapping[str, Experiment],
    scores: Mapping[str, Sequence[CheckpointScore]],
    diverged: Mapping[str, Mapping[str, int]],
    base: Config,
) -> Table:
    """Scores by arm, mean ± standard deviation over the seeds, beside what the paper reports.

    Parameters
    ----------
    scores
        Experiment -> scores of its last checkpoints.
    diverged
        Experiment -> arm -> number of its runs that diverged.
    base
        The settings that all runs have in common.
    """
    rows = []
    for name, experiment in experiments.items():
        for arm in experiment.arms:
            of_arm = [score for score in scores[name] if score.group.label == arm and "splits" not in score.name]
            row: dict = dict(experiment=name) if len(experiments) > 1 else {}
            row |= {"arm": arm, "n": len({score.run for score in of_arm}), "diverged": diverged[name].get(arm, 0)}
            row |= {key.partition("@")[0]: value for key, value in measured(of_arm, row["n"]).items()}
            paper = experiment.reported.get(arm, {})
            rows.append(row | {f"paper {key.upper()}": paper[key] for key in ("fid", "is") if key in paper})
    protocols = dict.fromkeys(score.protocol for of_experiment in scores.values() for score in of_experiment)
    notes = [f"Mean ± standard deviation (n - 1) over n seeds, of the checkpoint at step {base.steps:,}; runs that diverged have no score"]
    notes += [f"{base.data} at {base.image_size}x{base.image_size}, protocol: {kind}" for kind in protocols] or ["No evaluation yet"]
    if any(experiment.reported for experiment in experiments.values()):
        notes.append(f"Paper: {PAPER}; another data set, size and protocol than here, so that only the order compares")
    columns = sorted(dict.fromkeys(name for row in rows for name in row), key=lambda name: name.startswith("paper"))  # those come last
    return Table([{name: row.get(name) for name in columns} for row in rows], tuple(notes))


def verdict_table(tests: Mapping[str, Sequence[dict]], score: str) -> Table:
    """Whether the runs support each claim of the paper.

    Parameters
    ----------
    tests
        Experiment -> the rows of `significance.lower` for its claims.
    score
        The tested score; "" before the first evaluation.
    """
    rows = [
        {
            "experiment": name, "claim": row["claim"], "verdict": row["verdict"],
            "improvement": None if row["improvement"] is None else f"{row['improvement']:+.0%}", "p": row["p"],
            f"p of {RELEVANT:.0%}": row["p_relevant"], "n": f"{row['n']} and {row['n_control']}",
        }
        for name, of_experiment in tests.items() for row in of_experiment
    ]  # fmt: skip
    notes = (
        f"Supported: a one-sided rank-sum test over the seeds finds {score or 'the score'} lower (p < {ALPHA:g}, adjusted by Holm over the "
        "claims of an experiment)",
        f"Not supported: the same test rules out that it is lower by {RELEVANT:.0%} of the control's median (p of {RELEVANT:.0%} < {ALPHA:g}, "
        "adjusted alike)",
        "Otherwise: cannot tell at this size. Runs that diverged count as the worst",
        "Improvement: Hodges-Lehmann estimate, as a share of the control's median",
    )
    return Table(rows, notes)


def shape_table(studies: Sequence[tuple[str, str, ShapeStudy | WorkbenchError, PatchingStudy | WorkbenchError]]) -> Table:
    """Does attention follow the shape of objects? A row for each layer.

    Parameters
    ----------
    studies
        For each layer: name of the run, layer, and its studies, or their errors.
    """
    rows = []
    for run, layer, shape, patching in studies:
        row: dict = dict(run=run, layer=layer)
        if isinstance(shape, WorkbenchError):
            row |= {"follows shape": str(shape)}
        else:
            row |= {"n": len(shape.learned.twin), "on the twin": float(np.mean(shape.learned.twin))}
            row |= {f"more than {test['null']}": test["effect"] for test in shape.verdict.rows}
            row |= {"follows shape": shape.verdict.verdict, "goes beyond places": shape.locality.verdict}
        if isinstance(patching, WorkbenchError):
            row |= {"colour travels": str(patching)}
        else:
            row |= {"hue shift": float(np.mean(patching.right["glyph"], 0)[-1]), "colour travels": patching.verdict.verdict}
        rows.append(row)
    notes = (
        "On the twin: share of the attention of positions on a glyph that falls on the other one; more than: how much more than under each "
        f"null, tested against {SMALLEST_MASS:g} by paired one-sided sign flips over n images, adjusted by Holm over the nulls",
        "Goes beyond places: the same without the null of colour, since on twins similar colour alone finds the other glyph",
        "Hue shift: how far the right glyph's hue follows when the values under the left one are patched from another sample, as a fraction "
        f"of the way; tested against {SMALLEST_SHIFT:g} and both controls",
    )
    return Table(rows, notes if rows else ("No finished run of the preset itself on twins: give study, such as demo",))


def long_range_table(power: Verdict | None, correlations: Sequence[dict], left_out: Sequence[WorkbenchError]) -> Table:
    """Do distant positions agree more where attention reaches further?

    Parameters
    ----------
    power
        From `long_range.power_check`; None with fewer than two runs without attention.
    correlations
        From `long_range.rank_correlations`; empty without runs.
    left_out
        The errors of runs that cannot be measured.
    """

    def row(question: str, of: str, test: Mapping, estimate: str, p: str, verdict: str | None) -> dict:
        numbers = dict(n=test["n"], estimate=test[estimate], low=test.get("low"), high=test.get("high"), p=test.get(p))
        return dict(question=question, of=of, **numbers, verdict=verdict)

    rows = [row("networks without attention fail: hue", "runs", power.rows[0], "effect", "p_larger", power.verdict)] if power else []
    for test in correlations:
        question = f"rank correlation of {test['x']} and {test['y'].partition('@')[0]}"
        rows.append(row(question, test["of"], test, "rho", "p", None))
    notes: tuple[str, ...] = (
        "Networks without attention fail: how much further apart the hues of both glyphs are than in real twins, median of a run, in turns of "
        f"the hue circle (independent hues: 0.25); sign flips over runs, tested against {SMALLEST_HUE:g}. Where they do not, "
        "attention has nothing to improve at this size: take image_size=64, pairs=2, or fewer steps",
        "Distance: how far attention reaches, in pixels, mean over queries and layers of G. Intervals: 95 % bootstrap; p: permutations, two-sided, "
        "not adjusted. Runs of one arm are not independent evidence of differences between arms: the means by arm are",
    )
    notes = notes if correlations else ("No finished run on twins",)
    return Table(rows, (*notes, f"Left out: {len(left_out)} runs, the first because {left_out[0]}") if left_out else notes)


def correlation_text(test: Mapping) -> str:
    """A row of `long_range.rank_correlations` in words."""
    if test["rho"] is None:
        return f"{test['n']} runs: too few for a correlation"
    return f"rank correlation {test['rho']:+.2f} [{test['low']:+.2f}, {test['high']:+.2f}], p={test['p']:.2g}, {test['n']} runs"
