"""`train(config)`: trains in this process. Claims and prepares the run, runs the loop, and reports why it ended."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from ..config import Config
from ..data import open_data, twins
from ..files import StorageError
from ..model import Generator, sampling
from ..parameters import ParameterError, WorkbenchError
from ..processes import LostProcessError, process_group, rank
from ..records import evaluation_record
from ..runs import Run, create_run, fork_point, holding, parent_folder, require_resumable, resumes
from ..runs.liveness import Hold
from .loop import Evaluate, training_loop
from .memory import require_feasible
from .setup import build, decide_precision, make_accelerator
from .stopping import interrupts


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
