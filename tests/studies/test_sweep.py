"""Runs that are shared, stopped, gone on with, and those that cannot be trained."""

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

from workbench import Ablation, ParameterError, Run, WorkbenchError, list_runs
from workbench.paths import outputs_dir
from workbench.runs import create_run
from workbench.runs.liveness import signature
from workbench.studies import sweep
from workbench.studies.sweep import execute, in_one_precision, submit

SMALL = "width=8; z_dim=8; batch_size=8; log_every=2; mixed_precision=no"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(sweep, "POLL", 0.002)


def planned_runs(**overrides):
    ablation = Ablation(**dict(experiments="variant", settings=SMALL, steps=2, seeds="0", n=10) | overrides)
    return ablation.planned_runs("variant")


class StandIn:
    """In the place of a `Job`: a training that ends at the third look, or when it was stopped."""

    end = dict(state="finished")

    def __init__(self, planned, threads=1):
        self.run, self.looks = planned.run or create_run(planned.config), 0
        self.run.set_status(state="running")

    @property
    def active(self):
        self.looks += 1
        if self.looks == 3:
            self.run.set_status(**self.end)
        return self.looks < 3

    def stop(self):
        self.run.set_status(state="stopped")

    def wait(self):
        assert not self.run.active


def test_what_is_not_done_is_told():
    official, paper = planned_runs()
    assert (official.state, official.run, official.at_rest) == ("waiting", None, False)
    run = create_run(paper.config)
    assert (paper.state, paper.run.path) == ("created", run.path)
    run.set_status(state="failed", message="no space left on device")
    assert paper.state == "failed" and not paper.at_rest
    run.set_status(state="failed", message="training diverged: losses became NaN")
    assert paper.state == "diverged" and paper.at_rest


def test_what_is_done_is_not_done_again(monkeypatch):
    for planned in planned_runs():
        create_run(planned.config).set_status(state="finished")
    monkeypatch.setattr(sweep, "submit", None)
    execute(planned_runs())


# ------------------------------------------------------------------------------------------------------ submitting


def launcher(seconds=0.3, **status):
    """In the place of `launch`: claims the run as that does, one caller at a time, and starts a process that sleeps."""
    lock = threading.Lock()

    def launch(config, attached):
        with lock:
            run = Run(config.resume) if config.resume else create_run(config)
            if run.status()["state"] != "finished":  # another caller may have come first
                process = subprocess.Popen(["sleep", str(seconds)])
                run.set_status(**dict(state="finished") | status, **signature(process.pid))
        return run

    return launch


def test_a_job_is_active_as_long_as_its_process(monkeypatch):
    monkeypatch.setattr(sweep, "launch", launcher())
    planned, _ = planned_runs()
    job = submit(planned)
    assert job.active and job.run.status()["state"] == "finished" and job.run.name == planned.config.run
    job.wait()
    assert not job.active


def test_a_run_that_another_process_began_first_is_no_job(monkeypatch):
    """Its folder appears between the look and the launch; or it is being trained by the time that it is launched."""
    planned, other = planned_runs()

    def late(config, attached):
        create_run(config).set_status(state="running")
        raise ParameterError(f"run={config.run!r} exists already; go on with it")

    monkeypatch.setattr(sweep, "launch", late)
    assert submit(planned) is None and planned.state == "running"
    create_run(other.config).set_status(state="stopped")
    foreign = signature() | dict(machine="another")

    def busy(config, attached):
        Run(config.resume).set_status(state="running", **foreign)
        return Run(config.resume)

    monkeypatch.setattr(sweep, "launch", busy)
    assert submit(other) is None


def test_what_launch_refuses_ends_the_sweep_with_the_reason(monkeypatch):
    def refuse(config, attached):
        raise ParameterError("num_processes=7, but there are 2 GPUs")

    monkeypatch.setattr(sweep, "launch", refuse)
    with pytest.raises(WorkbenchError, match=r"the training of run '.*seed=0' failed: num_processes=7, but there are 2 GPUs"):
        execute(planned_runs())


