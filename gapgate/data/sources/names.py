"""Names that people and programs give to splits."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from typing import Any

from gapgate.errors import DataError

OUT = "out"
"""Value of `split_of` for images without labels, which are left out."""

_WORDS = {
    "train": (
        *("train", "training", "trn", "trainval", "entrainement", "apprentissage", "entrenamiento"),
        *("treino", "treinamento", "addestramento", "обучение", "训练", "训练集", "訓練", "学習", "학습", "훈련"),
    ),
    "val": (
        *("val", "valid", "validation", "validate", "dev", "devel", "development", "eval", "evaluation"),
        *("validierung", "validacion", "validacao", "validazione", "валидация", "验证", "验证集", "検証", "검증"),
    ),
    "test": (
        *("test", "testing", "tst", "holdout", "tests", "teste", "prueba", "pruebas", "prufung", "тест"),
        *("测试", "测试集", "テスト", "테스트"),
    ),
    OUT: (
        "pred",
        "predict",
        "prediction",
        "predictions",
        "infer",
        "inference",
        "unlabeled",
        "unlabelled",
        "submission",
    ),
}
_SPLIT_OF = {word: split for split, words in _WORDS.items() for word in words}
_FILLERS = frozenset(
    (
        *("set", "sets", "data", "dataset", "split", "folder", "dir", "files", "samples", "the", "my", "final", "all"),
        *("image", "images", "img", "imgs", "photo", "photos", "picture", "pictures", "pic", "pics", "jpg", "jpeg"),
        *("png", "public", "private"),
    )
)
# The words of `TrainSet`, `trainSet` and `TRAIN`, and those of scripts without capitals.
_TOKEN = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[^\W\d_]+")
_GLUED = re.compile(rf"^({'|'.join(_SPLIT_OF)})(sets?|data|images?|imgs?)$", re.IGNORECASE)
"""Two words in one, such as `trainset`."""


def split_of(name: str) -> str:
    """Return train, val, test or `OUT` for a name that stands for a split, such as `Training Set` or `test_images`; an
    empty string for any other."""
    split, rest = _taken_apart(name)
    return split if not rest else ""


def splits_of(names: Collection[str]) -> dict[str, str]:
    """Split of each name that stands for one. A word that all of them share counts for nothing: `seg_train`,
    `seg_test`."""
    found = {name: _taken_apart(name) for name in names}
    shared = {rest for split, rest in found.values() if split and rest}
    num_splits = len({split for split, _ in found.values() if split})
    is_shared = len(shared) == 1 and num_splits > 1
    return {name: split for name, (split, rest) in found.items() if split and (is_shared or not rest)}


def _taken_apart(name: str) -> tuple[str, tuple[str, ...]]:
    """The split that a name holds (empty if none or two), and its other words without numbers and fillers."""
    # Without accents, whichever way they are written.
    plain = "".join(char for char in unicodedata.normalize("NFKD", name) if unicodedata.category(char) != "Mn")
    # NFKD has taken Hangul syllables apart too; NFC joins them again, or `검증` would not be found.
    name = unicodedata.normalize("NFC", plain)
    words = [word.lower() for token in _TOKEN.findall(name) for word in _GLUED.sub(r"\1 \2", token).split()]
    splits = {_SPLIT_OF[word] for word in words if word in _SPLIT_OF}
    # `test_unlabelled` is a test split without labels.
    if len(splits) == 2 and OUT in splits:
        splits = {OUT}
    rest = tuple(word for word in words if word not in _SPLIT_OF and word not in _FILLERS)
    return (splits.pop() if len(splits) == 1 else ""), rest


def split_named(name: Any, where: str) -> str:
    """Return train, val or test for any usual name of it; `where` stands in the message.

    Raises:
        DataError: the name is unknown.
    """
    if (split := split_of(str(name))) in ("train", "val", "test"):
        return split
    raise DataError(f"{where}: split {str(name)!r} is unknown; use train, val or test in every row")
