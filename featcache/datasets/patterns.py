"""File patterns with braces and wildcards, as webdataset's users write them."""

from __future__ import annotations

import glob
import re
from pathlib import Path

from ..errors import DataNotFoundError, UsageError

__all__ = ["expand_braces", "find_files"]

BRACES = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"(\d+)\.\.(\d+)")
MOST = 1_000_000


def expand_braces(pattern: str) -> list[str]:
    """Return the names that a pattern such as ``train-{000..012}.tar`` or ``{a,b}.tar`` stands for, in order."""
    found = BRACES.search(pattern)
    if found is None:
        return [pattern]
    numbers = RANGE.fullmatch(found[1])
    if numbers is not None:
        first, last = int(numbers[1]), int(numbers[2])
        if not 0 <= last - first < MOST:
            raise UsageError(f"the range {found[0]} of {pattern} is empty or too long: write {{FIRST..LAST}}.")
        middles = [str(number).zfill(len(numbers[1])) for number in range(first, last + 1)]
    else:
        middles = found[1].split(",")
    start, end = pattern[: found.start()], pattern[found.end() :]
    return [name for middle in middles for name in expand_braces(f"{start}{middle}{end}")]


def find_files(pattern: str) -> list[Path]:
    """Return the files that a pattern names; raises ``DataNotFoundError``, which names the first one that is missing."""
    found: list[Path] = []
    for name in expand_braces(str(Path(pattern).expanduser())):
        if any(letter in name for letter in "*?["):
            found += [Path(path) for path in sorted(glob.glob(name, recursive=True)) if Path(path).is_file()]  # noqa: PTH207
        elif Path(name).is_file():
            found.append(Path(name))
        else:
            raise DataNotFoundError(
                f"there is no file {name}, which {pattern!r} names. Check --data, or where you are."
            )
    if not found:
        raise DataNotFoundError(f"no file is called like {pattern!r}. Check --data, or where you are.")
    return list(dict.fromkeys(found))
