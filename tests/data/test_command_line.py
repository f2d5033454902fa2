import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from image_folders import opened, refused, spoil, tree

import workbench
from workbench.cli import main


@pytest.mark.slow
def test_prepare_on_the_command_line(tmp_path, capsys):
    root, out = tree(tmp_path / "pets", cat=2, dog=2), tmp_path / "new/packed"
    command = [sys.executable, "-m", "workbench", "prepare", str(root), str(out), "--size", "64"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(workbench.__file__).parent.parent)
    assert done.returncode == 0 and "Warning" not in done.stderr
    assert "pets: 4 images of 64x64" in done.stdout and "cat 2, dog 2" in done.stdout
    assert sorted(path.name for path in out.parent.iterdir()) == ["packed"]
    data = opened(out, image_size=64)
    original = opened(root, image_size=64)
    assert data.fingerprint == original.fingerprint and np.array_equal(data.images, original.images) and data.name == "pets"
    message = refused(out)
    assert "packed at 64x64, not at 32x32" in message and "image_size=64" in message and "--size 32" in message
    assert main(command[3:]) == 2
    assert capsys.readouterr().err == f"DataError: {out} exists and is not empty: give another folder to pack into\n"


def test_names_that_the_terminal_cannot_show(tmp_path, monkeypatch):
    written = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", written)
    assert main(["prepare", str(tree(tmp_path / "pets", 猫=2)), str(tmp_path / "out"), "--size", "32"]) == 0
    assert b"\\u732b 2" in written.buffer.getvalue()


def test_prepare_refuses(tmp_path, capsys):
    root = tree(tmp_path / "pets", cat=2, dog=2)
    spoil(root)
    cases = {
        "fix or delete them, or set --skip-unreadable to leave them out": (root, tmp_path / "out", "--size", "32"),
        "or set --unconditional to train without classes": (root / "cat", tmp_path / "out", "--size", "32"),
        "SOURCE='/dev/null' is a file": ("/dev/null", tmp_path / "out", "--size", "32"),
        "processes=0 must be at least 1": (root, tmp_path / "out", "--size", "32", "--processes", "0"),
        "image_size=33": (root, tmp_path / "out", "--size", "33"),
        "no such folder": (tmp_path / "pest", tmp_path / "out", "--size", "32"),
        "lies in the data": (root, root / "out", "--size", "32"),
        "needs no packing": ("twins", tmp_path / "out", "--size", "32"),
        "out='' is no folder": (root, "", "--size", "32"),
        "data='' is not": ("", tmp_path / "out", "--size", "32"),
        "cannot be written": (root, "/proc/none/out", "--size", "32", "--skip-unreadable"),
        "File name too long": (root, tmp_path / ("x" * 300), "--size", "32", "--skip-unreadable"),
    }
    for part, arguments in cases.items():
        assert main(["prepare", *map(str, arguments)]) == 2
        output = capsys.readouterr().err.splitlines()[-1]
        assert part in output and "Error: " in output
        assert not (tmp_path / "out").exists() and not list(tmp_path.glob("out.part-*"))


def test_help_explains_every_argument(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["prepare", "--help"])
    output = capsys.readouterr().out
    assert ended.value.code == 0 and all(word in output for word in ("SOURCE", "OUT", "--size", "--skip-unreadable", "--unconditional"))
