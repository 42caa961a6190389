"""Targets from the texts of columns: classes, numbers, or vectors of either."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import DataError, UsageError
from ..samples import UNLABELLED

__all__ = [
    "TARGET_OPTIONS",
    "Targets",
    "Where",
    "encode_targets",
    "look_alikes",
    "named_target",
    "no_targets",
    "not_taken",
    "target_of",
]

TARGET_OPTIONS = ("target", "as", "separator", "missing")
AS = ("class", "float")
SPARSE = 4  # integers beyond this many times their kinds are names, such as product numbers, not numbers of classes
FEW = 100  # kinds of whole numbers that may be meant as classes
MISSING = ("", "null", "NULL", "nan", "NaN", "NAN", "<NA>")
# -0 is not 0, and 007 not 7: what has another text is another class.
INTEGER = re.compile(r"0|-?[1-9][0-9]{0,999}")  # Python refuses to read much longer ones
NUMBER = re.compile(r"-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
POINT = re.compile(r"[.eE]")
COMMA = re.compile(r"[+-]?[0-9]+(?:,[0-9]+)?")
LIST = re.compile(r"\[.*\]|\{.*\}", re.DOTALL)

Array = np.ndarray[Any, Any]
Where = Callable[[int], str]
Column = Sequence[str | None]


@dataclass
class Targets:
    """Targets with the names of their classes, what to say of them, and which rows have none."""

    values: Array
    classes: list[str] | None = None
    notes: list[str] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)

    def splits(self, splits: list[str]) -> list[str]:
        """Return the splits of the rows, in which those without a label are ``unlabelled``."""
        for row in self.missing:
            splits[row] = UNLABELLED
        return splits


def encode_targets(
    columns: Sequence[Column], names: Sequence[str], where: Where, options: Mapping[str, str] | None = None
) -> Targets:
    """Return the targets of one column or several, of which None and the usual words for nothing are missing values.

    One column of text becomes sorted classes, of plain integers classes that keep their numbers, of other plain numbers
    float32. Several columns become a vector a sample: of zeros and ones int64, with the columns' names as classes, else
    float32. The options ``as``, ``separator`` and ``missing`` say otherwise. Raises ``DataError``, which says ``where``.
    """
    kind, separator = _checked(options or {}, columns)
    missing = _missing(columns, names, where, (options or {}).get("missing"))
    kept = np.delete(np.arange(len(columns[0])), missing)
    if not len(kept):
        raise DataError(
            f"no row has a value in the target column {names[0]!r}: add target=none for samples without targets."
        )
    known = [[str(column[row]).strip() for row in kept.tolist()] for column in columns]

    def place(row: int) -> str:
        return where(int(kept[row]))

    if separator is not None:
        made = _several(known[0], names[0], place, separator)
    elif len(columns) == 1:
        made = _one(known[0], names[0], place, kind)
        made.notes += _stripped([str(columns[0][row]) for row in kept.tolist()]) if made.classes else []
    else:
        made = _vectors(known, names, place, kind)
    return _with_gaps(made, kept, missing) if missing else made


def no_targets(count: int) -> Targets:
    """Return the targets of samples that have none: zeros."""
    return Targets(np.zeros(count, dtype=np.int64))


def target_of(targets: Array, index: int) -> Any:
    """Return one target as an item holds it: an int, a float32 or a vector."""
    value = targets[index]
    return int(value) if value.ndim == 0 and value.dtype.kind in "iu" else value


def named_target(names: Sequence[str]) -> str:
    """Return the target columns in words, as notes begin."""
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return f"target {', '.join(map(repr, names[:3]))}{more}"


def not_taken(found: str, usual: Iterable[str]) -> list[str]:
    """Return a note for columns that could have been the target as well."""
    others = [repr(each) for each in usual if each != found]
    if not others:
        return []
    return [
        f"columns that could be the target, too, and are not taken: {', '.join(others)}; target=COLUMN names another"
    ]


def look_alikes(classes: Iterable[str]) -> list[str]:
    """Return a note for class names that differ by case or by Unicode's ways of writing an accent alone."""
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault(unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()), []).append(name)
    found = [" and ".join(map(ascii, names)) for names in alike.values() if len(names) > 1]
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return [f"classes that look alike are kept apart: {', '.join(found[:3])}{more}"] if found else []


