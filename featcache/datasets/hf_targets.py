"""Targets of the datasets library: its classes, and lists of labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import DataError
from .csv import NO_TARGET, TARGETS
from .table import pick
from .targets import Targets, encode_targets, look_alikes, no_targets

__all__ = ["column_of", "find_targets"]

BATCH = 256


def find_targets(
    library: Any, samples: Any, parts: list[tuple[str, Any]], columns: list[str], options: dict[str, str]
) -> Targets:
    """Return the targets of the columns that are named, else of the usual one of those given."""
    features, spec, asked = parts[0][1].features, samples.spec, options.get("target")
    if asked == NO_TARGET:
        return no_targets(len(samples))
    if asked is None:
        labels = [column for column in columns if isinstance(features[column], library.ClassLabel)]
        found = pick(labels or columns, None, TARGETS, spec, "target") or next(iter(labels), None)
        if found is None:
            raise DataError(
                f"{spec} has no column that is called like a target ({', '.join(TARGETS)}). It has: {', '.join(features)}. Add "
                f"target=COLUMN, or target={NO_TARGET} for samples without targets."
            )
        names = [found]
    else:
        names = [str(pick(list(features), each, (), spec, "target")) for each in asked.split(",")]
    values = [[value for _, part in parts for value in column_of(part, name)] for name in names]

    def where(row: int) -> str:
        return f"{spec} {samples.names[row]}"

    label = features[names[0]]
    if len(names) == 1 and isinstance(label, library.ClassLabel):
        # A hub set has -1 where it keeps its labels back.
        known = [None if value is None or value < 0 else str(value) for value in values[0]]
        return _named(encode_targets([known], names, where, options), known, [str(each) for each in label.names])
    if len(names) == 1 and any(isinstance(value, list) for value in values[0][:BATCH]):
        return _vectors(values[0], names[0], spec)
    texts = [[None if value is None else str(value) for value in column] for column in values]
    return encode_targets(texts, names, where, options)


def _named(found: Targets, known: list[str | None], classes: list[str]) -> Targets:
    """Return the targets of a set that names its classes itself."""
    numbers = np.array([-1 if value is None else int(value) for value in known], dtype=np.int64)
    said = f"target: {len(classes):,} classes that the set names"
    return Targets(numbers, classes, [said, *look_alikes(classes), *found.notes[1:]], found.missing)


def _vectors(values: list[Any], name: str, spec: str) -> Targets:
    if any(value is None or any(isinstance(part, str) for part in value) for value in values):
        raise DataError(
            f"the target column {name!r} of {spec} holds lists of labels, or rows without one: write a column of texts with | "
            "between the labels, and add separator=|."
        )
    try:
        made = np.array(values, dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"the target column {name!r} of {spec} holds lists of different lengths, or no numbers."
        ) from error
    return Targets(made, None, [f"target: vectors of shape {list(made.shape[1:])}"])


def column_of(part: Any, name: str) -> Iterator[Any]:
    """Return the values of a column, of which few are in memory."""
    for batch in part.select_columns([name]).iter(BATCH):
        yield from batch[name]
