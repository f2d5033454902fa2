import pytest
from image_folders import S, config, in_memory, opened, pixels, refused, spoil, tree
from PIL import Image

from workbench.data import DataError, describe, open_data, prepare, short_sides
from workbench.data.twins import Twins


def test_twins():
    data = open_data(config("twins", image_size=64))
    assert isinstance(data, Twins) and data.size == 64 and data.length is None
    assert "endless images of 64x64" in describe(data) and "6 classes: disc, " in describe(data)
    assert "num_classes=5" in refused("twins", num_classes=5)


def test_the_number_of_classes_must_be_that_of_the_data(tmp_path):
    root = tree(tmp_path / "pets", ant=1, bee=1, cat=1, dog=1, emu=1, fox=1)
    message = refused(root, num_classes=7)
    assert "num_classes=7" in message and "6 classes (ant, bee, cat, dog, emu, ...)" in message
    assert opened(root, num_classes=6).num_classes == opened(root, num_classes=None).num_classes == 6


def test_less_than_a_batch_is_refused(tmp_path):
    root = tree(tmp_path / "pets", cat=3, dog=2)
    message = refused(root, batch_size=6)
    assert "5 images, and at least 6 are needed" in message and "batch_size to at most 5" in message
    assert opened(root, batch_size=5).length == 5


def test_prepare_with_skips_and_without_classes(tmp_path):
    root = tree(tmp_path / "pets", cat=2, dog=2)
    bad = spoil(root)
    (tmp_path / "empty").mkdir()
    data = prepare(root, tmp_path / "empty", S, skip_unreadable=True, progress=False)
    assert list(data.skipped) == bad and opened(tmp_path / "empty").counts == [2, 2]  # need not be asked for again
    prepare(root, tmp_path / "all", S, skip_unreadable=True, unconditional=True, progress=False)
    for num_classes in (None, 0):
        data = opened(tmp_path / "all", num_classes=num_classes)
        assert data.num_classes == 0 and data.length == 4
    assert "set num_classes=0" in refused(tmp_path / "all", num_classes=2)
    assert opened(tmp_path / "empty", num_classes=0).length == 4


def test_describe():
    assert describe(in_memory([2, 3])).splitlines() == ["made: 5 images of 32x32, fingerprint 0123456789ab", "2 classes: c0 2, c1 3"]
    assert "c19 1" in describe(in_memory([1] * 20))
    assert describe(in_memory([1, 4] * 11)).splitlines()[1] == "22 classes of 1 to 4 images: c0 1, c1 4, c2 1, c3 4, c4 1, ..."
    assert describe(in_memory([1500])).splitlines() == ["made: 1,500 images of 32x32, fingerprint 0123456789ab", "1 class: c0 1,500"]


def test_short_sides(tmp_path):
    root = tree(tmp_path / "pets", cat=2)
    Image.fromarray(pixels(0, 40, 70)).save(root / "cat/wide.png")
    Image.fromarray(pixels(0, 90, 70)).save(root / "high.png")  # in no class, among class folders
    (root / "cat/text.png").write_text("not a picture")
    (root / "cat/cut.png").write_bytes((root / "high.png").read_bytes()[:100])  # its header is whole
    assert short_sides(root) == short_sides(str(root)) == {S: 2, 40: 1, 70: 2}
    assert short_sides("twins") == {32: 1} and short_sides("cifar10") == {32: 50_000}
    (root / "high.png").unlink()
    prepare(root, tmp_path / "out", 64, skip_unreadable=True, progress=False)
    assert short_sides(tmp_path / "out") == {64: 3}
    with pytest.raises(DataError, match="no such folder"):
        short_sides(tmp_path / "nowhere")
