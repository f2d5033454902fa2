"""The process that forks runs; what it trains is compared with other ways in tests/studies/test_sweep.py."""

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from lab import wait_until
from safetensors.torch import load_file

import workbench
from workbench import forkserver, launch
from workbench.forkserver import ForkServer
from workbench.messages import WorkbenchError


def test_a_server_that_died_is_one_line_and_the_next_one_is_new(tmp_path):
    with ForkServer() as server:
        server._process.kill()
        for _ in range(2):
            with pytest.raises(WorkbenchError, match=r"the process that starts runs has died \(exit status -9\)") as error:
                server.fork(tmp_path, {})
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_fork_is_as_a_new_process(tmp_path, monkeypatch):
    """Environment, working directory, output and session are those of a process that was started for it; its end needs no one to wait."""
    report = (
        "import json, os, subprocess, torch\n"
        "def main(words):\n"
        "    true = subprocess.run(['true']).returncode\n"
        "    facts = dict(words=words, environment=dict(os.environ), place=os.getcwd(), true=true, own=os.getsid(0) == os.getpid())\n"
        "    facts['threads'] = torch.get_num_threads()\n"
        "    print(json.dumps(facts), flush=True)\n"
    )
    (tmp_path / "stand_in.py").write_text(report)
    program = (
        "from workbench import forkserver\n"
        "forkserver.MODULES = ('stand_in',)\n"  # in the place of all that takes seconds to import
        "raise SystemExit(forkserver.main())\n"
    )
    start = subprocess.Popen

    def quick(command, **options):
        options["env"] |= dict(PYTHONPATH=os.pathsep.join([str(Path(workbench.__file__).parents[1]), str(tmp_path)]))
        return start([sys.executable, "-c", program], **options)

    monkeypatch.setattr(subprocess, "Popen", quick)
    monkeypatch.chdir(tmp_path)
    with ForkServer() as server:
        pid = server.fork(tmp_path, dict(PATH=os.environ["PATH"], COLOUR="green", OMP_NUM_THREADS="3"))
        psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], 20)
        assert not psutil.pid_exists(pid) and server._process.poll() is None  # no zombie, and the server waits for the next one
    (line,) = (tmp_path / "train.log").read_text().splitlines()
    facts = json.loads(line)
    assert facts.pop("environment").items() >= dict(COLOUR="green").items() and "WORKBENCH_OUTPUTS" not in line
    assert facts == dict(threads=3, words=["--config", str(tmp_path / "config.json")], place=str(tmp_path), true=0, own=True)
    assert server._process.returncode == -signal.SIGTERM  # with the context


@pytest.mark.slow
def test_what_is_imported_before_the_fork_does_not_touch_cuda():
    """CUDA works in a fork only if no one has asked for a device before."""
    program = (
        "import torch\n"
        "asked = []\n"
        "for name in [name for name in dir(torch._C) if name.startswith('_cuda_')]:\n"
        "    setattr(torch._C, name, lambda *args, name=name: asked.append(name) or 0)\n"
        "from importlib import import_module\n"
        "from workbench import forkserver\n"
        "for name in forkserver.MODULES:\n"
        "    import_module(name)\n"
        "assert not asked, asked\n"
        "torch.cuda.is_available()\n"
        "assert asked\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env=os.environ | dict(CUDA_VISIBLE_DEVICES=""))


@pytest.fixture
def children():
    """The servers that this process has."""

    def found():
        for child in psutil.Process().children():
            with suppress(psutil.Error):  # it has just ended
                if "workbench.forkserver" in child.cmdline():
                    yield child

    yield lambda: list(found())
    while forkserver._ready:
        forkserver._ready.pop().close()


@pytest.mark.slow
def test_the_next_launch_takes_the_prepared_server(tiny, children):
    """Then the server ends; a launch without one starts a new process, and weights are the same."""
    forkserver.prepare()
    forkserver.prepare()  # a cell is run again
    assert len(children()) == 1
    prepared = launch(tiny(run="prepared"))
    process = psutil.Process(prepared.status()["pid"])
    assert process.cmdline()[1:] == ["-m", "workbench.forkserver"] and not forkserver._ready
    new = launch(tiny(run="new"))
    assert "workbench.training" in psutil.Process(new.status()["pid"]).cmdline()
    for run in (prepared, new):
        wait_until(lambda run=run: not run.active, 120)
        assert run.status()["state"] == "finished", run.log_tail()
    a, b = (load_file(run.checkpoint_path(4) / "ema.safetensors") for run in (prepared, new))
    assert a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)
    assert children() == []


def test_a_prepared_server_that_died_or_waits_for_too_long_is_replaced(tmp_path, children):
    forkserver.prepare()
    children()[0].kill()
    assert forkserver.fork_prepared(tmp_path, {}) is None  # so that a new process is started
    assert forkserver.fork_prepared(tmp_path, {}) is None
    forkserver.prepare(seconds=0.1)
    wait_until(lambda: not children(), 20)
    assert not forkserver._ready


def test_an_interrupt_while_the_server_imports_starts_nothing(tmp_path, children):
    forkserver.prepare()
    (server,) = children()
    threading.Timer(0.2, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        forkserver.fork_prepared(tmp_path, {})
    psutil.wait_procs([server], 20)
    assert not server.is_running() and not (tmp_path / "train.log").exists()


def test_elsewhere_than_on_linux_there_is_none(monkeypatch, children):
    monkeypatch.setattr(forkserver, "AVAILABLE", False)
    forkserver.prepare()
    assert children() == []
