"""Sweeps on a real Slurm of one node, which a test starts for itself."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from lab import wait_until
from safetensors.torch import load_file

from workbench import ParameterError, Run, WorkbenchError, sweep
from workbench.studies.planned import PlannedRun

PATIENCE = 300  # seconds, on a machine with much else to do

CONFIGURATION = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=2,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
KillWait=20
NodeName={host} NodeAddr=127.0.0.1 CPUs=3 RealMemory={memory} State=UNKNOWN
PartitionName=debug Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def said(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def slurm(monkeypatch):
    """A Slurm of this machine alone, on ports of its own: another one is not touched."""
    if os.geteuid() or not all(shutil.which(name) for name in ("slurmctld", "slurmd", "munged", "sbatch")):
        pytest.skip("needs root, and Debian's packages slurm-wlm and munge")
    pytest.importorskip("submitit")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # the name of a socket is short
    for name in ("state", "spool"):
        (folder / name).mkdir()
    host, memory = os.uname().nodename.split(".")[0], psutil.virtual_memory().total // 2**21
    text = CONFIGURATION.format(folder=folder, host=host, ports=(free_port(), free_port()), memory=memory)
    (folder / "slurm.conf").write_text(text)
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    names = dict(key="munge.key", socket="munge.socket", pid="munged.pid", log="munged.log", seed="seed")
    files = [f"--{option}{'' if option == 'socket' else '-file'}={folder / name}" for option, name in names.items()]
    try:
        said("munged", "--force", *files)
        said("slurmctld")
        said("slurmd")
        wait_until(lambda: "idle" in subprocess.run(["sinfo"], capture_output=True, text=True).stdout, PATIENCE)
        yield folder
    finally:
        subprocess.run(["scancel", "--user=root"], capture_output=True)
        for name in ("slurmd", "slurmctld", "munged"):
            if (folder / f"{name}.pid").exists():
                os.kill(int((folder / f"{name}.pid").read_text()), signal.SIGTERM)
        shutil.rmtree(folder, ignore_errors=True)


def weights(run: Run) -> dict:
    folder = run.checkpoint_path()
    return {f"{path.name} {name}": tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


@pytest.mark.slow
def test_a_sweep_on_slurm_is_that_of_this_machine(slurm, tiny, monkeypatch, tmp_path, capfd):
    """One job is put back by Slurm, one's time is up, one is cancelled while it trains and one before."""
    rare = dict(sample_every=1000, checkpoint_every=1000)  # on a busy disk, each takes seconds
    configs = [tiny(seed=seed, steps=steps, **rare) for seed, steps in ((0, 120), (1, 120), (2, 100_000), (3, 4))]
    requeued, out_of_time, cancelled, unborn = [PlannedRun.alone(config) for config in configs]

    def job(each) -> str:
        jobs = dict(line.split("|") for line in said("squeue", "--noheader", "--format=%j|%i").splitlines())
        return jobs.get(each.name, "")

    def trains(each) -> bool:
        return each.run is not None and any(row["step"] >= 4 for row in each.run.history())

    def start_again(number: str) -> None:
        def waits() -> bool:
            return "PENDING" in said("squeue", "--noheader", "--format=%T", f"--jobs={number}")

        wait_until(waits, 60)  # Slurm lets a job that was put back wait for two minutes
        said("scontrol", "update", f"jobid={number}", "StartTime=now")

    for name, value in dict(SLURM_NTASKS="2", SLURM_MEM_PER_CPU="100", SLURM_JOB_ID="7", SLURM_PROCID="1").items():
        monkeypatch.setenv(name, value)  # of a job in which the sweep runs
    monkeypatch.setattr("workbench.progress.LOG_INTERVAL", 0.5)  # so that a line is printed while something waits
    with ThreadPoolExecutor() as pool, ExitStack() as failed:
        done = pool.submit(sweep, configs, "slurm", partition="debug", hours=1, cpus=1, memory=1)
        failed.callback(said, "scancel", "--user=root")  # else the pool would wait for the long run
        wait_until(lambda: job(unborn), PATIENCE)
        said("scancel", job(unborn))
        first, second = job(requeued), job(out_of_time)
        wait_until(lambda: "R" in said("squeue", "--noheader", "--format=%t", f"--jobs={second}"), PATIENCE)
        said("scancel", "--signal=USR2", second)  # before it handles signals: it trains all the same
        wait_until(lambda: trains(requeued), PATIENCE)
        trainer = psutil.Process(requeued.run.status()["pid"])
        assert "submitit.core._submit" in trainer.cmdline()  # a fork of the job's process: torch is imported once
        said("scontrol", "requeue", first)
        wait_until(lambda: trains(out_of_time), PATIENCE)
        said("scancel", "--signal=USR2", second)
        start_again(first), start_again(second)
        wait_until(lambda: trains(cancelled), PATIENCE)
        said("scancel", job(cancelled))
        with pytest.raises(WorkbenchError, match=r"^1 of 4 runs failed, .*': .* was cancelled") as error:
            done.result(PATIENCE)
    assert "\n" not in str(error.value) and unborn.run is None
    assert [len(each.run.provenance["started"]) for each in (requeued, out_of_time)] == [2, 2]
    assert cancelled.state == "stopped" and cancelled.run.checkpoint_steps()
    err = capfd.readouterr().err
    assert "was stopped at step" in err and "queued" in err and "Traceback" not in err
    on_slurm = {each.name: weights(each.run) for each in (requeued, out_of_time)}
    monkeypatch.setenv("WORKBENCH_OUTPUTS", str(tmp_path / "here"))
    for run in sweep(configs[:2], jobs=2):
        expected = weights(run)
        assert expected.keys() == on_slurm[run.name].keys() and len(expected) > 20
        assert all(tensor.equal(on_slurm[run.name][name]) for name, tensor in expected.items())


def test_without_slurm_or_with_other_options_it_is_one_line(tiny, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ParameterError, match=r"executor='slurm': there is no Slurm on this machine"):
        sweep([tiny()], "slurm")
    with pytest.raises(ParameterError, match="unknown parameter 'partitoin'; did you mean 'partition'"):
        sweep([tiny()], "slurm", partitoin="gpu")
    with pytest.raises(ParameterError, match="gpus, hours go with executor='slurm', not with executor='local'"):
        sweep([tiny()], gpus=1, hours=2)
