import pytest
from image_folders import opened, pixels, refused, tree
from PIL import Image

from workbench.data import describe
from workbench.data.splits import kind_of_split


def test_train_is_used_where_it_is_a_split(tmp_path):
    root = tree(tmp_path / "pets", **{"train/cat": 2, "train/dog": 1, "test/cat": 5, "test/dog": 5})
    data = opened(root)
    assert data.classes == ["cat", "dog"] and data.counts == [2, 1] and data.name == "pets"
    assert opened(root, num_classes=0).length == 3  # nor is it trained on test images without classes
    tree(root, annotations=0)
    assert opened(root).counts == [2, 1]


@pytest.mark.parametrize(
    "train, test", [("Train", "Test"), ("TRAINING", "Testing"), ("train2017", "val2017"), ("training_set", "test_set")]
)
def test_splits_in_other_spellings(train, test, tmp_path):
    root = tree(tmp_path / "pets", **{f"{train}/cat": 2, f"{train}/dog": 1, f"{test}/cat": 5, f"{test}/dog": 5})
    assert opened(root).counts == [2, 1] and opened(root).name == "pets" and opened(root, num_classes=0).length == 3
    flat = tree(tmp_path / "flat", **{train: 2, test: 5})
    assert opened(flat, num_classes=0).length == 2 and f"{flat}/{train}" in refused(flat)


@pytest.mark.parametrize(
    "names, cure",
    [
        ("trainA trainB testA testB", "more than one training split (trainA, trainB)"),
        ("DIV2K_train_HR DIV2K_valid_HR", "set data='{}/DIV2K_train_HR'"),
        ("DIV2K_train_HR DIV2K_valid_HR Set5 Set14 Urban", "splits (DIV2K_train_HR, DIV2K_valid_HR)"),
        ("minitrain minitest", "set data='{}/minitrain'"),
        ("minitrain val", "set data='{}/minitrain'"),
        ("bounding_box_train query gallery", "set data='{}/bounding_box_train'"),
        ("tr te", "set data='{}/tr'"),
        ("обучение тест", "set data='{}/обучение'"),
        ("entraînement validation", "set data='{}/entraînement'"),
        ("训练集 测试集", "set data='{}/训练集'"),
        ("imagesTr imagesTs", "set data='{}/imagesTr'"),
        ("\uff54\uff52\uff41\uff49\uff4eA \uff54\uff45\uff53\uff54A", "set data='{}/\uff54\uff52\uff41\uff49\uff4eA'"),
    ],
)
def test_words_in_names_tell_splits(names, cure, tmp_path):
    for place in ("", "/cat"):  # images, or class folders, in the splits
        root = tree(tmp_path / f"set{len(place)}", **{name + place: 2 for name in names.split()})
        if place and "Set5" in names:
            continue  # a class below a class
        for num_classes in (None, 0):
            message = refused(root, num_classes=num_classes)
            assert cure.format(root) in message and ("num_classes=0" in message) == (
                not place and "set data='" in message and num_classes is None
            )
    training = next(name for name in names.split() if kind_of_split(name) == "training")
    assert "class folders of" not in refused(tmp_path / "set0" / training)  # does not suggest the folder of the splits


@pytest.mark.parametrize("folders", [["trainA/cat", "testA/cat"], ["a/testA/cat", "b/trainA/cat"], ["testA/x/cat", "trainA/x/cat"]])
def test_a_test_split_is_never_suggested(folders, tmp_path):
    root = tree(tmp_path / "set", **{f"deep/{name}": 2 for name in folders})
    for place in (root, root / "deep"):
        message = refused(place)
        assert "trainA" in message and "/testA" not in message


@pytest.mark.parametrize(
    "names", ["bus,car,train,test tube", "beaker,test tube", "bullet train,bus", "valley,train station,beach", "a,b,trainA,tests"]
)
def test_classes_with_words_of_splits(names, tmp_path):
    assert opened(tree(tmp_path / "set", **dict.fromkeys(names.split(","), 2))).classes == sorted(names.split(","))


@pytest.mark.parametrize("folders", [dict(cat=2, dog=2, test=2), {"a": 2, "train/a": 2}, dict(test=2, val=2)])
def test_unconditional_data_are_not_test_images_by_mistake(folders, tmp_path):
    assert "splits" in refused(tree(tmp_path / "set", **folders), num_classes=0)


def test_train_can_be_a_class(tmp_path, capsys):
    data = opened(tree(tmp_path / "vehicles", bus=2, car=1, train=2))
    assert data.classes == ["bus", "car", "train"] and data.counts == [2, 1, 2]
    assert f"{tmp_path}/vehicles/train is taken as a class" in capsys.readouterr().err


def test_what_systems_put_beside_images_is_left_out_and_counted(tmp_path):
    names = ["@eaDir", "__MACOSX", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found", "@Recently-Snapshot"]
    root = tree(tmp_path / "pets", cat=2, dog=2, **{name: 2 for name in names}, **{f"cat/{name}/deeper": 2 for name in names})
    tree(root, **{".thumbnails": 2})
    Image.fromarray(pixels(0)).save(root / "cat/._0.png")
    for name in ("Thumbs.db", "desktop.ini"):
        (root / "dog" / name).touch()
    for num_classes in (None, 0):
        data = opened(root, num_classes=num_classes)
        assert data.length == 4 and data.num_classes == (2 if num_classes is None else 0)
        assert data.ignored == dict.fromkeys(names, 2) | {"hidden": 2, ".db": 1, ".ini": 1}
        assert "2 @eaDir" in describe(data) and "2 hidden" in describe(data)
    (tmp_path / "pets" / "dog").rename(tmp_path / "pets" / "val")
    assert "splits (val)" in refused(root)


@pytest.mark.parametrize(
    "name",
    [
        "thumbs",
        "Thumbs",
        "thumbnails",
        "_thumbs",
        "@appstore",
        "@__thumb",
        "Previews.lrdata",
        "My Smart Previews.LRDATA",
        "cache",
        "CaptureOne",
    ],
)
def test_folders_of_photo_tools_are_left_out_and_counted(name, tmp_path):
    root = tree(tmp_path / "pets", **{"cat": 2, "dog": 2, name: 2, f"cat/{name}/deeper": 2})
    for num_classes in (None, 0):
        data = opened(root, num_classes=num_classes)
        assert data.length == 4 and data.ignored == {name: 2}


def test_class_gestures_are_no_thumbnails(tmp_path):
    assert opened(tree(tmp_path / "hands", **{"thumb": 1, "thumbs up": 1})).num_classes == 2
