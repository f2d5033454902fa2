import os
import socket
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist

from workbench import ParameterError
from workbench.processes import launch_command, launch_environment, on_cpu, process_group, rank


def test_several_processes_are_really_asked_for():
    """`accelerate launch --cpu --num_processes 2` would start one."""
    command = launch_command("some.module", 2)
    assert "--cpu" not in command and "--multi_gpu" in command and command[command.index("--num_processes") + 1] == "2"
    assert command[-2:] == launch_command("some.module", 1)[1:] == ["-m", "some.module"]


def test_processes_share_the_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert launch_environment(4)["OMP_NUM_THREADS"] == "2" and launch_environment(100)["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert launch_environment(4)["OMP_NUM_THREADS"] == "5" and launch_environment(4, threads=3)["OMP_NUM_THREADS"] == "3"
    assert os.path.isdir(os.path.join(launch_environment(1)["PYTHONPATH"].split(os.pathsep)[0], "workbench"))


def test_a_device_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert on_cpu("auto") and on_cpu("cpu")
    with pytest.raises(ParameterError, match="finds no GPU"):
        on_cpu("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert not on_cpu("auto") and not on_cpu("cuda") and on_cpu("cpu")


FOREIGN = [
    dict(LOCAL_RANK="0"), dict(WORLD_SIZE="2"), dict(RANK="1", WORLD_SIZE="4", LOCAL_RANK="1", MASTER_ADDR="192.0.2.1", MASTER_PORT="29500"),
    dict(OMPI_COMM_WORLD_SIZE="2", OMPI_COMM_WORLD_RANK="1"), dict(PMI_SIZE="2", PMI_RANK="1"), dict(RANK="x", WORLD_SIZE=""),
    dict(ACCELERATE_USE_FSDP="true", ACCELERATE_MIXED_PRECISION="fp16"), dict(MV2_COMM_WORLD_SIZE="3", MV2_COMM_WORLD_RANK="2"),
    dict(ACCELERATE_USE_DEEPSPEED="true", LOCAL_RANK="3", NODE_RANK="1"), dict(WORLD_SIZE="²", RANK="-1"),
]  # fmt: skip


@pytest.mark.parametrize("variables", FOREIGN, ids=lambda variables: next(iter(variables)))
def test_variables_of_another_job_change_nothing(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with process_group(1, "cpu", "some.module"):
        assert rank() == 0 and not dist.is_initialized() and not set(variables) & set(os.environ)
    assert all(os.environ[name] == value for name, value in variables.items())
    assert not set(variables) & set(launch_environment(1))


@pytest.mark.parametrize("variables", [{}, *FOREIGN[:2], dict(TORCHELASTIC_RUN_ID="x", WORLD_SIZE="3", RANK="0")], ids=str)
def test_another_number_of_processes_is_refused(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    says = r"num_processes=4, but \d process.* accelerate launch .*--multi_gpu .*-m some.module"
    with pytest.raises(ParameterError, match=says), process_group(4, "cpu", "some.module"):
        pass


GROUP = """
import os, signal, sys, time
import torch, torch.distributed as dist
from workbench.messages import WorkbenchError
from workbench.processes import process_group, rank

kill = sys.argv[1] == "kill"
try:
    with process_group(2, "cpu", "x"):
        total = torch.ones(1)
        dist.all_reduce(total)
        assert total.item() == 2
        arrived = time.monotonic()
        if rank() == 1 and kill:
            os.kill(os.getpid(), signal.SIGKILL)
        if kill:
            dist.all_reduce(total)
        elif rank() == 1:
            time.sleep(1)
    assert rank() or kill or time.monotonic() - arrived > 0.9, "left before the other one was done"
    print("done", flush=True)
except WorkbenchError as error:
    print("told:", error, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["end", "kill"])
def test_processes_of_a_group_end_together(tmp_path, how):
    """Started by hand, as a scheduler does it: by variables that agree with what is asked for."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = launch_environment(1) | dict(WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    both = [
        subprocess.Popen(
            [sys.executable, "-c", GROUP, how], env=environment | dict(RANK=str(k), LOCAL_RANK=str(k)), stdout=subprocess.PIPE, text=True
        )
        for k in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in both]
    if how == "end":
        assert outputs == ["done\n", "done\n"]
    else:
        assert outputs[0].startswith("told: another of the 2 processes ended early") and outputs[1] == ""


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
