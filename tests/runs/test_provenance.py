import sys

import pytest
import torch

from workbench import WorkbenchError
from workbench.data.twins import Twins
from workbench.machine import git_state
from workbench.runs import create_run, write_provenance


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
