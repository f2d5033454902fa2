import dataclasses

import pytest

import workbench as wb
from workbench import Config, ParameterError, forkserver
from workbench.runs import create_run

SETTINGS = len(dataclasses.fields(Config))


@pytest.fixture(autouse=True)
def prepared(monkeypatch) -> list:
    """How often a server was to be started, in its place."""
    calls = []
    monkeypatch.setattr(forkserver, "prepare", lambda: calls.append(1))
    return calls


def test_a_server_is_prepared_for_what_may_start_in_one_process(prepared, make):
    wb.check(Config.preset("twins32", num_processes=2))
    with pytest.raises(ParameterError):
        wb.check(Config.preset("twins32", resume="dogs"))
    assert prepared == []
    wb.check(Config.preset("twins32"))
    assert prepared == [1]


def test_changes_are_marked_in_the_table_of_all_settings():
    table = wb.check(Config.from_parameters(dict(lr_d=4e-4, note="<b>\nx", sn_g=False)))
    lines = repr(table).splitlines()
    assert lines[0] == f"twins32-sn_g=False-lr_d=0.0004: 2 of {SETTINGS} settings differ from preset twins32"
    assert [" ".join(line.split()) for line in lines if line.startswith("*")] == ["* sn_g false (not true)", "* lr_d 0.0004 (not 0.0025)"]
    assert [line for line in lines if line and line[0] not in "* "][1:] == ["Model", "Data", "Optimisation", "Run", "Logging"]
    page = table._repr_html_()
    assert page.count("<mark>") == 2 and "<mark>0.0004</mark>" in page and "&lt;b&gt; x" in page and "<b>\n" not in page
    assert sum(line.startswith(("* ", "  ")) for line in lines) == SETTINGS


def test_of_a_fork_the_changes_to_its_parent_are_marked(make):
    make("cats", 4, lr_d=1e-3, note="theirs")
    table = wb.check(Config.from_parameters(dict(resume="cats@4", steps=9)))
    assert repr(table).startswith(f"cats-from4-steps=9: 1 of {SETTINGS} settings differ from run cats@4")


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        (dict(run="cats"), "run='cats' exists already; resume it with resume='cats', or choose another name"),
        (dict(resume="cats", lr_d=0.5), "lr_d=0.5 differs from the 0.0025 of run 'cats'"),
        (dict(resume="cats@5"), "has no checkpoint at step 5"),
        (dict(width=10**6), "width=1000000: this training needs about"),
    ],
)
def test_what_cannot_start_is_refused_there(make, parameters, says):
    make("cats", 4)
    with pytest.raises(ParameterError) as error:
        wb.check(Config.from_parameters(parameters))
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_name_that_is_reserved_is_free_for_its_run():
    config = Config.preset("twins32")
    name = wb.runs.reserve(config)
    assert repr(wb.check(config.replace(run=name))).startswith(f"twins32: 0 of {SETTINGS}")
    create_run(config.replace(run=name))
    with pytest.raises(ParameterError, match="exists already"):
        wb.check(config.replace(run=name))
