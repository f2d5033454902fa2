from dataclasses import dataclass

import pytest

from workbench.parameters import ParameterError, Parameters, WorkbenchError, command, nearest, notebook_parameters, parameter, read_list


def _read_pair(value, refuse):
    parts = str(value).split("-")
    return "-".join(parts) if len(parts) == 2 else refuse("a pair")


@dataclass(frozen=True)
class Example(Parameters):
    count: int = parameter(3, "how many", low=1, high=10)
    rate: float | None = parameter(None, "how fast", above=0, below=1)
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
    assert Example.explain("kind") == "which animal, one of cat, horse"
    assert Example.cell().splitlines()[:3] == [
        "# Parameters: None stands for what is usual",
        "count: int = None  # how many, at least 1 and at most 10",
        "rate: float = None  # how fast, above 0 and below 1",
    ]
    assert Example.explain_all().count("\n") == 4 and "[3]" in Example.explain_all()


def test_notebook_parameters_come_from_the_parameters_cells():
    namespace = dict(
        In=["", "# Parameters: ours\na: int = None  # x\nb: int = None", "# Parameters\na = 3\nlrd = 1\n", "other = 5", "# Parameters!"],
        a=3, b=None, lrd=1, other=5,
    )  # fmt: skip
    assert notebook_parameters(namespace) == dict(a=3, b=None, lrd=1)
    # The cell edited and run again: what it no longer assigns is forgotten.
    namespace["In"].append("# Parameters: ours\na: int = 3")
    assert notebook_parameters(namespace) == dict(a=3)


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


def test_lists_may_be_given_as_lists_or_as_text():
    for given in (["feat8", " feat16 "], ("feat8", "feat16"), "feat8,feat16"):
        assert read_list(given, pytest.fail) == "feat8,feat16"
