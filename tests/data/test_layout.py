import os

import pytest
from image_folders import refused, tree

LAYOUTS = {  # what is wrong: folders, root that is given, what the message must say ({} is the folder of the test)
    "images in no class": ({".": 2}, "", ["{}/set", "0.png", "class folders", "num_classes=0"]),
    "images beside the class folders": ({".": 1, "cat": 2, "dog": 2}, "", ["{}/set ", "0.png", "{}/set/<class>/*"]),
    "one level too low": ({"cat": 2, "dog": 2}, "cat", ["{}/set/cat", "cat, dog", "data='{}/set'", "num_classes=0"]),
    "too low, and with thumbnails": ({"cat": 2, "cat/thumbs": 2, "dog": 2}, "cat", ["data='{}/set'"]),
    "one level too high": ({"pets/cat": 2, "pets/dog": 2}, "", ["{}/set ", "data='{}/set/pets'"]),
    "too high above a split": ({"pets/test/cat": 1, "pets/train/cat": 1, "pets/train/dog": 1}, "", ["data='{}/set/pets/train'"]),
    "two levels too high": ({"a/b/pets/cat": 2, "a/b/pets/dog": 2}, "", ["data='{}/set/a/b/pets'"]),
    "a class below a class": ({"cat": 2, "dog/husky": 2}, "", ["{}/set/dog/husky", "{}/set/dog ", "move them up"]),
    "far below a class": ({"cat": 2, "cat/more/of/them": 2}, "", ["{}/set/cat/more/of/them", "move them up"]),
    "an empty class": ({"cat": 2, "dog": 0, "emu": 0}, "", ["2 of the 3 class folders of {}/set ", "dog, emu", "add images, or delete"]),
    "nothing": ({"cat": 0, "dog": 0}, "", ["no images in {}/set", "{}/set/<class>/*"]),
    "nothing at all": ({".": 0}, "", ["no images in {}/set"]),
    "splits in other spellings, without classes": ({"Test_Images": 2, "VAL2017": 2}, "", ["Test_Images, VAL2017", "splits, not classes"]),
    "splits of class folders, none for training": ({"Val/cat": 2, "Test/cat": 2}, "", ["Test, Val", "splits, not classes", "one of them"]),
    "two training splits": ({"train/cat": 2, "Training/cat": 2}, "", ["{}/set ", "Training, train", "one of them"]),
    "a split beside class folders": ({"cat": 2, "dog": 2, "test": 2}, "", ["{}/set ", "cat, dog", "splits (test)", "rename test"]),
    "splits beside class folders": ({"cat": 2, "Train/cat": 2, "Val/cat": 2}, "", ["class folders (cat)", "splits (Train, Val)"]),
    "a train of class folders beside them": ({"cat": 2, "dog": 2, "train/cat": 2}, "", ["cat, dog", "splits (train)"]),
    "a deep split beside class folders": ({"cat": 2, "valid/2020/a": 2}, "", ["cat", "splits (valid)"]),
    "a class whose name cannot be printed": ({"cat": 2, "do\ng\x1b[2J": 2}, "", ["do\\ng\\x1b[2J", "{}/set ", "rename"]),
    "a class whose name is not UTF-8": ({"cat": 2, os.fsdecode(b"d\xffg"): 2}, "", ["d\\udcffg", "{}/set ", "rename"]),
    "splits without classes": ({"test": 2, "val": 2}, "", ["{}/set", "test, val", "splits, not classes", "num_classes=0"]),
    "a train without classes": ({"train": 2, "test": 2}, "", ["{}/set/train", "num_classes=0"]),
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_wrong_layouts_are_refused(case, tmp_path, data_folder):
    folders, root, parts = LAYOUTS[case]
    message = refused(tree(tmp_path / "set", **folders) / root)
    for part in parts:
        assert part.format(tmp_path) in message
    assert not (data_folder / "cache").exists()


def test_a_split_without_classes_does_not_suggest_its_parent(tmp_path):
    assert "class folders of" not in refused(tree(tmp_path / "set", train=2, test=2))


def test_a_folder_of_other_files_says_which(tmp_path):
    root = tree(tmp_path / "set", cat=0)
    for name in ("a.npz", "b.npz", "c.heic"):
        (root / "cat" / name).touch()
    assert "2 .npz, 1 .heic" in refused(root)
    assert "2 .npz, 1 .heic" in refused(root, num_classes=0)


def test_thumbnails_are_not_to_be_moved_up(tmp_path):
    message = refused(tree(tmp_path / "pets", **{"cat": 2, "cat/thumbs_200px": 2}))
    assert "move them up" not in message and "thumbnails" in message


@pytest.mark.parametrize(
    "names", ["cat c\u200bat", "cat \u202ecat", "caf\u00e9 cafe\u0301", "cat \uff43\uff41\uff54", "caf\u00e9 cafe\u200d\u0301"]
)
def test_classes_that_look_the_same_are_refused(names, tmp_path):
    message = refused(tree(tmp_path / "pets", **dict.fromkeys(names.split(), 1)))
    assert "look the same" in message and message.isascii() and all(ascii(name) in message for name in names.split())
