from pathlib import Path

import pytest

from workbench import ParameterError
from workbench.parameters import read_text
from workbench.readers import (
    alternatives,
    amounts,
    assignments,
    latents,
    map_positions,
    read_list,
    read_seeds,
    read_sites,
    read_steps,
    split_step,
    words,
)


class Refused(Exception):
    pass


def refuse(what):
    raise Refused(what)


def test_words_are_stripped_and_none_is_empty():
    assert words(" a, b ,,") == ["a", "b"] and words("") == [] and words("a;b", ";") == ["a", "b"]


def test_lists_may_be_given_as_lists_or_as_text():
    for given in (
        ["feat8", " feat16 "],
        ("feat8", "feat16"),
        "feat8,feat16",
        " feat8 , feat16,, ",
        "feat8, feat16",
        [" feat8,", "", "feat16"],
    ):
        assert read_list(given, pytest.fail) == "feat8,feat16"


def test_lists_of_what_is_no_text_are_refused():
    class Refused(Exception):
        pass

    def refuse(what):
        raise Refused

    for value in ([["a"]], [None], [True], {"a"}, b"a", ["\udcff"]):
        with pytest.raises(Refused):
            read_list(value, refuse)
    assert read_list([1, 2.5, Path("a")], refuse) == "1,2.5,a" and read_text(5, refuse) == "5"


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("last", "last"),
        (" all ", "all"),
        ("500, 1000", "500,1000"),
        ([500, 500.0], "500"),
        ("[5]", "5"),
        (500, "500"),
        (1e3, "1000"),
        ("007", "7"),
    ],
)
def test_steps(given, read):
    assert read_steps("last", "all")(given, refuse) == read


@pytest.mark.parametrize("given", ["", "newest", "last,5", True, 1.5, -1, "x", "\u00b2", [[5]], {}])
def test_what_is_no_step_is_refused(given):
    with pytest.raises(Refused):
        read_steps("last", "all")(given, refuse)


def test_sites_and_seeds():
    assert [read_sites(value, refuse) for value in (16, "[32, 16]", [8], "none", "None", [])] == [
        "16",
        "16,32",
        "8",
        "none",
        "none",
        "none",
    ]
    assert read_seeds("3, 1", refuse) == "3,1" and read_seeds([0, 1], refuse) == "0,1"
    with pytest.raises(Refused, match="1 appears 2 times"):
        read_seeds("1,0,1", refuse)
    with pytest.raises(Refused, match="such as 0,1,2"):
        read_seeds("a", refuse)


def test_a_run_is_split_from_its_step_at_the_last_at():
    assert split_step("a") == ("a", None) and split_step("a@5") == ("a", "5") and split_step("a@") == ("a", "")
    assert split_step("/home/a@b/run") == ("/home/a@b/run", None) and split_step("/home/a@b/run@5") == ("/home/a@b/run", "5")


def test_settings_and_grids():
    assert assignments("settings", "a=1; b=x=y;") == dict(a="1", b="x=y")
    assert alternatives("grid", "a=1|2; b= 3 | 4") == dict(a=["1", "2"], b=["3", "4"])


@pytest.mark.parametrize(
    ("text", "says"),
    [("a", "'a' is not parameter=value"), ("=1", "'=1' is not parameter"), ("a=1;;b=2", "'' is not"), ("a=1; a=2", "a is assigned twice"), ("a=", "a is empty"),
     ("a=1|", "a value of a is empty"), ("a=1|1", "a=1 appears twice")],
)  # fmt: skip
def test_settings_that_cannot_be_read(text, says):
    with pytest.raises(ParameterError, match=r"^grid='.*': ") as error:
        alternatives("grid", text)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_positions_and_latents():
    assert map_positions("queries", "1,2; (0,15)", 16) == [18, 15] and map_positions("queries", "", 16) == []
    assert latents("seeds", "3, 3:7") == [(3, 0), (3, 7)] and latents("seeds", "") == []
    for text in ("16,0", "1", "1,2,3", "a,b", "-1,0"):
        with pytest.raises(ParameterError, match=r'is not "row,column", each from 0 to 15'):
            map_positions("queries", text, 16)
    for text in ("x", ":3", "3:-1", "1:2:3", str(2**53)):
        with pytest.raises(ParameterError, match="is not a seed such as 3"):
            latents("seeds", text)


def test_amounts():
    assert amounts("directions", "1.5, 0,-2", 3) == [1.5, 0, -2] and amounts("directions", "", 3) == []
    for text in ("x", "4", "nan", "1;2", "-inf"):
        with pytest.raises(ParameterError, match="is not a number from -3 to 3"):
            amounts("directions", text, 3)
