import subprocess

import pytest


@pytest.fixture
def other():
    """A process that stands for a training."""
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()
