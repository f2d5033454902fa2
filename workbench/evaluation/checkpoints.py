"""Evaluating runs: which checkpoints, against which images, by which protocol; and its command line, `python -m workbench.evaluation`.

Scores are appended to `evaluations.jsonl` of the run, checkpoint by checkpoint, each with its protocol; existing ones are not
computed again. The scores themselves are in `metrics`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ..config import Config
from ..data import Images, open_data, to_unit, twins
from ..files import UnreadableError
from ..messages import command, shown
from ..metrics.extractors import Extractor, open_extractor
from ..metrics.limits import require_room
from ..metrics.one_pass import Plan, header, measure, plan, select
from ..metrics.prdc import nearest_neighbours
from ..metrics.protocols import PROTOCOLS, Protocol, differences, protocol
from ..metrics.references import Reference, reference
from ..metrics.scores import SCORES, ImageSet
from ..metrics.stream import CHUNK, everywhere, is_main
from ..model import Generator, sampling
from ..model.layers import BatchNorm
from ..parameters import ParameterError, Parameters, WorkbenchError, parameter, whole
from ..processes import answer, ask, on_cpu, process_group
from ..progress import progress
from ..readers import read_list, read_steps
from ..runs import Run, list_runs
from .images import SIZES, open_images, own_size, real_count, real_side, side


@dataclass(frozen=True)
class Evaluation(Parameters):
    """What to evaluate, and how.

    Raises
    ------
    ParameterError
        For a value that does not fit, or values that do not go together.
    """

    run: str = parameter("", "name of the run", none="the newest")
    steps: str = parameter("last", "checkpoints to evaluate: last, all, or steps such as 500,1000", read=read_steps("last", "all"))
    samples: str = parameter("", "folder of images (folder/<class>/*, or packed) to score instead", none="the run's samples")
    data: str = parameter("", "real images to score against", none="those that the run was trained on")
    image_size: int | None = parameter(None, "with samples: height and width to resize to", choices=SIZES, none="their own")
    skip_unreadable: bool = parameter(False, "leave out images that cannot be read, instead of refusing")
    protocol: str = parameter("workbench", "evaluation protocol", choices=PROTOCOLS)
    n: int | None = parameter(None, "images to generate", low=2, none="the protocol's")
    extractor: str = parameter("auto", "inception, twins or module:attribute; auto: twins for twins, else inception")
    weights_file: str = parameter("", "file of Inception's weights", none="the one in the data folder")
    verify_weights: bool = parameter(True, "refuse other weights than Inception's; false: their scores are not called FID")
    scores: str = parameter("all", "any of is, fid, kid, intra_fid, precision_recall, density_coverage, accuracy, truth", read=read_list)
    weights: str | None = parameter(None, "weights of G; auto: EMA if available", choices=("ema", "raw", "auto"), none="the protocol's")
    statistics: str | None = parameter(
        None, "batch norm of G: saved, re-estimated, of each batch", choices=("running", "standing", "batch"), none="the protocol's"
    )
    truncation: float | None = parameter(None, "latents are truncated to [-truncation, truncation]; 0: not", low=0, none="the protocol's")
    reference_n: int | None = parameter(None, "real images; 0: all", low=0, none="the protocol's")
    seed: int = parameter(0, "seed of the latents", low=0)
    batch_size: int | None = parameter(None, "images per pass of G and the extractor", low=1, high=CHUNK, none="what suits the device")
    num_processes: int = parameter(1, "processes: one per GPU, or on the CPU", low=1)
    device: str = parameter("auto", "auto: a GPU if available", choices=("auto", "cpu", "cuda"))
    again: bool = parameter(False, "also evaluate what was evaluated before")

    def __post_init__(self):
        super().__post_init__()
        if self.samples and (self.run or self.steps != "last"):
            raise ParameterError(f"samples={shown(self.samples)} does not go with run and steps: score a folder, or a run")
        if self.samples and not self.data:
            raise ParameterError(f"samples={shown(self.samples)} needs data: the real images to score against")
        if self.image_size and not self.samples:
            raise ParameterError(f"image_size={self.image_size} goes with samples; a run has its own")

    def resolved_protocol(self, num_classes: int) -> Protocol:
        """The protocol with what was given in its place."""
        chosen = protocol(self.protocol)
        statistics = self.statistics
        if self.truncation and statistics is None and chosen.statistics == "running":
            statistics = "standing"  # those that were saved are of latents that are not truncated
        chosen = chosen.replace(
            n=self.n, weights=self.weights, statistics=statistics, truncation=self.truncation, reference_n=self.reference_n
        )
        return chosen.replace(n=chosen.per_class * num_classes) if chosen.per_class and num_classes and not self.n else chosen


# -------------------------------------------------------------------------------------------------------- evaluating


def evaluate(evaluation: Evaluation | None = None, **parameters) -> list[dict]:
    """Score checkpoints of a run, or a folder of images.

    Parameters
    ----------
    evaluation, parameters
        An `Evaluation`, or the values of one: `evaluate(run="twins32", n=1000)`.

    Returns
    -------
    list of dict
        The records, one for each step in order, those computed earlier included; see `metrics.measure`. Those of a run are in
        its `evaluations.jsonl` too.

    Raises
    ------
    ParameterError, WorkbenchError
        If a parameter does not fit, there is no such checkpoint, or data or weights are missing.
    """
    evaluation = evaluation or Evaluation.from_parameters(parameters)
    if evaluation.num_processes > 1 and not dist.is_initialized():
        return _in_processes(evaluation)
    if evaluation.samples:
        return _evaluate_folder(evaluation)

    opened = Opened.of(evaluation)
    config, extractor, settings = opened.config, opened.extractor, opened.settings
    scores = select(evaluation.scores, extractor)
    chosen = opened.plan(scores)  # what cannot be computed is refused before anything is
    real = opened.reference(chosen)
    head = header(real, extractor, settings)
    records = []
    try:
        for step in opened.steps:
            records_there = [] if evaluation.again else opened.run.evaluations()
            known = [record for record in records_there if _answers(record, step, evaluation.seed, head, scores, extractor)]
            if not everywhere(bool(known)):
                arguments = (chosen, truth_of(config), opened.batch_size, progress, f"images of step {step}")
                record = measure(opened.samples(step), real, *arguments)
                if record:
                    known = [dict(step=step, seed=evaluation.seed, asked=sorted(scores) if scores else "all", **record, time=time.time())]
                    opened.run.append("evaluations.jsonl", known[0])
            records += known[-1:]
    except KeyboardInterrupt:
        print(
            f"interrupted: {len(records)} of {len(opened.steps)} checkpoints are on record; the same evaluation goes on after them",
            file=sys.stderr,
            flush=True,
        )
        raise
    return records


@dataclass
class Opened:
    """What an evaluation of a run works with."""

    evaluation: Evaluation
    run: Run
    steps: list[int]
    config: Config
    data: Images | twins.Twins
    extractor: Extractor
    settings: Protocol
    device: torch.device

    @property
    def batch_size(self) -> int:
        """Images that the extractor takes at once."""
        return self.evaluation.batch_size or suitable_batch(self.extractor, self.device)

    @classmethod
    def of(cls, evaluation: Evaluation) -> Opened:
        (run,) = runs_of(evaluation)
        config = run.config
        settings = evaluation.resolved_protocol(config.num_classes)
        if settings.weights == "auto":
            settings = settings.replace(weights="ema" if config.ema_decay else "raw")
        steps = _steps(evaluation, run)
        run.generator(steps[0], settings.weights)  # before anything long: report what is missing now
        device = _device(evaluation)
        extractor = _extractor(evaluation, config.data).to(device)
        place = evaluation.data or config.data
        pairs = config.pairs if place == "twins" else 1
        # A run without classes was trained on images without classes, those of another place may have them all the same.
        conditional = bool(evaluation.data or config.num_classes)
        data = open_images("data", place, config.image_size, evaluation, pairs, conditional, config.skip_unreadable)
        return cls(evaluation, run, steps, config, data, extractor, settings, device)

    @property
    def samples_side(self) -> ImageSet:
        """What is known of the samples of any checkpoint; classes by the names that the run was trained with."""
        n, count = self.settings.n, self.config.num_classes or 0
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
        """What is computed of these scores, None: of all. Raises a ParameterError if one cannot be, or if all of it is too much."""
        settings, widths = self.settings, self.extractor.widths(self.config.image_size)
        real_n = real_count(self.data, settings)
        roughly = plan(None, self.extractor, settings, self.samples_side, None, widths)
        require_room(("n", "reference_n"), settings.n, real_n, roughly.features, self.extractor, self.config.image_size)
        chosen = plan(
            scores, self.extractor, settings, self.samples_side, real_side(self.data, real_n), widths, truth_of(self.config) is not None
        )
        require_room(("n", "reference_n"), settings.n, real_n, chosen.features, self.extractor, self.config.image_size)
        return chosen

    def samples(self, step: int | None = None) -> Samples:
        """The samples of a checkpoint, by default of the last that is evaluated."""
        generator = self.run.generator(self.steps[-1] if step is None else step, self.settings.weights).to(self.device)
        return Samples(generator, self.settings, self.evaluation.seed, self.evaluation.batch_size)

    def reference(self, chosen: Plan | None = None) -> Reference:
        return _reference(self.data, self.settings, self.extractor, bool(chosen and chosen.inputs.keep_all), self.batch_size)


def runs_of(evaluation: Evaluation) -> list[Run]:
    """The run that is evaluated; none where a folder of images is."""
    return [] if evaluation.samples else [Run(evaluation.run) if evaluation.run else _newest()]


def best_and_worst_classes(evaluation: Evaluation, record: dict, count: int = 3, columns: int = 10) -> list[tuple[str, Tensor]]:
    """Samples of the classes that score best and worst: (label, images (columns, 3, S, S)), the best first.

    Classes are ordered by their Fréchet distance, or the first other score per class where there is none; without classes: [].
    """
    name = next((name for name in record["per_class"] if name.startswith("intra")), next(iter(record["per_class"]), None))
    if name is None or evaluation.samples:
        return []
    opened, values = Opened.of(evaluation), record["per_class"][name]
    larger_is_better = name.startswith(("accuracy", "twins_readable"))
    order = sorted((k for k, value in enumerate(values) if value is not None), key=lambda k: values[k], reverse=larger_is_better)
    chosen = order if len(order) <= 2 * count else [*order[:count], *order[-count:]]
    generator = opened.samples(record["step"]).generator
    z = sampling.latents(columns, generator.z_dim, evaluation.seed, truncation=opened.settings.truncation)
    rows = []
    for k in chosen:
        images = sampling.images(generator, z, torch.full((columns,), k))
        rows.append((f"{opened.samples_side.classes[k]}\n{name.partition('@')[0]} {values[k]:.4g}", images))
    return rows


def nearest_real(evaluation: Evaluation, count: int = 6, neighbours: int = 6, among: int = 512) -> tuple[list[tuple[str, Tensor]], str]:
    """Do samples repeat training images? Those samples that come nearest to one, each with its nearest real neighbours in feature space.

    Parameters
    ----------
    count, neighbours, among
        Samples to show, real images beside each, and how many samples they are chosen from.

    Returns
    -------
    rows, text
        (label, images (1 + neighbours, 3, S, S)), the sample first; and how near samples come to real images at all, against how near
        other real images do: far nearer would mean that training images are repeated.
    """
    if evaluation.samples:
        return [], ""
    opened = Opened.of(evaluation)
    real, samples = opened.reference(), opened.samples()
    parts = [samples(start, min(64, among - start))[0] for start in range(0, among, 64)]
    features = torch.cat([opened.extractor(opened.settings.to_pixels(images))[0].cpu() for images in parts])
    images = torch.cat(parts)
    rows, distances = nearest_neighbours(features, real.features, min(neighbours, len(real.features)))
    some = np.sort(np.random.default_rng(3).permutation(len(real.features))[:among])
    between = nearest_neighbours(torch.as_tensor(real.features[some]), real.features, 2)[1][:, 1]  # the first is the image itself
    shown = []
    for k in distances[:, 0].argsort()[:count].tolist():
        near = to_unit(opened.data.batch(real.indices[rows[k].cpu().numpy()])[0])
        shown.append((f"sample {k}\ndistance {distances[k, 0]:.3g}", torch.cat([images[k : k + 1], near])))
    text = (
        f"median distance to the nearest of {len(real.features):,} real images, {opened.extractor.label}: {distances[:, 0].median():.3g} from "
        f"{among} samples, {between.median():.3g} from other real images"
    )
    return shown, text


def during_training(config: Config) -> Callable[[Generator, int], dict | None]:
    """The evaluation that a training makes every `evaluate_every` steps: Fréchet distance, class score and, for twins, the disagreement.

    Returns
    -------
    function
        `evaluate(generator, step)`, to be called by all processes of the training; the main one gets a record.

    Raises
    ------
    WorkbenchError
        If the extractor cannot be opened: now, and not hours later.
    """
    # Twins have no end, and are drawn in no time: as many as make no difference to so few samples.
    reference_n = 10 * config.evaluate_n if config.data == "twins" else None
    evaluation = Evaluation(extractor=config.evaluate_extractor, n=config.evaluate_n, reference_n=reference_n, protocol="workbench")
    extractor = _extractor(evaluation, config.data)
    among = {"is", "fid", "truth"} if config.data == "twins" else {"is", "fid"}
    # Now, and not hours later: whether the extractor takes such images, and whether there is room for so many.
    settings, widths = evaluation.resolved_protocol(0), extractor.widths(config.image_size)
    roughly = plan(None, extractor, settings, ImageSet(settings.n), None, widths, among=among)
    require_room(("evaluate_n", "real images"), settings.n, reference_n or 0, roughly.features, extractor, config.image_size)
    opened = []

    def evaluate_now(generator: Generator, step: int) -> dict | None:
        settings = evaluation.resolved_protocol(generator.num_classes).replace(weights="ema" if config.ema_decay else "raw")
        if not opened:
            extractor.to(next(generator.parameters()).device)
            data = open_data(config, progress=False)
            names = data.classes if generator.num_classes else ()
            samples, real = ImageSet(settings.n, names, settings.n // max(1, len(names))), real_side(data, real_count(data, settings))
            opened.append(suitable_batch(extractor, next(generator.parameters()).device))
            opened.append(plan(None, extractor, settings, samples, real, widths, truth_of(config) is not None, among))
            opened.append(_reference(data, settings, extractor, False, opened[0]))
        batch_size, chosen, real = opened
        samples = Samples(generator, settings, evaluation.seed)
        record = measure(samples, real, chosen, truth_of(config), batch_size)
        return record and dict(seed=evaluation.seed, asked=sorted(among), **record, time=time.time())

    return evaluate_now


def suitable_batch(extractor: Extractor, device: torch.device) -> int:
    """Images that an extractor takes at once: few where it is Inception, in which each of them takes 20 MB, on a CPU."""
    return 32 if extractor.name == "inception" and device.type == "cpu" else 256


class Samples:
    """Images of a generator by global sample index: called as `samples(start, count)`, as `metrics.measure` does.

    Sample i is a function of (i, seed), and with batch statistics also of the 64 samples that it is generated with.
    """

    def __init__(self, generator: Generator, settings: Protocol, seed: int, batch_size: int | None = None):
        self.generator, self.settings, self.seed = generator.to(memory_format=torch.channels_last), settings, seed
        on_gpu = next(generator.parameters()).is_cuda
        self.batch_size = batch_size or (256 if on_gpu else max(8, 2**18 // generator.image_size**2))  # 256 images of 32 pixels
        if settings.statistics == "standing":
            sampling.settle(generator, seed, settings.standing_batches, 64, settings.truncation)
        if settings.statistics == "batch":
            self.batch_size = 64
            for norm in generator.modules():
                if isinstance(norm, BatchNorm):
                    norm.group_size = 0  # the whole batch

    def __call__(self, start: int, count: int) -> tuple[Tensor, Tensor | None]:
        """Images (count, 3, S, S) in [-1, 1], float32, and classes (count,)."""
        generator = self.generator
        z = sampling.latents(count, generator.z_dim, self.seed, start, self.settings.truncation)
        y = sampling.labels(count, generator.num_classes, start)
        return sampling.images(generator, z, y, self.batch_size, self.settings.statistics == "batch"), y


def truth_of(config: Config) -> Callable | None:
    """For twins, what `measure` calls to have their disagreement; None for other data."""
    if config.data != "twins":
        return None

    def truth(images: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        values = twins.disagreement(images, labels if config.num_classes == len(twins.CLASSES) else None, config.pairs)
        return {f"twins_{name}": value for name, value in values.items()}

    return truth


# ------------------------------------------------------------------------------------------------ folders of images


def _evaluate_folder(evaluation: Evaluation) -> list[dict]:
    """The record of a folder of images."""
    size = evaluation.image_size or own_size(evaluation)
    device = _device(evaluation)
    extractor = _extractor(evaluation, evaluation.data).to(device)
    batch_size = evaluation.batch_size or suitable_batch(extractor, device)
    scores = select(evaluation.scores, extractor)
    images, data = (open_images(name, getattr(evaluation, name), size, evaluation) for name in ("samples", "data"))
    settings = evaluation.resolved_protocol(0).replace(per_class=0, weights="none")
    length = settings.n if images.length is None else images.length
    settings = settings.replace(n=min(settings.n, length))
    real_n = real_count(data, settings)

    def refuse_too_much(chosen: Plan) -> None:
        require_room(("n", "reference_n"), settings.n, real_n, chosen.features, extractor, size)

    widths = extractor.widths(size)
    refuse_too_much(plan(None, extractor, settings, ImageSet(settings.n), None, widths))
    # In an order of its own: a folder lies class by class, and the splits of IS are filled in order.
    order = torch.randperm(length, generator=sampling.generator_for(evaluation.seed, 4)).numpy()[: settings.n]
    own = side(images, settings.n)
    if own.classes and images.length is not None:
        own = ImageSet(own.n, own.classes, int(np.bincount(images.labels[order], minlength=len(own.classes)).min()))
    chosen = plan(scores, extractor, settings, own, real_side(data, real_n), widths)
    refuse_too_much(chosen)
    real = _reference(data, settings, extractor, chosen.inputs.keep_all, batch_size)

    def samples(start: int, count: int) -> tuple[Tensor, Tensor]:
        return images.batch(order[start : start + count])

    record = measure(samples, real, chosen, None, batch_size, progress)
    about = dict(samples=images.name, samples_fingerprint=images.fingerprint, seed=evaluation.seed)
    return [about | record | dict(time=time.time())] if record else []


def _reference(data, settings: Protocol, extractor: Extractor, keep_all: bool, batch_size: int) -> Reference:
    """The statistics of the real images."""
    return reference(data, real_count(data, settings), extractor, settings.to_pixels, keep_all, batch_size, progress)


# ------------------------------------------------------------------------------------------------------- what is meant


def _extractor(evaluation: Evaluation, data: str) -> Extractor:
    name = evaluation.extractor
    if name == "auto":
        name = "twins" if data == "twins" and not evaluation.weights_file else "inception"
    return open_extractor(name, evaluation.weights_file, evaluation.verify_weights)


def _answers(record: dict, step: int, seed: int, head: dict, scores: set | None, extractor: Extractor) -> bool:
    """Whether a record is of this step and seed and protocol, and has the scores that are asked for."""
    asked = record.get("asked", ())
    if record["step"] != step or record.get("seed") != seed or "settings" not in record or differences(record, head):
        return False
    if scores is None or asked == "all":
        return asked == "all" and not {SCORES[score].request(extractor) for score in scores or ()} & set(record.get("left_out", ()))
    return scores <= set(asked)


def _steps(evaluation: Evaluation, run: Run) -> list[int]:
    there = run.checkpoint_steps()
    if evaluation.steps == "all" and there:
        return there
    wanted = [None] if evaluation.steps in ("last", "all") else [int(step) for step in evaluation.steps.split(",")]
    return [int(run.checkpoint_path(step).name) for step in wanted]  # raises where there is no such checkpoint


def _newest() -> Run:
    runs = [run for run in list_runs() if run.checkpoint_steps()]
    if not runs:
        raise WorkbenchError("there is no run with a checkpoint yet: train one first, or name a folder of images as samples")
    return runs[-1]


# ---------------------------------------------------------------------------------------------------- many processes


def _in_processes(evaluation: Evaluation) -> list[dict]:
    """Evaluate by `accelerate launch`."""
    most = 4 * (os.cpu_count() or 1) if on_cpu(evaluation.device) else torch.cuda.device_count()
    if evaluation.num_processes > most:
        raise ParameterError(f"num_processes={evaluation.num_processes:,} is more than there is work for here: at most {most}")
    return ask("workbench.evaluation", asdict(evaluation), evaluation.num_processes, evaluation.device)


def _answer(question: dict) -> list[dict] | None:
    """The part of one of several processes."""
    evaluation = Evaluation(**question)
    with process_group(evaluation.num_processes, evaluation.device, "workbench.evaluation"):
        # What the main process tells goes through its stdout; stderr is full of what launchers and libraries say.
        with redirect_stderr(sys.stdout) if is_main() else nullcontext():
            records = evaluate(evaluation)
        return records if is_main() else None


def _device(evaluation: Evaluation) -> torch.device:
    if on_cpu(evaluation.device):
        return torch.device("cpu")
    # Of the launcher's variables only where it was ours that set them.
    return torch.device("cuda", whole(os.environ.get("LOCAL_RANK", "")) or 0 if dist.is_initialized() else 0)


# ------------------------------------------------------------------------------------------------------ command line


def table(record: dict) -> str:
    """The scores of a record in lines of text, with the protocol, and why others are left out."""
    values, errors = record["scores"], record["errors"]
    width = max(map(len, values), default=0)
    lines = [f"  {name:<{width}}  {value:.6g}" + (f" +- {errors[name]:.2g}" if name in errors else "") for name, value in values.items()]
    head = f"step {record['step']}" if "step" in record else record["samples"]
    real = record["reference"]
    about = f"{head}: {record['protocol']}; real images: {real['data']} at {real['size']} px"
    return "\n".join([about, *lines, *(f"  left out: {line}" for line in left_out(record))])


def left_out(record: dict) -> list[str]:
    """A line for each reason why scores are not in a record: "intra_fd, accuracy (there are no classes)"."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in record.get("left_out", {}).items():
        by_reason.setdefault(reason, []).append(name)
    return [f"{', '.join(names)} ({reason})" for reason, names in by_reason.items()]


@command
def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m workbench.evaluation",
        description="Score checkpoints of a run, or a folder of images.",
        epilog="parameters:\n" + Evaluation.explain_all(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a parameter, see below")
    parser.add_argument("--json", action="store_true", help="print the records as JSON lines, and nothing else on stdout")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return answer(arguments.worker, _answer)
    evaluation = Evaluation.from_parameters(dict(arguments.p))
    with redirect_stdout(sys.stderr) if arguments.json else nullcontext():  # also what an extractor of the user's prints
        records = evaluate(evaluation)
    print("\n".join(json.dumps(record) if arguments.json else table(record) for record in records))


if __name__ == "__main__":
    sys.exit(main())
