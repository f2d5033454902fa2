"""Whether a process works on a run: its signature, a lock, and a heartbeat.

On the same machine a process is identified by its number and the time it started, counted from the boot and so independent of the clock.
Machines that share a disk see each other's heartbeat: the modification time of the lock, which a thread renews however long a step or an
evaluation takes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import psutil

from ..files import storing
from ..parameters import WorkbenchError

LOCK = ".lock"
HEARTBEAT = 10.0  # seconds
SILENCE = 180.0  # seconds without a heartbeat after which a process of another machine counts as dead
NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF}


class BusyError(WorkbenchError):
    """Another process works on this run."""


# -------------------------------------------------------------------------------------------------- signatures


def signature(pid: int | None = None) -> dict:
    """The signature of a process, by default this one, in `status.json`: `pid`, `born`, `machine` and `host`."""
    pid = os.getpid() if pid is None else pid
    return dict(pid=pid, born=_born(pid), machine=_machine(), host=socket.gethostname())


def alive(who: dict, folder: Path) -> bool:
    """Whether the process of a signature still runs; on another machine: whether the run in `folder` had a heartbeat in the last minutes."""
    if who.get("machine") == _machine():
        return who.get("born") is not None and _born(who.get("pid")) == who["born"]
    return abs(time.time() - max(_changed(folder / LOCK), _changed(folder / "status.json"))) < SILENCE


def _born(pid) -> str | None:
    """When a process started, as text to compare; None if it does not run."""
    try:
        # Linux: clock ticks since boot. psutil's create_time is the time of day, which changes when the clock is set.
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
    """Identifies this machine, boot and PID namespace: in containers, host names and process numbers repeat."""
    facts = [socket.gethostname()]
    with suppress(OSError):
        facts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(facts)


# -------------------------------------------------------------------------------------------------------- lock


class Hold:
    """The lock of a run that this process holds, with its heartbeat."""

    def __init__(self, path: Path, file):
        self._path, self._file, self._over = path, file, threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> bool:
        """Whether another process has taken the run: this one was suspended for longer than `SILENCE`."""
        try:
            return os.stat(self._path).st_ino != os.fstat(self._file.fileno()).st_ino
        except FileNotFoundError:
            return self._path.parent.exists()
        except OSError:
            return False  # the disk does not answer, which says nothing about the lock

    def _beat(self) -> None:
        while not self._over.wait(HEARTBEAT):
            with suppress(OSError):  # on a network disk, the time of its server
                os.utime(self._file.fileno())

    def release(self) -> None:
        """Stop the heartbeat and release the lock."""
        self._over.set()
        self._thread.join()
        if not self.lost:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
        self._file.close()


@contextmanager
def hold(folder: Path, patience: float = 0.0) -> Iterator[Hold]:
    """Context in which no other process holds the run in `folder`; on a file system without locks, the heartbeat alone tells.

    Parameters
    ----------
    patience
        Seconds to wait for another process to release it.

    Raises
    ------
    BusyError
        If another process holds it.
    StorageError
        If the folder cannot be written to.
    """
    lock = Hold(folder / LOCK, _take(folder / LOCK, time.monotonic() + patience))
    try:
        yield lock
    finally:
        lock.release()


def _take(path: Path, until: float):
    with storing(path):
        while True:
            file = open(path, "ab")  # noqa: SIM115 (it stays open)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.stat(path).st_ino == os.fstat(file.fileno()).st_ino:
                    os.utime(file.fileno())
                    return file
            except FileNotFoundError:
                pass  # its last holder deleted it in the meantime
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


def moves(folder: Path, seconds: float = 2.5 * HEARTBEAT) -> bool:
    """Whether the heartbeat changes within some seconds, which does not depend on any machine's clock."""
    first, end = _changed(folder / LOCK), time.monotonic() + seconds
    while time.monotonic() < end:
        if _changed(folder / LOCK) != first:
            return True
        time.sleep(0.2)
    return False


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
