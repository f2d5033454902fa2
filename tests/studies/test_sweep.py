"""Runs that are shared, stopped, gone on with, and those that cannot be done."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from lab import wait_until

from workbench import Ablation, Run, WorkbenchError, list_runs
from workbench.places import outputs_dir
from workbench.runs import create_run
from workbench.studies import sweep as trials_module
from workbench.studies.sweep import carry_out

SMALL = "width=8; z_dim=8; batch_size=8; log_every=2; mixed_precision=no"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(trials_module, "POLL", 0.002)


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


@pytest.mark.parametrize("deaths", [2, 3])
def test_a_kernel_that_does_not_come_up_is_tried_again(monkeypatch, deaths):
    (trial,) = trials()[:1]
    started = []

    def start(command, stdout, **how):
        started.append(command)
        if len(started) <= deaths:
            stdout.write("RuntimeError: Kernel died before replying to kernel_info\n")
            return Ended(1)
        create_run(trial.config).set_status(state="finished")
        return Ended(0)

    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr("workbench.studies.sweep.PATIENCE", 0)
    monkeypatch.setattr("workbench.studies.sweep.POLL", 0.01)
    if deaths < 3:
        carry_out([trial])
    else:
        with pytest.raises(WorkbenchError, match="could not be done: RuntimeError: Kernel died"):
            carry_out([trial])
    assert len(started) == 3


@pytest.mark.parametrize("file", ["config.json", "status.json"])
@pytest.mark.parametrize("content", [b"", b'{"state": "fin', b"[]", b'{"state": 7, "wdth": 1}'])
def test_one_whose_folder_cannot_be_read_is_left_and_reported_and_the_others_are_done(monkeypatch, capsys, file, content):
    broken, other = trials()
    run = create_run(broken.config)
    (run.path / file).write_bytes(content)
    assert broken.state == "unreadable" and not broken.at_rest
    started = []

    class Working(Ended):
        def __init__(self, command, **how):
            super().__init__(0)
            started.append(command[command.index("run") + 1])
            create_run(other.config).set_status(state="finished")

    monkeypatch.setattr(subprocess, "Popen", Working)
    with pytest.raises(WorkbenchError, match=r"1 of 2 runs are left.*restore their files or delete these folders") as error:
        carry_out([broken, other])
    assert started == [other.config.run] and broken.config.run in str(error.value) and "\n" not in str(error.value)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("unreadable: ")]
    assert any(str(run.path / file) in line and line.endswith("this training is left out") for line in said)


def test_one_that_somebody_else_holds_is_waited_for(monkeypatch):
    """Another host's, whose heartbeat is late: it looks lost, and refuses to be trained twice. It is tried again, and not at once."""
    (trial,) = trials()[:1]
    run, started = create_run(trial.config), []
    run.set_status(state="stopped")

    def refused(command, stdout, **how):
        started.append(time.monotonic())
        stdout.write(f"\nWorkbenchError: run '{run.name}' is being trained already (process 7 on other); stop it first, or fork it\n")
        if len(started) == 3:
            run.set_status(state="finished")
        return Ended(1)

    monkeypatch.setattr("workbench.studies.sweep.PATIENCE", 0.1)
    monkeypatch.setattr(subprocess, "Popen", refused)
    carry_out([trial])
    assert len(started) == 3 and all(b - a >= 0.1 for a, b in itertools.pairwise(started))


@pytest.mark.parametrize(("state", "returncode"), [("failed", 0), ("lost", 0), ("created", 0), ("stopped", 1), ("failed", 1)])
def test_a_training_that_ended_without_a_result_is_no_success(monkeypatch, state, returncode):
    (trial,) = trials()[:1]

    def end(command, **how):
        create_run(trial.config).set_status(**dict(state="running", pid=2**22 + 7, born="0") if state == "lost" else dict(state=state))
        return Ended(returncode)

    monkeypatch.setattr(subprocess, "Popen", end)
    with pytest.raises(WorkbenchError, match="seed=0' could not be done: "):
        carry_out([trial])


def test_one_that_was_stopped_by_somebody_is_reported(monkeypatch, capsys):
    (trial,) = trials()[:1]

    def end(command, **how):
        create_run(trial.config).set_status(state="stopped", step=1)
        return Ended(0)

    monkeypatch.setattr(subprocess, "Popen", end)
    carry_out([trial])
    assert "was stopped by somebody, and is left at step 1" in capsys.readouterr().err


