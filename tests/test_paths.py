import pytest

from workbench import ParameterError
from workbench.paths import DEMO, data_dir, find_run_folder, folder_name, numbered, outputs_dir, run_folder, short_name


def test_a_bare_name_is_a_run_in_the_outputs_folder_and_never_one_in_the_working_directory(make, folders, monkeypatch):
    here = make("../elsewhere/cats", 4)
    monkeypatch.chdir(here.parent)
    assert find_run_folder("cats") is None
    for explicit in ("./cats", "../elsewhere/cats", str(here), f"{here}/", here.relative_to(here.parent), here):
        assert find_run_folder(explicit) == here.resolve(), explicit
    monkeypatch.setenv("HOME", str(here.parent))
    assert find_run_folder("~/cats") == here.resolve()
    there = make("cats", 4)
    assert find_run_folder("cats") == there.resolve() and find_run_folder("./cats") == here.resolve()
    monkeypatch.chdir(here)
    assert find_run_folder(".") == here.resolve() and find_run_folder("..") is None


def test_the_demo_comes_after_a_run_of_that_name(make):
    assert find_run_folder("demo") == DEMO and find_run_folder("./demo") is None
    (outputs_dir() / "demo").mkdir(parents=True)  # what was written about it
    assert find_run_folder("demo") == DEMO
    make("../outputs/demo2")
    assert find_run_folder("demo2") == (outputs_dir() / "demo2").resolve()


@pytest.mark.parametrize(
    "text", ["", " ", "\0", "a\0b", "x" * 400, "é" * 200, "\udcff", "\ud800", "~nobody/x", "~\0", "./\0", "/dev/null", "a\nb", 5]
)
def test_odd_text_is_no_run(text):
    assert find_run_folder(text) is None


@pytest.mark.parametrize("variable", ["WORKBENCH_OUTPUTS", "WORKBENCH_DATA"])
@pytest.mark.parametrize(("place", "reason"), [
    ("{}/file", "not a folder"), ("{}/file/below", "Not a directory"), ("{}/loop/x", "Too many levels"), ("~nosuchuser/x", "no such user"), ("{}/" + "x" * 300, "too long"),
])  # fmt: skip
def test_places_that_cannot_be_are_named_by_their_variable(tmp_path, monkeypatch, variable, place, reason):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.setenv(variable, place.format(tmp_path))
    with pytest.raises(ParameterError, match=rf"{variable}=.*{reason}"):
        dict(WORKBENCH_OUTPUTS=outputs_dir, WORKBENCH_DATA=data_dir)[variable]()
    monkeypatch.setenv(variable, str(tmp_path / "not there yet"))
    assert dict(WORKBENCH_OUTPUTS=outputs_dir, WORKBENCH_DATA=data_dir)[variable]() == tmp_path / "not there yet"


def test_names_of_folders_differ_where_texts_do():
    texts = ["a", "a-*", "a?", "a/b", "a_b", "a b", "é" * 90, "é" * 91, "x" * 400, "x" * 401, "..", ".", "", "a\ud800", "a;b"]
    names = [folder_name(text) for text in texts]
    assert len(set(names)) == len(texts) and folder_name("lr_d=0.001-seed=1") == "lr_d=0.001-seed=1"
    assert all(0 < len(name.encode()) <= 160 and not set(name) & set("/ *?;") and name[0] not in ".-" for name in names[:-3] if name)


def test_short_names_are_cut_by_bytes():
    for cut in range(20, 40):
        assert len(short_name("猫" * 40, cut).encode()) <= cut and short_name("猫" * 40, cut).startswith("猫")
    assert short_name("猫" * 40, 120) == "猫" * 40


def test_a_parameter_that_names_no_run_tells_the_nearest(make):
    folder = make("cats")
    assert run_folder("resume", "cats") == folder.resolve()
    with pytest.raises(ParameterError, match=r"^resume='cat': there is no run 'cat' in .*; did you mean 'cats'\? it has 1 run"):
        run_folder("resume", "cat")


def test_entries_that_are_numbered(tmp_path):
    for name in ("10.png", "9.png", "007.png", "x.png", "\u00b2.png", "5.jpg", "-1.png"):
        (tmp_path / name).touch()
    assert numbered(tmp_path, ".png") == [9, 10] and numbered(tmp_path) == [] and numbered(tmp_path / "nowhere") == []
