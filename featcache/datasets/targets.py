"""Targets from the texts of columns: classes, numbers, or vectors of either."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import DataError, UsageError

__all__ = ["AS", "encode_targets", "no_targets", "target_of"]

AS = ("class", "float")
SPARSE = 4  # integers beyond this many times their kinds are names, such as product numbers, not numbers of classes

Array = np.ndarray[Any, Any]
Where = Callable[[int], str]


def encode_targets(
    columns: Sequence[Sequence[str]], names: Sequence[str], where: Where, kind: str | None = None
) -> tuple[Array, list[str] | None]:
    """Return targets and the names of the classes, of one column or several.

    One column of text becomes sorted classes, of integers classes that keep their numbers, of other numbers float32.
    Several columns become a vector a sample: of zeros and ones int64, with the columns' names as classes, else float32.
    ``kind`` makes them classes or floats whatever they look like. Raises ``DataError``, which says ``where``.
    """
    if kind not in (None, *AS):
        raise UsageError(f"targets cannot be had as {kind!r}: use as=class or as=float.")
    for column, name in zip(columns, names, strict=True):
        empty = next((row for row, value in enumerate(column) if not value.strip()), None)
        if empty is not None:
            raise DataError(f"{where(empty)} has no value in the target column {name!r}. Fill it in, or drop the row.")
    if len(columns) == 1:
        return _one(columns[0], names[0], where, kind)
    flags = all(value.strip() in ("0", "1") for column in columns for value in column)
    if kind == "class" and not flags:
        raise DataError(
            f"the target columns {', '.join(names)} hold more than 0 and 1, so they are not classes of which several can "
            "apply. Leave as=class out, or name one column."
        )
    if flags and kind != "float":
        return np.array([[int(value) for value in column] for column in columns], dtype=np.int64).T.copy(), list(names)
    floats = [_floats(column, name, where) for column, name in zip(columns, names, strict=True)]
    return np.stack(floats, axis=1), None


def no_targets(count: int) -> Array:
    """Return the targets of samples that have none: zeros."""
    return np.zeros(count, dtype=np.int64)


def target_of(targets: Array, index: int) -> Any:
    """Return one target as an item holds it: an int, a float32 or a vector."""
    value = targets[index]
    return int(value) if value.ndim == 0 and value.dtype.kind in "iu" else value


def _one(column: Sequence[str], name: str, where: Where, kind: str | None) -> tuple[Array, list[str] | None]:
    if kind == "float" or (kind is None and not _all(int, column) and _all(float, column)):
        return _floats(column, name, where), None
    if _all(int, column):
        numbers = [int(value) for value in column]
        kinds = sorted(set(numbers))
        # They keep their numbers, so that a file without one of the classes means the same by them.
        if kinds[0] >= 0 and kinds[-1] < SPARSE * len(kinds):
            return np.array(numbers, dtype=np.int64), [str(number) for number in range(kinds[-1] + 1)]
        places = {number: place for place, number in enumerate(kinds)}
        return np.array([places[number] for number in numbers], dtype=np.int64), [str(number) for number in kinds]
    values = [value.strip() for value in column]
    classes = sorted(set(values))
    places_of = {value: place for place, value in enumerate(classes)}
    return np.array([places_of[value] for value in values], dtype=np.int64), classes


def _all(kind: Callable[[str], Any], column: Sequence[str]) -> bool:
    for value in column:
        try:
            kind(value)
        except ValueError:
            return False
    return True


def _floats(column: Sequence[str], name: str, where: Where) -> Array:
    made = np.empty(len(column), dtype=np.float32)
    for row, value in enumerate(column):
        try:
            made[row] = float(value)
        except ValueError as error:
            raise DataError(
                f"{where(row)} has {value[:40]!r} in the target column {name!r}, which is not a number."
            ) from error
        if not np.isfinite(made[row]):
            raise DataError(
                f"{where(row)} has {value[:40]!r} in the target column {name!r}: a finite number is needed."
            )
    return made
