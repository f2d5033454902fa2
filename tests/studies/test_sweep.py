"""Runs that are shared, stopped, gone on with, and those that cannot be trained; what carries them out."""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing, nullcontext
from multiprocessing import get_context

import psutil
import pytest
from lab import wait_until
from safetensors.torch import load_file

from workbench import Ablation, ParameterError, Run, WorkbenchError, launch, list_runs, train
from workbench import sweep as sweep_of
from workbench.paths import data_dir, outputs_dir
from workbench.runs import create_run
from workbench.runs.liveness import signature
from workbench.studies import executors, sweep
from workbench.studies import planned as planning
from workbench.studies.executors import BUSY, OneFork, carry_out
from workbench.studies.planned import PlannedRun, in_one_precision
from workbench.studies.sweep import execute

SMALL = "width=8; z_dim=8; batch_size=8; log_every=2; mixed_precision=no"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(executors, "POLL", 0.002)


@pytest.fixture
def no_server(monkeypatch):
    """Without the process that forks runs, where none is started."""
    monkeypatch.setattr(executors, "ForkServer", nullcontext)


def planned_runs(**overrides):
    ablation = Ablation(**dict(experiments="variant", settings=SMALL, steps=2, seeds="0", n=10) | overrides)
    return ablation.planned_runs("variant")


def folders():
    return dict(WORKBENCH_OUTPUTS=str(outputs_dir()), WORKBENCH_DATA=str(data_dir()))


class StandIn:
    """In the place of `start` and of the process: a training that ends at the third look, or when it is stopped."""

    def __init__(self, monkeypatch, looks=3, **end):
        self.looks, self.end, self.begun, self.threads = looks, dict(state="finished") | end, [], []
        monkeypatch.setattr(executors, "ForkServer", nullcontext)
        monkeypatch.setattr(executors, "start", self.start)
        monkeypatch.setattr(executors, "alive", self.alive)

    def start(self, config, attached, threads=None, server=None, gpus=None):
        assert attached
        run = Run(config.resume) if config.resume else create_run(config)
        run.set_status(state="running")
        self.begun.append(run.name)
        self.threads.append(threads)
        return run, dict(looks=0)

    def alive(self, process, folder):
        process["looks"] += 1
        run, stop = Run(folder), (folder / "stop").exists()
        if stop or process["looks"] == self.looks:
            run.clean()
            run.set_status(**(dict(state="stopped", step=1) if stop else self.end))
            return False
        return True


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
    monkeypatch.setattr(sweep, "open_executor", None)
    execute(planned_runs())


def test_runs_of_a_sweep_are_named_after_their_settings(tiny):
    names = [PlannedRun.alone(tiny(**changes)).name for changes in ({}, dict(lr_d=1e-3), dict(seed=7), dict(tags="a", note="b"))]
    assert names[0] == names[3] and len(set(names)) == 3 and "lr_d=0.001" in names[1]
    for changes in (dict(run="mine"), dict(resume="demo@50", steps=60)):
        with pytest.raises(ParameterError, match=r"cannot be set for a sweep: its runs are named after their settings"):
            sweep_of([tiny(**changes)])


# --------------------------------------------------------------------------------------------------- one training


def test_it_waits_for_the_end_of_the_process(monkeypatch):
    planned, _ = planned_runs()

    def start(config, attached, threads, server, gpus):
        process = subprocess.Popen(["sleep", "0.3"])
        run = create_run(config)
        run.set_status(state="finished", **signature(process.pid))
        return run, signature(process.pid)

    monkeypatch.setattr(executors, "start", start)
    before = time.monotonic()
    assert carry_out(planned, folders()) == "" and time.monotonic() - before > 0.25
    monkeypatch.setattr(executors, "start", None)
    assert carry_out(planned, folders()) == ""  # finished: not again


def test_one_that_another_process_began_first_is_left_to_it(monkeypatch):
    """Its folder appears between the look and the start; or it is being trained by then."""
    planned, other = planned_runs()

    def late(config, **options):
        create_run(config).set_status(state="running")
        raise ParameterError(f"run={config.run!r} exists already; go on with it")

    monkeypatch.setattr(executors, "start", late)
    assert carry_out(planned, folders()) == BUSY and planned.state == "running"
    create_run(other.config).set_status(state="stopped")
    monkeypatch.setattr(executors, "start", lambda config, **options: (Run(config.resume), None))
    assert carry_out(other, folders()) == BUSY


