import subprocess
import sys

import pytest
import torch

from workbench import WorkbenchError
from workbench.data.twins import Twins
from workbench.runs import create_run, git_state, write_provenance


def test_provenance_records_where_a_run_comes_from(tiny):
    config = tiny(note="a try", tags="a, b")
    run = create_run(config)
    data = Twins(32)
    write_provenance(run, config, data, 0)
    record = run.provenance
    assert record["data"] == dict(name="twins", fingerprint=data.fingerprint, classes=Twins.classes)
    assert record["note"] == "a try" and record["tags"] == ["a", "b"] and record["parent"] is None
    assert record["versions"]["torch"] == torch.__version__.partition("+")[0] and record["python"] == sys.version.split()[0]
    assert record["command"][1:] == sys.orig_argv[1:]
    assert record["git"] == git_state()
    write_provenance(run, config, data, 4)
    assert [start["from_step"] for start in run.provenance["started"]] == [0, 4]
    with pytest.raises(WorkbenchError, match="it has changed"):
        write_provenance(run, config, Twins(32, seed=1), 4)


def test_git_state_sees_commit_and_changes(tmp_path, monkeypatch):
    for words in (["init", "-q"], ["-c", "user.name=a", "-c", "user.email=b", "commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    (tmp_path / "workbench").mkdir()
    monkeypatch.setattr("workbench.runs.provenance.__file__", str(tmp_path / "workbench" / "runs" / "provenance.py"))
    head = subprocess.run(["git", "-C", str(tmp_path), "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    assert git_state() == dict(commit=head, dirty=False)
    (tmp_path / "new.py").touch()
    assert git_state() == dict(commit=head, dirty=True)
