"""Notebooks as templates: copies that users change stay, others follow the package, and the templates themselves never change."""

import os

import pytest

from workbench import WorkbenchError, templates
from workbench.templates import NAMES, NOISE, about_the_work, copy_templates, execute, template


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A folder of templates that a test may change."""
    folder = tmp_path / "package"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.ipynb").write_bytes(template(name).read_bytes())
    monkeypatch.setattr(templates, "template", lambda name: folder / f"{name}.ipynb")
    return folder


def test_copies_follow_the_templates_until_they_are_changed(package, tmp_path):
    folder = tmp_path / "work"
    assert all(line.endswith("copied") for line in copy_templates(folder))
    assert all(line.endswith("as the template") for line in copy_templates(folder))
    (folder / "train.ipynb").write_text("mine")
    (package / "train.ipynb").write_text("newer")
    (package / "tour.ipynb").write_text("newer")
    said = {line.partition(":")[0].rpartition("/")[2]: line for line in copy_templates(folder)}
    assert said["train.ipynb"].endswith("kept, it was changed; the template is newer: delete the copy to get it")
    assert said["tour.ipynb"].endswith("replaced by the newer template") and (folder / "tour.ipynb").read_text() == "newer"
    assert (folder / "train.ipynb").read_text() == "mine" and (package / "compare.ipynb").read_bytes() == (
        folder / "compare.ipynb"
    ).read_bytes()
    (folder / "train.ipynb").unlink()
    copy_templates(folder)
    assert (folder / "train.ipynb").read_text() == "newer"


def test_a_file_of_the_user_is_never_replaced(package, tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "train.ipynb").write_text("mine, from before")
    copy_templates(folder)
    copy_templates(folder)
    assert (folder / "train.ipynb").read_text() == "mine, from before"


def test_every_template_is_there_and_another_name_is_not():
    assert all(template(name).is_file() for name in NAMES)
    with pytest.raises(WorkbenchError, match=r"there is no notebook trian\.ipynb in"):
        template("trian")


@pytest.mark.parametrize(("line", "noise"), [
    ("Executing Cell 14-----\n", True), ("<workbench.figures.figure.Plot at 0x7fb3>\n", True), ("\n", True), ("Input Notebook:  train.ipynb\n", True),
    ("<PIL.Image.Image image mode=RGBA size=684x276>\n", True), ("step 9/60  15 %\n", False), ("Ending is near\n", False), ("<b> is bold\n", False),
    ("WorkbenchError: x\n", False), ("Aborted!\n", True), ("[IPKernelApp] ERROR | Exception in message handler:\n", True),
    ("[IPKernelApp] ERROR | something else\n", False),
])  # fmt: skip
def test_what_is_printed_is_about_the_work(line, noise):
    assert bool(NOISE.match(line)) == noise


def test_the_error_of_a_cell_is_told_without_papermills_traceback():
    lines = ["step 3\n", "Traceback (most recent call last):\n", '  File "papermill/execute.py"\n', "papermill.exceptions.PapermillExecutionError: \n",
             "-----\n", 'Exception encountered at "In [3]":\n', "WorkbenchError: there is no run\n", "after\n"]  # fmt: skip
    assert list(about_the_work(lines)) == ["step 3\n", "WorkbenchError: there is no run\n", "after\n"]
    assert list(about_the_work([*lines[:3], "KeyboardInterrupt\n"])) == ["step 3\n"]


def test_a_run_knows_the_command_that_waits_for_it(tmp_path, monkeypatch, capsys):
    """So that it saves and stops if the command is killed, as it does if its notebook is; papermill survives that."""
    monkeypatch.setattr(templates, "PAPERMILL", "import os; print('waiting:', os.environ['WORKBENCH_WAITING'])")
    assert execute("train", [], tmp_path / "out.ipynb") == 0
    assert capsys.readouterr().out == f"waiting: {os.getpid()}\n"
