"""The training loop: the order of the steps, and when each file of a run is written.

One step is in `steps`, the content of a checkpoint in `checkpoint`. `start` prepares the run for the loop, and reports how it ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing

import numpy as np

from ..data import loader
from ..files import storing
from ..messages import WorkbenchError, counted
from ..model import Generator, sampling
from ..records import BY_TRAINING
from ..runs import Run, fork_point, write_provenance
from ..runs.checkpoints import prune
from ..runs.liveness import BusyError, RunLock
from .checkpoint import DivergedError, Progress, load, save
from .history import history_row
from .samples import FixedSamples, write_samples
from .setup import Networks
from .status import Status
from .steps import d_step, g_step
from .stopping import StopRequests, stop_signals
from .trackers import log_samples, log_scores, tracked

Evaluate = Callable[[Generator, int], dict | None]


def training_loop(
    nets: Networks, run: Run, data, evaluate: Evaluate | None = None, lock: RunLock | None = None, start: float | None = None
) -> None:
    """Train until the last step or a request to stop. All processes of a training call this; only the main one writes.

    Parameters
    ----------
    data
        The opened data set.
    evaluate
        See `train`.
    lock
        The run's lock, in the main process.
    start
        When `max_hours` began, on the monotonic clock; by default now.
    """
    config, accelerator, main = nets.config, nets.accelerator, nets.accelerator.is_main_process

    # Resume: start from the newest checkpoint of the run, from the parent's checkpoint if it is a fork, or from fresh weights.
    progress = Progress()
    origin = (run, None) if run.checkpoint_steps() else fork_point(config)
    if origin:
        progress = load(nets, *origin)
    if main:
        with storing(run.path):
            run.begin_records(origin and origin[0], progress.step)
            prune(run.path, config.keep_checkpoints)  # a training that was killed may have left one too many
            write_provenance(run, config, data, progress.step)
    accelerator.wait_for_everyone()

    fixed = FixedSamples(config, data)
    batches = loader(data, config, progress.step, accelerator.process_index, accelerator.num_processes)
    status = Status(run, config, progress.step) if main else None
    if main and progress.step == 0:
        write_samples(nets, recalibrated(nets), run, 0, fixed)
    clock = time.monotonic()

    def due(every: int) -> bool:
        """Whether to do after this step what is done every `every` steps (0: never) and after the last one."""
        return every > 0 and (progress.step % every == 0 or progress.step == config.steps)

    with stop_signals() as signals, closing(batches), tracked(accelerator, run, config, progress.step), storing(run.path):
        stop_requested = StopRequests(accelerator, run, signals, config.max_hours, start)
        while progress.step < config.steps and not stop_requested(progress.step):
            if lock and lock.lost:
                raise BusyError(f"another process has taken over run {run.name!r}, because this one was suspended for too long")

            # Step: `d_steps` steps of D, then one of G.
            step, real = next(batches)
            d_reports = [d_step(nets, step, k, real[k]) for k in range(config.d_steps)]
            progress.window.add(d_reports, g_step(nets, step))
            progress.step = step = step + 1
            progress.seconds, clock = progress.seconds + time.monotonic() - clock, time.monotonic()

            # Log: a line of history, the means since the last line over all processes.
            if due(config.log_every):
                row = history_row(nets, progress.window, step, step - progress.logged, progress.seconds)
                progress.logged = step
                if not np.isfinite([row[name] for name in ("loss_d", "loss_g", "d_real", "d_fake")]).all():
                    raise DivergedError("losses", step, run)
                accelerator.log(row, step=step)
                if main:
                    run.append("history.jsonl", row)
                    status.watch_history(row)

            # Recalibrate the EMA before it is sampled, evaluated or saved. All processes evaluate, and need the same EMA.
            if (evaluate and due(config.evaluate_every)) or (main and (due(config.sample_every) or due(config.checkpoint_every))):
                generator = recalibrated(nets)

            # Sample: the grid, attention snapshots and spectra.
            if main and due(config.sample_every):
                status.watch_samples(write_samples(nets, generator, run, step, fixed), step, fixed)
                log_samples(accelerator, run, step)

            # Evaluate: if that fails, save a checkpoint, so that no step is lost.
            if evaluate and due(config.evaluate_every):
                if main:
                    status.report(f"evaluating {counted(config.evaluate_n, 'sample')} at step {step}")
                try:
                    with sampling.train_mode(generator, False):
                        record = evaluate(generator, step)
                    if record and main:
                        run.append("evaluations.jsonl", dict(step=step) | record | {BY_TRAINING: True})
                        log_scores(accelerator, record["scores"], step)
                except BaseException as error:
                    if main:
                        save(nets, run, progress)
                    if isinstance(error, OSError):
                        raise WorkbenchError(f"the evaluation at step {step} failed: {error}; {run.resume_hint()}") from error
                    raise

            # Checkpoint: save everything that the next step depends on.
            if main and due(config.checkpoint_every):
                save(nets, run, progress)
            if main:
                status.update(step)

        # Stop: if steps are left, save a checkpoint to resume from.
        finished = progress.step >= config.steps
        if main and not finished:
            recalibrated(nets)
            save(nets, run, progress)
    if main and finished:
        status.finish("finished", progress.step, f"finished after {counted(progress.step, 'step')}")
    elif main:
        reason = f" after max_hours={config.max_hours:g}" if stop_requested.out_of_time else ""
        status.finish("stopped", progress.step, f"stopped at step {progress.step}{reason}; {run.resume_hint()}")
    accelerator.wait_for_everyone()


def recalibrated(nets: Networks) -> Generator:
    """The generator to sample and evaluate: the EMA, recalibrated, or G if there is no EMA."""
    if not nets.ema:
        return nets.generator
    sampling.recalibrate(nets.ema.average, nets.config.seed)
    return nets.ema.average
