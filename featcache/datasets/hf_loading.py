"""Opening sets of the datasets library: quietly, and again where a local file changed since the library cached it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..errors import DataError, DataNotFoundError, UsageError, one_line
from ..samples import TRAIN, split_in_name, split_name
from .csv import SPLIT_COLUMNS, few_splits
from .table import pick

__all__ = ["Parts", "load_parts"]

WHOLE = "all"  # what the rows of a set that is not divided are called

READERS = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".arrow": "arrow",
    ".txt": "text",
}


@dataclass(frozen=True)
class Parts:
    """The rows by split, and the column of a set of one split that says which one each row is of."""

    spec: str
    rows: list[tuple[str, Any]]
    split_column: str | None
    unsaid: bool
    notes: list[str]

    def splits(self) -> list[str]:
        """Return the split of each row: that of its column, else that of its part."""
        made = [
            "" if self.unsaid or split == WHOLE else split_name(split)
            for split, part in self.rows
            for _ in range(len(part))
        ]
        if self.split_column is None:
            return made
        values = [value for _, part in self.rows for value in _names(part, self.split_column)]
        said = [own if value is None else split_name(str(value)) for own, value in zip(made, values, strict=True)]
        return few_splits(said, self.split_column, self.spec)


def load_parts(library: Any, place: str, options: dict[str, str], spec: str) -> Parts:
    """Return the rows of the splits that were asked for, or of all."""
    path = Path(place).expanduser()
    given: dict[str, Any] = {"name": options.get("config")}
    if path.is_file():
        if path.suffix.lower() not in READERS:
            raise DataError(f"{path} is no {', '.join(READERS)}: hf: reads these, folders, and sets of the hub.")
        given.update(path=READERS[path.suffix.lower()], data_files=str(path.resolve()))
        if path.suffix.lower() == ".tsv":
            given["sep"] = "\t"
    elif not path.exists() and (place.startswith((".", "/", "~")) or place.count("/") > 1):
        raise DataNotFoundError(f"there is no file or folder {place}. Check --data, or where you are.")
    else:
        given["path"] = str(path.resolve()) if path.is_dir() else place
    try:
        with _quiet(library):
            found = _open(library, path, given)
            if path.exists() and _older_than_its_files(found, path):
                found = _open(library, path, {**given, "download_mode": "force_redownload"})
            return _chosen(found, options.get("split"), spec, path)
    except (UsageError, DataError):
        raise
    except Exception as error:
        said = one_line(error)
        kind = DataError if path.exists() else DataNotFoundError
        hint = (
            "Check its files." if path.exists() else "Fetch it where there is a network, and give its folder or file."
        )
        raise kind(f"{spec} cannot be loaded ({type(error).__name__}: {said}). {hint}") from error


def _open(library: Any, path: Path, given: dict[str, Any]) -> Any:
    if path.is_dir() and ((path / "dataset_dict.json").is_file() or (path / "state.json").is_file()):
        found = library.load_from_disk(str(path))
    else:
        found = library.load_dataset(**given)
    if path.is_file():  # the library calls any file's rows "train"
        (rows,) = found.values() if hasattr(found, "items") else [found]
        return {split_in_name(path.stem) or TRAIN: rows}
    return found if hasattr(found, "items") else {WHOLE: found}


def _chosen(found: Any, asked: str | None, spec: str, path: Path) -> Parts:
    first = next(iter(found.values()))
    column = asked if len(found) == 1 and asked in first.column_names and asked not in found else None
    usual = column or pick(first.column_names, None, SPLIT_COLUMNS, spec, "split")
    notes = []
    if usual is not None and len(found) > 1:
        notes = [f"the column {usual!r} is not used: the set has splits of its own"]
        usual = None
    rows = list(found.items()) if asked is None or column else _slices(found, asked, spec)
    return Parts(spec, rows, usual, path.is_file() and not split_in_name(path.stem), notes)


def _older_than_its_files(found: Any, path: Path) -> bool:
    """Return whether what the library cached of local files may be out of date: it goes by times that can be set back."""
    caches = [Path(each["filename"]) for part in found.values() for each in part.cache_files]
    outside = [cache for cache in caches if path.resolve() not in cache.resolve().parents]
    if not outside:
        return False
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    newest = max((file.stat().st_ctime_ns for file in files), default=0)
    return newest >= min(cache.stat().st_ctime_ns for cache in outside)


def _slices(found: Any, asked: str, spec: str) -> list[tuple[str, Any]]:
    """Return (split, rows) of what ``split=`` names; several slices of one split follow each other."""
    taken: dict[str, list[range]] = {}
    for each in asked.split(","):
        name = each.partition("[")[0]
        if name not in found:
            column = f", or a column: {', '.join(found[next(iter(found))].column_names)}" if len(found) == 1 else ""
            raise UsageError(f"{spec} has no split {name!r}. It has: {', '.join(found)}{column}.")
        ends = re.fullmatch(r"[^\[]+(?:\[(\d*):(\d*)\])?", each)
        if ends is None:
            raise UsageError(f"split={each} of {spec} is not a split: write NAME or NAME[FROM:TO].")
        rows = range(len(found[name]))[slice(*(int(end) if end else None for end in ends.groups()))]
        taken.setdefault(name, []).append(rows)
    for name, several in taken.items():
        ordered = sorted((rows for rows in several if rows), key=lambda rows: rows.start)
        if any(later.start < rows.stop for rows, later in pairwise(ordered)):
            raise UsageError(f"split={asked} of {spec} names rows of {name!r} twice: name each row once.")
    return [(name, _selected(found[name], several)) for name, several in taken.items()]


def _selected(part: Any, several: list[range]) -> Any:
    if several == [range(len(part))]:
        return part
    return part.select(several[0] if len(several) == 1 else [row for rows in several for row in rows])


def _names(part: Any, column: str) -> list[Any]:
    """Return the values of a column, names for the numbers of classes."""
    feature, values = part.features[column], part.select_columns([column])[:][column]
    names = getattr(feature, "names", None)
    return [None if value is None else names[value] if names else value for value in values]


@contextlib.contextmanager
def _quiet(library: Any) -> Iterator[None]:
    """Keep the library's progress bars and remarks to themselves."""
    logging = library.utils.logging
    level, bars = logging.get_verbosity(), not library.utils.are_progress_bars_disabled()
    logging.set_verbosity_error()
    library.disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            library.enable_progress_bars()
