"""Names of classes: as the user gives them, as well-known data sets have them, and names that look alike."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from gapgate.data.sources.base import Record, Source, ordered_classes
from gapgate.errors import DataError
from gapgate.settings.overrides import read_yaml
from gapgate.settings.sections import DataSettings, Reading
from gapgate.text import printable

_WHOLE = re.compile(r"[+-]?\d+(\.0*)?")


def reading_of(data: DataSettings) -> Reading:
    """The answers among the data's settings; the file of class names is read now, since the step that needs it may run
    elsewhere.

    Raises:
        DataError: as `read_class_names`.
    """
    reading = Reading(**data.model_dump(include=set(Reading.model_fields)))
    if not isinstance(reading.class_names, str) or not reading.class_names:
        return reading
    return reading.model_copy(update={"class_names": read_class_names(Path(reading.class_names))})


def read_class_names(path: Path) -> tuple[str, ...] | dict[str, str]:
    """Read class names from a file: one a line, that of label 0 first; or a list or mapping in JSON or YAML, from label
    to name or, as Keras writes its `class_indices`, from name to number.

    Raises:
        DataError: the file cannot be read, or holds something else.
    """
    try:
        # Without the byte order mark of Windows' editors, which would become part of the first name.
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot read the class names in {path} ({getattr(error, 'strerror', '') or error}); "
            "name a text file in data.class_names"
        ) from None
    if path.suffix.lower() not in (".json", ".yaml", ".yml"):
        return tuple(line.strip() for line in text.splitlines() if line.strip())
    content = read_yaml(text, str(path))
    if isinstance(content, Mapping):
        if content and all(isinstance(value, int) for value in content.values()):
            content = {number: name for name, number in content.items()}
        return {str(label): str(name) for label, name in content.items()}
    if isinstance(content, list):
        return tuple(map(str, content))
    raise DataError(f"{path} holds a {type(content).__name__}; write a list of class names, or {{label: name}}")


def name_classes(source: Source, reading: Reading) -> Source:
    """Give a source the class names that the user wants, one for names that are the same (`1`, `1.0` where all are
    numbers), and ask about names that only look the same.

    Raises:
        DataError: a class has no name in `class_names`, two look alike and `alike_classes` is `ask`, or a name has
            control characters, which would steer the terminals and pages that show it.
    """
    given = reading.class_names
    # Older disks of macOS keep an accented letter as two characters (NFD), others as one: they are one class.
    names = [unicodedata.normalize("NFC", name).strip() for name in source.class_names]
    if any("." in name for name in names) and all("." in name and _WHOLE.fullmatch(name) for name in names):
        names = [_plain(name) for name in names]  # whole numbers, which pandas writes as 1.0 where a value is missing
    if given:
        names = [_given(name, names, given) for name in names]
    if reading.alike_classes != "keep":
        merged = _alike(names)
        if merged and reading.alike_classes == "ask":
            pairs = ", ".join(f"{name!r} and {first!r}" for name, first in sorted(merged.items())[:3])
            raise DataError(
                f"the classes {pairs} differ in their spelling only: are they one class? Answer with "
                "--set data.alike_classes=merge (or keep)"
            )
        names = [merged.get(name, name) for name in names]
    if steering := [name for name in names if printable(name) != name]:
        raise DataError(
            f"the class name {steering[0]!r} has a line break or another control character; rename the class, or give "
            "it a name by data.class_names"
        )
    if tuple(names) == source.class_names:
        return source
    return _renamed(source, names, tuple(given.values() if isinstance(given, Mapping) else given))


def _renamed(source: Source, names: list[str], order: tuple[str, ...]) -> Source:
    """A source whose class i is called names[i]; equal names are one class, in the order given or the usual one."""
    distinct = set(names)
    classes = tuple(name for name in dict.fromkeys(order) if name in distinct) or ordered_classes(distinct)
    labels = [classes.index(name) for name in names]
    return replace(source, class_names=classes, records=partial(_relabelled, source, labels))


def _relabelled(source: Source, labels: list[int]) -> Iterator[Record]:
    return (record._replace(label=labels[record.label]) for record in source.records())


def _given(name: str, names: list[str], given: str | tuple[str, ...] | Mapping[str, str]) -> str:
    """The name that the user gives to a class."""
    assert not isinstance(given, str)  # ingest has read the file
    plain = _plain(name)
    if isinstance(given, Mapping):
        for label in (name, plain):
            if label in given:
                return given[label]
    elif set(names) <= set(given):
        return name
    elif plain.isdecimal() and int(plain) < len(given):
        return given[int(plain)]
    raise DataError(
        f"class {name!r} has no name: data.class_names has {len(given)} names for {len(names)} classes; "
        "give that of label 0 first, or {label: name, …}"
    )


def _alike(names: list[str]) -> dict[str, str]:
    """Names that differ from an earlier one in their spelling only → that one."""
    found = defaultdict(list)
    for name in sorted(set(names), key=lambda name: (len(name), name)):
        found[_key(name)].append(name)
    return {name: first for first, *others in found.values() for name in others}


def _key(name: str) -> str:
    """Form that names share which look alike: case, spaces, characters without a picture, the form of a whole number
    and of letters do not count."""
    if _WHOLE.fullmatch(name):
        return str(int(_plain(name)))
    # Format characters and variation selectors are not seen (Unicode, Default_Ignorable_Code_Point).
    seen = "".join(char for char in name if unicodedata.category(char) != "Cf" and not "\ufe00" <= char <= "\ufe0f")
    return re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFKC", seen).casefold()).strip()


def _plain(name: str) -> str:
    """A whole number without its point: `1.0` → `1`; other names as they are."""
    return name.partition(".")[0] if _WHOLE.fullmatch(name) else name
