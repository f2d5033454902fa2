"""Folders of images of any layout can be scored and serve as real images."""

import json
import re
from dataclasses import fields

import numpy as np
import pytest
from PIL import Image
from records import image_folder, of_folders

from workbench import Evaluation, ParameterError, WorkbenchError
from workbench.data import prepare
from workbench.tensors import seal


def test_folders_are_scored_at_their_own_size(tmp_path):
    """Not resized to 32 pixels, at which folders of 64 pixels would look more alike."""
    a, b = image_folder(tmp_path / "a", 10, 0, size=64), image_folder(tmp_path / "b", 10, 1, size=64)
    own, small = of_folders(a, b), of_folders(a, b, image_size=32)
    assert own["reference"]["size"] == 64 and small["reference"]["size"] == 32 and own["scores"] != small["scores"]
    assert of_folders(a, b, image_size=64)["scores"] == own["scores"]
    assert of_folders(a, "twins", reference_n=50)["reference"]["size"] == 64  # which are drawn at any size
    for other, says in {
        image_folder(
            tmp_path / "larger", 3, 0, size=128
        ): r"samples has 20 of 64 px; data has 6 of 128 px; set image_size to one of 32, 64, 128, 256",
        image_folder(tmp_path / "odd", 3, 0, size=48): "data has 6 of 48 px",
    }.items():
        with pytest.raises(ParameterError, match=says):
            of_folders(a, other)
    with pytest.raises(ParameterError, match="samples has 6 of 48 px; data has 6 of 48 px"):
        of_folders(tmp_path / "odd", tmp_path / "odd")
    Image.new("RGB", (100, 50)).save(tmp_path / "a" / "cat" / "wide.png")
    with pytest.raises(ParameterError, match="samples has 20 of 64 px, 1 of 50 px"):
        of_folders(a, b)


def test_any_folder_of_images_is_scored(tmp_path):
    """Flat and nested folders, with and without classes."""
    image_folder(tmp_path / "classes", 10, 0)
    for k in range(20):
        for place in (tmp_path / "flat", tmp_path / "deep" / "a" / "b"):
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.random.default_rng(k).integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(place / f"{k}.png")
    for a, b in (("flat", "classes"), ("classes", "flat"), ("flat", "deep"), ("deep", "flat")):
        record = of_folders(tmp_path / a, tmp_path / b, scores="all")
        assert record["n"] == 20 and any(name.startswith("fd_") for name in record["scores"])
        assert "has no class folders" in record["left_out"]["intra_fd"]
    assert of_folders(tmp_path / "flat", tmp_path / "deep")["scores"].popitem()[1] < 1e-6  # the same images
    with pytest.raises(ParameterError, match="scores='intra_fd' cannot be computed: flat has no class folders"):
        of_folders(tmp_path / "flat", tmp_path / "classes", scores="intra_fd")


def test_the_split_that_is_scored_is_reported(tmp_path, capsys):
    real = image_folder(tmp_path / "real", 6, 0)
    for k, split in enumerate(("train", "val")):
        image_folder(tmp_path / "split" / split, 4 + k, k + 1)
    for samples, name, n in (("split", "split/train", 8), ("split/val", "split/val", 10), ("real", "real", 12)):
        record = of_folders(tmp_path / samples, real)
        assert record["samples"] == name and record["n"] == n
        said = capsys.readouterr().err
        assert said.count("is used") == (samples == "split")
        assert samples != "split" or f"samples='{tmp_path}/split': only its split 'train' is used" in said
    of_folders(real, tmp_path / "split")
    assert f"data='{tmp_path}/split': only its split 'train' is used" in capsys.readouterr().err


def test_errors_about_a_folder_name_parameters_of_an_evaluation(tmp_path):
    good, bad = image_folder(tmp_path / "good", 5, 0), tmp_path / "bad"
    bad.mkdir()
    cases = {
        "nowhere": "='.*nowhere': there is no such folder",
        "bad": "there are no images in",
        "single": "='.*single' has 1 image, and at least 2 are needed: add images$",
        "broken": "broken.png.*or set skip_unreadable=True",
    }
    for name in ("single", "broken"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (32, 32)).save(tmp_path / name / "one.png")
    for k in range(4):
        Image.new("RGB", (32, 32), (k, 0, 0)).save(tmp_path / "broken" / f"{k}.png")
    (tmp_path / "broken" / "broken.png").write_bytes(b"no image")
    known = {field.name for field in fields(Evaluation)}
    for name, says in cases.items():
        for a, b, parameter in ((tmp_path / name, good, "samples"), (good, tmp_path / name, "data")):
            with pytest.raises(WorkbenchError, match=says) as error:
                of_folders(a, b)
            words = set(re.findall(r"\b([a-z_]+)=", str(error.value)))
            assert words <= known and "\n" not in str(error.value)
            assert parameter in words or "=" not in says.partition("set")[0]
    assert of_folders(tmp_path / "broken", good, skip_unreadable=True)["n"] == 5


def test_classes_of_folders_are_matched_by_name(tmp_path):
    """Not by position: different classes are not compared, and equal classes in another order are mapped."""
    ours = image_folder(tmp_path / "ours", 5, 0, ("ant", "bee", "cat"))
    record = of_folders(ours, image_folder(tmp_path / "theirs", 5, 0, ("bee", "cat", "dog")), scores="all")
    assert "'ant' of the samples alone; 'dog' of the real images alone" in record["left_out"]["intra_fd"]
    assert not any(name.startswith(("intra_fd", "accuracy")) for name in record["scores"])
    with pytest.raises(ParameterError, match="scores='intra_fd' cannot be computed: the classes"):
        of_folders(ours, tmp_path / "theirs", scores="fd,intra_fd")
    right = of_folders(ours, ours, scores="intra_fd")
    assert right["per_class"].popitem()[1] == pytest.approx([0, 0, 0], abs=1e-6)
    prepare(ours, tmp_path / "packed", 32)  # the same images with the names in another order
    meta, labels = json.loads((tmp_path / "packed" / "meta.json").read_text()), np.load(tmp_path / "packed" / "labels.npy")
    meta |= dict(classes=["cat", "ant", "bee"], fingerprint=meta["fingerprint"][::-1])
    (tmp_path / "packed" / "meta.json").write_text(json.dumps(meta))
    np.save(tmp_path / "packed" / "labels.npy", np.array([1, 2, 0])[labels])
    seal(tmp_path / "packed")
    for a, b in ((ours, tmp_path / "packed"), (tmp_path / "packed", ours)):
        assert of_folders(a, b, scores="intra_fd")["per_class"].popitem()[1] == pytest.approx([0, 0, 0], abs=1e-6)
