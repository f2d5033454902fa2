import subprocess

import pytest


@pytest.fixture
def other():
    """A process that does nothing, as if it trained."""
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()
