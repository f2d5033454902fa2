"""The training loop: steps, and what is written when. `train(config)` runs it in this process.

A step is in `steps`, the content of a checkpoint in `checkpoint`, starting it in separate processes in `launcher`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from ..config import Config
from ..data import loader, open_data, twins
from ..files import StorageError, storing
from ..model import Generator, sampling
from ..parameters import ParameterError, WorkbenchError
from ..processes import LostProcessError, process_group, rank
from ..records import BY_TRAINING, evaluation_record
from ..runs import Run, create_run, fork_point, holding, parent_folder, require_resumable, resumes, write_provenance
from ..runs.checkpoints import prune
from ..runs.liveness import BusyError, Hold
from .checkpoint import DivergedError, Progress, load, save
from .estimate import require_feasible
from .history import history_row
from .samples import FixedSamples, write_samples
from .setup import Networks, build, decide_precision, make_accelerator
from .status import Status
from .steps import d_step, g_step
from .stopping import interrupts, stop_requested, stop_signals

Evaluate = Callable[[Generator, int], dict | None]


def training_loop(nets: Networks, run: Run, data, evaluate: Evaluate | None = None, hold: Hold | None = None) -> None:
    """Train until done or stopped. All processes of a training run this together; the main one writes.

    Parameters
    ----------
    data
        The opened data set.
    evaluate
        See `train`.
    hold
        The main process's hold on the run.
    """
    config, accelerator, main = nets.config, nets.accelerator, nets.accelerator.is_main_process

    # Resume: from the newest checkpoint of the run, from the one that a fork starts at, or from fresh weights.
    progress = Progress()
    origin = (run, None) if run.checkpoint_steps() else fork_point(config)
    if origin:
        progress = load(nets, *origin)
    if main:
        with storing(run.path):
            run.begin_records(origin and origin[0], progress.step)
            prune(run.path, config.keep_checkpoints)  # a killed training may have left one too many
            write_provenance(run, config, data, progress.step)
    accelerator.wait_for_everyone()

    fixed = FixedSamples(config, data)
    batches = loader(data, config, progress.step, accelerator.process_index, accelerator.num_processes)
    status = Status(run, config, progress.step) if main else None
    if main and progress.step == 0:
        write_samples(nets, recalibrated(nets), run, 0, fixed)
    clock = time.monotonic()

    with stop_signals() as signals, closing(batches), storing(run.path):
        while progress.step < config.steps and not stop_requested(accelerator, run, signals):
            if hold and hold.lost:
                raise BusyError(f"another process has taken over run {run.name!r}: this one was suspended for too long, and ends")

            # Step: D learns `d_steps` times, then G once.
            step, real = next(batches)
            d_reports = [d_step(nets, step, k, real[k]) for k in range(config.d_steps)]
            progress.window.add(d_reports, g_step(nets, step))
            progress.step = step = step + 1
            progress.seconds, clock = progress.seconds + time.monotonic() - clock, time.monotonic()

            def due(every: int, step: int = step) -> bool:
                return every > 0 and (step % every == 0 or step == config.steps)

            # Log: a line of history, with means over all processes.
            if due(config.log_every):
                row = history_row(nets, progress.window, step, step - progress.logged, progress.seconds)
                progress.logged = step
                if not np.isfinite([row[name] for name in ("loss_d", "loss_g", "d_real", "d_fake")]).all():
                    raise DivergedError("losses", step, run)
                if main:
                    run.append("history.jsonl", row)
                    status.watch_history(row)

            # The generator to show, save and evaluate; all processes evaluate, with the same EMA.
            if (evaluate and due(config.evaluate_every)) or (main and (due(config.sample_every) or due(config.checkpoint_every))):
                generator = recalibrated(nets)

            # Sample: the grid, its attention, and the spectra.
            if main and due(config.sample_every):
                status.watch_samples(write_samples(nets, generator, run, step, fixed), step, fixed)

            # Evaluate: if it fails, no step of the training is lost.
            if evaluate and due(config.evaluate_every):
                try:
                    with sampling.evaluating(generator):
                        record = evaluate(generator, step)
                    if record and main:
                        run.append("evaluations.jsonl", dict(step=step) | record | {BY_TRAINING: True})
                except BaseException as error:
                    if main:
                        save(nets, run, progress)
                    if isinstance(error, OSError):
                        raise WorkbenchError(f"the evaluation at step {step} failed: {error}; {run.resume_hint()}") from error
                    raise

            # Checkpoint: everything that the next step depends on.
            if main and due(config.checkpoint_every):
                save(nets, run, progress)
            if main:
                status.update(step)

        # Stop: if steps are left, with a checkpoint to resume from.
        finished = progress.step >= config.steps
        if main and not finished:
            recalibrated(nets)
            save(nets, run, progress)
    if main and finished:
        status.finish("finished", progress.step, f"finished after {progress.step} steps")
    elif main:
        status.finish("stopped", progress.step, f"stopped at step {progress.step}; {run.resume_hint()}")
    accelerator.wait_for_everyone()


def recalibrated(nets: Networks) -> Generator:
    """The generator to show: the EMA, recalibrated, or G itself without an EMA."""
    if not nets.ema:
        return nets.generator
    sampling.recalibrate(nets.ema.average, nets.config.seed)
    return nets.ema.average


# ------------------------------------------------------------------------------------------------- start and end


def train(config: Config, evaluate: Evaluate | None = None, run: Run | None = None) -> Run:
    """Train in this process (or, under `accelerate launch`, in all of its processes) until done or stopped.

    Ctrl-C, SIGTERM and `Run.stop` save a checkpoint and return.

    Parameters
    ----------
    config
        All settings. `resume` continues or forks a run.
    evaluate
        Called as `evaluate(generator, step)` every `evaluate_every` steps, in all processes, with the EMA if available, else G; its result
        on the main process is a record of `evaluations.jsonl`. By default the disagreement of twins, if these are the data; the command
        line, and so `launch`, passes `evaluation.during_training(config)`.
    run
        The run folder to train in, by default a new one; a run with checkpoints is resumed.

    Returns
    -------
    Run
        Its `status()` tells whether it finished or was stopped.

    Raises
    ------
    ParameterError, WorkbenchError
        For settings that do not fit, unusable data, or a training that diverges.
    """
    with _Claim() as claim, interrupts(), process_group(config.num_processes, config.device, "workbench.training --config FILE"):
        evaluate = evaluate or (partial(evaluate_twins, pairs=config.pairs) if config.data == "twins" else None)
        if config.evaluate_every and evaluate is None:
            raise ParameterError(
                f"evaluate_every={config.evaluate_every}: train() has no evaluation for data={config.data!r} by itself; pass "
                "evaluate=evaluation.during_training(config), or use launch(), or evaluate_every=0"
            )
        run, config, accelerator, data = _begin(config, run, claim)
        training_loop(build(config, accelerator), run, data, evaluate, claim.hold)
        return run


def _begin(config: Config, run: Run | None, claim: _Claim) -> tuple[Run, Config, Accelerator, object]:
    """The claimed run to train, its settings, devices and data. Everything that can be refused is refused before a folder is made."""
    main = rank() == 0
    if main:
        if run is None and resumes(config):
            run = Run(parent_folder(config))
        if run:
            require_resumable(config, run.path)
            claim.take(run)
        else:
            fork_point(config)
    require_feasible(config)
    first_config, config = config, decide_precision(config)
    accelerator = make_accelerator(config)
    with accelerator.main_process_first():  # one process packs the data, the others find it packed
        data = open_data(config, progress=main)
    if config.num_classes is None:
        config = config.replace(num_classes=data.num_classes)
    if main:
        if run is None:
            fork_point(config)  # again, now that the number of classes is known
            run = create_run(first_config)
            claim.take(run)
        config = run.update_config(config)
        run.set_status(state="starting", step=0, steps=config.steps, message="", alarms=[])
    path, settings = broadcast_object_list([run and str(run.path), config.to_json()])
    return Run(Path(path)), Config.from_json(settings), accelerator, data


class _Claim:
    """Context that holds the run of this process, from `take` until the status tells how the training ended."""

    def __init__(self) -> None:
        self.run: Run | None = None
        self.hold: Hold | None = None
        self._stack = ExitStack()

    def take(self, run: Run) -> None:
        self.hold = self._stack.enter_context(holding(run))
        self.run = run
        if not run.active:  # else `launch` has cleaned up, and a `stop` file is newer
            run.clean()

    def __enter__(self) -> _Claim:
        return self

    def __exit__(self, kind, error: BaseException | None, trace) -> None:
        with self._stack:
            if error and self.run and not self.hold.lost:
                report_end(self.run, error)


def report_end(run: Run, error: BaseException) -> None:
    """Write into the status why a training ended early."""
    if isinstance(error, KeyboardInterrupt):
        state, message = "stopped", f"interrupted; {run.resume_hint()}"
    else:
        state = "failed"
        message = str(error) if isinstance(error, WorkbenchError) else f"{type(error).__name__}: {error}"
        message += f"; {run.resume_hint()}" if isinstance(error, StorageError | LostProcessError) else ""
    # On a full disk the status shows that the process is gone.
    with suppress(WorkbenchError):
        run.clean()
    with suppress(WorkbenchError):
        run.set_status(state=state, message=" ".join(message.split()))


def evaluate_twins(generator: Generator, step: int, count: int = 500, pairs: int = 1) -> dict:
    """A record of the medians of the twins' disagreement over `count` samples of all classes."""
    y = sampling.labels(count, generator.num_classes)
    x = sampling.images(generator, sampling.latents(count, generator.z_dim, seed=1), y)
    values = twins.disagreement(x, y if generator.num_classes == len(twins.CLASSES) else None, pairs)
    scores = {f"twins_{name}": value.mean().item() if name == "readable" else value.median().item() for name, value in values.items()}
    protocol = f"medians over n={count}, of readable the share, saved statistics"
    settings = dict(name="twins", n=count, pairs=pairs, weights="auto", statistics="running")
    return evaluation_record(scores, protocol=protocol, settings=settings, n=count, extractor=None, reference=None, step=step, seed=1)
