import sys

import pytest

from workbench.evaluation.__main__ import main as command_line


@pytest.fixture
def run(trained_once):
    return trained_once(run="one", checkpoint_every=2)


@pytest.fixture
def main(monkeypatch, capsys):
    """Exit status, output and errors of `python -m workbench.evaluation`, called in this process."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["evaluation", *map(str, words)])
        return command_line(), *capsys.readouterr()

    return call