def test_trainings_are_attached_and_share_the_cores(monkeypatch):
    seen = []

    def launch(config, attached):
        seen.append((attached, os.environ["OMP_NUM_THREADS"]))
        return launcher(0)(config, attached)

    monkeypatch.setattr(sweep, "launch", launch)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    execute(planned_runs(), jobs=2)
    assert seen == [(True, "4")] * 2 and os.environ["OMP_NUM_THREADS"] == "5"


def test_a_disk_that_cannot_be_written_to_is_one_line():
    outputs_dir().mkdir()
    (outputs_dir() / planned_runs()[0].config.run).write_text("a file where a folder should be")
    with pytest.raises(WorkbenchError, match="cannot be written: ") as error:
        execute(planned_runs())
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------------------- precision


def undecided(**overrides):
    return Ablation(**dict(experiments="variant", settings=SMALL.replace("; mixed_precision=no", ""), steps=2, n=10) | overrides)


def test_all_runs_train_in_the_precision_that_was_decided_first(monkeypatch):
    """Timings that come out otherwise every time: for every run, when the sweep is resumed, and with more seeds."""
    timings, trained = [], []

    def timed():
        timings.append(len(timings) % 2 == 0)
        return timings[-1]

    def launch(config, attached):
        trained.append(config.mixed_precision)
        return launcher(0)(config, attached)

    monkeypatch.setattr("workbench.training.setup._faster_in_bf16", timed)
    monkeypatch.setattr("workbench.views.ablation_plan.open_data", lambda config: None)
    monkeypatch.setattr(sweep, "launch", launch)
    for seeds in ("0", "0,1"):
        undecided(seeds=seeds).execute()
    assert trained == ["bf16"] * 4 and len(timings) == 1
    undecided(seeds="0", settings=SMALL).execute()
    undecided(seeds="0", experiments="sweep", grid="dtype=float32|float64").execute()
    assert trained[4:] == ["no"] * 3 and len(timings) == 1  # what is set; and float64, which has no autocast


def test_a_decision_that_is_lost_is_that_of_the_runs(monkeypatch):
    ablation = undecided(seeds="0,1")
    first, *_ = ablation.all_planned_runs()
    create_run(first.config.replace(mixed_precision="bf16"))
    monkeypatch.setattr(sweep, "decide_precision", None)
    planned = in_one_precision(ablation.all_planned_runs(), ablation.base)
    assert [each.config.mixed_precision for each in planned] == ["bf16"] * 4
    assert [each.name for each in planned] == [each.name for each in ablation.all_planned_runs()]
    (path,) = (outputs_dir() / "ablations").glob(".precision-*")
    for content in ("", '{"mixed_precision": "maybe"}'):
        path.write_text(content)
        with pytest.raises(WorkbenchError, match=r"precision-.*cannot be read"):
            ablation.execute()


# ------------------------------------------------------------------------------------------------------ scheduling


def test_a_run_that_another_machine_began_first_is_waited_for(monkeypatch):
    (planned,) = planned_runs()[:1]
    states = iter(["waiting", "created", "created", "running", "running", "finished"])
    monkeypatch.setattr(type(planned), "state", property(lambda self: next(states, "finished")))
    submitted = []
    monkeypatch.setattr(sweep, "submit", lambda planned, threads: submitted.append(planned))
    execute([planned])
    assert len(submitted) == 1


def test_one_that_another_process_holds_is_tried_again_and_not_at_once(monkeypatch):
    """Another host's, whose heartbeat is late: it looks lost, and is refused to be trained twice."""
    (planned,) = planned_runs()[:1]
    run, tried = create_run(planned.config), []
    run.set_status(state="stopped")

    def held(planned, threads):
        tried.append(time.monotonic())
        if len(tried) == 3:
            run.set_status(state="finished")

    monkeypatch.setattr(sweep, "PATIENCE", 0.1)
    monkeypatch.setattr(sweep, "submit", held)
    execute([planned])
    assert len(tried) == 3 and all(b - a >= 0.1 for a, b in itertools.pairwise(tried))


LOST = dict(state="running", pid=2**22 + 7, born="0")


