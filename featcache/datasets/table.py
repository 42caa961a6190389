"""Reading a CSV file with the lines that its rows stand on, and finding its columns."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError, DataNotFoundError, UnknownNameError, UsageError, near_names, one_line
from ..identity import is_special

__all__ = ["Table", "pick", "read_table"]

DELIMITERS = ",;\t"
GZIP, ZIP = b"\x1f\x8b", b"PK\x03\x04"
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


def read_table(path: Path, encoding: str | None = None) -> Table:
    """Return what a CSV file holds; raises ``DataError`` for one that is empty or ragged, with the line.

    The first line names the columns. Commas, semicolons and tabs separate them, whichever the first line has most of. A file
    that is packed by gzip, or alone in a zip file, is unpacked. It is text in UTF-8, unless it begins with the mark of UTF-16
    or an encoding is given.
    """
    try:
        content = path.read_bytes() if not is_special(path) else None
    except FileNotFoundError as error:
        raise DataNotFoundError(f"there is no file {path}. Check --data, or where you are.") from error
    except IsADirectoryError as error:
        raise DataError(f"{path} is a folder, not a CSV file. Did you mean 'folder:{path}'?") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    if content is None:
        raise DataError(f"{path} is a pipe, a socket or a device: save the table in a file.")
    text = _decoded(path, _unpacked(path, content), encoding)
    first = text[: text.find("\n") + 1] or text
    return _parse(
        path, csv.reader(io.StringIO(text, newline=""), delimiter=max(DELIMITERS, key=first.count), strict=True)
    )


def _unpacked(path: Path, content: bytes) -> bytes:
    """Return what a packed file holds, any other content as it is."""
    try:
        if content.startswith(GZIP):
            return gzip.decompress(content)
        if not content.startswith(ZIP):
            return content
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            files = [each for each in archive.namelist() if not each.endswith("/") and not each.startswith("__MACOSX/")]
            if len(files) == 1:
                return archive.read(files[0])
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise DataError(f"{path} is packed, and cannot be unpacked: {one_line(error)}. Unpack it first.") from error
    if "[Content_Types].xml" in files:
        raise DataError(f"{path} is a document of an office program: save the table as CSV.")
    raise DataError(f"{path} holds {len(files)} files, not one table: unpack it, and name the table.")


def _decoded(path: Path, content: bytes, encoding: str | None) -> str:
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode(encoding or ("utf-16" if marked else "utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        name = encoding or ("UTF-16" if marked else "UTF-8")
        other = "Save it as UTF-8, or say what it is, as in ?encoding=cp1252 (Windows in Western Europe)."
        raise DataError(
            f"{path} line {line} is not text in {name} (byte 0x{content[error.start]:02x}). {other}"
        ) from error
    except (LookupError, UnicodeError) as error:  # unknown, or a codec for something else than files
        raise UsageError(
            f"encoding={encoding} is not an encoding of text: use one such as cp1252 or utf-16."
        ) from error
    if "\0" in text:
        raise DataError(
            f"{path} holds zero characters: it is not a table, or in another encoding, as in ?encoding=utf-16-le."
        )
    return text


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
