import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from workbench import files
from workbench.files import UnreadableError, locked, new_folder, read_json, replace_text, synced
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
