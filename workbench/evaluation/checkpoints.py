"""Evaluation of checkpoints of a run: a record of each is appended to `evaluations.jsonl`; existing scores are not computed again."""

from __future__ import annotations

import sys

from ..files import UnreadableError
from ..messages import WorkbenchError
from ..metrics.extractors import Extractor
from ..metrics.one_pass import Plan, header, measure, select
from ..metrics.protocols import differences
from ..metrics.references import Reference
from ..metrics.scores import SCORES, ImageSet
from ..metrics.stream import everywhere
from ..progress import progress
from ..records import evaluation_record, is_comparable
from ..runs import Run, newest_with_checkpoint
from .images import open_images, plan_scores, real_statistics
from .parameters import Evaluation
from .samples import Samples, suitable_batch, truth_of


def evaluate_checkpoints(evaluation: Evaluation) -> list[dict]:
    """The records of checkpoints of a run in the order of the steps, including records of earlier evaluations."""
    evaluated = EvaluatedRun(evaluation)
    scores = select(evaluation.scores, evaluated.extractor)
    plan = evaluated.plan(scores)  # raises before anything is computed
    real = evaluated.reference(plan.inputs.keep_all)
    head = header(real, evaluated.extractor, evaluated.protocol)
    records = []
    try:
        for step in evaluated.steps:
            earlier = [] if evaluation.again else evaluated.run.evaluations()
            record = next((r for r in reversed(earlier) if covers(r, step, evaluation.seed, head, scores, evaluated.extractor)), None)
            if not everywhere(record is not None):
                truth, text = truth_of(evaluated.config), f"images of step {step}"
                result = measure(evaluated.samples(step), real, plan, truth, evaluated.batch_size, progress, text)
                if result:
                    record = evaluation_record(step=step, seed=evaluation.seed, requested=scores, **result)
                    evaluated.run.append("evaluations.jsonl", record)
            records += [record] if record else []
    except KeyboardInterrupt:
        print(
            f"interrupted: {len(records)} of {len(evaluated.steps)} checkpoints are recorded; repeat the evaluation for the others",
            file=sys.stderr,
            flush=True,
        )
        raise
    return records


def covers(record: dict, step: int, seed: int, head: dict, scores: set[str] | None, extractor: Extractor) -> bool:
    """Whether a record is of this step, seed and protocol (its `header`), and has the requested scores."""
    if record["step"] != step or record.get("seed") != seed or not is_comparable(record) or differences(record, head):
        return False
    requested = record.get("requested", ())
    if scores is None or requested == "all":
        return requested == "all" and not {SCORES[name].request(extractor) for name in scores or ()} & set(record.get("left_out", ()))
    return scores <= set(requested)


class EvaluatedRun:
    """What an evaluation needs: the run, the steps of its checkpoints, protocol, extractor (on `device`), and `data`, the real images.

    Raises
    ------
    ParameterError, WorkbenchError
        If there is no such run or checkpoint, or data or weights are missing.
    """

    def __init__(self, evaluation: Evaluation):
        self.evaluation = evaluation
        self.run = run_to_evaluate(evaluation)
        self.config = config = self.run.config
        self.protocol = evaluation.resolved_protocol(config.num_classes)
        if self.protocol.weights == "auto":
            self.protocol = self.protocol.replace(weights="ema" if config.ema_decay else "raw")
        self.steps = _steps(evaluation, self.run)
        self.run.generator(self.steps[0], self.protocol.weights)  # raises before anything takes long if weights are missing
        self.device = evaluation.torch_device
        self.extractor = evaluation.open_extractor(config.data, config.pairs).to(self.device)
        source = evaluation.data or config.data
        drawn = {name: getattr(config, name) for name in ("pairs", "tiles", "patterns")} if source == config.data else {}
        conditional = bool(evaluation.data or config.num_classes)  # other data may have classes even if the run has none
        self.data = open_images("data", source, config.image_size, evaluation, conditional, config.skip_unreadable, **drawn)

    @property
    def batch_size(self) -> int:
        """Images per call of the extractor."""
        return self.evaluation.batch_size or suitable_batch(self.extractor, self.device)

    @property
    def image_set(self) -> ImageSet:
        """Number and classes of the samples of a checkpoint; the run's provenance has the names of the classes."""
        n, count = self.protocol.n, self.config.num_classes or 0
        if not count:
            return ImageSet(n, reason="the run was trained without classes")
        try:
            names = self.run.provenance.get("data", {}).get("classes", [])
        except UnreadableError as error:
            return ImageSet(n, reason=f"the names of the run's classes are not known ({error})")
        if not isinstance(names, list) or len(names) != count:
            return ImageSet(n, reason="the names of the run's classes are not known (its provenance.json does not have them)")
        return ImageSet(n, [str(name) for name in names], n // count)

    def plan(self, scores: set[str] | None = None) -> Plan:
        """The plan for computing scores (None: all); see `plan_scores`."""
        return plan_scores(scores, self.extractor, self.protocol, self.image_set, self.data, truth_of(self.config) is not None)

    def samples(self, step: int | None = None) -> Samples:
        """The samples of a checkpoint, by default of the last one."""
        generator = self.run.generator(self.steps[-1] if step is None else step, self.protocol.weights).to(self.device)
        return Samples(generator, self.protocol, self.evaluation.seed, self.evaluation.batch_size)

    def reference(self, keep_all: bool = False) -> Reference:
        """The statistics of the real images; `keep_all`: with the features of all of them."""
        return real_statistics(self.data, self.protocol, self.extractor, self.batch_size, keep_all)


def run_to_evaluate(evaluation: Evaluation) -> Run:
    """The run to evaluate, by default the newest one with a checkpoint."""
    if evaluation.run:
        return Run(evaluation.run)
    run = newest_with_checkpoint()
    if run is None:
        raise WorkbenchError("there is no run with a checkpoint yet: train one first, or give a folder of images as samples")
    return run


def _steps(evaluation: Evaluation, run: Run) -> list[int]:
    if evaluation.steps == "all":
        return run.checkpoint_steps() or [run.checkpoint_step()]  # raises
    steps = [None] if evaluation.steps == "last" else map(int, evaluation.steps.split(","))
    return [run.checkpoint_step(step) for step in steps]
