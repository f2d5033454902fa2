import json

import pytest

from workbench.json_lines import append_record, drop_records, read_records

GOOD = [dict(step=1, loss=0.5), dict(step=2, loss=float("nan")), dict(step=3, name="é, [1], {")]


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    monkeypatch.setattr("workbench.messages._printed", set())


def fits(record: dict) -> bool:
    return record["step"] > 0  # raises where there is none, or where it is a text


@pytest.mark.parametrize(
    "bad",
    [b"", b"null", b"[1]", b"{}", b'{"step": 0}', b'{"step": "x"}', b'{"step": 1}, {"step": 2}', b'{"step": 1', b"1}", b"\xff", b"[" * 100_000,
     b'{"step": ' + b"1" * 5000 + b"}"],
)  # fmt: skip
def test_a_bad_line_is_left_out_and_reported_and_costs_no_other(tmp_path, capsys, bad):
    """Lines are parsed together; two objects on a line, or brackets that another line closes, must not pass for that."""
    path = tmp_path / "history.jsonl"
    lines = [json.dumps(record).encode() for record in GOOD]
    path.write_bytes(b"\n".join([lines[0], bad, *lines[1:], b'{"step": 4']))  # the last line is still being written
    assert repr(read_records(path, fits)) == repr(GOOD)  # repr: nan != nan
    assert capsys.readouterr().err == f"{path} cannot be read: line 2; left out, the rest is used\n"


def test_good_lines_are_all_there_in_order(tmp_path, capsys):
    path = tmp_path / "history.jsonl"
    assert read_records(path) == []
    for record in GOOD:
        append_record(path, record)
    assert repr(read_records(path, fits)) == repr(GOOD)
    drop_records(path, lambda record: record["step"] > 1)
    assert read_records(path) == GOOD[:1] and capsys.readouterr().err == ""
