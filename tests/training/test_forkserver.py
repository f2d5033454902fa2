"""The process that forks runs; what it trains is compared with other ways in tests/studies/test_sweep.py."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import workbench
from workbench.messages import WorkbenchError
from workbench.training.forkserver import ForkServer


def test_a_server_that_died_is_one_line_and_the_next_one_is_new(tmp_path):
    with ForkServer(1) as server:
        server._process.kill()
        for _ in range(2):
            with pytest.raises(WorkbenchError, match=r"the process that starts runs has died \(exit status -9\)") as error:
                server.fork(tmp_path, {})
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_fork_is_as_a_new_process(tmp_path, monkeypatch):
    """Environment, working directory, output and session are those of a process that was started for it; its end needs no one to wait."""
    report = (
        "import json, os, subprocess\n"
        "def main(words):\n"
        "    true = subprocess.run(['true']).returncode\n"
        "    facts = dict(words=words, environment=dict(os.environ), place=os.getcwd(), true=true, own=os.getsid(0) == os.getpid())\n"
        "    print(json.dumps(facts), flush=True)\n"
    )
    (tmp_path / "stand_in.py").write_text(report)
    program = (
        "from workbench.training import forkserver\n"
        "forkserver.MODULES = ('stand_in',)\n"  # in the place of all that takes seconds to import
        "raise SystemExit(forkserver.main())\n"
    )
    start = subprocess.Popen

    def quick(command, **options):
        options["env"] |= dict(PYTHONPATH=os.pathsep.join([str(Path(workbench.__file__).parents[1]), str(tmp_path)]))
        return start([sys.executable, "-c", program], **options)

    monkeypatch.setattr(subprocess, "Popen", quick)
    monkeypatch.chdir(tmp_path)
    with ForkServer(3) as server:
        pid = server.fork(tmp_path, dict(PATH=os.environ["PATH"], COLOUR="green"))
        psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], 20)
        assert not psutil.pid_exists(pid) and server._process.poll() is None  # no zombie, and the server waits for the next one
    (line,) = (tmp_path / "train.log").read_text().splitlines()
    facts = json.loads(line)
    assert facts.pop("environment").items() >= dict(COLOUR="green").items() and "OMP_NUM_THREADS" not in line
    assert facts == dict(words=["--config", str(tmp_path / "config.json")], place=str(tmp_path), true=0, own=True)
    assert server._process.returncode == -signal.SIGTERM  # with the context
