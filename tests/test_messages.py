"""Messages: counts in words, and errors of libraries in one line."""

import os
import subprocess
import sys

import pytest

from workbench.messages import EnvironmentVariableError, WorkbenchError, blame, blaming_variables, command, counted

LIBRARIES = {
    "by number": ("import os\nnames = ['LIB_DEPTH']\nfor name in names:\n    int(os.environ[name])", "LIB_DEPTH", "deep"),
    "in other words": ("import os\nlevel = os.environ['LIB_LEVEL']\nraise ValueError(f'unknown level {level.upper()!r}')", "LIB_LEVEL", "loud"),
    "by name": ("raise RuntimeError('LIB_MODE must be a or b')", "LIB_MODE", "c"),
    "in a line of its source": ("import os\n{'a': 1}[os.environ['LIB_MODE'] + '!']", "LIB_MODE", "c"),
    "in many lines": ("import os\nraise ValueError('\\nInvalid ' + os.environ['LIB_LOGS'] + '\\nValid: LIB_LOGS=a')", "LIB_LOGS", "zzz"),
}  # fmt: skip


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A library with this source, to be imported: `library(source)` is its name."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("OF_" + "NOBODY", "deep")  # no source has this name

    def make(source):
        (tmp_path / "some_library.py").write_text(source)
        sys.modules.pop("some_library", None)
        return "some_library"

    yield make
    sys.modules.pop("some_library", None)


@pytest.mark.parametrize("how", LIBRARIES)
def test_a_variable_that_a_library_cannot_read_is_named(library, monkeypatch, capsys, how):
    source, name, value = LIBRARIES[how]
    monkeypatch.setenv(name, value)
    module = library(source)
    with pytest.raises(EnvironmentVariableError, match=rf"^{name}='{value}': a library cannot read") as error, blaming_variables():
        __import__(module)
    assert "\n" not in str(error.value)
    sys.modules.pop(module, None)
    assert command(lambda: __import__(module))() == 2
    assert capsys.readouterr().err == f"EnvironmentVariableError: {error.value}\n"


def test_other_errors_stay_what_they_are(library, monkeypatch):
    monkeypatch.setenv("LIB_DEPTH", "deep")
    for source in ("int('shallow')", "import no_such_library"):
        with pytest.raises((ValueError, ImportError), match=r"shallow|no_such") as error, blaming_variables():
            __import__(library(source))
        assert not isinstance(error.value, WorkbenchError)
    try:
        int("deep")
    except ValueError as error:  # of a computation
        assert blame(error) == ""


@pytest.mark.slow
@pytest.mark.parametrize(("words", "name"), [
    (["-m", "workbench.training"], "ACCELERATE_LOG_LEVEL"), (["-m", "workbench", "plan"], "NUMPY_MADVISE_HUGEPAGE"),
    (["-c", "import workbench; workbench.train"], "NUMPY_MADVISE_HUGEPAGE"),
])  # fmt: skip
def test_such_a_variable_is_one_line_from_a_shell_and_from_python(words, name):
    process = subprocess.run([sys.executable, *words], env=os.environ | {name: "?x"}, capture_output=True, text=True)
    last = process.stderr.splitlines()[-1]
    assert process.returncode and last.partition(": ")[2].startswith(f"{name}='?x': a library cannot read"), process.stderr
    assert words[0] == "-c" or process.stderr.count("\n") == 1


def test_one_thing_is_no_plural():
    assert [counted(n, "key") for n in (0, 1, 2, 1024)] == ["0 keys", "1 key", "2 keys", "1,024 keys"]
    assert counted(1, "class") == "1 class" and counted(6, "class") == "6 classes"