def test_what_cannot_be_trained_is_told_with_the_reason(monkeypatch, no_server):
    def refuse(config, **options):
        raise ParameterError("num_processes=7, but there are 2 GPUs")

    monkeypatch.setattr(executors, "start", refuse)
    with pytest.raises(WorkbenchError, match=r"^2 of 2 runs failed, .*seed=0': num_processes=7, but there are 2 GPUs"):
        execute(planned_runs())


def test_runs_share_the_cores(monkeypatch):
    stand_in = StandIn(monkeypatch)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    execute(planned_runs(), jobs=2)
    assert stand_in.threads == [4, 4]


class Environments:
    """In the place of processes that train: they sleep, and what their environment says of GPUs is kept by name of the run."""

    def __init__(self, monkeypatch, gpus, seconds=0.5):
        self.shown, self.now, self.most = {}, [], []
        monkeypatch.setattr(executors, "visible_gpus", lambda: gpus)
        monkeypatch.setattr(executors, "ForkServer", nullcontext)
        monkeypatch.setattr("workbench.training.launcher._process", self.process)
        self.seconds = seconds

    def process(self, run, num_processes, environment, server):
        self.shown[run.name] = environment.get("CUDA_VISIBLE_DEVICES")
        run.set_status(state="finished")
        process = subprocess.Popen(["sleep", str(self.seconds)])
        self.now = [(other, name) for other, name in self.now if other.poll() is None] + [(process, run.name)]
        self.most.append([self.shown[name] for _, name in self.now])
        return process.pid


def test_runs_at_the_same_time_have_gpus_of_their_own(monkeypatch, tiny):
    environments = Environments(monkeypatch, ["7", "GPU-b", "2"])
    with pytest.raises(WorkbenchError, match="died without reporting"):
        sweep_of([tiny(seed=seed) for seed in range(5)])
    assert sorted(environments.most[2]) == sorted(["7", "GPU-b", "2"])  # as many at a time as there are
    assert all(len(set(shown)) == len(shown) for shown in environments.most) and len(environments.shown) == 5


def test_runs_of_several_processes_have_as_many_gpus_as_processes(monkeypatch, tiny):
    environments = Environments(monkeypatch, ["0", "1", "2", "3"])
    two, one, cpu = tiny(num_processes=2), tiny(seed=1), tiny(device="cpu")
    with pytest.raises(WorkbenchError, match="died without reporting"):
        sweep_of([two, one, cpu], jobs=3)
    two, one, cpu = (environments.shown[PlannedRun.alone(config).name] for config in (two, one, cpu))
    assert len(two.split(",")) == 2 and one not in two.split(",") and cpu == os.environ.get("CUDA_VISIBLE_DEVICES")


def test_without_gpus_one_run_at_a_time_has_the_environment_of_the_sweep(monkeypatch, tiny):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    environments = Environments(monkeypatch, [], seconds=0.1)
    with pytest.raises(WorkbenchError, match="died without reporting"):
        sweep_of([tiny(seed=seed) for seed in range(2)])
    assert list(environments.shown.values()) == ["3", "3"] and max(map(len, environments.most)) == 1


def test_how_many_run_at_a_time_is_checked(tiny):
    for jobs in (0, -1, 1.5, True, "two"):
        with pytest.raises(ParameterError, match=r"jobs=.* is not a whole number of 1 or more"):
            sweep_of([tiny()], jobs=jobs)
    with pytest.raises(ParameterError, match=r"jobs=2 goes with executor='local', not with executor='slurm'"):
        sweep_of([tiny()], "slurm", jobs=2)


def test_the_folders_are_those_of_the_sweep(monkeypatch, tmp_path):
    """Where a worker was started with other folders."""
    StandIn(monkeypatch)
    planned, _ = planned_runs()
    there = dict(WORKBENCH_OUTPUTS=str(tmp_path / "there"), WORKBENCH_DATA=str(tmp_path / "data"))
    carry_out(planned, there)
    assert (tmp_path / "there" / planned.name / "config.json").exists()