def test_two_sweeps_at_once_share_the_work(monkeypatch):
    """Stand-ins for papermill, one for each training that a sweep starts: who claims the run first trains it, the other one is refused."""
    todo = {trial.config.run: trial for trial in trials(seeds="0,1,2,3")}
    trained, refused = [], []

    class Working:
        returncode = None

        def __init__(self, command, stdout, **how):
            self.name, self.looks = command[command.index("run") + 1 if "run" in command else command.index("resume") + 1], 0
            try:
                create_run(todo[self.name].config).set_status(state="running")
                trained.append(self.name)
            except WorkbenchError as error:
                stdout.write(f"{type(error).__name__}: {error}\n")
                refused.append(self.name)
                self.returncode = 1

        def poll(self):
            self.looks += 1
            if self.looks == 3 and self.returncode is None:
                Run(self.name).set_status(state="finished")
                self.returncode = 0
            return self.returncode

    start = trials_module._start
    both = threading.Barrier(2)

    def together(trial, jobs):  # both sweeps look before either starts, once
        if len(trained) + len(refused) == 0:
            both.wait(10)
        return start(trial, jobs)

    monkeypatch.setattr(trials_module, "PATIENCE", 0)
    monkeypatch.setattr(trials_module, "_start", together)
    monkeypatch.setattr(subprocess, "Popen", Working)
    with ThreadPoolExecutor(2) as pool:
        [done.result(60) for done in [pool.submit(carry_out, list(todo.values())) for _ in range(2)]]
    assert sorted(trained) == sorted(todo) and refused and all(trial.state == "finished" for trial in todo.values())


def test_trainings_end_with_the_sweep_and_with_what_that_ends_with(monkeypatch):
    """Each knows the process that it is not to outlive; what it prints goes to a file without a name."""
    (trial,) = trials()[:1]
    seen = {}

    def end(command, env, stdout, **how):
        seen.update(env=env, words=command)
        create_run(trial.config).set_status(state="finished")
        return Ended(0)

    monkeypatch.setenv("WORKBENCH_WAITING", "4321")
    monkeypatch.setattr(subprocess, "Popen", end)
    carry_out([trial])
    assert seen["env"]["WORKBENCH_WAITING"] == f"4321,{os.getpid()}"
    assert {path.name for path in trial.run.path.iterdir()} == {"config.json", "status.json"}
    text = [name for option, name in itertools.pairwise(seen["words"]) if option == "-p"]
    assert "run" not in text and "mixed_precision" not in text and "width" in text  # papermill leaves text alone after -r


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_that_end_the_sweep_let_its_trainings_save_first(monkeypatch, number):
    (trial,) = trials()[:1]
    events = []

    class Working:
        returncode = None

        def __init__(self, command, **how):
            create_run(trial.config).set_status(state="running")

        def poll(self):
            signal.raise_signal(number)  # twice, as impatient people do
            return None

        def send_signal(self, sent):
            events.append(sent)
            signal.raise_signal(number)

        def wait(self):
            Run(trial.config.run).set_status(state="stopped")
            events.append("saved")

    monkeypatch.setattr(subprocess, "Popen", Working)
    before = signal.signal(number, lambda *_: events.append(number))
    try:
        with pytest.raises(KeyboardInterrupt):
            carry_out([trial])
    finally:
        signal.signal(number, before)
    assert events == [signal.SIGINT, "saved", number]


def test_signals_that_are_ignored_stay_ignored(monkeypatch):
    """nohup: a closed terminal ends nothing."""
    for trial in trials():
        create_run(trial.config).set_status(state="finished")
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with trials_module._ended_by_signals():
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_without_the_notebook_it_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr("workbench.studies.sweep.NOTEBOOK", tmp_path / "nowhere" / "train.ipynb")
    with pytest.raises(WorkbenchError, match=r"there is no .*train.ipynb, which does the runs: they need a checkout"):
        carry_out(trials())
    assert not list_runs()


def test_a_disk_that_cannot_be_written_to_is_one_line():
    outputs_dir().mkdir()
    (outputs_dir() / trials()[0].config.run).write_text("a file where a folder should be")
    with pytest.raises(WorkbenchError, match="cannot be written: "):
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
def test_a_sweep_that_is_killed_takes_its_trainings_along():
    """They save and stop, and so do the notebooks that started them."""
    script = (
        "from workbench import Ablation\n"
        f"Ablation(experiments='variant', settings={SMALL!r}, steps=4000, evaluations=1, seeds='0', n=10).carry_out()"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL, start_new_session=True)
    wait_until(lambda: any(run.status()["step"] > 5 for run in list_runs()), 120)
    started = [child for child in psutil.Process(process.pid).children(recursive=True)]
    (run,) = list_runs()
    assert len(started) >= 3  # papermill, its kernel, the training
    process.kill()  # what other signals do is tested in this process
    assert process.wait(60) != 0
    wait_until(lambda: run.status()["state"] == "stopped", 60)
    assert run.checkpoint_steps() and not run.active
    _, alive = psutil.wait_procs(started, 90)
    assert not alive
