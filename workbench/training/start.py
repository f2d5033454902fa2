"""`train(config)`: lock and prepare a run, train it in this process, and report why it ended."""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from ..config import Config
from ..data import open_data
from ..data.datasets import DRAWN, Drawn, average
from ..files import StorageError
from ..messages import ParameterError, WorkbenchError
from ..model import Generator, sampling
from ..processes import LostProcessError, process_group, rank
from ..records import evaluation_record
from ..runs import Run, create_run, fork_point, lock_run, parent_folder, perhaps_moved, require_resumable, require_same_data, resumes
from ..runs.liveness import RunLock
from ..signals import signals_to
from .loop import Evaluate, training_loop
from .memory import require_feasible
from .setup import build, decide_precision, make_accelerator
from .stopping import SIGNALS, interrupts


def train(config: Config, evaluate: Evaluate | None = None, run: Run | None = None) -> Run:
    """Train in this process (or, under `accelerate launch`, in all of its processes) until done or stopped.

    Ctrl-C, SIGTERM and `Run.stop` save a checkpoint and return.

    Parameters
    ----------
    config
        All settings; `resume` continues or forks a run.
    evaluate
        Called as `evaluate(generator, step)` every `evaluate_every` steps, in all processes, with the EMA if available, else G; what it
        returns in the main process is appended to `evaluations.jsonl`. The default is `evaluate_truth`, for drawn data only;
        the command line, and so `launch`, passes `evaluation.during_training(config)`.
    run
        The run to train, by default a new one; a run with checkpoints is resumed.

    Returns
    -------
    Run
        Its `status()` tells whether it finished or was stopped.

    Raises
    ------
    ParameterError, WorkbenchError
        If settings do not fit, the data cannot be used, or the training diverges.
    """
    start = time.monotonic()
    with interrupts(), ExitStack() as stack, process_group(config.num_processes, config.device, "workbench.training --config FILE"):
        evaluate = evaluate or (
            partial(evaluate_truth, data=DRAWN[config.data](config), count=config.evaluate_n) if config.data in DRAWN else None
        )
        if config.evaluate_every and evaluate is None:
            raise ParameterError(
                f"evaluate_every={config.evaluate_every}: train() has no evaluation for data={config.data!r} by itself; pass "
                "evaluate=evaluation.during_training(config), or use launch(), or evaluate_every=0"
            )
        run, config, accelerator, data, lock = _prepare(config, run, stack)
        training_loop(build(config, accelerator), run, data, evaluate, lock, start)
        return run


def _prepare(config: Config, run: Run | None, stack: ExitStack) -> tuple[Run, Config, Accelerator, object, RunLock | None]:
    """The run, its settings, devices, data and lock; refuses whatever can be refused before a folder is made."""
    main, lock = rank() == 0, None
    if main:
        if run is None and resumes(config):
            run = Run(parent_folder(config))
        if run:
            require_resumable(config, run.path)
            lock = _lock(run, stack)
        else:
            fork_point(config)
    require_feasible(config)
    first_config, config = config, decide_precision(config)
    accelerator = make_accelerator(config)
    with accelerator.main_process_first(), perhaps_moved(config, run):  # the main process packs the data, the others find it packed
        data = open_data(config, progress=main)
    if config.num_classes is None:
        config = config.replace(num_classes=data.num_classes)
    if main:
        if run:
            require_same_data(run, config, data)  # before its settings change
        else:
            fork_point(config)  # again, now that the number of classes is known
            run = create_run(first_config)
            lock = _lock(run, stack)
        config = run.update_config(config)
        run.set_status(state="starting", step=0, steps=config.steps, message="", alarms=[])
    path, settings = broadcast_object_list([run and str(run.path), config.to_json()])
    return Run(Path(path)), Config.from_json(settings), accelerator, data, lock


def _lock(run: Run, stack: ExitStack) -> RunLock:
    """Lock the run until the stack is closed, which also writes an error into its status."""
    lock = stack.enter_context(lock_run(run))
    stack.push(lambda kind, error, trace: report_end(run, error) if error and not lock.lost else None)
    if not run.active:  # else `launch` has cleaned up already, and a `stop` file is a request to this training
        run.clean()
    return lock


def report_end(run: Run, error: BaseException) -> None:
    """Write into the status why a training ended early."""
    if isinstance(error, KeyboardInterrupt):
        state, message = "stopped", f"interrupted; {run.resume_hint()}"
    else:
        state = "failed"
        message = str(error) if isinstance(error, WorkbenchError) else f"{type(error).__name__}: {error}"
        message += f"; {run.resume_hint()}" if isinstance(error, StorageError | LostProcessError) else ""
    # If the disk is full, readers of the status still see that the process has ended. A launcher may end this process, too.
    with signals_to(lambda *_: None, SIGNALS), suppress(WorkbenchError):
        run.clean()
    with signals_to(lambda *_: None, SIGNALS), suppress(WorkbenchError):
        run.set_status(state=state, message=" ".join(message.split()))


def evaluate_truth(generator: Generator, step: int, data: Drawn, count: int) -> dict:
    """A record of what the drawn data set measures, over `count` samples of all classes; see `data.datasets.average`."""
    y = sampling.labels(count, generator.num_classes)
    x = sampling.images(generator, sampling.latents(count, generator.z_dim, seed=1), y)
    values = data.truth(x, y if generator.num_classes == data.num_classes else None)
    scores = {name: average(name)(value).item() for name, value in values.items()}
    protocol = f"means of shares and medians of distances over n={count}, saved statistics"
    settings = dict(name="truth", measures=data.measures, n=count, weights="auto", statistics="running")
    return evaluation_record(scores, protocol=protocol, settings=settings, n=count, extractor=None, reference=None, step=step, seed=1)