def test_a_disk_that_cannot_be_written_to_is_one_line(no_server):
    outputs_dir().mkdir()
    (outputs_dir() / planned_runs()[0].config.run).write_text("a file where a folder should be")
    with pytest.raises(WorkbenchError, match="cannot be written: ") as error:
        execute(planned_runs()[:1])
    assert "\n" not in str(error.value)


def test_a_fork_that_trains_nothing_ends_with_its_job():
    """A job that has nothing to train; and one that is killed."""
    with closing(OneFork()) as fork:
        pass
    assert fork._process.exitcode == 0
    reader, writer = os.pipe()
    job = os.fork()
    if not job:
        os.write(writer, str(OneFork()._process.pid).encode())
        os.kill(os.getpid(), signal.SIGKILL)
    pid = int(os.read(reader, 100))
    os.waitpid(job, 0)
    wait_until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, 20)


# ------------------------------------------------------------------------------------------------------- precision


def undecided(**overrides):
    return Ablation(**dict(experiments="variant", settings=SMALL.replace("; mixed_precision=no", ""), steps=2, n=10) | overrides)


def test_all_runs_train_in_the_precision_that_was_decided_first(monkeypatch):
    """Timings that come out otherwise every time: for every run, when the sweep is resumed, and with more seeds."""
    timings, trained = [], []

    def timed():
        timings.append(len(timings) % 2 == 0)
        return timings[-1]

    start = StandIn(monkeypatch).start

    def watched(config, **options):
        trained.append(config.mixed_precision)
        return start(config, **options)

    monkeypatch.setattr("workbench.training.setup._faster_in_bf16", timed)
    monkeypatch.setattr("workbench.views.ablation_plan.open_data", lambda config: None)
    monkeypatch.setattr(executors, "start", watched)
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
    monkeypatch.setattr(planning, "decide_precision", None)
    planned = in_one_precision(ablation.all_planned_runs())
    assert [each.config.mixed_precision for each in planned] == ["bf16"] * 4
    assert [each.name for each in planned] == [each.name for each in ablation.all_planned_runs()]
    (path,) = (outputs_dir() / "ablations").glob(".precision-*")
    for content in ("", '{"mixed_precision": "maybe"}'):
        path.write_text(content)
        with pytest.raises(WorkbenchError, match=r"precision-.*cannot be read"):
            ablation.execute()


def test_machines_that_train_decide_and_not_the_one_that_submits(monkeypatch):
    StandIn(monkeypatch)
    monkeypatch.setattr(planning, "decide_precision", lambda config: config.replace(mixed_precision="bf16"))
    planned = undecided(seeds="0").all_planned_runs()
    assert in_one_precision(planned, decide=False) == planned
    for each in planned:
        carry_out(each, folders())
    assert [each.run.config.mixed_precision for each in planned] == ["bf16"] * 2


# ------------------------------------------------------------------------------------------------------ scheduling


def test_a_run_that_another_machine_began_first_is_waited_for(monkeypatch):
    (planned,) = planned_runs()[:1]
    states = iter(["waiting", "waiting", "running", "running", "running", "finished"])
    monkeypatch.setattr(type(planned), "state", property(lambda self: next(states, "finished")))
    submitted = []
    monkeypatch.setattr(executors, "carry_out", lambda planned, *arguments: submitted.append(planned) or BUSY)
    with ThreadPoolExecutor(1) as pool:
        execute([planned], pool)
    assert len(submitted) == 1


def test_one_that_another_process_holds_is_tried_again_and_not_at_once(monkeypatch):
    """Another host's, whose heartbeat is late: it looks lost, and is refused to be trained twice."""
    (planned,) = planned_runs()[:1]
    run, tried = create_run(planned.config), []
    run.set_status(state="stopped")

    def held(planned, *arguments):
        tried.append(time.monotonic())
        if len(tried) == 3:
            run.set_status(state="finished")
        return BUSY

    monkeypatch.setattr(sweep, "PATIENCE", 0.1)
    monkeypatch.setattr(executors, "carry_out", held)
    with ThreadPoolExecutor(1) as pool:
        execute([planned], pool)
    assert len(tried) == 3 and all(b - a >= 0.1 for a, b in itertools.pairwise(tried))


