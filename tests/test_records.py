import json
import math

import pytest

from workbench import ParameterError
from workbench.records import evaluation_record, is_comparable, is_evaluation, is_finite, is_history, is_number, is_spectra, is_whole

COMPLETE = dict(
    protocol="official: n=60; inception@6726825d", settings=dict(name="official", n=60), n=60,
    extractor=dict(name="inception", sha256="6726825d", reference=True),
    reference=dict(data="imagenet", fingerprint="f", size=128, n=300),
)  # fmt: skip


def test_numbers_and_steps():
    assert all(map(is_number, (0, -1.5, math.nan, math.inf, 10**400))) and not any(map(is_number, (True, None, "1", [1])))
    assert all(map(is_finite, (0, -1.5, 1e308))) and not any(map(is_finite, (math.nan, -math.inf, 10**400, True, "1", None)))
    assert all(map(is_whole, (0, 2**53 - 1))) and not any(map(is_whole, (-1, 2**53, 1.0, True, "1", None)))


@pytest.mark.parametrize(
    "row", [{}, dict(step="x"), dict(step=-1), dict(step=True), dict(step=5, loss_d="high"), dict(step=5, images=None)]
)
def test_lines_that_are_no_history(row):
    assert not is_history(row) and is_history(dict(step=5, loss_d=math.nan, gamma_g16=None))


@pytest.mark.parametrize("layers", [None, [], {"G/a": {}}, {"G/a": []}, {"G/a": {"exact": []}}, {"G/a": {"exact": ["1"]}}])
def test_lines_that_are_no_spectra(layers):
    assert not is_spectra(dict(step=5, layers=layers)) and not is_spectra(dict(layers={}))
    assert is_spectra(dict(step=5, layers={"G/a": {"exact": [1.0, None]}}))


def test_a_record_is_complete_and_holds_no_number_that_json_lacks():
    record = evaluation_record(
        dict(fid=3.0, kid=math.nan, cs=10**400), **COMPLETE, step=5, seed=1, errors=dict(fid=0.1, kid=0.2), requested={"kid", "fid"}
    )
    assert is_evaluation(record) and is_comparable(record)
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["scores"] == dict(fid=3.0) and record["errors"] == dict(fid=0.1) and set(record["left_out"]) == {"kid", "cs"}
    assert record["requested"] == ["fid", "kid"] and evaluation_record({}, **COMPLETE)["requested"] == "all"
    assert "step" not in evaluation_record({}, **COMPLETE)


@pytest.mark.parametrize(
    "changes",
    [
        dict(scores=dict(x="1")), dict(protocol=None), dict(settings={}), dict(settings=dict(name=3)), dict(extractor={}),
        dict(extractor=dict(name="inception", sha256="6726825d")), dict(reference=dict(data="imagenet")), dict(step=-1), dict(step=1.5),
    ],
)  # fmt: skip
def test_what_would_be_no_complete_record_is_refused(changes):
    with pytest.raises(ParameterError, match=f"{next(iter(changes))}="):
        evaluation_record(**dict(scores={}, **COMPLETE) | changes)


def test_scores_without_extractor_and_real_images_compare():
    assert is_comparable(evaluation_record(dict(hue=0.1), **COMPLETE | dict(extractor=None, reference=None), step=3))


@pytest.mark.parametrize("lacks", ["settings", "extractor", "reference"])
@pytest.mark.parametrize("value", ["text", [], {}, 3])
def test_records_of_other_shapes_do_not_compare(lacks, value):
    record = evaluation_record(dict(fid=1.0), **COMPLETE, step=3)
    assert not is_comparable(record | {lacks: value}) and is_evaluation(record | {lacks: value})
    assert not is_comparable({name: item for name, item in record.items() if name != lacks})
