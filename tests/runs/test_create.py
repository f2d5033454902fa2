import errno
import os
import re
import threading
import time
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch

from workbench import Config, ParameterError, Run, WorkbenchError, launch
from workbench.files import StorageError
from workbench.paths import outputs_dir
from workbench.runs import create_run, fork_point, lock_run, release, require_startable, reserve
from workbench.runs.checkpoints import save_checkpoint
from workbench.runs.create import derived_name
from workbench.runs.liveness import BusyError, RunLock, heart_beats, signature


def test_derived_names_list_what_differs_from_the_preset():
    assert derived_name(Config.preset("twins32")) == "twins32"
    assert derived_name(Config.preset("twins32", lr_d=4e-4)) == "twins32-lr_d=0.0004"
    assert derived_name(Config.preset("twins32", data="/some/where/my cats", note="x")) == "twins32-data=my_cats"


def test_derived_names_fit_into_a_folder_and_stay_different(make):
    base = dict(lr_d=1.25e-3, lr_g=1.25e-3, beta1=0.125, beta2=0.925, ema_decay=0.9925, evaluate_every=125, evaluate_n=1250, batch_size=64)
    names = [derived_name(Config.preset("twins32", **base, data=f"/data/{'猫' * 60}", seed=seed)) for seed in range(3)]
    assert len(set(names)) == 3 and all(len(name.encode()) <= 150 for name in names)
    assert all(Config.preset("twins32", run=name).run == name for name in names)
    make("../elsewhere/odd", 4).rename(outputs_dir().parent / "elsewhere" / "-odd @ name.")
    name = derived_name(Config.from_parameters(dict(resume=str(outputs_dir().parent / "elsewhere" / "-odd @ name.@4"))))
    assert name == "odd___name.-from4" and Config.preset("twins32", run=name)


def test_runs_are_named_from_what_differs_and_never_collide(tiny):
    config = Config.preset("twins32", lr_d=4e-4)
    assert [create_run(config).name for _ in range(3)] == ["twins32-lr_d=0.0004", "twins32-lr_d=0.0004-2", "twins32-lr_d=0.0004-3"]
    run = create_run(Config.preset("twins32", run="mine"))
    assert run.config.run == run.name == "mine"
    with pytest.raises(ParameterError, match="run='mine' exists already; resume it with resume='mine'"):
        create_run(Config.preset("twins32", run="mine"))


def _create(_):
    return create_run(Config.preset("twins32", seed=1)).name


def test_runs_created_at_the_same_time_get_different_folders():
    with ProcessPoolExecutor(4) as pool:
        names = list(pool.map(_create, range(40)))
    assert len(set(names)) == 40
    assert all(Run(name).config.run == name for name in names)


def test_a_reserved_name_is_kept_for_the_run_of_that_name():
    config = Config.preset("twins32")
    name = reserve(config)
    assert name == "twins32" and reserve(config) == "twins32-2"
    assert create_run(config).name == "twins32-3"
    assert create_run(config.replace(run=name)).name == "twins32"


def test_release_deletes_only_a_reservation(tiny):
    name = reserve(Config.preset("twins32"))
    (outputs_dir() / name / "train.ipynb").touch()
    release(name)
    assert not (outputs_dir() / name).exists()
    name = reserve(Config.preset("twins32"))
    (outputs_dir() / name / "notes.ipynb").touch()
    release(name), release("nothing")
    assert [path.name for path in (outputs_dir() / name).iterdir()] == ["notes.ipynb"]
    create_run(Config.preset("twins32", run=name))
    release(name)
    for odd in ("", "..", "../outputs/" + name, "/"):
        with pytest.raises(ParameterError, match="is not the name of a run"):
            release(odd)
    with pytest.raises(ParameterError, match="exists already"):  # before its notebook replaces that of the run
        reserve(Config.preset("twins32", run=name))