def _checked(options: Mapping[str, str], columns: Sequence[Column]) -> tuple[str | None, str | None]:
    kind, separator, missing = (options.get(name) for name in ("as", "separator", "missing"))
    if kind not in (None, *AS):
        raise UsageError(f"targets cannot be had as {kind!r}: use as=class or as=float.")
    if missing not in (None, UNLABELLED):
        raise UsageError(
            f"missing={missing} is not known: use missing={UNLABELLED}, or leave it out to refuse such rows."
        )
    if separator is not None and (not separator or kind is not None or len(columns) > 1):
        raise UsageError("separator=TEXT divides the labels of one target column: leave as= and further columns out.")
    return kind, separator


def _missing(columns: Sequence[Column], names: Sequence[str], where: Where, asked: str | None) -> list[int]:
    found = set()
    for column, name in zip(columns, names, strict=True):
        nothing = {value for value in set(column) if value is None or value.strip() in MISSING}
        for row, value in enumerate(column) if nothing else ():
            if value in nothing:
                if asked is None:
                    said = (
                        "no value"
                        if value is None or not value.strip()
                        else f"{value.strip()!r}, which is not a label,"
                    )
                    raise DataError(
                        f"{where(row)} has {said} in the target column {name!r}. Fill it in, drop the row, or add "
                        f"?missing={UNLABELLED} to keep such rows out of training."
                    )
                found.add(row)
    return sorted(found)


def _with_gaps(made: Targets, kept: Array, missing: list[int]) -> Targets:
    """Return the targets with a placeholder for each missing one: -1, which is no class, or NaN."""
    count = len(kept) + len(missing)
    empty = np.nan if made.values.dtype.kind == "f" else -1
    values = np.full((count, *made.values.shape[1:]), empty, dtype=made.values.dtype)
    values[kept] = made.values
    said = f"{len(missing):,} of {count:,} samples have no label: they are in the split {UNLABELLED!r}, which heads leave out"
    return Targets(values, made.classes, [*made.notes, said], missing)


def _one(column: list[str], name: str, where: Where, kind: str | None) -> Targets:
    if kind is None:
        _refuse_several(column, name, where)
    kinds = set(column)
    integers = all(INTEGER.fullmatch(value) for value in kinds)
    # A column of -0 and 0 alone has nothing that says that it holds values.
    decimals = all(NUMBER.fullmatch(value) for value in kinds) and any(POINT.search(value) for value in kinds)
    if kind == "float" or (kind is None and decimals):
        return _regression(column, name, where, kind)
    if integers:
        return _numbered(column, name)
    classes = sorted(kinds)
    places = {value: place for place, value in enumerate(classes)}
    hint = "; ?as=float makes values of them" if kind is None and all(map(_is_number, kinds)) else ""
    notes = [f"{named_target([name])}: {_count(classes, 'class', 'classes')} from text{hint}", *look_alikes(classes)]
    return Targets(np.array([places[value] for value in column], dtype=np.int64), classes, notes)


def _numbered(column: list[str], name: str) -> Targets:
    numbers = [int(value) for value in column]
    kinds = sorted(set(numbers))
    # They keep their numbers, so that a file without one of the classes means the same by them.
    dense = kinds[0] >= 0 and kinds[-1] < SPARSE * len(kinds)
    classes = list(map(str, range(kinds[-1] + 1))) if dense else list(map(str, kinds))
    places = {number: place for place, number in enumerate(range(len(classes)) if dense else kinds)}
    first, last = (0, kinds[-1]) if dense else (kinds[0], kinds[-1])
    said = f"{named_target([name])}: {_count(classes, 'class', 'classes')} from the numbers {first} to {last}"
    if dense and len(kinds) < len(classes):
        said += f", of which {len(kinds)} occur"
    return Targets(np.array([places[number] for number in numbers], dtype=np.int64), classes, [said])


def _regression(column: list[str], name: str, where: Where, kind: str | None) -> Targets:
    values = _floats(column, name, where)
    said = f"{named_target([name])}: regression, {values.min():g} … {values.max():g}"
    kinds = len(set(values.tolist()))
    if kind is None and kinds <= FEW and (values == np.round(values)).all():
        said += f"; these are {kinds} whole numbers, and ?as=class makes classes of them"
    return Targets(values, None, [said, *_merged(column, name)])


