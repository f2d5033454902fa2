"""What is known of GPUs before anything computes on them, on a driver that a test builds."""

import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import workbench
from workbench import ParameterError
from workbench.gpus import GPU, _amd_gpus, _gpus, gpus, on_cpu, visible_gpus
from workbench.machine import describe_machine
from workbench.studies.executors import GPUs, default_jobs
from workbench.studies.planned import PlannedRun, in_one_precision
from workbench.training import launcher, plan
from workbench.training.plan import _measured_elsewhere
from workbench.views.settings import check

DRIVER = """
#include <stdlib.h>
#include <string.h>
static int value(const char *name, int otherwise) { return getenv(name) ? atoi(getenv(name)) : otherwise; }
int cuInit(unsigned flags) { return value("FAKE_ERROR", 0); }
int cuDriverGetVersion(int *version) { *version = value("FAKE_VERSION", 99000); return 0; }
int cuDeviceGetCount(int *count) { *count = value("FAKE_COUNT", 2); return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDeviceGetName(char *name, int length, int device) { strcpy(name, device ? "Card 1" : "Card 0"); return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)24 << (30 + device); return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { *value = attribute == 75 ? 7 + device : -1; return 0; }
"""
CARDS = (GPU("Card 0", 24 << 30, 7), GPU("Card 1", 48 << 30, 8))


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """A driver of two cards that says what the variables FAKE_* want; what a test learns of it is forgotten."""
    compiler = shutil.which("cc")
    if not compiler or not torch.version.cuda:
        pytest.skip("needs a C compiler, and torch for CUDA")
    (tmp_path / "cuda.c").write_text(DRIVER)
    library = tmp_path / "libcuda.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "cuda.c"], check=True)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)
    _gpus.cache_clear()
    yield monkeypatch.setenv
    _gpus.cache_clear()


@pytest.fixture
def untouched(monkeypatch):
    """Fails if CUDA would be initialised in this process."""
    asked = []
    for name in [name for name in dir(torch._C) if name.startswith("_cuda_")]:
        monkeypatch.setattr(torch._C, name, lambda *values, name=name: asked.append(name) or 0)
    yield
    assert not asked


def test_the_driver_is_asked_and_cuda_stays_untouched(driver, untouched):
    assert gpus() == CARDS and not on_cpu("auto") and not on_cpu("cuda") and on_cpu("cpu")


@pytest.mark.parametrize(("name", "value", "says"), [
    ("FAKE_ERROR", "100", ""), ("FAKE_ERROR", "999", "(999)"), ("FAKE_VERSION", "9020", "supports CUDA 9, this torch needs"), ("FAKE_COUNT", "0", ""),
])  # fmt: skip
def test_a_driver_that_does_not_serve(driver, capsys, name, value, says):
    driver(name, value)
    assert gpus() == () and on_cpu("auto")
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == bool(says)


def test_without_gpus(cards):
    cards()
    assert on_cpu("auto") and on_cpu("cpu") and visible_gpus() == []
    with pytest.raises(ParameterError, match="finds no GPU"):
        on_cpu("cuda")


@pytest.mark.parametrize(("given", "names"), [(None, ["0", "1"]), ("GPU-b,5,0,9", ["GPU-b", "5"]), ("", [])])
def test_names_of_gpus_are_those_that_the_user_has_given(cards, monkeypatch, given, names):
    cards(*CARDS[: len(names)])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given) if given is not None else monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == names


def test_what_starts_runs_leaves_cuda_to_them(cards, untouched, tiny, monkeypatch):
    """A sweep, a notebook's kernel, and a command: sizes are judged, precisions decided and plans made."""
    cards(*CARDS)
    monkeypatch.setattr(launcher, "_process", lambda *arguments: 1)
    monkeypatch.setattr(plan, "_measured_elsewhere", lambda *arguments: (8, 0.1, 10**9))
    monkeypatch.setenv("WORLD_SIZE", "2")  # of another job, which nobody waits for
    auto = tiny(mixed_precision="auto")
    check(auto)
    for config in (auto, auto.replace(num_processes=2)):
        (planned,) = in_one_precision([PlannedRun.alone(config)])
        assert planned.config.mixed_precision == "no"  # the first card is too old for bf16
        launcher.start(config)
        assert plan.plan(config).seconds == pytest.approx(0.1 / config.num_processes)
    assert default_jobs([planned]) == 1
    with GPUs().lent(config) as names:
        assert names == "0,1"
    assert describe_machine()["machine"]["gpus"] == ["Card 0", "Card 1"]


@pytest.mark.slow
def test_steps_on_a_gpu_are_measured_in_another_process(tiny):
    if gpus():
        pytest.skip("this machine has a GPU")
    images, seconds, operations = _measured_elsewhere(tiny(), 8)
    assert images == 8 and 0 < seconds < 60 and operations > 10**6
    with pytest.raises(workbench.WorkbenchError, match="measured failed: ParameterError: device='cuda'"):
        _measured_elsewhere(tiny(device="cuda"), 8)


def test_nothing_else_asks_torch_for_gpus():
    """`torch.cuda.is_available` and its like initialise CUDA in the process that asks."""
    sources = {path.name: path.read_text() for path in Path(workbench.__file__).parent.rglob("*.py")}
    calls = {(name, call) for name, source in sources.items() for call in re.findall(r"torch\.cuda\.(\w+)", source)}
    assert calls == {("plan.py", "synchronize"), ("gpus.py", "get_device_properties"), ("gpus.py", "device_count")}


def test_gpus_of_amd_are_asked_for_through_torch(monkeypatch):
    card = SimpleNamespace(name="MI300", total_memory=2**37, major=9)
    monkeypatch.setattr("workbench.gpus.version", lambda package: "2.11.0+rocm6.4")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    _amd_gpus.cache_clear()
    assert gpus() == (GPU("MI300", 2**37, 9),) * 2 and not on_cpu("auto")
    _amd_gpus.cache_clear()
