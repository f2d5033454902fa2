import errno
import os
import socket
from pathlib import Path

from image_folders import S, opened, pixels, refused, saved, tree
from PIL import Image

from workbench.data import describe, short_sides


def test_hidden_and_other_files_are_ignored_and_counted(tmp_path):
    root = tree(tmp_path / "pets", **{"cat": 2, "dog": 2, ".git": 3, "cat/.thumbs": 1})
    (root / "README.md").touch()
    (root / "cat/.hidden.png").touch()
    for name in ("a.txt", "b.TXT", "film.mpg", "LICENSE"):
        (root / "dog" / name).touch()
    (root / "dog" / "0.png").rename(root / "dog" / "0.PnG")
    data = opened(root)
    assert data.counts == [2, 2]
    assert data.ignored == {"hidden": 3, ".txt": 2, ".md": 1, ".mpg": 1, "without extension": 1}
    (root / "cat" / "c.txt").touch()
    assert opened(root).ignored[".txt"] == 3  # counted afresh, though nothing is packed anew
    assert "3 .txt" in describe(opened(root))


def test_unconditional_data_may_lie_anywhere(tmp_path):
    root = tree(tmp_path / "mixed", **{".": 1, "a": 2, "a/b/c": 1, "empty": 0})
    (root / "loop").symlink_to(root)
    data = opened(root, num_classes=0)
    assert (data.classes, data.num_classes, data.counts, data.conditional) == (["all"], 0, [4], False)
    flat = tree(tmp_path / "flat", **{".": 3})
    assert opened(flat, num_classes=0).length == 3
    conditional = opened(tree(tmp_path / "one", all=2))  # one class that happens to be called so
    assert conditional.num_classes == 1 and opened(tmp_path / "one", num_classes=0).num_classes == 0


def test_links_to_class_folders_are_followed(tmp_path):
    root = tree(tmp_path / "pets", cat=2)
    (root / "dog").symlink_to(tree(tmp_path / "elsewhere", dogs=3) / "dogs")
    assert opened(root).counts == [2, 3]


def test_many_classes_and_a_deep_folder(tmp_path):
    root = tree(tmp_path / "many", **{f"{index:04d}": 0 for index in range(300)})
    content = saved(Image.fromarray(pixels(0)), "PNG")
    for index in range(300):
        (root / f"{index:04d}/a.png").write_bytes(content)
    assert opened(root).num_classes == 300
    here, deep = os.getcwd(), tmp_path / "deep"
    deep.mkdir()
    try:
        os.chdir(deep)
        for _ in range(30):  # a path of more than 4096 characters, which nothing can open from outside
            os.mkdir("d" * 200)
            os.chdir("d" * 200)
        Path("a.png").write_bytes(content)
    finally:
        os.chdir(here)
    for num_classes in (None, 0):
        assert "File name too long" in refused(deep, num_classes=num_classes)


def test_what_is_no_regular_file_is_unreadable(tmp_path):
    root = tree(tmp_path / "pets", cat=2)
    os.mkfifo(root / "cat/fifo.png")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(root / "cat")  # the names of sockets are short
        server.bind("socket.png")
        os.chdir(here)
    (root / "cat/link.png").symlink_to("fifo.png")
    (root / "cat/zero.png").symlink_to("/dev/zero")
    (root / "cat/loop.png").symlink_to("loop.png")
    (root / "loop").symlink_to("loop")
    message = refused(root)
    assert "5 of 7" in message and "loop.png (Too many levels of symbolic links)" in message
    for name, reason in dict.fromkeys(("fifo", "link", "zero"), "not a regular file").items() | {("socket", "No such device or address")}:
        assert f"cat/{name}.png ({reason})" in message
    assert short_sides(root) == {S: 2}
    assert opened(root, skip_unreadable=True).length == opened(root, skip_unreadable=True, num_classes=0).length == 2


def test_folders_that_cannot_be_read(tmp_path, monkeypatch):
    root, scandir = tree(tmp_path / "pets", cat=1, dog=1), os.scandir

    def denied(path):  # permissions would not stop root
        if str(path).endswith("dog"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    assert f"the folder {root}/dog cannot be read (Permission denied): fix its permissions" in refused(root)
    assert "fix its permissions" in refused(root, num_classes=0)
    assert "images directly in it" in refused(root / "cat")  # beside which dog lies
