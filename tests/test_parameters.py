import dataclasses
import math
import subprocess
import sys
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from workbench import Ablation, Config, Evaluation
from workbench.messages import ParameterError, WorkbenchError, command, nearest, short_repr
from workbench.parameters import Parameters, parameter


def _read_pair(value, refuse):
    parts = str(value).split("-")
    return "-".join(parts) if len(parts) == 2 else refuse("a pair")


@dataclass(frozen=True)
class Example(Parameters):
    count: int = parameter(3, "how many", low=1, high=10)
    rate: float | None = parameter(None, "how fast", above=0, below=1, none="as it comes")
    kind: str = parameter("cat", "which animal", choices=("cat", "horse"))
    loud: bool = parameter(False, "whether it is heard")
    pair: str = parameter("a-b", "from and to", read=_read_pair)

    none = "what is usual"


def test_values_are_coerced_to_their_declared_type():
    example = Example.from_parameters(dict(count="4", rate="1e-1", kind=None, loud="yes", pair="x-y"))
    assert example == Example(4, 0.1, "cat", True, "x-y")
    assert Example(count=4.0).count == 4 and isinstance(Example(count=4.0).count, int)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (dict(cuont=1), "unknown parameter 'cuont'; did you mean 'count'?"),
        (dict(zzzz=1), "unknown parameter 'zzzz'; the parameters are: count, rate"),
        (dict(count=11), "count=11 is not in range; allowed: at least 1 and at most 10 (count: how many)"),
        (dict(rate=1), "rate=1 is not in range; allowed: above 0 and below 1"),
        (dict(rate=float("inf")), "rate=inf is not a number"),
        (dict(kind="hors"), "kind='hors' is not known; did you mean 'horse'? allowed: one of cat, horse"),
        (dict(kind=["cat"]), "kind=['cat'] is not text"),
        (dict(loud="maybe"), "loud='maybe' is not true or false"),
        (dict(pair="x"), "pair='x' is not a pair (pair: from and to)"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(given, says):
    with pytest.raises(ParameterError) as error:
        Example.from_parameters(given)
    assert str(error.value).startswith(says) and "\n" not in str(error.value)


def test_a_parameter_without_none_refuses_it():
    with pytest.raises(ParameterError, match="count=None is not a whole number"):
        Example(count=None)


def test_everything_is_explained():
    assert "str    which animal, one of cat, horse [cat]" in Example.explain_all()
    assert Example.cell().splitlines()[:3] == [
        "# Parameters: None stands for what is usual",
        "count: int = None  # how many (3)",
        "rate: float = None  # how fast (as it comes)",
    ]
    assert "kind: str = None  # which animal; one of cat, horse (cat)" in Example.cell() and "[as it comes]" in Example.explain_all()
    assert Example.explain_all().count("\n") == 4 and "[3]" in Example.explain_all()


def test_a_mistake_on_a_command_line_is_one_line(capsys):
    @command
    def main():
        raise WorkbenchError("do this instead")

    assert main() == 2 and capsys.readouterr().err == "WorkbenchError: do this instead\n"

    @command
    def interrupted():
        raise KeyboardInterrupt

    assert interrupted() == 130 and capsys.readouterr().err == ""
    assert WorkbenchError("do this")._render_traceback_() == ["WorkbenchError: do this"]


def test_nearest():
    assert nearest("stepz", ["steps", "seed"]) == "did you mean 'steps'? " and nearest("zzz", ["steps"]) == ""


def test_synonyms_are_meant_exactly_and_names_roughly():
    synonyms = {"n_iter": "steps", "decay": ""}
    for word in ("n_iter", "nIter", "N-ITER"):
        assert nearest(word, ["steps", "seed"], synonyms) == "did you mean 'steps'? "
    assert nearest("n_iters", ["steps", "seed"], synonyms) == "" and nearest("decay", ["ema_decay"], synonyms) == ""
    assert nearest("Step", ["steps", "seed"], synonyms) == "did you mean 'steps'? "


class Broken:
    """What cannot be turned into text."""

    def __str__(self):
        raise KeyError("no text")

    __repr__ = __fspath__ = __float__ = __int__ = __str__


class BrokenText(str):
    __str__ = __repr__ = strip = Broken.__str__


def nested(depth=3000):
    value = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value", [nested(), Broken(), BrokenText("1"), [Broken()], {"a": nested()}], ids=lambda value: type(value).__name__
)
@pytest.mark.parametrize("owner", [Example, Config, Evaluation, Ablation])
def test_values_that_cannot_be_read_are_refused_in_one_line(owner, value):
    for field in dataclasses.fields(owner):
        try:
            owner.read(field.name, value)
        except ParameterError as error:
            assert str(error).startswith(f"{field.name}=") and "\n" not in str(error) and len(str(error)) < 500
        else:
            assert isinstance(value, str)  # which is text, whatever it cannot do


def test_whole_numbers_of_any_type():
    for value in (Fraction(4), Decimal("4"), np.float32(4), np.int8(4), "4.0", "0.4e1", Fraction(8, 2)):
        assert Example(count=value).count == 4
    for value in (Fraction(1, 3), Fraction(10**400), Fraction(1, 10**400), Decimal("NaN"), Decimal("Infinity"), Decimal("1e999999"),
                  np.float32("nan"), float("inf"), 0.5, "1e-99999999999999999999", "1e99999999999999999999", "1/3"):  # fmt: skip
        with pytest.raises(ParameterError, match=r"^count="):
            Example(count=value)


# ------------------------------------------------------------------------------------------------- numbers and text


