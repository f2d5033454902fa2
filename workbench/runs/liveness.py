"""Whether a process works on a run: its signature, a lock, and a heartbeat.

On the same machine, a process is identified by its number and its start time since boot, which does not depend on the clock.
On another machine that shares the disk, it is alive as long as its heartbeat is renewed: the modification time of the lock file, which a
thread updates also during long steps and evaluations.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import threading
import time
from contextlib import suppress
from functools import cache
from io import BufferedWriter
from pathlib import Path

import psutil

from .. import signals
from ..files import storing
from ..messages import WorkbenchError

LOCK = ".lock"
HEARTBEAT = 10.0  # seconds
# Seconds without a heartbeat after which a process of another machine counts as dead: NFS may show times that are 60 s old, and clocks differ.
SILENCE = 180.0
NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF}


class BusyError(WorkbenchError):
    """Another process works on this run."""


def signature(pid: int | None = None) -> dict:
    """What identifies a process, by default this one, in `status.json`: `pid`, `born`, `machine` and `host`."""
    pid = os.getpid() if pid is None else pid
    return dict(pid=pid, born=_born(pid), machine=_machine(), host=socket.gethostname())


def alive(process: dict, folder: Path) -> bool:
    """Whether the process with this signature still runs; on another machine, whether `folder` had a heartbeat within `SILENCE` seconds."""
    if process.get("machine") == _machine():
        return process.get("born") is not None and _born(process.get("pid")) == process["born"]
    return seconds_until_lost(folder) > 0


def wake(process: dict) -> None:
    """Let the process with this signature go on if it is suspended, on this machine."""
    if process.get("machine") == _machine() and process.get("born") is not None and _born(process.get("pid")) == process["born"]:
        signals.wake(process["pid"])


def seconds_until_lost(folder: Path) -> float:
    """When a run of another machine counts as lost, unless a heartbeat comes: by this machine's clock, whether it is slow or fast."""
    return SILENCE - abs(time.time() - max(_modified(folder / LOCK), _modified(folder / "status.json")))


def _born(pid) -> str | None:
    """The start time of a process, as text for comparison; None if it does not run."""
    try:
        # On Linux in clock ticks since boot: psutil's create_time is a time of day, which changes when the clock is set.
        state, *fields = Path(f"/proc/{int(pid)}/stat").read_bytes().rpartition(b")")[2].split()
        return None if state in (b"Z", b"X") else fields[18].decode()
    except (TypeError, ValueError, OverflowError, IndexError, ProcessLookupError):
        return None
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
    try:
        process = psutil.Process(int(pid))
        return None if process.status() == psutil.STATUS_ZOMBIE else str(process.create_time())
    except psutil.Error:
        return None


@cache
def _machine() -> str:
    """Text that identifies this machine, boot and PID namespace: in containers, host names and process numbers repeat."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(parts)


class RunLock:
    """The lock of the run in `folder` with its heartbeat, held by this process from construction to the end of the context.

    On a file system without locks, only the heartbeat shows that the run is locked.

    Parameters
    ----------
    patience
        Seconds to wait for another process to release the lock.

    Raises
    ------
    BusyError
        If another process holds it.
    StorageError
        If the folder cannot be written to.
    """

    def __init__(self, folder: Path, patience: float = 0.0):
        self._path = folder / LOCK
        self._file = _lock_file(self._path, time.monotonic() + patience)
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> bool:
        """Whether another process has taken the lock, because this one was suspended for longer than `SILENCE`."""
        try:
            return os.stat(self._path).st_ino != os.fstat(self._file.fileno()).st_ino
        except FileNotFoundError:
            return self._path.parent.exists()
        except OSError:
            return False  # the disk does not answer, which says nothing about the lock

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT):
            with suppress(OSError):  # on a network disk, this sets the time of its server
                os.utime(self._file.fileno())

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *error) -> None:
        self._released.set()
        self._thread.join()
        if not self.lost:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
        self._file.close()


def _lock_file(path: Path, until: float) -> BufferedWriter:
    with storing(path):
        while True:
            file = open(path, "ab")  # noqa: SIM115 (it stays open)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.stat(path).st_ino == os.fstat(file.fileno()).st_ino:
                    os.utime(file.fileno())
                    return file
            except FileNotFoundError:
                pass  # the process that held the lock has deleted the file in the meantime
            except BlockingIOError:
                if time.monotonic() >= until:
                    file.close()
                    raise BusyError(f"another process works on {path.parent}") from None
                time.sleep(0.05)
            except OSError as error:
                if error.errno in NO_LOCKS:
                    return file
                file.close()
                raise
            file.close()


def heart_beats(folder: Path, seconds: float = 2.5 * HEARTBEAT) -> bool:
    """Whether the heartbeat is renewed within some seconds; independent of the clocks of both machines."""
    first, end = _modified(folder / LOCK), time.monotonic() + seconds
    while time.monotonic() < end:
        if _modified(folder / LOCK) != first:
            return True
        time.sleep(0.2)
    return False


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
