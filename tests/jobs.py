"""Jobs of several processes that no launcher of torch has started: forked from a process that has imported the package, so they start quickly."""

import importlib.util
import multiprocessing
import os
import socket
from collections.abc import Callable


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def run_job(world: int, function: Callable, *arguments, seconds: float = 120, **variables: str) -> list[int | None]:
    """The exit codes of `world` processes that call `function(*arguments)`, a function of a module, placed by the variables that a cluster's scheduler sets."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["workbench.training", "workbench.evaluation"])
    environment = dict(os.environ) | dict(WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port())) | variables
    call = function.__code__.co_filename, function.__name__, *arguments
    job = [context.Process(target=_member, args=(environment | dict(RANK=str(k), LOCAL_RANK=str(k)), *call)) for k in range(world)]
    for process in job:
        process.start()
    for process in job:
        process.join(seconds)
    codes = [process.exitcode for process in job]
    for process in job:
        process.kill()
    return codes


def _member(environment: dict[str, str], file: str, function: str, *arguments) -> None:
    os.environ.clear()
    os.environ.update(environment)
    spec = importlib.util.spec_from_file_location("member", file)  # a module of tests has no name by which another process finds it
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    getattr(module, function)(*arguments)