@pytest.mark.parametrize(("end", "reason"), [
    (dict(state="failed", message="data='nowhere': there is no such folder"), "data='nowhere': there is no such folder"),
    (LOST, "died without reporting"), (dict(state="created"), ""),
])  # fmt: skip
def test_a_training_that_ends_without_a_result_ends_the_sweep_with_the_reason(monkeypatch, end, reason):
    class Ending(StandIn):
        pass

    Ending.end = end
    monkeypatch.setattr(sweep, "submit", Ending)
    with pytest.raises(WorkbenchError, match=f"^the training of run '.*seed=0' failed: {reason}") as error:
        execute(planned_runs())
    assert "\n" not in str(error.value)


def test_when_one_fails_the_others_save(monkeypatch):
    first, second = planned_runs()
    stopped = []

    class Ending(StandIn):
        end = dict(state="failed", message="no memory")

        def __init__(self, planned, threads):
            super().__init__(planned)
            self.looks = -10 if planned is second else 0

        def stop(self):
            stopped.append(self.run.name)
            super().stop()

    monkeypatch.setattr(sweep, "submit", Ending)
    with pytest.raises(WorkbenchError, match="no memory"):
        execute([first, second], jobs=2)
    assert stopped == [second.config.run]


@pytest.mark.parametrize("file", ["config.json", "status.json"])
@pytest.mark.parametrize("content", [b"", b'{"state": "fin', b"[]", b'{"state": 7, "wdth": 1}'])
def test_one_whose_folder_cannot_be_read_is_left_and_reported_and_the_others_are_done(monkeypatch, capsys, file, content):
    broken, other = planned_runs()
    run = create_run(broken.config)
    (run.path / file).write_bytes(content)
    assert broken.state == "unreadable" and not broken.at_rest
    monkeypatch.setattr(sweep, "submit", StandIn)
    with pytest.raises(WorkbenchError, match=r"1 of 2 runs are left out.*restore their files or delete these folders") as error:
        execute([broken, other])
    assert other.state == "finished" and broken.config.run in str(error.value) and "\n" not in str(error.value)
    lines = [line for line in capsys.readouterr().err.splitlines() if " cannot be read: " in line]
    assert any(str(run.path / file) in line and line.endswith("this run is left out") for line in lines)


def test_one_that_was_stopped_by_somebody_is_reported(monkeypatch, capsys):
    class Stopped(StandIn):
        end = dict(state="stopped", step=1)

    monkeypatch.setattr(sweep, "submit", Stopped)
    execute(planned_runs()[:1])
    assert "was stopped at step 1" in capsys.readouterr().err


def test_two_sweeps_at_once_share_the_work(monkeypatch):
    """Both look before either starts, once: who claims the run first trains it, the other one waits for it."""
    todo = {planned.config.run: planned for planned in planned_runs(seeds="0,1,2,3")}
    claimed, both, one_at_a_time = [], threading.Barrier(2), threading.Lock()  # both are threads of this process

    def together(planned, threads):
        if not claimed:
            both.wait(10)
        with one_at_a_time:
            job = submit(planned, threads)
        claimed.append((planned.config.run, job is not None))
        return job

    monkeypatch.setattr(sweep, "PATIENCE", 0)
    monkeypatch.setattr(sweep, "launch", launcher(0.1))
    monkeypatch.setattr(sweep, "submit", together)
    with ThreadPoolExecutor(2) as pool:
        [done.result(60) for done in [pool.submit(execute, list(todo.values())) for _ in range(2)]]
    trained = [name for name, own in claimed if own]
    assert sorted(trained) == sorted(todo) and len(claimed) > len(trained)
    assert all(planned.state == "finished" for planned in todo.values())


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_next_begins_when_one_is_done(monkeypatch, jobs):
    """`jobs` at a time, each begun once, in their order."""
    todo = planned_runs(seeds="0,1")
    begun, most = [], []

    def start(planned, threads):
        begun.append(planned)
        most.append(1 + sum(planned.state == "running" for planned in todo))
        return StandIn(planned)

    monkeypatch.setattr(sweep, "submit", start)
    execute(todo, jobs)
    assert begun == todo and len(begun) == 4 and max(most) == jobs


