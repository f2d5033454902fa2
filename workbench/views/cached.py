"""Studies of runs take long: each is computed once for each state of a run, and shared by tables and figures."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps

from ..messages import WorkbenchError
from ..runs import Run
from ..studies import long_range, patching, shape


def cached(study: Callable) -> Callable:
    """A function that returns `study(run, *arguments)`, or its WorkbenchError, from a cache.

    It computes again when the run has other checkpoints or more evaluations.
    """

    @lru_cache(maxsize=1024)
    def compute(path: str, checkpoints: tuple[int, ...], evaluations: int, *arguments):
        return study(Run(path), *arguments)

    @wraps(study)
    def lookup(run: Run, *arguments):
        try:
            return compute(str(run.path), tuple(run.checkpoint_steps()), len(run.evaluations()), *arguments)
        except WorkbenchError as error:
            return error

    return lookup


shape_of: Callable[[Run, str], shape.ShapeStudy | WorkbenchError] = cached(shape.study)
patching_of: Callable[[Run, str], patching.PatchingStudy | WorkbenchError] = cached(patching.study)
long_range_of: Callable[[Run], dict | WorkbenchError] = cached(long_range.measure)
