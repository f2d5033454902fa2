"""Recognise folders by name: training and test splits, and folders of systems and photo tools, which hold no data."""

from __future__ import annotations

import re
import unicodedata

from .errors import INVISIBLE

# Names of splits in lower case, without what PADDING matches ("val2017", "Test_Set").
TRAINING = {"train", "training", "trn"}
SPLITS = TRAINING | {"val", "valid", "validate", "validation", "dev", "test", "testing", "tst", "eval", "evaluation", "holdout", "trainval"}
PADDING = re.compile(r"[\W\d_]|set|images?|imgs?|data|split")
# Words in names of splits ("trainA", "DIV2K_valid_HR", "minitest"). Names of classes may contain them too, see `layout._splits`.
_TRAINING = (
    "training|train|treino|treinamento|entrenamiento|entrainement|apprentissage|addestramento|обуч\\w*|тренир\\w*|训练|訓練|学習|훈련|학습"
)
_TEST = (
    "testing|test|validation|validate|valid|validacion|validacao|evaluation|evaluate|eval|holdout|heldout|prueba|"
    "тест\\w*|валид\\w*|провер\\w*|контрол\\w*|测试|測試|验证|驗證|検証|評価|テスト|테스트|검증"
)
TRAINING_WORD = re.compile(f"^trn?$|^(?:{_TRAINING})|(?:{_TRAINING})$")
TEST_WORD = re.compile(f"^(?:te|tst|ts|val|vld|dev|held|query|gallery|probe)$|^(?:{_TEST})|(?:{_TEST}|val)$")
# Folders of systems and photo tools beside images: thumbnails, deleted files, snapshots.
SYSTEM = {
    "@eadir", "@recycle", "@recently-snapshot", "@sharebin", "@tmp", "#recycle", "#snapshot", "~snapshot", "$recycle.bin", "$extend", "recycler",
    "recycled", "system volume information", "found.000", "lost+found", "__macosx", "__pycache__", "temporary items", "network trash folder",
    "@appstore", "@database", "@docker", "@synologydrive", "ipod photo cache", "captureone", "adobe bridge cache", "lost.dir", "[originals]",
}  # fmt: skip
THUMBNAILS = re.compile(r"[\W_]*(thumb(nail)?s|previews|caches?)|[\W_]+(thumb(nail)?|preview)|.*\.(lrdata|cocatalogdb|thumbnails)")


def is_split(name: str) -> bool:
    """Whether the whole name is that of a split: "train", "val2017", "Test_Set"."""
    return _without_padding(name) in SPLITS


def is_training_split(name: str) -> bool:
    """Whether the whole name is that of a training split."""
    return _without_padding(name) in TRAINING


def kind_of_split(name: str) -> str:
    """The kind of split that a name mentions: "training", "test" (also validation) or ""."""
    words = _words(name)
    return "training" if any(map(TRAINING_WORD.search, words)) else "test" if any(map(TEST_WORD.search, words)) else ""


def without_split(name: str) -> tuple[str, ...]:
    """The words of a name without those of splits: equal for "trainA" and "testA"."""
    rest = (PADDING.sub("", TEST_WORD.sub("", TRAINING_WORD.sub("", word))) for word in _words(name))
    return tuple(filter(None, rest))


def split_order(*names: str) -> int:
    """Sort key of a folder by the names in its path: training splits first, validation and test splits last."""
    kinds = {kind_of_split(name) for name in names}
    return 2 if "test" in kinds else 0 if "training" in kinds else 1


def is_system(name: str) -> bool:
    """Whether this is the name of a folder of a system or a photo tool."""
    return name.lower() in SYSTEM or bool(THUMBNAILS.fullmatch(name.lower()))


def _words(name: str) -> list[str]:
    """The words of a name, in lower case and without accents: "DIV2K_trainHR" has div, k, train, hr."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", name) if unicodedata.category(c) not in {"Mn", *INVISIBLE})
    plain = unicodedata.normalize("NFKC", plain)
    plain = "".join(f" {c}" if c.isupper() and before.islower() else c for before, c in zip(f" {plain}", plain, strict=False))
    return re.findall(r"[^\W\d_]+", plain.lower())


def _without_padding(name: str) -> str:
    return PADDING.sub("", name.lower())
