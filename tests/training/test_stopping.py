"""Requests to save and stop, and what keeps a training from answering them."""

import os
import signal
import subprocess
import time

import numpy as np
import psutil
import pytest
from jobs import run_job
from lab import wait_until

from workbench import Config, Run, train
from workbench.paths import outputs_dir
from workbench.runs.liveness import signature
from workbench.training import loop, stopping
from workbench.training.setup import make_accelerator


class Clock:
    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(stopping.time, "monotonic", lambda: self.now)


def test_a_training_looks_for_a_stop_about_once_a_second(tiny, monkeypatch, make):
    clock, run = Clock(monkeypatch), Run(make("r"))
    looks = []
    monkeypatch.setattr(stopping, "waiting_processes", lambda: looks.append(clock.now) or [])
    requests = stopping.StopRequests(make_accelerator(tiny()), run, [], None)
    for step in range(1000):
        assert not requests(step)
        clock.now += 0.01
    assert 9 <= len(looks) <= 13 and max(np.diff(looks)) <= 1.01
    (run.path / "stop").touch()
    assert any(requests(step) for step in range(1000, 1110))


def test_a_signal_stops_one_process_at_once(tiny, make):
    signals = []
    requests = stopping.StopRequests(make_accelerator(tiny()), Run(make("r")), signals, None)
    assert not requests(0) and not requests(1)
    signals.append(signal.SIGTERM)
    assert requests(2)


def test_max_hours_saves_stops_and_says_how_to_go_on(tiny):
    run = train(tiny(run="short", steps=100_000, log_every=1000, sample_every=100_000, checkpoint_every=100_000, max_hours=1 / 3600))
    status = run.status()
    assert status["state"] == "stopped" and 0 < status["step"] < 100_000 and run.checkpoint_steps() == [status["step"]]
    assert "after max_hours=0.000277778" in status["message"] and "resume short" in status["message"]
    for _ in range(2):  # a budget that is too small for anything: each training makes a step
        step = status["step"]
        status = train(Config.from_parameters(dict(resume="short", max_hours=1e-9))).status()
        assert status["state"] == "stopped" and status["step"] == step + 1
    longer = train(Config.from_parameters(dict(resume="short", steps=status["step"] + 2, max_hours=1)))
    assert longer.status()["state"] == "finished"


def train_with_a_suspended_process(settings, stubborn):
    """As `train`, but process 1 is suspended in its second step, and again and again if it is `stubborn`; then a stop is requested."""
    config, step, calls = Config.from_json(settings), loop.d_step, []
    stopping.ANSWER = 4.0

    def suspended_step(*arguments):
        calls.append(arguments)
        if len(calls) == 2 and os.environ["RANK"] == "1":
            again = "kill -STOP $0; sleep 0.02;" * (500 if stubborn else 1)
            subprocess.Popen(
                ["sh", "-c", f"sleep 0.2; touch $1/stop; {again}", str(os.getpid()), str(outputs_dir() / config.run)],
                stderr=subprocess.DEVNULL,
            )
            time.sleep(2)
        return step(*arguments)

    loop.d_step = suspended_step
    train(config)


@pytest.mark.slow
@pytest.mark.parametrize("stubborn", [False, True])
def test_a_suspended_process_does_not_keep_the_others_from_stopping(tiny, stubborn):
    start = time.monotonic()
    codes = run_job(2, train_with_a_suspended_process, tiny(steps=1000, num_processes=2, run="held").to_json(), stubborn)
    status = Run("held").status()
    assert time.monotonic() - start < 60
    if stubborn:
        assert codes == [1, -signal.SIGKILL] and status["state"] == "failed", status
        assert status["message"].startswith("process 1 of 2 (counted from 0) was suspended, and did not answer the request to stop")
    else:
        assert codes == [0, 0] and status["state"] == "stopped" and Run("held").checkpoint_steps() == [status["step"]], status


def test_a_suspended_training_goes_on_to_stop(make):
    """A request to stop is one to save, which it could not while it sleeps."""
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        run = Run(make("r"))
        run.set_status(state="running", **signature(sleeper.pid))
        process = psutil.Process(sleeper.pid)
        process.suspend()
        wait_until(lambda: process.status() == psutil.STATUS_STOPPED, 10)
        run.stop()
        wait_until(lambda: process.status() == psutil.STATUS_SLEEPING, 10)
        sleeper.kill()
