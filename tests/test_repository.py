"""Promises of the repository itself: one list of dependencies, a light import, a workflow that runs what must pass."""

import os
import re
import subprocess
import sys
import tomllib
from operator import attrgetter
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent


def test_conda_environment_lists_nothing_that_pyproject_lists():
    text = (ROOT / "environment.yml").read_text()
    entries = re.findall(r"^\s+- (.+)$", text, re.MULTILINE)
    assert entries == ["python=3.11", "make", "pip", "pip:", "-e .[test]"]
    assert "test" in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.mark.slow
def test_the_core_works_without_notebook_libraries():
    """Training, sampling and reading runs must work on a machine without Jupyter, plotly and matplotlib."""
    code = """
import sys
for name in ("IPython", "ipykernel", "ipywidgets", "anywidget", "jupyterlab", "papermill", "plotly", "matplotlib"):
    sys.modules[name] = None  # importing it fails
import workbench as wb
run = wb.train(wb.Config.preset("twins32", width=8, batch_size=8, steps=1))
with wb.attention.capture(run.generator()) as maps:
    wb.views.train.samples(run)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_importing_the_package_is_light():
    """And so is all that notebooks import: torchvision (which brings torch's compiler) and SciPy's statistics would double their start."""
    code = """
import sys
import workbench
print([m for m in ("accelerate", "matplotlib", "plotly", "IPython", "torchvision") if m in sys.modules])
import workbench.views.ablation, workbench.views.attention, workbench.training, workbench.widgets
print([m for m in ("torchvision", "torch._dynamo", "scipy.stats") if m in sys.modules])
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n[]\n"


PROMISED = """Config.preset Config.from_parameters Config.to_json Config.from_json SelfAttention Generator Discriminator
losses.hinge_discriminator losses.hinge_generator train launch Run.config Run.history Run.generator Run.discriminator Run.stop
metrics.frechet_distance metrics.inception_score metrics.Moments.update metrics.Moments.merge metrics.Moments.covariance
attention.capture AttentionInspector Dashboard"""


def test_every_public_name_is_there():
    import workbench

    for name in (*workbench.__all__, *PROMISED.split()):
        assert attrgetter(name)(workbench) is not None
    with pytest.raises(AttributeError):
        workbench.nothing  # noqa: B018


def test_the_workflow_runs_what_must_pass_on_a_clean_machine():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())
    steps = [step.get("run") for job in workflow["jobs"].values() for step in job["steps"]]
    assert ".ci/run" in steps and "make docs" in steps
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