LOST = dict(state="running", pid=2**22 + 7, born="0")


@pytest.mark.parametrize(("end", "reason"), [
    (dict(state="failed", message="data='nowhere': there is no such folder"), "data='nowhere': there is no such folder"),
    (LOST, "died without reporting"), (dict(state="created"), ""),
])  # fmt: skip
def test_a_training_that_ends_without_a_result_fails_with_the_reason(monkeypatch, end, reason):
    StandIn(monkeypatch, **end)
    with pytest.raises(WorkbenchError, match=f"^1 of 1 run failed, .*seed=0': {reason}") as error:
        execute(planned_runs()[:1])
    assert "\n" not in str(error.value)


def test_one_that_fails_fails_alone(monkeypatch, capsys):
    """Seven of eight: the others are done first, and the line at the end stays short."""
    stand_in, todo = StandIn(monkeypatch), planned_runs(seeds="0,1,2,3")
    start = stand_in.start

    def failing(config, **options):
        if config.run == todo[-1].name:
            return start(config, **options)
        raise WorkbenchError("no memory")

    monkeypatch.setattr(executors, "start", failing)
    with pytest.raises(WorkbenchError, match=r"^7 of 8 runs failed, .*; and 2 more$") as error:
        execute(todo)
    assert str(error.value).count("no memory") == 5 and "\n" not in str(error.value)
    assert todo[-1].state == "finished"
    err = capsys.readouterr().err
    assert err.count("failed: no memory") == 7 and "1 done, 7 failed" in err


def test_the_reason_is_listed_also_of_a_run_with_a_long_name(monkeypatch):
    (planned,) = planned_runs()[:1]
    path = outputs_dir() / planned.name / "checkpoints" / "generator.safetensors"
    message = f"{path} cannot be written: No space left on device; saved at step 1; resume with: workbench train -p resume {planned.name}"
    StandIn(monkeypatch, state="failed", message=message)
    with pytest.raises(WorkbenchError, match=r"^1 of 1 run failed, .*No space left on device"):
        execute([planned])


class Broken:
    """An executor whose jobs vanish, or raise."""

    def __init__(self, error):
        self.error = error

    def submit(self, function, planned, *arguments):
        create_run(planned.config).set_status(**LOST)
        return self

    def done(self):
        return True

    def result(self):
        raise self.error


def test_a_job_that_vanishes_is_not_begun_again_and_again(monkeypatch):
    """The run of a machine that died looks active for a while."""
    (planned,) = planned_runs()[:1]
    with pytest.raises(WorkbenchError, match=r"died without reporting"):
        execute([planned], Broken(OSError("the node is down")))
    states = iter(["waiting", "waiting", "running", "running", "lost"])
    monkeypatch.setattr(type(planned), "state", property(lambda self: next(states, "lost")))
    create_run(planned_runs(seeds="1")[0].config)
    other = planned_runs(seeds="2")[0]
    with pytest.raises(WorkbenchError, match=r"OSError: the node is down"):
        execute([other], Broken(OSError("the node is down")))


def test_what_is_no_executor_is_told():
    for executor in ("cluster", 7, None):
        with pytest.raises(ParameterError, match=r"executor=.* is not local, slurm, or an object with a method submit"):
            execute(planned_runs(), executor)


@pytest.mark.parametrize("file", ["config.json", "status.json"])
@pytest.mark.parametrize("content", [b"", b'{"state": "fin', b"[]", b'{"state": 7, "wdth": 1}'])
def test_one_whose_folder_cannot_be_read_is_left_and_reported_and_the_others_are_done(monkeypatch, capsys, file, content):
    broken, other = planned_runs()
    run = create_run(broken.config)
    (run.path / file).write_bytes(content)
    assert broken.state == "unreadable" and not broken.at_rest
    StandIn(monkeypatch)
    with pytest.raises(WorkbenchError, match=r"1 of 2 runs failed.*restore the file, or delete the folder") as error:
        execute([broken, other])
    assert other.state == "finished" and broken.config.run in str(error.value) and "\n" not in str(error.value)
    assert str(run.path / file) in capsys.readouterr().err


