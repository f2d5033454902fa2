"""Trainings that are shared, stopped, gone on with, and those that cannot be done."""

import signal
import subprocess
import sys
import time

import pytest

from workbench import Ablation, Run, WorkbenchError, list_runs
from workbench.experiments.trials import carry_out
from workbench.runs import create_run

SMALL = "width=8; z_dim=8; batch_size=8; log_every=2; mixed_precision=no"


def trials(**overrides):
    ablation = Ablation(**dict(experiments="variant", settings=SMALL, steps=2, seeds="0", n=10) | overrides)
    return ablation.trials("variant")


def test_what_is_not_done_is_told():
    official, paper = trials()
    assert (official.state, official.run, official.at_rest) == ("waiting", None, False)
    run = create_run(paper.config)
    assert (paper.state, paper.run.path) == ("created", run.path)
    run.set_status(state="failed", message="no space left on device")
    assert paper.state == "failed" and not paper.at_rest
    run.set_status(state="failed", message="training diverged: losses became NaN")
    assert paper.state == "diverged" and paper.at_rest


def test_what_is_done_is_not_done_again(monkeypatch):
    for trial in trials():
        create_run(trial.config).set_status(state="finished")
    monkeypatch.setattr(subprocess, "Popen", None)
    carry_out(trials())


class Ended:
    """A papermill that has ended."""

    def __init__(self, returncode):
        self.returncode = returncode

    def poll(self):
        return self.returncode


def test_a_training_that_another_machine_began_first_is_waited_for(monkeypatch):
    """Starting it fails, since its folder exists; the other machine finishes it."""
    (trial,) = trials()[:1]
    looked = iter(["waiting", "created", "created", "running", "running", "finished"])
    monkeypatch.setattr(type(trial), "state", property(lambda self: next(looked, "finished")))
    monkeypatch.setattr("workbench.experiments.trials.POLL", 0)
    started = []

    def refused(command, stdout, **how):
        started.append(command)
        stdout.write(f"ParameterError: run='{trial.config.run}' exists already; go on with it\n")
        return Ended(1)

    monkeypatch.setattr(subprocess, "Popen", refused)
    carry_out([trial])
    assert len(started) == 1


def test_one_that_fails_ends_the_sweep_with_the_reason(monkeypatch):
    def fail(command, stdout, **how):
        stdout.write("a traceback\nDataError: data='nowhere': there is no such folder\n")
        return Ended(1)

    monkeypatch.setattr(subprocess, "Popen", fail)
    with pytest.raises(WorkbenchError, match=r"seed=0' could not be done: DataError: data='nowhere'"):
        carry_out(trials())


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_next_begins_when_one_is_done(monkeypatch, jobs):
    """Stand-ins for papermill that finish their runs at the third look: `jobs` at a time, each begun once, in their order."""
    todo = {trial.config.run: trial for trial in trials(seeds="0,1")}
    begun, working, most = [], [], []

    class Working:
        returncode = None

        def __init__(self, command, **how):
            self.name, self.looks = command[command.index("run") + 1], 0
            create_run(todo[self.name].config).set_status(state="running")
            begun.append(self.name)
            working.append(self)
            most.append(len(working))

        def poll(self):
            self.looks += 1
            if self.looks == 3:
                Run(self.name).set_status(state="finished")
                working.remove(self)
                self.returncode = 0
            return self.returncode

    monkeypatch.setattr("workbench.experiments.trials.POLL", 0)
    monkeypatch.setattr(subprocess, "Popen", Working)
    carry_out(list(todo.values()), jobs)
    assert begun == list(todo) and len(begun) == 4 and max(most) == jobs and not working


@pytest.mark.slow
def test_trainings_are_done_once():
    carry_out(trials(), jobs=2)
    assert [trial.state for trial in trials()] == ["finished", "finished"]
    assert all((run.path / "train.ipynb").exists() and not (run.path / "papermill.log").exists() for run in list_runs())
    assert all([record["step"] for record in run.evaluations()] == [1, 2] for run in list_runs())


@pytest.mark.slow
def test_an_interrupt_lets_them_save():
    script = (
        "from workbench import Ablation\n"
        f"Ablation(experiments='variant', settings={SMALL!r}, steps=4000, evaluations=1, seeds='0', n=10).carry_out()"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL, start_new_session=True)
    end = time.monotonic() + 120
    while not any(run.status()["step"] > 5 for run in list_runs()):
        assert time.monotonic() < end
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) != 0
    (run,) = list_runs()
    assert run.status()["state"] == "stopped" and run.checkpoint_steps() and not run.active
