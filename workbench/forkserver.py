"""A process that has imported all that a training needs, and forks: a training starts at once, where a new process imports for seconds.

`python -m workbench.forkserver` reads requests from stdin, one JSON object a line, and answers with the number of the process that it
has forked. It ends with its stdin; the runs go on. Unlike that of `multiprocessing`, it does not import the caller's script, which
would start its sweep again, and it ends when it is no longer needed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import warnings
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from .messages import WorkbenchError
from .parameters import whole
from .paths import import_path

# torch imports the second with the first optimizer. Neither initialises CUDA, which a fork would lose.
MODULES = ("workbench.training.__main__", "torch._dynamo")
AVAILABLE = sys.platform == "linux"  # macOS's own libraries do not survive a fork


class ForkServer:
    """The server, as the process that starts it sees it; it ends with that process, or with the context."""

    def __init__(self):
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
            env=os.environ | dict(PYTHONPATH=import_path()),
        )  # fmt: skip

    def fork(self, folder: Path, environment: dict[str, str]) -> int:
        """Start the training of the run in `folder`, whose `train.log` takes its output; the number of its process.

        Raises
        ------
        WorkbenchError
            If the server has died.
        """
        request = json.dumps(dict(folder=str(folder), environment=environment, directory=os.getcwd()))
        answer = b""
        with self._lock, suppress(BrokenPipeError):
            self._process.stdin.write(request.encode() + b"\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        pid = whole(answer.decode().strip())
        if not pid:
            raise WorkbenchError(f"the process that starts runs has died (exit status {self._process.wait()}); start the sweep again")
        return pid

    def close(self) -> None:
        self._process.terminate()
        self._process.communicate()

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, *error) -> None:
        self.close()


# ------------------------------------------------------------------------------------------ for the next training

_ready: list[ForkServer] = []


def prepare(seconds: float = 60.0) -> None:
    """Start a server in the background, for the training that this process is about to launch: it imports while this process goes on.

    Parameters
    ----------
    seconds
        It ends if no training is launched for so long: it takes memory, and the code that it has imported may change.
    """
    if AVAILABLE and not _ready:
        server = ForkServer()
        _ready.append(server)
        timer = threading.Timer(seconds, _discard, (server,))
        timer.daemon = True
        timer.start()


def _discard(server: ForkServer) -> None:
    with suppress(ValueError):  # it is in use, or was
        _ready.remove(server)
        server.close()


def fork_prepared(folder: Path, environment: dict[str, str]) -> int | None:
    """As `ForkServer.fork`, with the server that `prepare` started; None if there is none."""
    try:
        server = _ready.pop()
    except IndexError:
        return None
    with server, suppress(WorkbenchError):  # an interrupt ends it before it forks
        return server.fork(folder, environment)
    return None


# ------------------------------------------------------------------------------------------ the server's process


def main() -> int | None:
    for name in MODULES:
        import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the runs: the kernel buries them
    warnings.filterwarnings("ignore", ".*multi-threaded", DeprecationWarning)  # the threads are those of numpy, which survives a fork
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            return train_as_if_new(**json.loads(line))
        print(pid, flush=True)
    return None


def train_as_if_new(folder: str, environment: dict[str, str], directory: str) -> int:
    """Train in this process, a fork, as if it were new; the exit status."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with open(os.devnull, "rb") as nothing, open(Path(folder) / "train.log", "ab") as log:
        for file, number in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(file.fileno(), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    threads = whole(environment.get("OMP_NUM_THREADS", ""))
    if threads:  # which torch read when it was imported
        import_module("torch").set_num_threads(threads)
    return import_module(MODULES[0]).main(["--config", str(Path(folder) / "config.json")])


if __name__ == "__main__":
    sys.exit(main())
