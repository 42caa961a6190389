"""``hf:NAME``: data sets of the datasets library, from the Hugging Face hub, a local folder or a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, UnreadableSampleError, UsageError
from ..extras import need
from ..identity import content_id
from ..samples import FileMemo
from .csv import PATHS, TARGETS, TEXTS
from .hf_loading import Parts, load_parts
from .hf_targets import column_of, find_targets
from .media import EncodedSamples, encoded, kind_of, read_media
from .options import parse_options
from .paths import full_path, place_of, rewritten_note
from .table import pick
from .targets import TARGET_OPTIONS, Targets, no_targets, target_of

__all__ = ["HuggingFaceSamples", "open_hf"]

OPTIONS = ("image", "text", "audio", "split", "config", *TARGET_OPTIONS)
KINDS = {"image": "image", "audio": "sound", "text": "text"}
BINARY = ("binary", "large_binary")
SOUND_COLUMNS = ("audio", "sound", "speech")

Array = np.ndarray[Any, Any]


class HuggingFaceSamples(EncodedSamples):
    """Rows of one or several splits; images and sounds stay encoded until an item is fetched, and are those of ``folder:``."""

    def __init__(self, spec: str, name: str, parts: Parts, column: str, kind: str, root: Path | None) -> None:
        self.spec = spec
        self.name = name
        self.kind = kind
        self.column = column
        self._parts = [part for _, part in parts.rows]
        self._ends = np.cumsum([len(part) for part in self._parts])
        self.splits = parts.splits()
        self.names = [f"{split}/{row}" for split, part in parts.rows for row in range(len(part))]
        self.notes: list[str] = [*parts.notes]
        self._paths = [self._find_paths(part, split, root or Path.cwd()) for split, part in parts.rows]
        self.take(no_targets(len(self.names)))

    def take(self, found: Targets) -> None:
        """Set the targets, and what is known of them."""
        self.targets, self.classes = found.values, found.classes
        self.notes += found.notes
        self.splits = found.splits(self.splits)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.read(index)[1](), target_of(self.targets, index)

    def read(self, index: int) -> tuple[bytes, Callable[[], Any]]:
        """Return the id of a row's encoded content, and a function that decodes what was read."""
        part, row = self._place(index)
        where = f"{self.spec} {self.names[index]}"
        paths = self._paths[part]
        if paths is not None and paths[row] is not None:
            return read_media(self.kind, Path(str(paths[row])), self.pixels)
        value: Any = self._parts[part][row][self.column] if paths is None else None
        if _is_empty(value):
            raise UnreadableSampleError(f"{where} has no value in the column {self.column!r}")
        if self.kind == "text":
            text = str(value)
            return content_id(text), lambda: text
        if value["bytes"] is None:
            raise self._mixed()
        return encoded(self.kind, value["bytes"], where, self.pixels)

    def sample_ids(self, memo: FileMemo | None = None) -> Array:
        """Return the ids of the encoded contents (samples, 16), which files of this content have, too."""
        memo = memo or FileMemo()
        return np.concatenate([self._part_ids(*each, memo) for each in zip(self._parts, self._paths, strict=True)])

    def _part_ids(self, part: Any, paths: list[str | None] | None, memo: FileMemo) -> Array:
        if self.kind == "text":
            ids = b"".join(
                memo.unreadable_id(f"{part._fingerprint}:{self.column}:{row}")
                if value is None
                else content_id(str(value))
                for row, value in enumerate(column_of(part, self.column))
            )
            return np.frombuffer(ids, dtype=np.uint8).reshape(-1, 16)
        if paths is not None:
            return self._file_ids(part, paths, memo)
        files = [str(Path(each["filename"]).resolve()) for each in part.cache_files]

        def read(row: int) -> bytes:
            value = part[row][self.column]
            if _is_empty(value):
                raise OSError("no value")
            content: bytes | None = value["bytes"]
            if content is None:
                raise self._mixed()
            return content

        if not files:  # held in memory, where nothing says whether they changed
            forgotten = FileMemo()
            forgotten.unread = memo.unread
            memo = forgotten
        # Rows may be in another order in another selection of the same files, so the fingerprint is part of their name.
        return memo.part_ids(files, [f"{part._fingerprint}:{self.column}:{row}" for row in range(len(part))], read)

    def _find_paths(self, part: Any, split: str, root: Path) -> list[str | None] | None:
        """Return the path of each row, None for one without; None in all where the rows hold contents of files."""
        if self.kind == "text":
            return None
        first = next((value for value in column_of(part, self.column) if not _is_empty(value)), None)
        if first is None or first["bytes"] is not None:
            return None
        given, places = [], []
        found: list[str | None] = []
        for row, value in enumerate(column_of(part, self.column)):
            if _is_empty(value):
                found.append(None)
                continue
            if value["bytes"] is not None:
                raise self._mixed()
            given.append(value["path"])
            places.append(place_of(root, value["path"], f"{self.spec} {split}/{row}"))
            found.append(full_path(root, places[-1]))
        self.notes += rewritten_note(given, places)
        return found

    def _mixed(self) -> DataError:
        return DataError(
            f"{self.spec} holds paths of files among contents of files in its column {self.column!r}: keep each kind in a set "
            "of its own."
        )

    def _file_ids(self, part: Any, paths: list[str | None], memo: FileMemo) -> Array:
        anchor = Path.cwd().anchor
        there = [row for row, path in enumerate(paths) if path is not None]
        ids = np.zeros((len(part), 16), dtype=np.uint8)
        ids[there] = memo.ids(Path(anchor), [str(paths[row]).removeprefix(anchor) for row in there])
        for row in {*range(len(part))}.difference(there):
            made = memo.unreadable_id(f"{part._fingerprint}:{self.column}:{row}")
            ids[row] = np.frombuffer(made, dtype=np.uint8)
        return ids

    def _place(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = int(np.searchsorted(self._ends, index, side="right"))
        return part, index - (int(self._ends[part - 1]) if part else 0)


def open_hf(argument: str, name: str) -> HuggingFaceSamples:
    """Return the rows of a set: ``NAME|FOLDER|FILE[?split=S[,S]][&image=C|text=C|audio=C][&target=C][&config=NAME]``.

    Columns that are not named are found by their kinds and usual names. All splits are taken, unless some are named.
    """
    place, options = parse_options(argument, "hf", OPTIONS)
    spec = f"hf:{argument}"
    library = need("datasets", "hf-data", spec)
    parts = load_parts(library, place, options, spec)
    first = parts.rows[0][1]
    column, kind = _choose_input(library, first, options, spec, parts.split_column)
    if kind != "text":
        encoded = library.Image(decode=False) if kind == "image" else library.Audio(decode=False)
        parts = replace(parts, rows=[(split, part.cast_column(column, encoded)) for split, part in parts.rows])
    path = Path(place).expanduser().absolute()
    root = path.parent if path.is_file() else path if path.is_dir() else None
    made = HuggingFaceSamples(spec, name, parts, column, kind, root)
    if not len(made):
        raise DataError(f"{spec} has no rows.")
    if kind != "text" and _holds_contents(first.features[column]):
        made.notes.append(f"the column {column!r} holds contents of files, taken for {kind}s")
    columns = [each for each in first.features if each not in (column, parts.split_column)]
    made.take(find_targets(library, made, parts.rows, columns, options))
    return made


def _choose_input(
    library: Any, part: Any, options: dict[str, str], spec: str, split_column: str | None
) -> tuple[str, str]:
    """Return the column of the samples, and whether they are images, sounds or texts."""
    features = part.features
    columns = list(features)
    asked = [option for option in KINDS if option in options]
    if len(asked) > 1:
        raise UsageError(f"{spec} names {' and '.join(asked)}: the samples are one of them.")
    if asked:
        return str(pick(columns, options[asked[0]], (), spec, asked[0])), KINDS[asked[0]]
    for column, feature in features.items():
        if isinstance(feature, (library.Image, library.Audio)):
            return column, "image" if isinstance(feature, library.Image) else "sound"
    contents = [column for column in columns if _holds_contents(features[column])]
    if len(contents) == 1:
        return contents[0], "sound" if contents[0].lower() in SOUND_COLUMNS else "image"
    targets = {*options.get("target", "").split(","), split_column}
    texts = [
        column
        for column in columns
        if getattr(features[column], "dtype", None) in ("string", "large_string") and column not in targets
    ]
    usual = pick(texts, None, TEXTS, spec, "text")
    path = pick(texts, None, PATHS, spec, "image")
    kind = None if path is None or not len(part) else kind_of(str(part[0][path]))
    if path is not None and kind in ("image", "sound"):
        if usual is not None:
            raise DataError(
                f"{spec} has both files ({path!r}) and texts ({usual!r}): add ?{'image' if kind == 'image' else 'audio'}={path} "
                f"or ?text={usual} to say which are the samples."
            )
        return path, str(kind)
    others = [column for column in texts if column.lower() not in TARGETS]
    if usual is None and len(others) == 1:
        usual = others[0]
    if usual is None:
        raise DataError(
            f"{spec} does not say which column holds its samples. It has: {', '.join(columns)}. "
            "Add image=, text= or audio=COLUMN."
        )
    return usual, "text"


def _holds_contents(feature: Any) -> bool:
    """Return whether a column without notes of the library holds contents of files: as binary, or as {bytes, path}."""
    if isinstance(feature, dict):
        return {*feature} == {"bytes", "path"} and getattr(feature["bytes"], "dtype", None) in BINARY
    return getattr(feature, "dtype", None) in BINARY


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and value["bytes"] is None and not value["path"])