@dataclass(frozen=True)
class Numbers(Parameters):
    whole: int = parameter(0, "any")
    real: float = parameter(0.0, "any")
    text: str = parameter("", "any", longest=50)
    truth: bool = parameter(False, "any")


LARGEST = 2**63 - 1


def kind_of(value) -> str:  # what pytest calls a case whose value is too long for a name
    return type(value).__name__


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("9007199254740993", 2**53 + 1), (str(LARGEST), LARGEST), (LARGEST, LARGEST), (-LARGEST, -LARGEST), ("1e3", 1000), ("1E+3", 1000), (" 20 ", 20),
        ("+5", 5), ("-5", -5), ("1_000", 1000), ("007", 7), ("2.0", 2), (2.0, 2), ("9007199254740993.0", 2**53 + 1), (np.int64(3), 3), (np.uint8(3), 3),
        (np.float32(3), 3), (np.str_("3"), 3), (Decimal("3"), 3), ("0" * 300 + "5", 5),
    ],
)  # fmt: skip
def test_whole_numbers_are_exact(given, value):
    result = Numbers.from_parameters(dict(whole=given)).whole
    assert result == value and type(result) is int


NO_NUMBERS = [
    "", " ", "x", "²", "\uff11\uff12", "٣", "0x10", "1__0", "_1", "1,5", "--5", "1 000", "inf", "-Infinity", "nan", "1e999", "9" * 400, 10**400, "9" * 5000, 10**5000,
    math.inf, -math.inf, math.nan, True, False, "True", b"5", bytearray(b"5"), [5], (5,), {5}, {"a": 5}, 5j, "5j", object, Ellipsis, np.bool_(True),
    np.array([5]), np.float64("nan"), Decimal("nan"), Decimal("sNaN"), [[[5]]], "\ud800", "5\0",
]  # fmt: skip


@pytest.mark.parametrize(
    "given", [*NO_NUMBERS, 1.5, "1.5", "1e-3", 2**63, -(2**63), str(2**63), 1e19, "1e999999999", Decimal("1e999999999"), 1e300], ids=kind_of
)
def test_what_is_no_whole_number_is_refused(given):
    assert refused(Numbers, whole=given).startswith("whole=")


@pytest.mark.parametrize("given", NO_NUMBERS, ids=kind_of)
def test_what_is_no_number_is_refused(given):
    assert refused(Numbers, real=given).startswith("real=")


@pytest.mark.parametrize(
    ("given", "value"), [("4e-4", 4e-4), (" -1_0.5 ", -10.5), (3, 3.0), (np.float64(0.5), 0.5), (np.int8(3), 3.0), (10**300, 1e300)]
)
def test_numbers_are_read(given, value):
    result = Numbers.from_parameters(dict(real=given)).real
    assert result == value and type(result) is float


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("0001", "0001"),
        (1, "1"),
        (-1, "-1"),
        (0.5, "0.5"),
        (Path("a/b"), "a/b"),
        ("猫 $x$\n", "猫 $x$\n"),
        (np.int64(3), "3"),
        ("", ""),
        ("x" * 50, "x" * 50),
    ],
)
def test_text_is_taken_as_it_is(given, value):
    assert Numbers.from_parameters(dict(text=given)).text == value


@pytest.mark.parametrize(
    "given",
    [
        True,
        b"x",
        ["x"],
        ("x",),
        {"x"},
        {"a": 1},
        "x" * 51,
        "a\0b",
        "\x1b[31m",
        "\x9b",
        "\udcff",
        "\ud800",
        10**5000,
        Path("\udcff"),
        object(),
        np.bool_(True),
    ],
    ids=kind_of,
)
def test_what_is_no_text_is_refused(given):
    assert refused(Numbers, text=given).startswith("text=")


@pytest.mark.parametrize("given", ["maybe", "", 2, 0.5, [True], {"true"}, b"true", "1 0", "\uff54rue", math.nan])
def test_what_is_no_truth_value_is_refused(given):
    assert refused(Numbers, truth=given).startswith("truth=")


@pytest.mark.parametrize(("given", "value"), [(" TRUE ", True), ("no", False), (1, True), (0, False), (np.bool_(True), True), (True, True)])
def test_truth_values_are_read(given, value):
    assert Numbers.from_parameters(dict(truth=given)).truth is value


def refused(kind, **given) -> str:
    with pytest.raises(ParameterError) as error:
        kind.from_parameters(given)
    text = str(error.value)
    assert text.isprintable() and len(text) <= 500, text
    return text


def test_values_in_messages_are_short_and_in_one_line():
    deep = []
    for _ in range(20_000):
        deep = [deep]
    for value in ("x" * 10**6, "\n\0\x1b\ud800", ["é\n"] * 1000, deep, 10**9999, np.zeros((9, 9)), {"a": "b\n"}):
        assert len(short_repr(value)) <= 83 and short_repr(value).isprintable()
    assert short_repr("a") == "'a'" and short_repr("x" * 200).startswith("'xxx") and short_repr("x" * 200).endswith("xxx'")
    while deep:  # or its deletion is deeper than the stack
        deep = deep.pop()
    assert "unknown parameter 'aaa" in refused(Numbers, **{"a" * 10_000: 1})


@pytest.mark.slow
@pytest.mark.parametrize(("redirect", "status"), [(">&-", 0), (">&- 2>&-", 0), (">/dev/full", 2), ("| head -1", 0), ("<&-", 0)])
def test_an_output_that_takes_nothing_is_no_trace(redirect, status):
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {sys.executable} -m workbench parameters {redirect}"], capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr and done.stderr.count("\n") <= 1
    assert done.returncode in (status, 141)