def test_a_full_disk_leaves_no_run_folder(tiny, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    with pytest.raises(StorageError, match=r"config.json cannot be written: No space left on device"):
        create_run(tiny(run="r"))
    assert not (outputs_dir() / "r").exists()


def test_only_one_process_can_lock_a_run(tiny, other, monkeypatch):
    run = create_run(tiny())
    monkeypatch.setattr("workbench.runs.liveness.HEARTBEAT", 0.05)
    with lock_run(run) as lock:
        assert (run.path / ".lock").exists() and heart_beats(run.path, 2) and not lock.lost
        with pytest.raises(BusyError):
            RunLock(run.path, patience=0.1)
    assert not (run.path / ".lock").exists()
    run.set_status(state="starting", **signature(other.pid))
    with pytest.raises(BusyError, match=rf"is being trained already \(process {other.pid}"), lock_run(run):
        pass
    other.kill()
    other.wait()
    with lock_run(run):  # its process has died
        pass
    # A run on another machine, whose heartbeat is old by this machine's clock, but is renewed.
    run.set_status(state="running", **signature() | dict(machine="another", host="elsewhere", pid=1))
    beating = threading.Event()

    def beat():
        while not beating.wait(0.02):
            (run.path / ".lock").touch()
            os.utime(run.path / ".lock", (time.time() - 9e5 + time.monotonic(),) * 2)

    os.utime(run.path / "status.json", (1, 1))
    thread = threading.Thread(target=beat)
    thread.start()
    try:
        assert run.status()["state"] in ("lost", "running")
        with pytest.raises(BusyError, match="on elsewhere"), lock_run(run):
            pass
    finally:
        beating.set()
        thread.join()


def test_a_run_whose_machine_may_be_down_says_how_long_to_wait(tiny, capsys):
    run = create_run(tiny())
    run.set_status(state="running", **signature() | dict(machine="another", host="elsewhere", pid=1))
    os.utime(run.path / "status.json", (time.time() - 100,) * 2)
    says = r"\(process 1 on elsewhere\); .*; if elsewhere is down, wait until its run counts as lost: (80|7\d) seconds"
    with pytest.raises(BusyError, match=says), lock_run(run):
        pass
    launch(Config.from_parameters(dict(resume=run.name)))
    assert re.search(says, capsys.readouterr().out)
    run.set_status(state="running", **signature() | dict(pid=os.getppid(), born="0"))  # dead, and on this machine
    with lock_run(run):
        pass


def test_a_suspended_process_notices_that_it_has_lost_the_lock(tiny):
    run = create_run(tiny())
    with lock_run(run) as lock:
        (run.path / ".lock").unlink()  # as another machine does that does not see this machine's locks
        (run.path / ".lock").touch()
        assert lock.lost
    assert (run.path / ".lock").exists()  # that of the other process


def test_a_file_system_without_locks(tiny, monkeypatch):
    def no_locks(*arguments):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with lock_run(create_run(tiny())) as lock:
        assert not lock.lost


@pytest.mark.parametrize(
    ("resume", "message"), [("a@x", "'x' is not a step"), ("a@5", "no checkpoint at step 5"), ("b@5", "there is no run 'b'")]
)
def test_a_missing_fork_point_is_refused(tiny, resume, message):
    save_checkpoint(create_run(tiny(run="a")).path, 4, {"g": {"w": torch.zeros(1)}}, {})
    with pytest.raises(WorkbenchError, match=message):
        fork_point(tiny(resume=resume, steps=5))
    assert fork_point(tiny(resume="a@4", steps=5))[1] == 4
    assert fork_point(tiny(resume="a")) is None
    with pytest.raises(ParameterError, match="steps=4 is not above 4"):
        fork_point(tiny(resume="a@4"))


def test_a_name_that_is_taken_is_refused_before_the_run_starts():
    create_run(Config.preset("twins32", run="mine"))
    for refuse in (require_startable, reserve, create_run):
        with pytest.raises(ParameterError, match="run='mine' exists already; resume it with resume='mine', or choose another name"):
            refuse(Config.preset("twins32", run="mine"))
    require_startable(Config.preset("twins32"))  # an unnamed run takes the next free name
