import json
import os
import signal
import subprocess
import threading
import time
from dataclasses import asdict
from unittest import mock

import psutil
import pytest
import torch
import torch.distributed as dist
from jobs import run_job

from workbench import Evaluation, WorkbenchError, evaluate
from workbench.evaluation import workers
from workbench.processes import rank


@pytest.mark.slow
def test_several_processes_give_the_same_scores(run):
    (one,) = evaluate(run="one", n=600, reference_n=600)
    for path in (run.path.parent.parent / "data" / "cache").glob("reference-*"):
        path.unlink() if path.is_file() else [f.unlink() for f in path.iterdir()] and path.rmdir()  # so that statistics are computed again
    (two,) = evaluate(run="one", n=600, reference_n=600, num_processes=2, again=True)
    assert two["scores"].keys() == one["scores"].keys()
    for name, value in two["scores"].items():
        assert value == pytest.approx(one["scores"][name], rel=1e-9, abs=1e-12)
    assert len(run.evaluations()) == 2
    with pytest.raises(WorkbenchError, match="scores='fid' is defined by the reference Inception") as error:
        evaluate(run="one", num_processes=2, scores="fid")
    assert "\n" not in str(error.value)


NETWORKS = """
import os, signal, sys, time, torch
class Network(torch.nn.Module):
    seen = 0
    def forward(self, x):
        self.seen += len(x)
        if self.seen > 20 and os.environ.get("RANK") == os.environ["FAILING"]: {deed}
        return x.mean((2, 3))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("deed", "failing", "says"),
    [
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            "1",
            "process 1 of 2 .* was ended by SIGKILL; unless you did that, there was no memory left",
        ),
        ("raise SystemExit(0)", "1", "extractor 'network' cannot take images of shape .*: SystemExit"),
    ],
)
def test_the_cause_of_a_failed_process_is_reported_in_one_line(run, deed, failing, says, tmp_path, monkeypatch):
    (tmp_path / "failing.py").write_text(NETWORKS.format(deed=deed))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("FAILING", failing)
    with pytest.raises(WorkbenchError, match=says) as error:
        evaluate(run="one", extractor="failing:Network", num_processes=2, n=600, reference_n=600)
    assert "\n" not in str(error.value) and "gloo" not in str(error.value).lower()


def work_and_leave(folder, late):
    """Process `late` takes a second longer before the end, and another one after it."""
    barrier = dist.barrier

    def delayed():
        time.sleep(late == rank())
        barrier()
        time.sleep(late == rank())

    def evaluate(evaluation):
        total = torch.ones(1)
        dist.all_reduce(total)
        return [{"total": total.item()}]

    with mock.patch.object(dist, "barrier", delayed):
        start = time.monotonic()
        workers.work(folder, evaluate)
    assert time.monotonic() - start > 2, "left before the other one was done"


@pytest.mark.slow
@pytest.mark.parametrize("late", [0, 1])
def test_no_process_leaves_while_another_is_late(tmp_path, late):
    (tmp_path / "evaluation.json").write_text(json.dumps(asdict(Evaluation(num_processes=2, device="cpu"))))
    assert run_job(2, work_and_leave, tmp_path, late) == [0, 0]
    assert json.loads((tmp_path / "records.json").read_text()) == [{"total": 2.0}] and not list(tmp_path.glob("failure-*"))


@pytest.mark.slow
def test_an_interrupt_ends_all_processes(run, tmp_path, monkeypatch):
    (tmp_path / "slow_one.py").write_text(NETWORKS.format(deed="pass").replace("return", "time.sleep(600); return"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("FAILING", "")
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(workers.subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[0])

    def interrupt():
        while not started or len(psutil.Process(started[0].pid).children(recursive=True)) < 2:
            time.sleep(0.1)
        time.sleep(1)
        children.extend(psutil.Process(started[0].pid).children(recursive=True))
        os.kill(os.getpid(), signal.SIGINT)

    children = []
    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        evaluate(run="one", extractor="slow_one:Network", num_processes=2, n=600, reference_n=600)
    assert len(children) >= 2 and not psutil.wait_procs(children, timeout=5)[1]
