"""Numbers and what they count."""

from workbench.messages import counted


def test_one_thing_is_no_plural():
    assert [counted(n, "key") for n in (0, 1, 2, 1024)] == ["0 keys", "1 key", "2 keys", "1,024 keys"]
    assert counted(1, "class") == "1 class" and counted(6, "class") == "6 classes"