# --------------------------------------------------------------------------------------------------------- signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("moment", ["looking", "starting"])
def test_signals_that_end_the_sweep_let_its_trainings_save_first(monkeypatch, number, moment):
    (planned,) = planned_runs()[:1]
    events = []

    class Working(StandIn):
        def __init__(self, planned, threads):
            if moment == "starting":
                signal.raise_signal(number)
            super().__init__(planned)

        @property
        def active(self):
            signal.raise_signal(number)  # twice, as impatient people do
            return True

        def stop(self):
            events.append("stop")
            signal.raise_signal(number)

        def wait(self):
            events.append("saved")

    monkeypatch.setattr(sweep, "submit", Working)
    before = signal.signal(number, lambda *_: events.append(number))
    try:
        with pytest.raises(KeyboardInterrupt):
            execute([planned])
    finally:
        signal.signal(number, before)
    assert events == ["stop", "saved", number]


def test_an_interrupt_while_a_training_starts_stops_it(monkeypatch):
    stopped = []

    class Starting(StandIn):
        def __init__(self, planned, threads):
            signal.raise_signal(signal.SIGINT)
            super().__init__(planned)

        def stop(self):
            stopped.append(self.run.name)
            super().stop()

    monkeypatch.setattr(sweep, "submit", Starting)
    with pytest.raises(KeyboardInterrupt):
        execute(planned_runs())
    assert stopped == [planned_runs()[0].config.run]


def test_signals_that_are_ignored_stay_ignored():
    """nohup: a closed terminal ends nothing."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with sweep._deferred([signal.SIGHUP], interrupt=True):
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


# ------------------------------------------------------------------------------------------------------- real runs


@pytest.mark.slow
def test_trainings_are_done_once():
    execute(planned_runs(), jobs=2)
    assert [planned.state for planned in planned_runs()] == ["finished", "finished"]
    assert all((run.path / "train.log").exists() and not list(run.path.glob("*.ipynb")) for run in list_runs())
    assert all([record["step"] for record in run.evaluations()] == [1, 2] for run in list_runs())


@pytest.mark.slow
def test_arms_of_different_lengths_are_trained_and_resumed():
    def ablation(**overrides):
        return Ablation(**dict(experiments="ttur", settings=SMALL, steps=6, evaluations=2, seeds="0", n=10) | overrides)

    *_, short = ablation().all_planned_runs()
    sweep.launch(short.config, attached=True)  # another process has begun it
    wait_until(lambda: short.state == "finished")
    for _ in range(2):
        ablation(jobs=2).execute()
    runs = [planned.run for planned in ablation().all_planned_runs()]
    assert [[record["step"] for record in run.evaluations()] for run in runs] == [[3, 6], [3, 6], [1, 2]]
    assert [run.checkpoint_steps() for run in runs] == [[6], [6], [2]]
    assert all(len(run.provenance["started"]) == 1 for run in runs)
    assert [row["n"] for row in ablation().table().rows] == [1, 1, 1]


@pytest.mark.slow
def test_a_sweep_that_is_killed_takes_its_trainings_along():
    """They save and stop; and the sweep started nothing but them: no notebook, no kernel."""
    script = (
        "from workbench import Ablation\n"
        f"Ablation(experiments='variant', settings={SMALL!r}, steps=4000, evaluations=1, seeds='0', n=10).execute()"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL, start_new_session=True)
    wait_until(lambda: any(run.status()["step"] > 5 for run in list_runs()), 120)
    started = psutil.Process(process.pid).children(recursive=True)
    (run,) = list_runs()
    assert started and all("workbench.training" in child.cmdline() for child in started), [child.cmdline() for child in started]
    process.kill()  # what other signals do is tested in this process
    assert process.wait(60) != 0
    wait_until(lambda: run.status()["state"] == "stopped", 60)
    assert run.checkpoint_steps() and not run.active
    _, alive = psutil.wait_procs(started, 90)
    assert not alive
