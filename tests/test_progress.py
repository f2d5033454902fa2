import os
import sys
import time
from types import SimpleNamespace

import IPython
import pytest

from workbench import progress
from workbench.progress import clock, interactive, silent, tell


def test_lines_tell_how_far_it_is(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "LOG_INTERVAL", 10)
    with progress.progress(1000, "things") as advance:
        for _ in range(10):
            now[0] += 4
            advance(100)
    out, printed = capsys.readouterr()
    printed = printed.splitlines()
    assert not out  # which is for results
    assert printed[0] == "300 of 1,000 things, 25 a second, 0:28 left"
    assert printed[-1] == "1,000 of 1,000 things in 0:40"
    assert len(printed) == 4


def test_a_note_stands_behind_and_what_need_not_be_done_does_not_count(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LOG_INTERVAL", 0)
    with progress.progress(1000, "things") as advance:
        advance(100, "1 running")
        advance(100, "1 failed", 800)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("100 of 1,000 things") and lines[0].endswith(" left; 1 running")
    assert lines[-1] == "200 of 200 things in 0:00; 1 failed"
    with silent(5, "things") as advance:
        advance(1, "1 running", 2)


def test_interrupted_work_tells_how_far_it_came(capsys):
    with pytest.raises(KeyboardInterrupt), progress.progress(10, "things") as advance:
        advance(3)
        raise KeyboardInterrupt
    assert capsys.readouterr().err.startswith("3 of 10 things")


def test_in_a_notebook_a_bar_is_replaced_by_a_line(monkeypatch):
    shown = []
    handle = SimpleNamespace(update=lambda html: shown.append(html.data))
    monkeypatch.setenv("WORKBENCH_HEADLESS", "0")
    monkeypatch.setattr("IPython.display.display", lambda html, display_id: handle)
    with progress.progress(4, "<things>") as advance:
        time.sleep(0.25)
        advance(2)
        advance(2)
    assert '<progress value="0.5000"' in shown[0] and "&lt;things&gt;" in shown[0] and "left" in shown[0]
    assert len(shown) == 2 and shown[1].startswith("4 of 4 &lt;things&gt; in")


def test_in_a_terminal_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress.progress(9, "things") as advance:
        advance(5, "1 failed", 4)
    err = capsys.readouterr().err
    assert "things" in err and "5/5" in err and "1 failed" in err


def test_silent_shows_nothing(capsys):
    with silent(5, "things") as advance:
        advance(5)
    assert capsys.readouterr() == ("", "")


def test_interactive_is_where_somebody_sits_before_the_notebook(monkeypatch):
    monkeypatch.delenv("WORKBENCH_HEADLESS", raising=False)
    monkeypatch.setenv("JPY_SESSION_NAME", "train.ipynb")  # inherited by what is started in a notebook
    assert not interactive()
    shell = SimpleNamespace(get_parent=lambda: {"content": {"allow_stdin": True}})
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    assert interactive()
    monkeypatch.setenv("WORKBENCH_HEADLESS", "1")
    assert not interactive()


def test_clock():
    assert [clock(s) for s in (0.4, 62, 3753, 3 * 86400 + 4)] == ["0:00", "1:02", "1:02:33", "3 d 0:00:04"]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["papermill", "train.ipynb", "out.ipynb"], b"\nstep 1\n"),
        (["papermill", "train.ipynb", "--log-output"], b""),  # shows it already
        ([], b""),
    ],
)
def test_a_line_is_told_in_papermills_terminal_too(command, expected, monkeypatch, capsys):
    reading, writing = os.pipe()
    monkeypatch.setattr(progress, "parent_command", lambda *programs: command)
    monkeypatch.setattr(sys.stderr, "_original_stdstream_copy", writing, raising=False)  # as in a kernel
    progress._terminal_of_papermill.cache_clear()
    try:
        tell("step 1")
    finally:
        progress._terminal_of_papermill.cache_clear()
        os.close(writing)
    with open(reading, "rb") as terminal:
        assert terminal.read() == expected
    assert capsys.readouterr().out == "step 1\n"
