"""Whatever is given, as a parameter or in a file: it is taken, or refused in one line. `make faults` tries many more of each."""

import json
import re
from dataclasses import fields

from hypothesis import given
from hypothesis import strategies as st

from workbench import Config, Run
from workbench.files import read_json
from workbench.json_lines import read_records
from workbench.messages import WorkbenchError
from workbench.metrics.protocols import Protocol
from workbench.parameters import Parameters
from workbench.paths import outputs_dir
from workbench.runs import create_run, list_runs

KINDS = sorted((kind for kind in Parameters.__subclasses__() if kind.__module__.startswith("workbench.")), key=lambda kind: kind.__name__)
WORDS = [
    "nan",
    "inf",
    "1e5",
    "0x1f",
    "²",
    "٣",
    "true",
    "None",
    "none",
    "all",
    "last",
    "[3,4]",
    "a,b",
    "1_000",
    "-0",
    "9" * 400,
    "\0",
    "",
    " ",
]
numbers = st.one_of(st.integers(), st.floats(), st.sampled_from([2**53 + 1, 2**63, 10**400, -1, 0, 1, 1e308]))
scalars = st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=12), st.sampled_from(WORDS), st.binary(max_size=4))
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3), max_leaves=6
)
plain = st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=12))
documents = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=12
)


def in_one_line(work, *arguments):
    """The result of work, or None where it was refused in one line."""
    try:
        return work(*arguments)
    except WorkbenchError as error:
        text = str(error)
        assert text.strip() and "\n" not in text.strip() and len(text) < 2000, text
        return None


def names(kind) -> st.SearchStrategy:
    return st.sampled_from([field.name for field in fields(kind)])


@given(data=st.data())
def test_parameters_are_taken_or_refused_in_one_line(data):
    kind = data.draw(st.sampled_from(KINDS))
    parameters = data.draw(st.dictionaries(names(kind) | st.text(max_size=6), values, max_size=4))
    in_one_line(kind.from_parameters, parameters)


@given(data=st.data())
def test_settings_that_are_taken_are_read_back_as_they_were(data):
    parameters = data.draw(st.dictionaries(names(Config), values, max_size=3))
    config = in_one_line(Config.from_parameters, {k: v for k, v in parameters.items() if k != "resume"})
    if config is not None:
        assert Config.from_json(config.to_json()) == config


@given(name=st.sampled_from([field.name for field in fields(Protocol)]), value=values)
def test_protocols_are_taken_or_refused_in_one_line(name, value):
    in_one_line(Protocol.from_parameters, {name: value})


@given(
    content=st.one_of(st.binary(max_size=80), documents.map(lambda value: json.dumps(value).encode()), st.text(max_size=40).map(str.encode))
)
def test_a_json_file_is_an_object_or_unreadable(content, tmp_path_factory):
    path = tmp_path_factory.mktemp("json") / "file.json"
    path.write_bytes(content)
    result = in_one_line(read_json, path)
    assert result is None or isinstance(result, dict)
    assert all(isinstance(record, dict) for record in read_records(path))
    in_one_line(Config.from_json, content.decode(errors="replace"))


RECORDS = ("history.jsonl", "spectra.jsonl", "evaluations.jsonl")


@given(data=st.data())
def test_a_run_with_anything_in_its_files_is_listed_and_has_a_status(data, tiny):
    if not (outputs_dir() / "run").exists():  # one for all examples
        begun = create_run(tiny(run="run"))
        begun.set_status(state="stopped", step=3, steps=4, message="stopped at step 3", alarms=["D wins"])
        (begun.path / "provenance.json").write_text(json.dumps(dict(data=dict(name="twins"), tags=["a"], note="", started=[], parent=None)))
        begun.append("history.jsonl", dict(step=1, images=8, seconds=0.5, loss_d=1.0, loss_g=0.5, d_real=0.0, d_fake=0.0))
    run = Run("run")
    known = {file: json.loads((run.path / file).read_text()) for file in ("config.json", "status.json", "provenance.json")}
    file = data.draw(st.sampled_from([*known, *RECORDS]))
    keys = sorted(known.get(file) or ["step", "scores", "layers", "loss_d", "seconds", "protocol"])
    record = data.draw(documents | st.dictionaries(st.sampled_from(keys) | st.text(max_size=6), documents, max_size=6))
    if isinstance(record, dict) and data.draw(st.booleans()):
        record = (known.get(file) or {}) | record
    before = (run.path / file).read_bytes() if (run.path / file).exists() else None
    try:
        (run.path / file).write_text(json.dumps(record) + "\n")
        status = run.status()
        assert isinstance(status["state"], str) and "\n" not in status["message"]
        for read in (run.history, run.spectra, run.evaluations, lambda: run.config, lambda: run.provenance, list_runs):
            in_one_line(read)
    finally:
        (run.path / file).unlink() if before is None else (run.path / file).write_bytes(before)


@given(name=st.text(max_size=300))
def test_any_name_of_a_run_is_answered_in_one_line(name):
    run = in_one_line(Run, name)
    assert run is None or run.path.parent == outputs_dir().resolve() or re.fullmatch("demo", name) or "/" in name or "~" in name
