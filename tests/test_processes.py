import os
import subprocess
import sys

import pytest
import torch

from workbench import ParameterError
from workbench.processes import launch_command, launch_environment, launch_words, on_cpu


def test_several_processes_are_really_asked_for():
    """`accelerate launch --cpu --num_processes 2` would start one."""
    words = launch_words(2, "cpu")
    assert "--cpu" not in words and "--multi_gpu" in words and words[words.index("--num_processes") + 1] == "2"
    assert "--cpu" in launch_words(1, "cpu")
    assert launch_command("some.module", 2, "cpu")[-2:] == ["-m", "some.module"]


def test_processes_share_the_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert launch_environment(4)["OMP_NUM_THREADS"] == "2" and launch_environment(100)["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert launch_environment(4)["OMP_NUM_THREADS"] == "5"
    assert os.path.isdir(os.path.join(launch_environment(1)["PYTHONPATH"].split(os.pathsep)[0], "workbench"))


def test_a_device_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert on_cpu("auto") and on_cpu("cpu")
    with pytest.raises(ParameterError, match="finds no GPU"):
        on_cpu("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert not on_cpu("auto") and not on_cpu("cuda") and on_cpu("cpu")


@pytest.mark.slow
def test_memory_is_kept_between_steps():
    """A large block that is taken and freed again and again costs no page faults, once the heap has found its size."""
    code = """
import resource, torch
from workbench.processes import keep_memory
keep_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults(), [faults() for _ in range(20)][-1])
"""
    first, last = map(int, subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
    assert last < first / 10
