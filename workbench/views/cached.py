"""Studies of runs, which take long: made once for each state of a run, however many tables and figures show them."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps

from ..parameters import WorkbenchError
from ..runs import Run
from ..studies import long_range, patching, shape


def cached(study: Callable) -> Callable:
    """The study with a memory: `study(run, *arguments)`, or the error that says why there is none.

    What a run is asked again is answered anew once it has other checkpoints, or more evaluations.
    """

    @lru_cache(maxsize=1024)
    def remember(path: str, checkpoints: tuple[int, ...], evaluations: int, *arguments):
        return study(Run(path), *arguments)

    @wraps(study)
    def recall(run: Run, *arguments):
        try:
            return remember(str(run.path), tuple(run.checkpoint_steps()), len(run.evaluations()), *arguments)
        except WorkbenchError as error:
            return error

    return recall


shape_of: Callable[[Run, str], shape.ShapeStudy | WorkbenchError] = cached(shape.study)
patching_of: Callable[[Run, str], patching.PatchingStudy | WorkbenchError] = cached(patching.study)
long_range_of: Callable[[Run], dict | WorkbenchError] = cached(long_range.measure)
