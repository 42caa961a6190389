"""Opening sets of the datasets library: quietly, and again where a local file changed since the library cached it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import DataError, DataNotFoundError, UsageError, one_line

__all__ = ["WHOLE", "load_parts"]

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


def load_parts(library: Any, place: str, options: dict[str, str], spec: str) -> list[tuple[str, Any]]:
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
