"""Targets of the datasets library: its classes, and lists of labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import DataError
from .csv import NO_TARGET, TARGETS
from .table import pick
from .targets import Targets, Where, encode_targets, look_alikes, named_target, no_targets, not_taken

__all__ = ["column_of", "find_targets"]

BATCH = 256
REMEDY = "write a column of texts with | between the labels and add ?separator=|, or lists of 0 and 1 of one length"

Parts = list[tuple[str, Any]]


def find_targets(library: Any, samples: Any, parts: Parts, columns: list[str], options: dict[str, str]) -> Targets:
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
        made = _encoded(library, samples, parts, [found], options)
        made.notes += not_taken(found, (each for each in columns if each in labels or each.lower() in TARGETS))
        return made
    names = [str(pick(list(features), each, (), spec, "target")) for each in asked.split(",")]
    return _encoded(library, samples, parts, names, options)


def _encoded(library: Any, samples: Any, parts: Parts, names: list[str], options: dict[str, str]) -> Targets:
    spec = samples.spec
    values = [[value for _, part in parts for value in column_of(part, name)] for name in names]

    def where(row: int) -> str:
        return f"{spec} {samples.names[row]}"

    if len(names) == 1:
        classes = _classes(library, parts, names[0], spec)
        if classes:
            values[0] = _by_name(library, parts, names[0], values[0], classes, where)
        lists = any(isinstance(value, list) for value in values[0])
        if classes:
            return (_flags if lists else _named)(values[0], names, where, options, classes)
        if lists:
            return _vectors(values[0], names[0], where, options)
    texts = [[None if value is None else str(value) for value in column] for column in values]
    return encode_targets(texts, names, where, options)


def _classes(library: Any, parts: Parts, name: str, spec: str) -> list[str]:
    """Return the names of the classes of all parts: those of the first, sorted ones of all where they differ."""
    found = {split: _names(library, part.features[name]) for split, part in parts}
    first, *others = found.values()
    if all(names == first for names in others):
        return first
    bare = [split for split, names in found.items() if not names]
    if bare:
        raise DataError(
            f"the target column {name!r} of {spec} has names of classes, but none in {', '.join(map(repr, bare))}: name the "
            "splits that are alike with split=, or save the set with one kind of column."
        )
    return sorted({each for names in found.values() for each in names})


def _names(library: Any, feature: Any) -> list[str]:
    inner = getattr(feature, "feature", feature)  # that of a list
    return [str(each) for each in inner.names] if isinstance(inner, library.ClassLabel) else []


def _by_name(library: Any, parts: Parts, name: str, values: list[Any], classes: list[str], where: Where) -> list[Any]:
    """Return the labels as numbers of these classes."""
    places = {each: place for place, each in enumerate(classes)}
    made: list[Any] = []
    for _, part in parts:
        own = [places[each] for each in _names(library, part.features[name])]

        def place(number: int | None, own: list[int] = own) -> int | None:
            # A hub set has -1 where it keeps its labels back.
            if number is None or number < 0:
                return None
            if number >= len(own):
                raise DataError(
                    f"{where(len(made))} has {number} in the target column {name!r}, which names {len(own)} classes: name each."
                )
            return own[number]

        for value in values[len(made) : len(made) + len(part)]:
            made.append([place(each) for each in value] if isinstance(value, list) else place(value))
    return made


def _named(
    places: list[int | None], names: list[str], where: Where, options: dict[str, str], classes: list[str]
) -> Targets:
    """Return the targets of a set that names its classes itself."""
    known = [None if place is None else str(place) for place in places]
    found = encode_targets([known], names, where, options)
    numbers = np.array([-1 if place is None else place for place in places], dtype=np.int64)
    said = f"{named_target(names)}: {len(classes):,} classes that the set names"
    return Targets(numbers, classes, [said, *look_alikes(classes), *found.notes[1:]], found.missing)


def _flags(
    lists: list[list[int | None] | None], names: list[str], where: Where, options: dict[str, str], classes: list[str]
) -> Targets:
    """Return a flag for each class that the lists of a set name."""
    for row, places in enumerate(lists):
        if places is not None and None in places:
            raise DataError(f"{where(row)} has no class among those of the target column {names[0]!r}: drop the row.")
    columns = [
        [None if places is None else str(int(place in places)) for places in lists] for place in range(len(classes))
    ]
    found = encode_targets(columns, names * len(classes), where, options)
    twice = sum(len({*places}) < len(places) for places in lists if places)
    said = f"{named_target(names)}: {len(classes):,} labels that the set names, of which several can apply"
    notes = [said, *look_alikes(classes), *found.notes[1:]]
    notes += [f"{twice:,} samples name a label twice"] if twice else []
    return Targets(found.values.reshape(len(lists), -1), found.classes and classes, notes, found.missing)


def _vectors(values: list[Any], name: str, where: Where, options: dict[str, str]) -> Targets:
    """Return the targets of lists of zeros and ones, or of decimal numbers, all of one length."""
    width = max(len(value) for value in values if value is not None)
    if not width:
        raise DataError(f"the target column {name!r} holds empty lists alone: name another with target=COLUMN.")
    flags, numbers = True, True
    for row, value in enumerate(values):
        if value is None:
            continue
        if len(value) != width or any(not isinstance(each, (int, float)) for each in value):
            raise DataError(f"{where(row)} has {str(value)[:40]} in the target column {name!r}: {REMEDY}.")
        flags &= all(each in (0, 1) for each in value)
        numbers &= any(isinstance(each, float) for each in value)
    if not flags and not numbers and options.get("as") != "float":
        raise DataError(
            f"the target column {name!r} holds lists of whole numbers other than 0 and 1: {REMEDY}, or add ?as=float where they "
            "are values."
        )
    columns = [
        [None if value is None else str(int(value[place]) if flags else value[place]) for value in values]
        for place in range(width)
    ]
    return encode_targets(columns, [f"{name}[{place}]" for place in range(width)], where, options)


def column_of(part: Any, name: str) -> Iterator[Any]:
    """Return the values of a column, of which few are in memory."""
    for batch in part.select_columns([name]).iter(BATCH):
        yield from batch[name]
