import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from jobs import free_port

from workbench import ParameterError
from workbench.processes import _placed_by_srun, launch_command, launch_environment, local_processes, process_group, rank


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


@pytest.mark.parametrize("threads", ["", "0", "4,2", "four", "²"])  # a script's unset variable; a list for nested loops
def test_numbers_of_threads_that_are_none_are_left_out(monkeypatch, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert launch_environment(2)["OMP_NUM_THREADS"] == "4"
    with process_group(1, "cpu", "some.module"):
        assert "OMP_NUM_THREADS" not in os.environ
    assert os.environ["OMP_NUM_THREADS"] == threads


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


def test_a_notebooks_kernel_is_no_process_of_a_job(monkeypatch):
    """Though the variables agree with what it is asked for: it would wait for the others until a time-out."""
    shell = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=1))
    monkeypatch.setitem(sys.modules, "IPython", shell)
    for variables in (dict(TORCHELASTIC_RUN_ID="x"), {}):
        for name, value in (dict(RANK="1", WORLD_SIZE="2", MASTER_ADDR="192.0.2.1", MASTER_PORT="29500") | variables).items():
            monkeypatch.setenv(name, value)
        assert rank() == 0
        with pytest.raises(ParameterError, match="num_processes=2, but 1 process"), process_group(2, "cpu", "some.module"):
            pass


STEP = dict(
    SLURM_PROCID="5", SLURM_LOCALID="1", SLURM_NTASKS="8", SLURM_STEP_NUM_TASKS="8", SLURM_STEP_TASKS_PER_NODE="4(x2)", SLURM_JOB_ID="1203",
    SLURM_STEP_ID="2", SLURM_STEP_NODELIST="gpu[07-08]",
)  # fmt: skip


@pytest.fixture
def task(monkeypatch):
    """Make this process a task of a Slurm step: `task(os.getpid(), SLURM_PROCID="6")`."""

    def make(pid, **changes):
        for name in [name for name in os.environ if name.startswith("SLURM_")]:
            monkeypatch.delenv(name)
        for name, value in (STEP | dict(SLURM_TASK_PID=str(pid)) | changes).items():
            monkeypatch.setenv(name, value)

    return make


@pytest.mark.parametrize("process", [os.getpid, os.getppid])  # not its number: tests need equal names in all processes that run them
def test_a_task_of_srun_takes_its_place_from_slurm(task, process, monkeypatch):
    pid = process()
    task(pid)
    place = _placed_by_srun(8)
    port = place.pop("MASTER_PORT")
    assert place == dict(RANK="5", WORLD_SIZE="8", LOCAL_RANK="1", LOCAL_WORLD_SIZE="4", MASTER_ADDR="gpu07") and 1024 < int(port) < 32768
    task(pid, SLURM_STEP_ID="3")
    assert _placed_by_srun(8)["MASTER_PORT"] != port  # two steps at a time on one node
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29501")
    place = _placed_by_srun(8)
    assert (place["MASTER_ADDR"], place["MASTER_PORT"]) == ("10.0.0.1", "29501")


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node1", "node1"), ("a-[1,3-9]", "a-1"), ("gpu[07-09,11],cpu1", "gpu07"), ("r[3-4].example", "r3.example"), ("", "localhost"),
        ("x,y[1-2]", "x"),
    ],
)  # fmt: skip
def test_the_first_node_of_a_step(task, nodes, first):
    task(os.getpid(), SLURM_STEP_NODELIST=nodes)
    assert _placed_by_srun(8)["MASTER_ADDR"] == first


def test_variables_of_slurm_change_nothing_outside_of_a_task(task):
    """They are in a batch script and in all that it starts, too: a notebook, a launcher, a training of one process."""
    task(os.getpid())
    with process_group(1, "cpu", "some.module"):
        assert rank() == 0 and not dist.is_initialized() and local_processes(1) == 1
    for pid, changes in [
        (1, {}), ("", {}), (os.getpid(), dict(SLURM_STEP_NUM_TASKS="7")), (os.getpid(), dict(SLURM_STEP_NUM_TASKS="")),
        (os.getpid(), dict(SLURM_PROCID="x")), (os.getpid(), dict(SLURM_LOCALID="-1")),
    ]:  # fmt: skip
        task(pid, **changes)
        with pytest.raises(ParameterError, match="num_processes=8, but 1 process"), process_group(8, "cpu", "some.module"):
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
def test_processes_of_a_group_end_together(how):
    """Started by hand, as a scheduler does it: by variables that agree with what is asked for; or by `srun`."""
    environment = launch_environment(1) | dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()))
    command = [sys.executable, "-c", GROUP, how]
    if how == "kill":
        environment |= dict(SLURM_STEP_NUM_TASKS="2")
        command = ["bash", "-c", 'SLURM_TASK_PID=$$ exec "$@"', "task", *command]
    places = [dict(SLURM_PROCID=str(k), SLURM_LOCALID=str(k)) if how == "kill" else dict(RANK=str(k), WORLD_SIZE="2") for k in range(2)]
    both = [subprocess.Popen(command, env=environment | place, stdout=subprocess.PIPE, text=True) for place in places]
    outputs = [process.communicate(timeout=120)[0] for process in both]
    if how == "end":
        assert outputs == ["done\n", "done\n"]
    else:
        assert outputs[0].startswith("told: process 1 of 2 (counted from 0) ended early") and outputs[1] == ""


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
