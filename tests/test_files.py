import errno
import fcntl
import os
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from workbench import files
from workbench.files import (
    StorageError,
    UnreadableError,
    continued_folder,
    locked,
    new_folder,
    read_json,
    replace_text,
    synced,
)
from workbench.json_lines import read_records


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_text_is_replaced_at_once(tmp_path):
    for text in ("one", "two"):
        replace_text(tmp_path / "file", text)
        assert (tmp_path / "file").read_text() == text and names(tmp_path) == ["file"]


def test_a_folder_appears_when_it_is_complete(tmp_path):
    with new_folder(tmp_path / "deep" / "new") as folder:
        with synced(folder / "file") as file:
            file.write(b"content")
        assert not (tmp_path / "deep" / "new").exists()
    assert (tmp_path / "deep" / "new" / "file").read_bytes() == b"content" and names(tmp_path / "deep") == ["new"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_error_leaves_nothing(tmp_path, error):
    with pytest.raises(error), new_folder(tmp_path / "new") as folder:
        (folder / "file").touch()
        raise error
    assert names(tmp_path) == []


def test_the_first_of_two_wins(tmp_path):
    with new_folder(tmp_path / "new") as late:
        (late / "late").touch()
        with new_folder(tmp_path / "new") as early:
            (early / "early").touch()
    assert names(tmp_path / "new") == ["early"]


# The module without its package, which would import torch.
ALONE = f"""
import sys, types
package = types.ModuleType("workbench")
package.__path__ = [{str(Path(files.__file__).parent)!r}]
sys.modules["workbench"] = package
"""
KILLED = """
from pathlib import Path
from workbench.files import locked, new_folder
place = Path(sys.argv[1])
with locked(place) as alone, new_folder(place) as folder:
    (folder / "half").touch()
    print(alone, flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path):
    place = tmp_path / "new"
    other = subprocess.Popen([sys.executable, "-c", ALONE + KILLED, place], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "True\n"
    with open(tmp_path / "new.lock") as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert len(list(tmp_path.glob(".new.part-*"))) == 1 and not place.exists()
    wait = f"{ALONE}from pathlib import Path; from workbench.files import locked\nwith locked(Path({str(place)!r}), 'waiting'): pass"
    waiter = subprocess.Popen([sys.executable, "-c", wait], stderr=subprocess.PIPE, text=True)
    assert waiter.stderr.readline() == "waiting\n" and waiter.poll() is None
    other.kill()
    assert waiter.wait(20) == 0
    assert not list(tmp_path.glob(".new.part-*"))


def test_without_locks(tmp_path, monkeypatch):
    def no_locks(*arguments):
        raise OSError("no locks")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with locked(tmp_path / "new") as alone:
        assert not alone


@pytest.mark.parametrize("special", ["pipe", "device", "folder"])
def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path, special, monkeypatch, capsys):
    path = tmp_path / "file"
    dict(pipe=lambda: os.mkfifo(path), device=lambda: path.symlink_to("/dev/zero"), folder=path.mkdir)[special]()
    monkeypatch.setattr("workbench.messages._printed", set())
    with pytest.raises(UnreadableError, match=r"file cannot be read: (not a regular file|Is a directory)"):
        read_json(path)
    assert read_records(path) == [] and f"{path} cannot be read: " in capsys.readouterr().err


# --------------------------------------------------------------------------------------------- folders to be continued


def hidden(folder):
    return [name for name in names(folder) if name.startswith(".")]


def test_a_folder_goes_on_where_it_was(tmp_path):
    with pytest.raises(KeyboardInterrupt), continued_folder(tmp_path / "new", "a") as folder:
        (folder / "one").touch()
        raise KeyboardInterrupt
    assert names(tmp_path) == [".new.unfinished-a"]
    with continued_folder(tmp_path / "new", "a") as folder:
        assert names(folder) == ["one"]
    assert names(tmp_path) == ["new"] and names(tmp_path / "new") == ["one"]


def test_a_move_that_fails_loses_nothing(tmp_path, monkeypatch):
    def fails(*arguments):
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch, pytest.raises(StorageError, match="Permission denied"):
        patch.setattr(os, "rename", fails)
        with continued_folder(tmp_path / "new", "a") as folder:
            (folder / "one").touch()
    with pytest.raises(StorageError, match="new is not empty any more"), continued_folder(tmp_path / "new", "a") as folder:
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "other").touch()
    (tmp_path / "new" / "other").unlink()
    with continued_folder(tmp_path / "new", "a") as folder:
        assert names(folder) == ["one"]
    assert names(tmp_path / "new") == ["one"] and not hidden(tmp_path)


@contextmanager
def waiting_process(path, key, printed):
    """A second process, here a thread, that makes the same folder while the caller works on it; `printed` collects what it got."""

    def work():
        with continued_folder(path, key, "waiting") as folder:
            printed.append(folder and names(folder))

    thread = threading.Thread(target=work)
    with pytest.MonkeyPatch.context() as patch:
        waits = threading.Event()
        patch.setattr(files, "print", lambda *words, file: (printed.append(words[0]), waits.set()), raising=False)
        thread.start()
        assert waits.wait(10)
        yield
    thread.join(10)
    assert not thread.is_alive()


def test_who_finds_another_at_work_waits_and_says_so(tmp_path):
    printed = []
    with ExitStack() as stack, continued_folder(tmp_path / "new", "a") as folder:
        (folder / "one").touch()
        stack.enter_context(waiting_process(tmp_path / "new", "a", printed))
    assert printed == ["waiting", None] and names(tmp_path) == ["new"]


def test_who_waited_for_one_that_failed_begins_itself(tmp_path):
    """Also if that one has left no folder, or a third has made another folder of the same name."""
    printed = []
    with ExitStack() as stack, suppress(ValueError), continued_folder(tmp_path / "new", "a"):
        stack.enter_context(waiting_process(tmp_path / "new", "a", printed))
        raise ValueError  # nothing is in the folder: it is deleted
    assert printed == ["waiting", []] and names(tmp_path) == ["new"]

    third = tmp_path / ".next.unfinished-a"
    printed.clear()
    with ExitStack() as stack, suppress(ValueError), continued_folder(tmp_path / "next", "a"):
        stack.enter_context(waiting_process(tmp_path / "next", "a", printed))
        third.rmdir()
        third.mkdir()
        (third / "of a third").touch()
        raise ValueError
    assert printed == ["waiting", ["of a third"]] and names(tmp_path) == ["new", "next"]


def test_other_content_is_refused_while_a_process_works(tmp_path):
    with continued_folder(tmp_path / "new", "a") as folder:
        (folder / "one").touch()
        with pytest.raises(StorageError, match=r"another process makes .*new, with other content"), continued_folder(tmp_path / "new", "b"):
            pass
        assert hidden(tmp_path) == [".new.unfinished-a"]
    assert names(tmp_path) == ["new"]
    with pytest.raises(StorageError, match="not empty any more"), continued_folder(tmp_path / "new", "b"):
        pass
    assert names(tmp_path) == ["new"]
