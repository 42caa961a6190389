"""``csv:FILE``: a table of files with targets, or of texts with targets."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, DataNotFoundError, UnreadableSampleError, UsageError
from ..identity import content_id
from ..samples import FileMemo, split_name, split_role
from .media import LOOKED_FOR, EncodedSamples, kind_of, needs_heif, read_media
from .options import parse_options
from .paths import full_path, place_of, rewritten_note
from .table import Table, pick, read_table
from .targets import TARGET_OPTIONS, Targets, encode_targets, no_targets, not_taken, target_of

__all__ = [
    "NO_TARGET",
    "PATHS",
    "SPLIT_COLUMNS",
    "TARGETS",
    "TEXTS",
    "FileTable",
    "TextTable",
    "few_splits",
    "open_csv",
]

OPTIONS = ("path", "text", "encoding", "split", *TARGET_OPTIONS)
PATHS = ("path", "file", "image", "filename", "filepath", "file_name", "image_path", "audio")
TEXTS = ("text", "sentence", "review", "content", "document")
TARGETS = ("target", "label", "class", "labels", "y")
SPLIT_COLUMNS = ("split", "fold", "subset")
NO_TARGET = "none"
MOST_SPLITS = 256
FLAG = re.compile(r"is[-_ ]", re.IGNORECASE)

Array = np.ndarray[Any, Any]


class _Rows(EncodedSamples):
    """What all tables have in common: targets, classes and splits of the rows."""

    names: list[str]

    def __init__(self, spec: str, name: str, table: Table, options: dict[str, str]) -> None:
        self.spec = spec
        self.name = name
        columns, count = table.columns, len(table.lines)
        split = pick(list(columns), options.get("split"), SPLIT_COLUMNS, table.path, "split")
        splits = [""] * count if split is None else few_splits(map(split_name, columns[split]), split, table.path)
        found = _targets(table, options)
        self.targets, self.classes, self.notes = found.values, found.classes, found.notes
        self.splits = found.splits(splits)
        if split is None:
            self.notes += _like_splits(table)

    def __len__(self) -> int:
        return len(self.names)


class FileTable(_Rows):
    """Images or sounds by path, relative to the CSV file; items are as those of ``folder:``.

    A missing or damaged file raises ``UnreadableSampleError`` with its line when its item is fetched; opening raises
    ``DataNotFoundError`` where none of the files is there.
    """

    def __init__(self, spec: str, name: str, table: Table, column: str, options: dict[str, str]) -> None:
        super().__init__(spec, name, table, options)
        self.lines = table.lines
        self.table = table.path
        column_values = table.columns[column]
        empty = next((row for row, value in enumerate(column_values) if not value.strip()), None)
        if empty is not None:
            raise DataError(
                f"{table.where(empty)} names no file in the column {column!r}. Fill it in, or drop the row."
            )
        self.root = table.path.parent.absolute()
        given = [place_of(self.root, value, table.where(row)) for row, value in enumerate(column_values)]
        self.given = given
        self.notes += rewritten_note(column_values, given)
        self.kind = _kind(table, given, column)
        self.names = _unlike(given, table.lines)
        if not any(os.path.isfile(self._path(row)) for row in range(len(given))):  # noqa: PTH113
            raise DataNotFoundError(
                f"{table.where(0)} names {given[0]!r}, but there is no file {self._path(0)}, nor any other that the column "
                f"{column!r} names. Paths are relative to the folder of the CSV file."
            )

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.read(index)[1](), target_of(self.targets, index)

    def read(self, index: int) -> tuple[bytes, Callable[[], Any]]:
        """Return the id of a file's content, and a function that decodes what was read."""
        with self._at_line(index):
            found, decoded = read_media(self.kind, Path(self._path(index)), self.pixels)

        def item() -> Any:
            with self._at_line(index):
                return decoded()

        return found, item

    @contextmanager
    def _at_line(self, index: int) -> Iterator[None]:
        try:
            yield
        except UnreadableSampleError as error:
            raise UnreadableSampleError(f"{self.table} line {self.lines[index]}: {error}") from error

    def sample_ids(self, memo: FileMemo | None = None) -> Array:
        """Return the ids of the files' contents (samples, 16)."""
        anchor = self.root.anchor
        below = [self._path(row).removeprefix(anchor) for row in range(len(self))]
        return (memo or FileMemo()).ids(Path(anchor), below)

    def _path(self, row: int) -> str:
        return full_path(self.root, self.given[row])


class TextTable(_Rows):
    """Texts of a column, or pairs of texts of two columns; rows are called by their lines."""

    kind = "text"

    def __init__(self, spec: str, name: str, table: Table, columns: Sequence[str], options: dict[str, str]) -> None:
        super().__init__(spec, name, table, options)
        self.texts = [table.columns[column] for column in columns]
        self.names = [f"line {line}" for line in table.lines]

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self._text(index), target_of(self.targets, index)

    def read(self, index: int) -> tuple[bytes, Callable[[], Any]]:
        """Return the id of a text, and a function that gives it."""
        text = self._text(index)
        return content_id(text), lambda: text

    def _text(self, index: int) -> Any:
        parts = tuple(texts[index] for texts in self.texts)
        return parts[0] if len(parts) == 1 else parts

    def sample_ids(self, memo: FileMemo | None = None) -> Array:
        """Return the ids of the texts (samples, 16)."""
        ids = b"".join(content_id(self._text(row)) for row in range(len(self)))
        return np.frombuffer(ids, dtype=np.uint8).reshape(-1, 16)


