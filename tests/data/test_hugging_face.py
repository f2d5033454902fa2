import sys

import numpy as np
import pytest
from image_folders import S, config, opened, pixels, refused, tree
from PIL import Image

from workbench import Config
from workbench.data import describe, prepare, short_sides

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def library(tmp_path, monkeypatch):
    """Its cache is the test's own, and it prints nothing."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


LABELS = [0, 1, 1, 0, 1, 0]


def made(**columns):
    """Six images (pixels([0, index])) with these other columns: name -> (values, feature)."""
    images = [Image.fromarray(pixels([0, index])) for index in range(6)]
    features = {"img": datasets.Image(), **{name: feature for name, (_, feature) in columns.items()}}
    values = {"img": images, **{name: list(values) for name, (values, _) in columns.items()}}
    return datasets.Dataset.from_dict(values, datasets.Features(features))


CLASSES = dict(kind=(LABELS, datasets.ClassLabel(names=["cat", "dog"])))


def holds_the_images(data, labels=LABELS):
    expected = np.stack([pixels([0, index]) for index in range(6)])
    return np.array_equal(data.images, expected) and data.labels.tolist() == labels


def test_a_saved_data_set(tmp_path):
    made(**CLASSES).save_to_disk(tmp_path / "pets")
    data = opened(f"hf:{tmp_path}/pets")
    assert holds_the_images(data) and data.classes == ["cat", "dog"] and data.name == "pets" and data.num_classes == 2
    assert "cat 3, dog 3" in describe(data) and short_sides(f"hf:{tmp_path}/pets") == {S: 6}
    unconditional = opened(f"hf:{tmp_path}/pets", num_classes=0)
    assert holds_the_images(unconditional, [0] * 6) and unconditional.num_classes == 0
    packed = prepare(f"hf:{tmp_path}/pets", tmp_path / "out", S, progress=False)
    assert packed.fingerprint == data.fingerprint and holds_the_images(opened(tmp_path / "out"))


def test_files_that_the_library_reads(tmp_path):
    (tmp_path / "parquet").mkdir()
    made(**CLASSES).to_parquet(tmp_path / "parquet/train.parquet")
    assert holds_the_images(first := opened(f"hf:{tmp_path}/parquet/train.parquet")) and first.classes == ["cat", "dog"]
    assert opened(f"hf:{tmp_path}/parquet").fingerprint == first.fingerprint
    root = tree(tmp_path / "folders/train", ant=2, bee=3)
    folder = opened(f"hf:{root.parent}")
    assert folder.classes == ["ant", "bee"] and np.array_equal(folder.images, opened(root).images) and folder.counts == [2, 3]


def test_splits(tmp_path):
    whole = made(**CLASSES)
    datasets.DatasetDict(train=whole, test=whole.select([2, 3])).save_to_disk(tmp_path / "pets")
    assert holds_the_images(opened(f"hf:{tmp_path}/pets"))
    test = opened(f"hf:{tmp_path}/pets?split=test")
    assert test.labels.tolist() == [1, 0] and np.array_equal(test.images[0], pixels([0, 2]))
    assert "has no split 'dev': add ?split=..., one of train, test" in refused(f"hf:{tmp_path}/pets?split=dev")
    datasets.DatasetDict(one=whole, two=whole).save_to_disk(tmp_path / "unclear")
    assert "one of one, two" in refused(f"hf:{tmp_path}/unclear")


def test_a_selection_keeps_its_rows(tmp_path):
    made(**CLASSES).select([5, 1]).save_to_disk(tmp_path / "pets")
    data = opened(f"hf:{tmp_path}/pets")
    assert data.labels.tolist() == [0, 1] and np.array_equal(data.images[0], pixels([0, 5]))


def test_columns_are_named_where_they_are_not_clear(tmp_path):
    coarse = (np.zeros(6, int), datasets.ClassLabel(names=["animal"]))
    words = (["b", "a", "a", "b", "a", "b"], datasets.Value("string"))
    made(**CLASSES, coarse=coarse, word=words).save_to_disk(tmp_path / "pets")
    place = f"hf:{tmp_path}/pets"
    assert "several columns that may be the label (kind, coarse): name it: ?label=..., one of kind, coarse" in refused(place)
    assert holds_the_images(opened(f"{place}?label=kind&image=img"))
    assert opened(f"{place}?label=coarse").classes == ["animal"]
    assert opened(f"{place}?label=word").classes == ["a", "b"] and opened(f"{place}?label=word").labels.tolist() == [1, 0, 0, 1, 0, 1]
    assert "has no column 'x': use one of img, kind, coarse, word" in refused(f"{place}?label=x")
    for option in ("lable=kind", "label=", "label"):
        assert "is no option: use image, label, split, config, as in" in refused(f"{place}?{option}")
    assert "cannot be opened" in refused(f"{place}?image=word&label=kind") or "cannot be read" in refused(f"{place}?image=word&label=kind")


def test_without_labels_it_is_unconditional(tmp_path):
    made(size=([1] * 6, datasets.Value("int64"))).save_to_disk(tmp_path / "pets")
    data = opened(f"hf:{tmp_path}/pets", num_classes=None)
    assert holds_the_images(data, [0] * 6) and data.num_classes == 0
    assert opened(f"hf:{tmp_path}/pets?label=size").classes == ["1"]
    assert "0 classes" in refused(f"hf:{tmp_path}/pets", num_classes=2)


def test_what_cannot_be_used(tmp_path, monkeypatch):
    labels = datasets.ClassLabel(names=["cat", "dog"])
    for name, values, message in (
        ("hidden", [-1, 0, 1, 1, 0, 1], "has 1 image without a class: choose another split, or set num_classes=0"),
        ("null", [None, None, 1, 1, 0, 1], "has 2 images without a class"),
        ("empty", [1] * 6, "has no image of cat"),
    ):
        made(kind=(values, labels)).save_to_disk(tmp_path / name)
        assert message in refused(f"hf:{tmp_path}/{name}")
    made(kind=([0.5] * 6, datasets.Value("float64"))).save_to_disk(tmp_path / "real")
    assert "'kind' holds no classes" in refused(f"hf:{tmp_path}/real?label=kind")
    datasets.Dataset.from_dict(dict(a=[1, 2])).save_to_disk(tmp_path / "numbers")
    assert "has no column of images: name it: ?image=..., one of a" in refused(f"hf:{tmp_path}/numbers")
    for column in ("a", "several"):
        several = [[Image.fromarray(pixels(0))]] * 2
        features = datasets.Features(a=datasets.Value("int64"), several=datasets.Sequence(datasets.Image()))
        datasets.Dataset.from_dict(dict(a=[1, 2], several=several), features).save_to_disk(tmp_path / column)
        assert f"the column {column!r} holds no images: name another: ?image=..." in refused(f"hf:{tmp_path}/{column}?image={column}")
    broken = dict(img=[dict(bytes=b"no", path=None), None], kind=[0, 1])
    datasets.Dataset.from_dict(broken, datasets.Features(img=datasets.Image(), kind=labels)).save_to_disk(tmp_path / "broken")
    assert "2 of 2 files" in (message := refused(f"hf:{tmp_path}/broken")) and "00000000 (not an image), 00000001 (empty file)" in message

    def offline(*arguments, **named):
        raise ConnectionError("Couldn't reach 'some/where' on the Hub\n(LocalEntryNotFoundError)")

    with monkeypatch.context() as patch:
        patch.setattr(datasets, "load_dataset", offline)
        message = refused("hf:some/where")
        assert (
            "data=hf:some/where cannot be opened (Couldn't reach" in message.replace("'hf:some/where'", "hf:some/where")
            and "network" in message
        )
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "needs Hugging Face's library datasets: pip install datasets" in refused("hf:some/where")


def test_changed_files_are_packed_again(tmp_path):
    made(**CLASSES).save_to_disk(tmp_path / "pets")
    first = opened(f"hf:{tmp_path}/pets")
    made(**CLASSES).select([1, 0, 2, 3, 4, 5]).save_to_disk(tmp_path / "pets2")
    (tmp_path / "pets").rename(tmp_path / "old")
    (tmp_path / "pets2").rename(tmp_path / "pets")
    assert opened(f"hf:{tmp_path}/pets").fingerprint != first.fingerprint


def test_paths_are_absolute_and_names_stay(tmp_path, monkeypatch):
    (tmp_path / "pets").mkdir()
    monkeypatch.chdir(tmp_path)
    assert config("hf:pets?label=kind").data == f"hf:{tmp_path}/pets?label=kind"
    assert config("hf:some/where?split=test").data == "hf:some/where?split=test"
    with pytest.raises(ValueError, match="hf:<name or path>"):
        Config.preset("twins32", data="hf: ")