def test_a_repeated_sweep_gives_its_runs_its_own_hours(monkeypatch, tiny):
    """They are no part of a run's name."""
    given = []
    monkeypatch.setattr(executors, "start", lambda config, **_: given.append(config.max_hours) or (None, None))
    planned = PlannedRun.alone(tiny(max_hours=1))
    create_run(planned.config)
    for hours in (None, 2):
        assert carry_out(PlannedRun.alone(tiny(max_hours=hours)), folders()) == BUSY
    assert given == [None, 2]


def test_one_that_was_stopped_by_somebody_is_reported(monkeypatch, capsys):
    StandIn(monkeypatch, state="stopped", step=1)
    execute(planned_runs()[:1])
    assert "was stopped at step 1" in capsys.readouterr().err


def test_two_sweeps_at_once_share_the_work(monkeypatch):
    """Both look before either starts, once: who claims the run first trains it, the other one waits for it."""
    todo = planned_runs(seeds="0,1,2,3")
    stand_in, both, one_at_a_time, tried = StandIn(monkeypatch, looks=30), threading.Barrier(2), threading.Lock(), []
    start = stand_in.start

    def together(config, **options):
        if not tried:
            both.wait(10)
        with one_at_a_time:  # as the lock of a run
            tried.append(config.run)
            name = config.run or config.resume
            if (outputs_dir() / name / "config.json").exists():
                raise ParameterError(f"run={name!r} exists already")
            return start(config, **options)

    monkeypatch.setattr(sweep, "PATIENCE", 0)
    monkeypatch.setattr(executors, "start", together)
    with ThreadPoolExecutor(2) as pool:
        [done.result(60) for done in [pool.submit(execute, todo) for _ in range(2)]]
    assert sorted(stand_in.begun) == sorted(each.name for each in todo) and len(tried) > len(todo)
    assert all(planned.state == "finished" for planned in todo)


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_next_begins_when_one_is_done(monkeypatch, jobs):
    """`jobs` at a time, each begun once, in their order."""
    todo, most = planned_runs(seeds="0,1"), []
    stand_in = StandIn(monkeypatch, looks=20)

    def counting(process, folder):
        most.append(sum(planned.state == "running" for planned in todo))
        return stand_in.alive(process, folder)

    monkeypatch.setattr(executors, "alive", counting)
    execute(todo, jobs=jobs)
    assert sorted(stand_in.begun) == sorted(each.name for each in todo) and max(most) == jobs


# --------------------------------------------------------------------------------------------------------- signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_that_cancel_the_sweep_let_its_runs_save_first(monkeypatch, number):
    """What is queued does not begin; the signal goes on to who handled it before."""
    todo, events = planned_runs(seeds="0,1"), []
    stand_in = StandIn(monkeypatch, looks=-1)
    looks = iter(range(100))

    def standing(self):
        if stand_in.begun and next(looks) < 2:  # twice, as impatient people do
            signal.raise_signal(number)
        return 0, "", 0

    monkeypatch.setattr(sweep._Work, "standing", standing)
    before = signal.signal(number, lambda *_: events.append(number)) if number != signal.SIGINT else None
    try:
        with pytest.raises(KeyboardInterrupt):
            execute(todo)
    finally:
        if before:
            signal.signal(number, before)
    assert events == [number] * (number != signal.SIGINT)
    assert [each.state for each in todo] == ["stopped", "waiting", "waiting", "waiting"]


def test_a_training_that_starts_while_the_sweep_is_cancelled_is_stopped_too(monkeypatch, capsys):
    (planned,) = planned_runs()[:1]
    stand_in, begin = StandIn(monkeypatch, looks=-1), threading.Event()
    start = stand_in.start
    monkeypatch.setattr(executors, "start", lambda config, **options: begin.wait(10) and start(config, **options))

    def interrupted(self):
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()  # impatient
        threading.Timer(0.3, begin.set).start()
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(sweep._Work, "standing", interrupted)
    with pytest.raises(KeyboardInterrupt):
        execute([planned])
    assert planned.state == "stopped" and "what trains saves" in capsys.readouterr().err


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
def test_runs_are_done_once():
    execute(planned_runs(), jobs=2)
    assert [planned.state for planned in planned_runs()] == ["finished", "finished"]
    assert all((run.path / "train.log").exists() and not list(run.path.glob("*.ipynb")) for run in list_runs())
    assert all([record["step"] for record in run.evaluations()] == [1, 2] for run in list_runs())