def open_csv(argument: str, name: str) -> FileTable | TextTable:
    """Return the samples of a CSV file: ``FILE[?path=COLUMN | text=COLUMN[,COLUMN]][&target=COLUMN[,COLUMN]…][&split=COLUMN]``.

    Columns that are not named are found by their usual names. Raises ``DataError``, with the line where there is
    one, ``DataNotFoundError`` or ``UnknownNameError``.
    """
    place, options = parse_options(argument, "csv", OPTIONS)
    table, spec = read_table(Path(place).expanduser(), options.get("encoding")), f"csv:{argument}"
    columns = list(table.columns)
    if "path" in options and "text" in options:
        raise UsageError(f"'{spec}' names both a path and a text column: the samples are one of them.")
    path = None if "text" in options else pick(columns, options.get("path"), PATHS, table.path, "path")
    if "text" in options:
        texts = [str(pick(columns, each, (), table.path, "text")) for each in options["text"].split(",")]
    else:
        usual = None if "path" in options else pick(columns, None, TEXTS, table.path, "text")
        texts = [] if usual is None else [usual]
    if path and texts:
        raise DataError(
            f"{table.path} has both files ({path!r}) and texts ({texts[0]!r}): add ?path={path} or ?text={texts[0]} to say "
            "which are the samples."
        )
    if path is not None:
        return FileTable(spec, name, table, path, options)
    if texts:
        return TextTable(spec, name, table, texts, options)
    raise DataError(
        f"{table.path} has no column that is called like one of files ({', '.join(PATHS)}) or texts ({', '.join(TEXTS)}). It "
        f"has: {', '.join(columns)}. Add ?path=COLUMN or ?text=COLUMN."
    )


def _targets(table: Table, options: dict[str, str]) -> Targets:
    columns, asked = list(table.columns), options.get("target")
    others: list[str] = []
    if asked == NO_TARGET and NO_TARGET not in columns:
        return no_targets(len(table.lines))
    if asked is None:
        found = pick(columns, None, TARGETS, table.path, "target")
        if found is None:
            raise DataError(
                f"{table.path} has no column that is called like a target ({', '.join(TARGETS)}). It has: "
                f"{', '.join(columns)}. Add target=COLUMN, or target={NO_TARGET} for samples without targets."
            )
        names = [found]
        others = not_taken(found, (each for each in columns if each.lower() in TARGETS))
    else:
        names = [str(pick(columns, each, (), table.path, "target")) for each in asked.split(",")]
    made = encode_targets([table.columns[each] for each in names], names, table.where, options)
    made.notes += others
    return made


def few_splits(splits: Iterable[str], column: str, owner: object) -> list[str]:
    """Return the splits of a column; raises ``DataError`` for so many that they must be something else."""
    made = list(splits)
    if len(set(made)) > MOST_SPLITS:
        raise DataError(
            f"the split column {column!r} of {owner} has {len(set(made))} different values, "
            f"{MOST_SPLITS} at most make sense: name another with split=COLUMN."
        )
    return made


def _like_splits(table: Table) -> list[str]:
    """Return a note for a column of splits that has no usual name, or of flags such as ``is_valid``."""
    for name, values in table.columns.items():
        kinds = set(values)
        role = split_role(FLAG.sub("", name)) if FLAG.match(name) and len(kinds) == 2 else None
        if role is not None:
            flags = ", ".join(sorted(map(repr, kinds)))
            return [
                f"the column {name!r} looks like a flag of the split {role!r} and is not taken for it: add ?split={name}, and "
                f"say what {flags} are by --train-splits, --validation-splits or --test-splits"
            ]
        if 1 < len(kinds) <= MOST_SPLITS and all(value.strip() and split_role(value) for value in kinds):
            return [f"the column {name!r} looks like one of splits and is not taken for it: add ?split={name}"]
    return []


def _kind(table: Table, given: list[str], column: str) -> str:
    kinds = [kind_of(value) for value in given]
    for row, kind in enumerate(kinds):
        if kind not in ("image", "sound"):
            raise DataError(
                f"{table.where(row)} names {given[row]!r} in the column {column!r}, which is neither an image nor a sound: "
                f"{LOOKED_FOR}{needs_heif(given[row])}. Drop the row, or name another column with ?path=."
            )
        if kind != kinds[0]:
            raise DataError(
                f"{table.where(row)} names {given[row]!r}, a {kind} among {kinds[0]}s: split the table by kind."
            )
    return str(kinds[0])


def _unlike(given: list[str], lines: list[int]) -> list[str]:
    """Return names that are all different: a path that stands there again gets its line."""
    seen: set[str] = set()
    names = []
    for value, line in zip(given, lines, strict=True):
        name = value
        while name in seen:
            name = f"{name} (line {line})"
        seen.add(name)
        names.append(name)
    return names
