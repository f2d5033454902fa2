import os
import pickle
import shutil

import pytest
from image_folders import opened, refused, tree

from workbench.data import DataError, describe


@pytest.mark.parametrize("sign", "\u202e\u200b\u2066\ufeff\u00ad")
def test_invisible_characters_are_printed_as_escapes(sign, tmp_path):
    data = opened(tree(tmp_path / f"pe{sign}ts", **{f"c{sign}at": 1, "dog": 1}))
    assert sign not in describe(data) and f"c{sign.encode('unicode_escape').decode()}at 1" in describe(data)
    message = refused(tmp_path / f"pe{sign}ts", num_classes=5)
    assert sign not in message and "(c\\" in message


def test_names_that_cannot_be_printed(tmp_path):
    """Of files they do no harm, whether these can be read or not."""
    root = tree(tmp_path / "pe\nts", cat=2)
    for name in (b"new\nline", b"not UTF-8 \xff\xfe", b"escape \x1b[2J", "ネコ".encode()):
        shutil.copy(root / "cat/0.png", os.fsdecode(os.fsencode(root / "cat") + b"/" + name + b".png"))
        with open(os.fsencode(root / "cat") + b"/bad " + name + b".jpg", "wb") as file:
            file.write(b"no")
    message = refused(root)
    assert "bad new\\nline.jpg" in message and "\\udcff\\udcfe.jpg" in message and "\\x1b[2J.jpg" in message and "bad ネコ.jpg" in message
    data = opened(root, skip_unreadable=True)
    assert data.length == 6 and data.name == "pe\\nts"
    describe(data).encode()  # which lone surrogates cannot be
    assert "\x1b" not in describe(data) and describe(data).count("\n") == 2
    assert opened(root, skip_unreadable=True).fingerprint == data.fingerprint


def test_the_words_of_another_caller():
    """Other names of parameters, and no fix that sets one that the caller does not have; paths are not taken for names."""
    error = DataError(("data", "='/a/data=b' is packed at 64"), ("image_size", "=64"), ("data", " to another"), "pack it again")
    assert str(error) == "data='/a/data=b' is packed at 64: set image_size=64, or set data to another, or pack it again"
    renamed = error.renamed(data="samples", image_size=None)
    assert str(renamed) == "samples='/a/data=b' is packed at 64: set samples to another, or pack it again"
    again = pickle.loads(pickle.dumps(renamed))  # as between processes
    assert str(again) == str(renamed) and str(again.renamed(samples="data")).startswith("data='/a/data=b' is")
    assert str(DataError("no image").renamed(data="samples")) == "no image"
