"""The script of a GPU, with tiny sizes on a CPU."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu
from workbench import Config, WorkbenchError, train
from workbench.training.plan import Plan

SCRIPT = Path(gpu.__file__).with_name("gpu.sh")


@pytest.mark.slow
def test_the_script_checks_itself_without_a_gpu(tmp_path):
    result = subprocess.run([SCRIPT, "--check", tmp_path], env=os.environ | {"PYTHON": sys.executable}, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    names = re.findall(r"^part \d+ (\S+)|^(?:bench|train) \d+ (\S+)", SCRIPT.read_text(), re.M)
    assert re.findall(r"^-- (\S+): done", result.stdout, re.M) == [a or b for a, b in names]
    assert sum(int(limit) for limit in re.findall(r"^(?:part|bench|train) (\d+) ", SCRIPT.read_text(), re.M)) < 600
    for size in (32, 128):
        assert json.loads((tmp_path / f"step-{size}.json").read_text())["ratio"] > 0
    ((card, speeds),) = json.loads((tmp_path / "gpus.json").read_text()).items()
    assert card and speeds.keys() == {"no", "bf16"} and min(speeds.values()) > 0
    assert re.search(r"fd_inception@\w+ +[\d.]+", result.stdout)
    assert ", fp32: " in result.stdout and ", fp32, CPU" in result.stdout
    assert "all parts done" in result.stdout and "to keep the row" not in result.stdout  # it is no card's


@pytest.mark.slow
def test_a_part_that_fails_leaves_the_others_alone(tmp_path):
    stub = tmp_path / "python"
    stub.write_text('#!/bin/bash\ncase "$*" in *" row "*) exit 3;; *) echo "ran $*";; esac\n')
    stub.chmod(0o755)
    result = subprocess.run([SCRIPT, tmp_path / "out"], env=os.environ | {"PYTHON": str(stub)}, capture_output=True, text=True)
    assert result.returncode == 1 and "-- gpus: FAILED with status 3" in result.stdout
    assert result.stdout.splitlines()[-1] == "FAILED: gpus"
    assert "-- scores: done" in result.stdout and "--width 64 --batch 256" in result.stdout and "mixed_precision fp16" in result.stdout


def test_a_row_is_what_a_plan_divides_by(monkeypatch, tiny):
    config, speeds = tiny(device="cpu", steps=3600), {"no": 2.0, "bf16": 0.5}

    def plan(config: Config) -> Plan:
        return Plan(config, 0, 0, 0, 0, 0, seconds=speeds[config.mixed_precision], operations=1e12)

    monkeypatch.setattr(gpu.planning, "plan", plan)
    ((_, row),) = gpu.row(config).items()
    assert row == {"no": 5e11, "bf16": 2e12}
    monkeypatch.setattr(gpu.planning, "plan", lambda config: Plan(config, 0, 0, 0, 0, 0, problem="too large"))
    with pytest.raises(WorkbenchError, match="too large"):
        gpu.row(config)


@pytest.mark.slow
def test_missing_steps_and_a_missing_scaler_are_noticed(tiny, capsys):
    run = train(tiny())
    gpu.print_losses(run)
    assert "4 steps" in capsys.readouterr().out
    (run.path / "history.jsonl").write_text((run.path / "history.jsonl").read_text().splitlines()[0] + "\n")
    with pytest.raises(WorkbenchError, match=r"lines of steps \[2\], not up to 4"):
        gpu.print_losses(run)
