"""The machine, versions and commit that produced results."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .gpus import gpus


def describe_machine() -> dict:
    """`python`: its version. `versions` of packages; None: not installed. `machine`: host, system, processor, cores and GPUs."""
    versions: dict[str, str | None] = {}
    for package in ("torch", "torchvision", "accelerate", "numpy", "pillow", "papermill", "jupyterlab"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    machine = dict(
        host=socket.gethostname(),
        system=platform.platform(),
        processor=_processor(),
        cores=os.cpu_count(),
        gpus=[gpu.name for gpu in gpus()],
    )
    return dict(python=platform.python_version(), versions=versions, machine=machine)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def git_state() -> dict:
    """`commit` of the checkout around the package, and whether it is `dirty`; both are None without git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        return dict(commit=git("rev-parse", "HEAD"), dirty=bool(git("status", "--porcelain", "--", "..")))
    except (OSError, subprocess.SubprocessError):
        return dict(commit=None, dirty=None)
