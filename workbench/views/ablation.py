"""What `ablation.ipynb` calls to re-run the paper's experiments: its views. `ablation_plan` has its parameters.

`studies` trains and tests; `ablation_tables` and `ablation_export` show and write the results. Every view reads the run folders anew,
also during training.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from .. import figures
from ..figures import Drawing, Plot, Table
from ..files import replace_text, storing
from ..messages import WorkbenchError, counted, short_repr
from ..metrics.scores import higher_is_better
from ..paths import outputs_dir
from ..progress import progress, silent
from ..runs import Run, find_runs
from ..studies.claims import impossible, odds, verdicts
from ..studies.groups import Group, readable
from ..studies.long_range import correlated_columns, power_check, rank_correlations
from ..studies.paper import LAST, LAST_OVER_BEST
from ..studies.planned import PlannedRun, fingerprint
from ..studies.scores import CheckpointScore, last_over_best, scores_by_name
from . import ablation_tables as tables
from .ablation_export import results
from .ablation_plan import AblationPlan
from .across_runs import experiments
from .cached import long_range_of, patching_of, shape_of
from .compare import all_scores

CAPTIONS = {
    "verdicts": "The claims of the paper",
    "shape": "Whether attention follows the shape of objects",
    "long-range": "Whether attention helps where distant positions must agree",
}


@dataclass(frozen=True)
class Ablation(AblationPlan):
    """The experiments of the paper, at a size of your choice: parameters as of `AblationPlan`, and views of the runs."""

    # ---------------------------------------------------------------------------------------- what the seeds allow

    def check(self) -> Table:
        """The runs to train and how many of them are done, and what verdicts and power their seeds allow; a row for each experiment."""
        rows: list[dict] = []
        planned_before: set[str | None] = set()
        deciding = self.deciding_score() or self.score
        for name in self.names:
            planned = self.planned_runs(name)
            states, runs = [each.state for each in planned], {each.config.run for each in planned}
            rows.append({
                "experiment": name, "about": self.experiment(name).about, "arms": len({each.arm for each in planned}),
                "runs": len(planned), "shared with those above": len(runs & planned_before), "finished": states.count("finished"),
                "diverged": states.count("diverged"), "claims": len(self.experiment(name).claims),
            } | (self._odds(name, deciding) if self.experiment(name).claims else {}))  # fmt: skip
            planned_before |= runs
        base, all_runs = self.base, self.all_planned_runs()
        steps = sum(each.config.steps * (1 + each.config.d_steps) for each in all_runs)
        lengths = sorted({each.config.steps for each in all_runs})
        notes = (
            f"{counted(len(all_runs), 'run')} of {' to '.join(f'{length:,}' for length in lengths[:1] + lengths[1:][-1:])} G steps each, "
            f"{sum(each.at_rest for each in all_runs)} of them done: {steps:,} steps of G or D, of batches of {base.batch_size}",
            f"All of these runs, in {outputs_dir()}, have the tag {fingerprint(base)}: workbench compare -p runs {fingerprint(base)}",
        )
        unreadable = [each.run.status()["message"] for each in all_runs if each.state == "unreadable"]
        return Table(rows, (*notes, *tables.odds_notes(rows, self._kinds), *self.impossible(), *unreadable))

    def impossible(self) -> list[str]:
        """The experiments whose claims these seeds can neither support nor reject, whatever the runs come to: a line for each."""
        lines = {name: impossible(self.experiment(name), len(self._seeds)) for name in self.names}
        return [f"{name}: {line}" for name, line in lines.items() if line]

    @property
    def _kinds(self) -> set[bool]:
        """Whether claims have a control: of each experiment with claims."""
        return {experiment.paired for experiment in map(self.experiment, self.names) if experiment.claims}

    def _odds(self, name: str, score: str, measure: str = LAST) -> dict:
        """Cells for a table, see `studies.claims.odds`."""
        return tables.odds_cells(odds(self.experiment(name), len(self._seeds), self.costs(name, score), higher_is_better(score), measure))

    # ------------------------------------------------------------------------------------------- scores and verdicts

    def scores(self, name: str) -> list[CheckpointScore]:
        """All scores of an experiment's last checkpoints.

        Raises
        ------
        WorkbenchError
            If their protocols differ.
        """
        return [
            score for values in scores_by_name(self.arms(name)).values() for score in values if score.step == self._last_step(score.group)
        ]

    def _last_step(self, arm: Group) -> int:
        return arm.values.get("steps", self.base.steps)

    def deciding_score(self) -> str:
        """The score of the verdicts, with the hash of its extractor: `score`, else the Frechet distance, else the agreement of `binding`.

        "" before the first evaluation.
        """
        known = list(dict.fromkeys(score.name for name in self.names for score in self.scores(name)))
        defaults = [name for name in known if name.startswith(("fid", "fd_"))] or [name for name in known if name == "binding_agreement"]
        matches = [name for name in known if self.score in (name, name.partition("@")[0])] if self.score else defaults
        if self.score and known and not matches:
            raise WorkbenchError(f"score={short_repr(self.score)} is no score of these runs; there are: {', '.join(known)}")
        return matches[0] if matches else ""

    def costs(self, name: str, score: str, measure: str = LAST) -> dict[str, dict[int, float]]:
        """Arm -> seed -> what its claims compare, lower is better, for each run that is done; infinite for a run that diverged.

        LAST: this score at the end, negative if higher is better. LAST_OVER_BEST: see `studies.scores.last_over_best`.
        """
        sign, costs = -1 if higher_is_better(score) else 1, {}
        scores = scores_by_name(self.arms(name)).get(score, [])
        for arm in self.arms(name):
            end = self._last_step(arm)
            of_arm = [each for each in scores if each.group.label == arm.label and each.step <= end]
            at_end = {each.run.path: each for each in of_arm if each.step == end}
            of_arm = [each for each in of_arm if each.run.path in at_end]
            ratios = last_over_best(of_arm) if measure == LAST_OVER_BEST else {}
            values = {path: ratios.get(path) if measure == LAST_OVER_BEST else sign * each.value for path, each in at_end.items()}
            costs[arm.label] = {run.config.seed: value for run in arm.runs if (value := values.get(run.path)) is not None}
        for planned in self.planned_runs(name):
            if planned.state == "diverged":
                costs[planned.arm][planned.config.seed] = math.inf
        return costs

    def table(self, *names: str) -> Table:
        """Scores by arm, beside what the paper reports; by default of all experiments."""
        selected = {name: self.experiment(name) for name in names or self.names}
        deciding = self.deciding_score()
        return tables.score_table(selected, {name: self._results(name, deciding) for name in selected}, self.base, deciding)

    def _results(self, name: str, deciding: str) -> dict[str, tables.ArmResult]:
        """Arm -> its results."""
        scores, planned, ratios = self.scores(name), self.planned_runs(name), self.costs(name, deciding, LAST_OVER_BEST)
        return {
            arm.label: tables.ArmResult(
                self._last_step(arm), [score for score in scores if score.group.label == arm.label],
                sum(each.state == "diverged" for each in planned if each.arm == arm.label),
                sum(each.collapsed for each in planned if each.arm == arm.label),
                [ratio for ratio in ratios[arm.label].values() if math.isfinite(ratio)],
            )
            for arm in self.arms(name)
        }  # fmt: skip

    def plot(self, *names: str) -> Plot | None:
        """The deciding score by arm and over steps, and D's loss; by default of all experiments. None before the first evaluation."""
        deciding = self.deciding_score()
        return experiments({name: self.arms(name) for name in names or self.names}, deciding, self.base.steps) if deciding else None

    def verdicts(self) -> Table:
        """Whether the runs support each claim, see `studies.claims.verdicts`; p is adjusted over the claims of an experiment."""
        tests, deciding = {}, self.deciding_score() or self.score
        for name in self.names:
            experiment = self.experiment(name)
            costs = {measure: self.costs(name, deciding, measure) for measure in (LAST, LAST_OVER_BEST)}
            tests[name] = [row | self._odds(name, deciding, row["measure"]) for row in verdicts(experiment, costs)]
        return tables.verdict_table(tests, deciding, self._kinds, self.impossible())

    # --------------------------------------------------------------------------- studies of attention

    def studied_runs(self) -> list[Run]:
        """The runs whose attention is studied: those of `study`, or those of the preset itself."""
        if self.study:
            return readable(find_runs(self.study))
        planned = [PlannedRun.of(self.base, "", {}, seed) for seed in self._seeds] if self.base.data == "twins" else []
        return [run for each in planned if each.state == "finished" and (run := each.run)]

    def _layers(self) -> list[tuple[Run, str]]:
        return [
            (run, f"G/attention.{site}")
            for run in self.studied_runs()
            if run.config.attention_block == "attention"
            for site in run.config.sites_g
        ]

    def shape(self) -> Table:
        """Does attention follow the shape of objects? A row for each layer of G of each studied run; see `studies`."""
        rows, layers = [], self._layers()
        with progress(len(layers), "layers") as advance:
            for run, layer in layers:
                rows.append((run.name, layer, shape_of(run, layer), patching_of(run, layer)))
                advance(1)
        return tables.shape_table(rows)

    def shape_figure(self) -> Drawing | None:
        """Where attention falls, beside the nulls, for the first studied layer that can be read."""
        return self._first(shape_of, figures.shape_study)

    def patching_figure(self) -> Drawing | None:
        """What patched values do, fraction by fraction, for the first studied layer that can be read."""
        return self._first(patching_of, figures.patching_study)

    def _first(self, study, draw) -> Drawing | None:
        studies = (study(run, layer) for run, layer in self._layers())
        return next((draw(result) for result in studies if not isinstance(result, WorkbenchError)), None)

    def long_range(self) -> Table:
        """Do distant positions agree more where attention reaches further? Power check, and rank correlations over runs and over arms."""
        rows, left_out = self._long_range(progress)
        controls = [row for row in rows if row["control"]]
        power = power_check(controls, self.base.image_size, self.base.pairs) if len(controls) >= 2 else None
        columns = correlated_columns(rows)
        correlations = [test for by in ("", "arm") if rows for test in rank_correlations(rows, columns, by)]
        return tables.long_range_table(power, correlations, left_out)

    def long_range_figure(self) -> Plot | None:
        """The disagreement of twins, and the Frechet distance, against the distance that attention reaches; None without such runs."""
        rows = [row for row in self._long_range()[0] if row["distance"] is not None]
        columns = [(x, y) for x, y in correlated_columns(rows) if x == "distance"]
        texts = {test["y"]: tables.correlation_text(test) for test in rank_correlations(rows, columns)}
        return figures.long_range(rows, texts, "arm") if rows else None

    def _long_range(self, report=silent) -> tuple[list[dict], list[WorkbenchError]]:
        """A row of `long_range.measure` for each finished run on twins, with its arm and whether it is a control; and the errors of others.

        A control has no attention in G and D, and otherwise the common settings.
        """
        on_twins = [each for each in self.all_planned_runs() if each.config.data == "twins" and each.state == "finished"]
        finished = [(each, run) for each in on_twins if (run := each.run)]
        rows: list[dict] = []
        left_out: list[WorkbenchError] = []
        with report(len(finished), "runs") as advance:
            for planned, run in finished:
                row = long_range_of(run)
                if isinstance(row, WorkbenchError):
                    left_out.append(row)
                else:
                    without_attention = self.base.replace(seed=planned.config.seed, attention_g="none", attention_d="none")
                    rows.append(dict(arm=planned.arm, control=not planned.config.changes(without_attention)) | row)
                advance(1)
        return rows, left_out

    # ---------------------------------------------------------------------------------------------------------- export

    def export(self) -> Path:
        """Write everything to `folder`: tables as CSV and LaTeX, figures as SVG and PDF with sidecars, all scores, and `results.json`."""
        by_name = {name: self.table(name) for name in self.names}
        by_name |= {"verdicts": self.verdicts(), "shape": self.shape(), "long-range": self.long_range()}
        drawings: dict[str, Drawing | None] = {name: self.plot(name) for name in self.names}
        drawings |= {"shape": self.shape_figure(), "patching": self.patching_figure(), "long-range": self.long_range_figure()}
        captions = CAPTIONS | {name: self.experiment(name).about for name in self.names}
        scores = all_scores([group for name in self.names for group in self.arms(name)])
        runs = readable(planned.run for planned in self.all_planned_runs() if planned.run)
        record = results(self.command, runs, by_name, self._long_range()[0])
        with storing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            figures.write(self.folder, by_name, captions, {name: drawing for name, drawing in drawings.items() if drawing})
            scores.csv(self.folder / "scores.csv")
            replace_text(self.folder / "results.json", json.dumps(record, indent=1, allow_nan=False))
        print(figures.listing(self.folder))
        return self.folder
