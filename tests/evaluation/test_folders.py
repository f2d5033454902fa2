import json
import subprocess
import sys

import pytest
from PIL import Image
from records import image_folder, of_folders
from torch import nn

from workbench import Evaluation, ParameterError, WorkbenchError, evaluate, train
from workbench.evaluation import folders


def command(*words):
    """Exit status, output and errors of `python -m workbench.evaluation`, in a process of its own."""
    words = [sys.executable, "-m", "workbench.evaluation", *map(str, words)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=200)
    return done.returncode, done.stdout, done.stderr


class Mean(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)) / 255


@pytest.mark.slow
def test_a_given_number_of_images_above_those_available_is_refused(run, tmp_path):
    """The protocol's own numbers, in contrast, are upper bounds."""
    a, b = image_folder(tmp_path / "a", 6, 0), image_folder(tmp_path / "b", 7, 1)
    assert (of_folders(a, b)["n"], of_folders(a, b, n=12, reference_n=14)["reference"]["n"]) == (12, 14)
    for given, says in (
        (dict(n=100), "n=100, but samples, a, has 12 images"),
        (dict(reference_n=15), "reference_n=15, but data, b, has 14 images"),
    ):
        with pytest.raises(ParameterError, match=f"^{says}: give at most that"):
            of_folders(a, b, **given)
    with pytest.raises(ParameterError, match=r"^reference_n=1000, but data, b, has 14 images"):
        evaluate(run="one", data=b, n=60, reference_n=1000)
    assert of_folders(a, "twins", n=5, reference_n=100)["reference"]["n"] == 100


def test_a_long_value_is_not_printed_in_full():
    for given in (
        dict(samples="x" * 5000),
        dict(samples="x" * 5000, data="y", run="one"),
        dict(protocol="x" * 5000),
        dict(steps="x" * 5000),
    ):
        with pytest.raises(ParameterError) as error:
            Evaluation(**given)
        assert "x..." in str(error.value) and len(str(error.value)) < 500
    for name in ("samples", "extractor", "scores", "data"):
        with pytest.raises(WorkbenchError) as error:
            evaluate(**dict(samples="twins", data="twins", reference_n=50, n=50, extractor="twins") | {name: "x" * 5000})
        assert len(str(error.value)) < 1100, name


def test_a_run_is_scored_against_a_flat_folder(run, tmp_path):
    (tmp_path / "flat").mkdir()
    for k in range(12):
        Image.new("RGB", (40, 40), (k, 0, 0)).save(tmp_path / "flat" / f"{k}.png")
    (record,) = evaluate(run="one", data=str(tmp_path / "flat"), n=60)
    assert (
        "against 12 real images" in record["protocol"] and "of the real images flat has no class folders" in record["left_out"]["intra_fd"]
    )


@pytest.mark.slow
def test_a_run_is_scored_by_the_names_of_its_classes(tiny, tmp_path):
    given = dict(evaluate_every=0, checkpoint_every=2, steps=2)
    first = image_folder(tmp_path / "a", 8, 0, ("ant", "bee", "cat"))
    run = train(tiny(run="zoo", data=first, num_classes=3, **given))
    options = dict(run="zoo", extractor="twins", n=30)
    assert any(name.startswith("intra_fd") for name in evaluate(**options)[0]["scores"])
    for other in (image_folder(tmp_path / "b", 8, 0, ("bee", "cat", "dog")), image_folder(tmp_path / "c", 8, 0, ("ant", "bee"))):
        (record,) = evaluate(**options, data=other)
        assert "differ" in record["left_out"]["intra_fd"] and not any(name.startswith("intra") for name in record["scores"])
        with pytest.raises(ParameterError, match="scores='intra_fd' cannot be computed: the classes"):
            evaluate(**options, data=other, scores="intra_fd")
    # If the data itself has changed, the classes are still those that the run was trained with.
    (tmp_path / "a" / "ant").rename(tmp_path / "a" / "dog")
    assert "'ant' of the samples alone" in evaluate(**options)[0]["left_out"]["intra_fd"]
    (run.path / "provenance.json").write_text("{")
    assert "are not known" in evaluate(**options, again=True)[0]["left_out"]["intra_fd"]


@pytest.mark.slow
def test_a_folder_is_scored_against_another_from_the_command_line(tmp_path, inception_file, main):
    a, b = image_folder(tmp_path / "a", 6, 0), image_folder(tmp_path / "b", 7, 1)
    words = ["-p", "samples", a, "-p", "data", b, "-p", "protocol", "torch-fidelity", "-p", "weights_file", inception_file]
    code, out, error = main(*words)
    assert code == 2 and error.startswith("WorkbenchError: ") and "is not the reference Inception" in error and error.count("\n") == 1
    code, out, error = command(*words, "-p", "verify_weights", "false", "-p", "scores", "fd,cs", "--json")
    assert code == 0, error
    record = json.loads(out.splitlines()[-1])
    assert record["n"] == 12 and record["reference"]["n"] == 14
    scores = {name.partition("@")[0]: value for name, value in record["scores"].items()}
    assert scores["fd_inception"] > 0 and 1 <= scores["cs_inception"] < 1008
    code, out, error = main(*words, "-p", "verify_weights", "false", "-p", "scores", "cs")
    assert code == 0 and "cs_inception@" in out and "torch-fidelity (but n=12)" in out


def test_torch_fidelity_scores_a_folder_in_the_order_of_its_files(tmp_path, monkeypatch):
    """Which fills its splits of IS: by whole paths, where "a-b" comes before "a"."""
    from torch_fidelity.utils import glob_samples_paths

    folder, seen = tmp_path / "images", []
    value = iter(range(1000))
    for place in ("a", "a-b", "b"):
        (folder / place).mkdir(parents=True)
        for k in range(12):
            Image.new("RGB", (32, 32), (next(value), 0, 0)).save(folder / place / f"{k}.png")
    theirs = [Image.open(path).getpixel((0, 0))[0] for path in glob_samples_paths(str(folder), True, "png", verbose=False)]
    measure = folders.measure
    monkeypatch.setattr(
        folders, "measure", lambda images_of, *r, **k: seen.append(images_of(0, 36)[0][:, 0, 0, 0].tolist()) or measure(images_of, *r, **k)
    )
    given = dict(samples=str(folder), data="twins", reference_n=50, extractor="twins", scores="cs")
    for protocol, n in (("torch-fidelity", None), ("workbench", None), ("torch-fidelity", 20)):
        evaluate(**given, protocol=protocol, n=n)
    whole, shuffled, part = seen
    assert whole == theirs != shuffled and sorted(shuffled) == sorted(theirs)
    assert len(part) == 20 and part == sorted(part, key=theirs.index) and len({value // 12 for value in part}) == 3  # of all classes


def test_a_folder_is_scored_in_random_order(tmp_path, monkeypatch):
    """In the order of the folder, each split of the class score would contain one class only."""
    a = image_folder(tmp_path / "a", 20, 0)
    seen = []
    real = folders.measure
    monkeypatch.setattr(folders, "measure", lambda images_of, *r, **k: seen.append(images_of(0, 40)[1]) or real(images_of, *r, **k))
    (record,) = evaluate(samples=a, data=image_folder(tmp_path / "b", 4, 1), extractor="twins", scores="cs")
    assert record["n"] == 40 and 5 < seen[0][:20].sum() < 15 and seen[0].sum() == 20
