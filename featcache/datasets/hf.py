"""``hf:NAME``: data sets of the datasets library, from the Hugging Face hub, a local folder or a file."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, DataNotFoundError, UnreadableSampleError, UsageError, one_line
from ..extras import need
from ..identity import content_id
from ..samples import FileMemo, split_name
from .csv import TARGETS, TEXTS
from .media import DECODING, encoded, read_media
from .options import parse_options
from .table import pick
from .targets import TARGET_OPTIONS, Targets, encode_targets, look_alikes, no_targets, target_of

__all__ = ["HuggingFaceSamples", "open_hf"]

OPTIONS = ("image", "text", "audio", "split", "config", *TARGET_OPTIONS)
READERS = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".arrow": "arrow",
    ".txt": "text",
}
KINDS = {"image": "image", "audio": "sound", "text": "text"}
NO_TARGET = "none"
BATCH = 256
WHOLE = "all"  # what the rows of a set that is not divided are called

Array = np.ndarray[Any, Any]


class HuggingFaceSamples:
    """Rows of one or several splits; images and sounds stay encoded until an item is fetched, and are those of ``folder:``."""

    def __init__(self, spec: str, name: str, parts: list[tuple[str, Any]], column: str, kind: str) -> None:
        self.spec = spec
        self.name = name
        self.kind = kind
        self.column = column
        self.decoding = DECODING[kind]
        self._parts = [part for _, part in parts]
        self._ends = np.cumsum([len(part) for part in self._parts])
        whole = [split for split, _ in parts] == [WHOLE]
        self.splits = ["" if whole else split_name(split) for split, part in parts for _ in range(len(part))]
        self.names = [f"{split}/{row}" for split, part in parts for row in range(len(part))]
        self.take(no_targets(len(self.names)))

    def take(self, found: Targets) -> None:
        """Set the targets, and what is known of them."""
        self.targets, self.classes, self.notes = found.values, found.classes, found.notes
        self.splits = found.splits(self.splits)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.read(index)[1](), target_of(self.targets, index)

    def read(self, index: int) -> tuple[bytes, Callable[[], Any]]:
        """Return the id of a row's encoded content, and a function that decodes what was read."""
        part, row = self._place(index)
        value = self._parts[part][row][self.column]
        where = f"{self.spec} {self.names[index]}"
        if value is None:
            raise UnreadableSampleError(f"{where} has no value in the column {self.column!r}")
        if self.kind == "text":
            text = str(value)
            return content_id(text), lambda: text
        if value["bytes"] is None:
            return read_media(self.kind, Path(value["path"]))
        return encoded(self.kind, value["bytes"], where)

    def sample_ids(self, memo: FileMemo | None = None) -> Array:
        """Return the ids of the encoded contents (samples, 16), which files of this content have, too."""
        memo = memo or FileMemo()
        return np.concatenate([self._part_ids(part, memo) for part in self._parts])

    def _part_ids(self, part: Any, memo: FileMemo) -> Array:
        if self.kind == "text":
            ids = b"".join(
                memo.unreadable_id(f"{part._fingerprint}:{self.column}:{row}")
                if value is None
                else content_id(str(value))
                for row, value in enumerate(_column(part, self.column))
            )
            return np.frombuffer(ids, dtype=np.uint8).reshape(-1, 16)
        first = part[0][self.column]
        if first is not None and first["bytes"] is None:
            paths = [str(Path(value["path"]).absolute()) for value in _column(part, self.column)]
            anchor = Path(Path(paths[0]).anchor)
            return memo.ids(anchor, [str(Path(path).relative_to(anchor)) for path in paths])
        files = [str(Path(each["filename"]).resolve()) for each in part.cache_files]

        def read(row: int) -> bytes:
            value = part[row][self.column]
            if value is None:
                raise OSError("no value")
            content: bytes = value["bytes"]
            return content

        if not files:  # held in memory, where nothing says whether they changed
            forgotten = FileMemo()
            forgotten.unread = memo.unread
            memo = forgotten
        # Rows may be in another order in another selection of the same files, so the fingerprint is part of their name.
        return memo.part_ids(files, [f"{part._fingerprint}:{self.column}:{row}" for row in range(len(part))], read)

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
    parts = _load(library, place, options, spec)
    features = parts[0][1].features
    column, kind = _choose_input(library, features, options, spec)
    if kind != "text":
        encoded = library.Image(decode=False) if kind == "image" else library.Audio(decode=False)
        parts = [(split, part.cast_column(column, encoded)) for split, part in parts]
    made = HuggingFaceSamples(spec, name, parts, column, kind)
    if not len(made):
        raise DataError(f"{spec} has no rows.")
    made.take(_targets(library, made, parts, options))
    return made


