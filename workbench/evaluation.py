"""Evaluating runs: which checkpoints, against which images, by which protocol; and its command line, `python -m workbench.evaluation`.

Scores are appended to `evaluations.jsonl` of the run, checkpoint by checkpoint, each with its protocol; what is there already is not
computed again. The scores themselves are in `metrics`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor

from . import sampling, twins
from .config import Config
from .data import Images, open_data, to_unit
from .metrics.extractors import Extractor, open_extractor
from .metrics.one_pass import header, measure, select
from .metrics.protocols import PROTOCOLS, Protocol, differences, protocol
from .metrics.references import Reference, reference
from .metrics.scores import nearest_neighbours
from .metrics.stream import everywhere, is_main
from .model import BatchNorm, Generator
from .parameters import ParameterError, Parameters, WorkbenchError, command, parameter, read_list
from .processes import launch_command, launch_environment, on_cpu
from .progress import progress
from .runs import Run, list_runs

ENDLESS = 50_000  # reference images of a data set without end, where the protocol says all


def _read_steps(value, refuse) -> str:
    text = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value).strip("[]() ")
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if text not in ("last", "all") and not (parts and all(part.isdigit() for part in parts)):
        refuse('"last", "all", or steps such as 500,1000')
    return text if text in ("last", "all") else ",".join(parts)


@dataclass(frozen=True)
class Evaluation(Parameters):
    """What to evaluate, and how.

    Raises
    ------
    ParameterError
        For a value that does not fit, or values that do not go together.
    """

    run: str = parameter("", "name of the run; empty: the newest")
    steps: str = parameter("last", "checkpoints to evaluate: last, all, or their steps as 500,1000", read=_read_steps)
    samples: str = parameter("", "a folder of images (folder/<class>/*, or packed) to score in place of a run's")
    data: str = parameter("", "real images to score against; empty: those that the run was trained on")
    image_size: int | None = parameter(None, "with samples: height and width that images are brought to", choices=(32, 64, 128, 256))
    protocol: str = parameter("workbench", "how scores come about", choices=PROTOCOLS)
    n: int | None = parameter(None, "images to generate", low=2)
    extractor: str = parameter("auto", "inception, twins, or module:attribute; auto: twins for twins, else inception")
    weights_file: str = parameter("", "file of Inception's weights; empty: the one in the data folder")
    verify_weights: bool = parameter(True, "refuse other weights than Inception's; false: their scores are not called FID")
    scores: str = parameter(
        "all", "what to compute, of is, fid, kid, intra_fid, precision_recall, density_coverage, accuracy, truth", read=read_list
    )
    weights: str | None = parameter(
        None, "averaged weights, those trained, or averaged where there are such", choices=("ema", "raw", "auto")
    )
    statistics: str | None = parameter(
        None, "of batch norm in G: as saved, anew, or of each batch", choices=("running", "standing", "batch")
    )
    truncation: float | None = parameter(None, "latents are truncated to [-truncation, truncation]; 0: not", low=0)
    reference_n: int | None = parameter(None, "real images; 0: all", low=0)
    seed: int = parameter(0, "of the latents", low=0)
    batch_size: int | None = parameter(None, "images that G and the extractor take at once; None: what suits the device", low=1)
    num_processes: int = parameter(1, "processes: one per GPU, or CPU processes where there is no GPU", low=1)
    device: str = parameter("auto", "auto: a GPU where there is one", choices=("auto", "cpu", "cuda"))
    again: bool = parameter(False, "also evaluate what was evaluated before")

    none = "the default, or the protocol's value"

    def __post_init__(self):
        super().__post_init__()
        if self.samples and (self.run or self.steps != "last"):
            raise ParameterError(f"samples={self.samples!r} does not go with run and steps: score a folder, or a run")
        if self.samples and not self.data:
            raise ParameterError(f"samples={self.samples!r} needs data: the real images to score against")
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
    real = opened.reference(scores)
    head = header(real, extractor, settings)
    records = []
    try:
        for step in opened.steps:
            known = [] if evaluation.again else [r for r in opened.run.evaluations() if _answers(r, step, evaluation.seed, head, scores)]
            if not everywhere(bool(known)):
                arguments = (scores, config.num_classes, truth_of(config), opened.batch_size, progress, f"images of step {step}")
                record = measure(opened.samples(step), real, extractor, settings, *arguments)
                if record:
                    known = [dict(step=step, seed=evaluation.seed, asked=sorted(scores) if scores else "all", **record, time=time.time())]
                    opened.run.append("evaluations.jsonl", known[0])
            records += known[-1:]
    except KeyboardInterrupt:
        print(
            f"interrupted: {len(records)} of {len(opened.steps)} checkpoints are on record; the same evaluation goes on after them",
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
        run.generator(steps[0], settings.weights)  # before anything long: what is missing is told now
        device = _device(evaluation)
        extractor = _extractor(evaluation, config.data).to(device)
        data = open_data(config.replace(data=evaluation.data) if evaluation.data else config)
        return cls(evaluation, run, steps, config, data, extractor, settings, device)

    def samples(self, step: int | None = None) -> Samples:
        """The samples of a checkpoint, by default of the last that is evaluated."""
        generator = self.run.generator(step or self.steps[-1], self.settings.weights).to(self.device)
        return Samples(generator, self.settings, self.evaluation.seed, self.evaluation.batch_size)

    def reference(self, scores: set | None = None) -> Reference:
        return _reference(self.data, self.settings, self.extractor, scores, self.config.num_classes, self.batch_size)


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
        rows.append((f"{opened.data.classes[k]}\n{name.partition('@')[0]} {values[k]:.4g}", images))
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
    opened = []

    def evaluate_now(generator: Generator, step: int) -> dict | None:
        settings = evaluation.resolved_protocol(generator.num_classes).replace(weights="ema" if config.ema_decay else "raw")
        scores = {"is", "fid", "truth"} if config.data == "twins" else {"is", "fid"}
        if not opened:
            extractor.to(next(generator.parameters()).device)
            data = open_data(config, progress=False)
            opened.append(suitable_batch(extractor, next(generator.parameters()).device))
            opened.append(_reference(data, settings, extractor, scores, generator.num_classes, opened[0]))
        batch_size, real = opened
        samples = Samples(generator, settings, evaluation.seed)
        record = measure(samples, real, extractor, settings, scores, generator.num_classes, truth_of(config), batch_size)
        return record and dict(seed=evaluation.seed, asked=sorted(scores), **record, time=time.time())

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


def _evaluate_folder(evaluation: Evaluation) -> list[dict]:
    """The record of a folder of images."""
    device = _device(evaluation)
    extractor = _extractor(evaluation, evaluation.data).to(device)
    batch_size = evaluation.batch_size or suitable_batch(extractor, device)
    scores = select(evaluation.scores, extractor)
    size = evaluation.image_size or 32
    images, data = (open_data(_data_config(place, size)) for place in (evaluation.samples, evaluation.data))
    classes = images.num_classes if images.classes == data.classes else 0
    settings = evaluation.resolved_protocol(0).replace(per_class=0, weights="none")
    length = settings.n if images.length is None else images.length
    settings = settings.replace(n=min(settings.n, length))
    real = _reference(data, settings, extractor, scores, classes, batch_size)
    # In an order of its own: a folder lies class by class, and the splits of IS are filled in order.
    order = torch.randperm(length, generator=sampling.generator_for(evaluation.seed, 4)).numpy()[: settings.n]

    def samples(start: int, count: int) -> tuple[Tensor, Tensor]:
        return images.batch(order[start : start + count])

    record = measure(samples, real, extractor, settings, scores, classes, None, batch_size, progress)
    return (
        [dict(samples=images.name, samples_fingerprint=images.fingerprint, seed=evaluation.seed, **record, time=time.time())]
        if record
        else []
    )


def _data_config(place: str, size: int) -> Config:
    return Config.preset("twins32", data=place, image_size=size, num_classes=None, batch_size=2)


def _reference(data, settings: Protocol, extractor: Extractor, scores: set | None, num_classes: int, batch_size: int) -> Reference:
    """The statistics of as many real images as the protocol wants and the data has."""
    n = settings.reference_n or (ENDLESS if data.length is None else data.length)
    n = n if data.length is None else min(n, data.length)
    keep_all = bool(scores and "intra_fid" in scores and num_classes)
    return reference(data, n, extractor, settings.to_pixels, keep_all, batch_size, progress)


def _extractor(evaluation: Evaluation, data: str) -> Extractor:
    name = evaluation.extractor
    if name == "auto":
        name = "twins" if data == "twins" and not evaluation.weights_file else "inception"
    return open_extractor(name, evaluation.weights_file, evaluation.verify_weights)


def _answers(record: dict, step: int, seed: int, head: dict, scores: set | None) -> bool:
    """Whether a record is of this step and seed and protocol, and has the scores that are asked for."""
    asked = record.get("asked", ())
    covers = asked == "all" or (scores is not None and scores <= set(asked))
    return record["step"] == step and record.get("seed") == seed and covers and not differences(record, head)


def _steps(evaluation: Evaluation, run: Run) -> list[int]:
    there = run.checkpoint_steps()
    if evaluation.steps == "all" and there:
        return there
    wanted = [None] if evaluation.steps in ("last", "all") else map(int, evaluation.steps.split(","))
    return [int(run.checkpoint_path(step).name) for step in wanted]  # raises where there is no such checkpoint


def _newest() -> Run:
    runs = [run for run in list_runs() if run.checkpoint_steps()]
    if not runs:
        raise WorkbenchError("there is no run with a checkpoint yet: train one first, or name a folder of images as samples")
    return runs[-1]


# ---------------------------------------------------------------------------------------------------- many processes


def _in_processes(evaluation: Evaluation) -> list[dict]:
    """Evaluate by `accelerate launch`; what its main process prints is printed here."""
    with TemporaryDirectory() as folder:
        question, answer = Path(folder) / "question.json", Path(folder) / "answer.json"
        question.write_text(json.dumps(asdict(evaluation)))
        words = launch_command("workbench.evaluation", evaluation.num_processes, evaluation.device)
        process = subprocess.Popen(
            [*words, "--question", str(question), "--answer", str(answer)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=launch_environment(evaluation.num_processes), start_new_session=True,
        )  # fmt: skip
        try:
            with ThreadPoolExecutor(1) as pool:
                said = pool.submit(process.stderr.read)
                for line in process.stdout:
                    print(line, end="", flush=True)
                failed, said = process.wait(), said.result()
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)  # an interrupt: checkpoints that are evaluated are on record
            process.wait()
            raise
        if failed:
            told = [line for line in said.splitlines() if line.startswith(("WorkbenchError: ", "ParameterError: ", "DataError: "))]
            raise WorkbenchError(told[0].partition(": ")[2] if told else f"the evaluation failed: {said.strip().splitlines()[-1:]}")
        return json.loads(answer.read_text())


def _device(evaluation: Evaluation) -> torch.device:
    if on_cpu(evaluation.device):
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


# ------------------------------------------------------------------------------------------------------ command line


def table(record: dict) -> str:
    """The scores of a record in lines of text, with the protocol."""
    values, errors = record["scores"], record["errors"]
    width = max(map(len, values), default=0)
    lines = [f"  {name:<{width}}  {value:.6g}" + (f" +- {errors[name]:.2g}" if name in errors else "") for name, value in values.items()]
    head = f"step {record['step']}" if "step" in record else record["samples"]
    real = record["reference"]
    return "\n".join([f"{head}: {record['protocol']}, against {real['n']:,} images of {real['data']} at {real['size']} px", *lines])


@command
def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m workbench.evaluation",
        description="Score checkpoints of a run, or a folder of images.",
        epilog="parameters:\n" + Evaluation.explain_all(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a parameter, see below")
    parser.add_argument("--json", action="store_true", help="print the records as JSON lines")
    for private in ("--question", "--answer"):
        parser.add_argument(private, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    given = json.loads(arguments.question.read_text()) if arguments.question else dict(arguments.p)
    evaluation = Evaluation.from_parameters(given)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        PartialState(cpu=on_cpu(evaluation.device))  # starts torch.distributed
    records = evaluate(evaluation)
    if not is_main():
        return
    if arguments.answer:
        arguments.answer.write_text(json.dumps(records))
    else:
        print("\n".join(json.dumps(record) if arguments.json else table(record) for record in records))


if __name__ == "__main__":
    sys.exit(main())
