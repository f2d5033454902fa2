"""The tables of `ablation.ipynb`: scores beside the paper's, verdicts on its claims, and the studies of attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np

from ..config import Config
from ..figures import Measured, Table, measured
from ..messages import WorkbenchError, counted
from ..metrics.reported import PAPER
from ..metrics.scores import higher_is_better
from ..studies.long_range import SMALLEST_HUE
from ..studies.paper import LAST_OVER_BEST, Experiment
from ..studies.patching import SMALLEST_SHIFT, PatchingStudy
from ..studies.scores import CheckpointScore
from ..studies.shape import SMALLEST_MASS, ShapeStudy
from ..studies.significance import ALPHA, RELEVANT, Verdict

POWER = "power"  # a column


@dataclass(frozen=True)
class ArmResult:
    """What the runs of an arm came to.

    Attributes
    ----------
    steps
        Their last step.
    scores
        All scores at that step.
    diverged, collapsed
        Numbers of runs that diverged, or raised the alarm of a collapse.
    last_over_best
        See `studies.scores.last_over_best`, for each run that did not diverge.
    """

    steps: int
    scores: Sequence[CheckpointScore]
    diverged: int
    collapsed: int
    last_over_best: Sequence[float]


def score_table(
    experiments: Mapping[str, Experiment], results: Mapping[str, Mapping[str, ArmResult]], base: Config, deciding: str = ""
) -> Table:
    """Scores by arm, mean ± standard deviation over the seeds, beside what the paper reports.

    Parameters
    ----------
    results
        Experiment -> arm -> its results.
    base
        The settings that all runs have in common.
    deciding
        The score of `ArmResult.last_over_best`.
    """
    rows = []
    lengths = {result.steps for of_experiment in results.values() for result in of_experiment.values()}
    for name, experiment in experiments.items():
        for arm in experiment.arms:
            result = results[name][arm]
            of_arm = [score for score in result.scores if "splits" not in score.name]
            row: dict = dict(experiment=name) if len(experiments) > 1 else {}
            row |= {"arm": arm} | ({"G steps": result.steps} if len(lengths) > 1 else {})
            row |= {"n": len({score.run for score in of_arm}), "diverged": result.diverged, "collapsed": result.collapsed}
            row |= {key.partition("@")[0]: value for key, value in measured(of_arm, row["n"]).items()}
            ratios = result.last_over_best
            row |= {LAST_OVER_BEST: Measured.of(ratios, deciding, len(ratios) != row["n"])} if ratios else {}
            paper = experiment.reported.get(arm, {})
            rows.append(row | {f"paper {key.upper()}": paper[key] for key in ("fid", "is") if key in paper})
    all_scores = [score for of_experiment in results.values() for result in of_experiment.values() for score in result.scores]
    protocols = dict.fromkeys(score.protocol for score in all_scores)
    last = f"step {lengths.pop():,}" if len(lengths) == 1 else "the last step"
    notes = [f"Mean ± standard deviation (n - 1) over n seeds, of the checkpoint at {last}; runs that diverged have no score"]
    if deciding:
        ratio = "best of the run over that at the end" if higher_is_better(deciding) else "at the end over the best of the run"
        notes.append(f"Last / best: {deciding.partition('@')[0]} {ratio} (1: it stays good); collapsed: runs that raised this alarm")
    notes += [f"{base.data} at {base.image_size}x{base.image_size}, protocol: {kind}" for kind in protocols] or ["No evaluation yet"]
    if any(experiment.reported for experiment in experiments.values()):
        notes.append(f"Paper: {PAPER}; another data set, size and protocol than here, so that only the order compares")
    columns = sorted(dict.fromkeys(name for row in rows for name in row), key=lambda name: name.startswith("paper"))  # those come last
    return Table([{name: row.get(name) for name in columns} for row in rows], tuple(notes))


def odds_cells(odds: Mapping) -> dict:
    """The result of `studies.claims.odds` as cells: smallest p, spread, and the power, such as "20%: 6%, 30%: 13%"."""
    powers = ", ".join(f"{improvement}: {value:.0%}" for improvement, value in odds["power"].items())
    return {"smallest p": odds["smallest_p"], "spread": odds["spread"], POWER: powers or None}


def odds_notes(rows: Sequence[Mapping], kinds: Set[bool]) -> list[str]:
    """What the columns of `odds_cells` mean, if any row has them; `kinds` as of `verdict_table`."""
    if not any(row.get("smallest p") for row in rows):
        return []
    ranks = "log-normal with this spread, the standard deviation of the logarithm over seeds" if False in kinds else ""
    flips = "with a control: normal, and the spread is the standard deviation of the differences" if True in kinds else ""
    return [
        f"Smallest p: where the seeds are as clear as they can be, adjusted by Holm; a verdict needs less than {ALPHA:g}",
        "Power: improvement of an arm, and the probability that its claim is then supported, if it alone is true; simulated for the score at the "
        f"end, {'; '.join(filter(None, (ranks, flips)))}: of the runs that exist, else of the committed results",
    ]


def verdict_table(tests: Mapping[str, Sequence[dict]], score: str, kinds: Set[bool], impossible: Sequence[str] = ()) -> Table:
    """Whether the runs support each claim.

    Parameters
    ----------
    tests
        Experiment -> the rows of `studies.claims.verdicts`, with the cells of `odds_cells`.
    score
        The tested score; "" before the first evaluation.
    kinds
        Whether claims have a control: of each experiment.
    impossible
        Why verdicts cannot come out.
    """
    rows = [
        {
            "experiment": name, "claim": row["claim"], "verdict": row["verdict"], "improvement": row["improvement"], "p": row["p"],
            "p relevant": row["p_relevant"], "n": row["n"], "of": row["measure"], **{name: row[name] for name in ("smallest p", "spread", POWER)},
        }
        for name, of_experiment in tests.items() for row in of_experiment
    ]  # fmt: skip
    better = "higher" if higher_is_better(score) else "lower"
    of_ranks = (
        f"Supported: a one-sided rank-sum test over the seeds finds {score or 'the score'} {better} (p < {ALPHA:g}, adjusted by Holm over the "
        "claims of an experiment)",
        f"Not supported: the same test rules out that it is {better} by {RELEVANT:.0%} of the control's median (p relevant < {ALPHA:g}, "
        "adjusted alike)",
        "Otherwise: cannot tell at this size. Runs that diverged count as the worst",
        "Improvement: Hodges-Lehmann estimate, as a share of the control's median",
    )  # fmt: skip
    of_differences = (
        f"A claim with a control is supported if one arm improves {score or 'the score'} over the other by more than the control's arms do: a "
        f"one-sided test of sign flips over the seeds (p < {ALPHA:g}); not supported if the same test rules out the smallest difference of interest (p relevant)",
        "There is no verdict where no arm of the control learns: what is not learned where it is easy says nothing about where it is hard",
        "Its improvement is the mean of the differences of both improvements, with a 95 % bootstrap interval; seeds without all four runs are left out",
    )  # fmt: skip
    notes = (
        *(of_ranks if False in kinds else ()),
        *(of_differences if True in kinds else ()),
        "Of: the score at the end (last), or how it compares with the best of the run (last / best: lower is better, 1 at best)",
        *odds_notes(rows, kinds),
        *impossible,
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
            row |= {f"more than {test['null']}": test["effect"] for test in shape.beyond_colour.rows}
            row |= {"follows shape": shape.verdict.verdict, "beyond colour too": shape.beyond_colour.verdict}
        if isinstance(patching, WorkbenchError):
            row |= {"colour travels": str(patching)}
        else:
            row |= {"hue shift": float(np.mean(patching.right["glyph"], 0)[-1]), "colour travels": patching.verdict.verdict}
        rows.append(row)
    notes = (
        "On the twin: share of the attention of positions on a glyph that falls on the other one; more than: how much more than under each "
        f"null, tested against {SMALLEST_MASS:g} by paired one-sided sign flips over n images, adjusted by Holm over the nulls",
        "Follows shape: more than under every null of locality, as the paper claims; beyond colour too: also more than the null of colour, which "
        "alone finds the other glyph of twins",
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
    return Table(rows, (*notes, f"Left out: {counted(len(left_out), 'run')}, the first because {left_out[0]}") if left_out else notes)


def correlation_text(test: Mapping) -> str:
    """A row of `long_range.rank_correlations` in words."""
    if test["rho"] is None:
        return f"{counted(test['n'], 'run')}: {test['reason']}"
    return f"rank correlation {test['rho']:+.2f} [{test['low']:+.2f}, {test['high']:+.2f}], p={test['p']:.2g}, {counted(test['n'], 'run')}"