@pytest.mark.slow
def test_arms_of_different_lengths_are_trained_and_resumed():
    def ablation(**overrides):
        return Ablation(**dict(experiments="ttur", settings=SMALL, steps=6, evaluations=2, seeds="0", n=10) | overrides)

    *_, short = ablation().all_planned_runs()
    launch(short.config, attached=True)  # another process has begun it
    wait_until(lambda: short.state == "finished")
    for _ in range(2):
        ablation(jobs=2).execute()
    runs = [planned.run for planned in ablation().all_planned_runs()]
    assert [[record["step"] for record in run.evaluations()] for run in runs] == [[3, 6], [3, 6], [1, 2]]
    assert [run.checkpoint_steps() for run in runs] == [[6], [6], [2]]
    assert all(len(run.provenance["started"]) == 1 for run in runs)
    assert [row["n"] for row in ablation().table().rows] == [1, 1, 1]


def weights(run):
    return {f"{path.name} {name}": x for path in run.checkpoint_path().glob("*.safetensors") for name, x in load_file(path).items()}


@pytest.mark.slow
def test_every_executor_trains_the_same(tiny, monkeypatch, tmp_path):
    """This process, forks of a prepared one, and new processes that other people's executors wait for; one is killed, and fails alone."""
    config = tiny(steps=6)
    expected = weights(train(config))
    monkeypatch.setenv("WORKBENCH_OUTPUTS", str(tmp_path / "forked"))
    fork = executors.ForkServer.fork

    def fatal(self, folder, environment):
        pid = fork(self, folder, environment)
        if json.loads((folder / "config.json").read_text())["seed"] == 1:
            os.kill(pid, signal.SIGKILL)
        return pid

    monkeypatch.setattr(executors.ForkServer, "fork", fatal)
    with pytest.raises(WorkbenchError, match=r"^1 of 3 runs failed, .*': died without reporting"):
        sweep_of([config, tiny(steps=6, seed=1), tiny(steps=6, seed=2)], jobs=2)
    monkeypatch.setattr(executors.ForkServer, "fork", fork)
    forked = sweep_of([config, tiny(steps=6, seed=1)])
    assert [run.status()["state"] for run in forked] == ["finished"] * 2 and len(list_runs()) == 3
    assert "finished after 6 steps" in forked[0].log_tail() and len(forked[0].provenance["started"]) == 1
    monkeypatch.setenv("WORKBENCH_OUTPUTS", str(tmp_path / "elsewhere"))
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        (elsewhere,) = sweep_of([config], pool)
    for run in (forked[0], elsewhere):
        assert weights(run).keys() == expected.keys() and all(x.equal(expected[name]) for name, x in weights(run).items())


SCRIPT = """
from workbench import Config, sweep

sweep([Config.preset("twins32", width=8, z_dim=8, batch_size=8, steps=4000, evaluate_every=0, mixed_precision="no", log_every=2)])
"""


@pytest.mark.slow
def test_a_script_needs_no_guard_and_a_sweep_that_is_killed_takes_its_runs_along(tmp_path):
    """They save and stop; and the sweep started nothing but them and the process that forks them."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen([sys.executable, script], stderr=subprocess.DEVNULL, start_new_session=True)
    wait_until(lambda: any(run.status()["step"] > 5 for run in list_runs()), 120)
    started = psutil.Process(process.pid).children(recursive=True)
    (run,) = list_runs()
    assert started and all("workbench.forkserver" in child.cmdline() for child in started), [child.cmdline() for child in started]
    assert run.status()["pid"] in [child.pid for child in started]
    process.kill()  # what other signals do is tested in this process
    assert process.wait(60) != 0
    wait_until(lambda: run.status()["state"] == "stopped", 60)
    assert run.checkpoint_steps() and not run.active
    _, alive = psutil.wait_procs(started, 90)
    assert not alive