def _several(column: list[str], name: str, where: Where, separator: str) -> Targets:
    """Return a flag for each label that texts such as ``cat|dog`` name."""
    parts = [[part.strip() for part in value.split(separator)] for value in column]
    twice = 0
    for row, labels in enumerate(parts):
        if LIST.fullmatch(column[row]) or any(part in MISSING for part in labels):
            raise DataError(
                f"{where(row)} has {column[row][:40]!r} in the target column {name!r}, which does not divide into labels at "
                f"{separator!r}: put it between the labels alone."
            )
        twice += len(set(labels)) < len(labels)
    classes = sorted({label for labels in parts for label in labels})
    places = {label: place for place, label in enumerate(classes)}
    values = np.zeros((len(column), len(classes)), dtype=np.int64)
    for row, labels in enumerate(parts):
        values[row, [places[label] for label in labels]] = 1
    notes = [
        f"{named_target([name])}: {_count(classes, 'label', 'labels')} from text, of which several can apply",
        *look_alikes(classes),
    ]
    return Targets(values, classes, notes + ([f"{twice:,} samples name a label twice"] if twice else []))


def _vectors(columns: list[list[str]], names: Sequence[str], where: Where, kind: str | None) -> Targets:
    flags = all(value in ("0", "1") for column in columns for value in column)
    if kind == "class" and not flags:
        raise DataError(
            f"the target columns {', '.join(names)} hold more than 0 and 1, so they are not classes of which several can "
            "apply. Leave as=class out, or name one column."
        )
    if flags and kind != "float":
        values = np.array([[int(value) for value in column] for column in columns], dtype=np.int64).T.copy()
        return Targets(values, list(names), [f"{named_target(names)}: {len(names)} labels, of which several can apply"])
    floats = [_floats(column, name, where) for column, name in zip(columns, names, strict=True)]
    notes = [note for each in zip(columns, names, strict=True) for note in _merged(*each)]
    return Targets(
        np.stack(floats, axis=1), None, [f"{named_target(names)}: regression of {len(names)} values", *notes]
    )


def _refuse_several(column: list[str], name: str, where: Where) -> None:
    """Raise ``DataError`` for values that hold several labels, and for numbers with a comma."""
    kinds = set(column)
    several = {value for value in kinds if "|" in value or LIST.fullmatch(value)}
    if several:
        row, value = next((row, value) for row, value in enumerate(column) if value in several)
        remedy = (
            "write the labels with | between them and add ?separator=|, or add ?as=class to take each value as a name"
        )
        if "|" in value:
            remedy = "?separator=| reads several labels, and ?as=class takes each value as the name of a class"
        raise DataError(f"{where(row)} has {value[:40]!r} in the target column {name!r}: {remedy}.")
    if any("," in value for value in kinds) and all(COMMA.fullmatch(value) for value in kinds):
        row = next(row for row, value in enumerate(column) if "," in value)
        raise DataError(
            f"{where(row)} has {column[row]!r} in the target column {name!r}, a number with a comma: write it with a point, or "
            "add ?as=class to take each value as the name of a class."
        )


def _stripped(column: list[str]) -> list[str]:
    """Return a note where values that differ by spaces around them become one."""
    written: dict[str, set[str]] = {}
    for value in set(column):
        written.setdefault(value.strip(), set()).add(value)
    merged = [sorted(values) for values in written.values() if len(values) > 1]
    if not merged:
        return []
    return [f"spaces around target values do not count: {' and '.join(map(repr, merged[0][:3]))} are one class"]


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return "_" not in value


def _floats(column: Sequence[str], name: str, where: Where) -> Array:
    made = np.empty(len(column), dtype=np.float32)
    for row, value in enumerate(column):
        if not _is_number(value):
            comma = " Write a point, not a comma." if COMMA.fullmatch(value) else ""
            raise DataError(
                f"{where(row)} has {value[:40]!r} in the target column {name!r}, which is not a number.{comma}"
            )
        made[row] = float(value)
        if not np.isfinite(made[row]):
            raise DataError(
                f"{where(row)} has {value[:40]!r} in the target column {name!r}: a finite number is needed."
            )
    return made


def _merged(column: Sequence[str], name: str) -> list[str]:
    """Return a note where different numbers become one float32."""
    exact = np.unique(np.array([float(value) for value in column]))
    lost = np.flatnonzero(np.diff(exact.astype(np.float32)) == 0)
    if not len(lost):
        return []
    first, second = exact[lost[0]], exact[lost[0] + 1]
    return [
        f"{len(exact):,} different numbers of {name!r} are {len(exact) - len(lost):,} in float32, which holds no difference as "
        f"small as that of {first!s} and {second!s}: subtract an offset before, or add ?as=class if they are names"
    ]


def _count(items: Sequence[Any], one: str, several: str) -> str:
    return f"{len(items):,} {one if len(items) == 1 else several}"