def _load(library: Any, place: str, options: dict[str, str], spec: str) -> list[tuple[str, Any]]:
    """Return (split, rows) of the splits that were asked for, or of all."""
    path = Path(place).expanduser()
    asked = options["split"].split(",") if "split" in options else None
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
            if asked is not None:
                wanted = {each.partition("[")[0]: each for each in asked}
                unknown = next((each for each in wanted if each not in found), None)
                if unknown is not None:
                    raise UsageError(f"{spec} has no split {unknown!r}. It has: {', '.join(found)}.")
                return [(each, _slice(library, found[each], wanted[each], spec)) for each in wanted]
    except (UsageError, DataError):
        raise
    except Exception as error:
        said = one_line(error)
        kind = DataError if path.exists() else DataNotFoundError
        hint = (
            "Check its files." if path.exists() else "Fetch it where there is a network, and give its folder or file."
        )
        raise kind(f"{spec} cannot be loaded ({type(error).__name__}: {said}). {hint}") from error
    return list(found.items())


def _open(library: Any, path: Path, given: dict[str, Any]) -> Any:
    if path.is_dir() and ((path / "dataset_dict.json").is_file() or (path / "state.json").is_file()):
        found = library.load_from_disk(str(path))
    else:
        found = library.load_dataset(**given)
    return found if hasattr(found, "items") else {"train" if path.is_file() else WHOLE: found}


def _older_than_its_files(found: Any, path: Path) -> bool:
    """Return whether what the library cached of local files may be out of date: it goes by times that can be set back."""
    caches = [Path(each["filename"]) for part in found.values() for each in part.cache_files]
    outside = [cache for cache in caches if path.resolve() not in cache.resolve().parents]
    if not outside:
        return False
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    newest = max((file.stat().st_ctime_ns for file in files), default=0)
    return newest >= min(cache.stat().st_ctime_ns for cache in outside)


def _slice(library: Any, part: Any, asked: str, spec: str) -> Any:
    found = re.fullmatch(r"[^\[]+(?:\[(\d*):(\d*)\])?", asked)
    if found is None:
        raise UsageError(f"split={asked} of {spec} is not a split: write NAME or NAME[FROM:TO].")
    if "[" not in asked:
        return part
    rows = range(len(part))[slice(*(int(each) if each else None for each in found.groups()))]
    return part.select(rows)


def _choose_input(library: Any, features: Any, options: dict[str, str], spec: str) -> tuple[str, str]:
    """Return the column of the samples, and whether they are images, sounds or texts."""
    columns = list(features)
    asked = [option for option in KINDS if option in options]
    if len(asked) > 1:
        raise UsageError(f"{spec} names {' and '.join(asked)}: the samples are one of them.")
    if asked:
        return str(pick(columns, options[asked[0]], (), spec, asked[0])), KINDS[asked[0]]
    for column, feature in features.items():
        if isinstance(feature, (library.Image, library.Audio)):
            return column, "image" if isinstance(feature, library.Image) else "sound"
    texts = [column for column in columns if getattr(features[column], "dtype", None) in ("string", "large_string")]
    usual = pick(texts, None, TEXTS, spec, "text")
    if usual is None and len(texts) == 1:
        usual = texts[0]
    if usual is None:
        raise DataError(
            f"{spec} does not say which column holds its samples. It has: {', '.join(columns)}. "
            "Add image=, text= or audio=COLUMN."
        )
    return usual, "text"


def _targets(
    library: Any, samples: HuggingFaceSamples, parts: list[tuple[str, Any]], options: dict[str, str]
) -> Targets:
    features, spec, asked = parts[0][1].features, samples.spec, options.get("target")
    columns = [column for column in features if column != samples.column]
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
    values = [[value for _, part in parts for value in _column(part, name)] for name in names]

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


def _column(part: Any, name: str) -> Iterator[Any]:
    for batch in part.select_columns([name]).iter(BATCH):
        yield from batch[name]


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
