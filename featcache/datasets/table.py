"""Reading a CSV file with the lines that its rows stand on, and finding its columns."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError, DataNotFoundError, UnknownNameError, near_names

__all__ = ["Table", "pick", "read_table"]

DELIMITERS = ",;\t"
LONGEST_FIELD = 1 << 27  # characters; the csv module's own limit is too short for documents


@dataclass(frozen=True)
class Table:
    """The columns of a CSV file by name, and the line on which each row begins."""

    path: Path
    columns: dict[str, list[str]]
    lines: list[int]

    def where(self, row: int) -> str:
        """Return words that say where a row is."""
        return f"{self.path} line {self.lines[row]}"


def read_table(path: Path) -> Table:
    """Return what a CSV file holds; raises ``DataError`` for one that is empty or ragged, with the line.

    The first line names the columns. Commas, semicolons and tabs separate them, whichever the first line has most of.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            return _parse(path, csv.reader(file, delimiter=max(DELIMITERS, key=first.count), strict=True))
    except FileNotFoundError as error:
        raise DataNotFoundError(f"there is no file {path}. Check --data, or where you are.") from error
    except IsADirectoryError as error:
        raise DataError(f"{path} is a folder, not a CSV file. Did you mean 'folder:{path}'?") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text in UTF-8 ({error}). Save it as UTF-8.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


def _parse(path: Path, reader: Any) -> Table:
    before = csv.field_size_limit(LONGEST_FIELD)
    try:
        header = [name.strip() for name in next(reader, [])]
        twice = sorted({name for name in header if header.count(name) > 1})
        if twice:
            raise DataError(f"{path} has the column {twice[0]!r} twice: give each column a name of its own.")
        rows: list[list[str]] = []
        lines: list[int] = []
        line = reader.line_num + 1
        for row in reader:
            if row:
                if len(row) != len(header):
                    raise DataError(
                        f"{path} line {line} has {len(row)} values for {len(header)} columns ({', '.join(header)}). "
                        "Put quotes around values that hold separators."
                    )
                rows.append(row)
                lines.append(line)
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num} is not CSV: {error}.") from error
    finally:
        csv.field_size_limit(before)
    if not rows:
        raise DataError(
            f"{path} has no rows{f' below its header ({chr(44).join(header)})' if header else ': it is empty'}."
        )
    return Table(
        path, {name: list(values) for name, values in zip(header, zip(*rows, strict=True), strict=True)}, lines
    )


def pick(columns: Sequence[str], asked: str | None, usual: Sequence[str], owner: object, option: str) -> str | None:
    """Return the column that was asked for, else the first one with a usual name, None where there is none.

    Raises ``UnknownNameError`` for one that is not there, with those that are.
    """
    if asked is not None:
        if asked not in columns:
            raise UnknownNameError(
                f"{owner} has no column {asked!r} for {option}=.{near_names(asked, columns)} It has: {', '.join(columns)}."
            )
        return asked
    by_lower = {name.lower(): name for name in reversed(columns)}
    return next((by_lower[name] for name in usual if name in by_lower), None)
