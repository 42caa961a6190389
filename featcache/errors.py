"""The errors that featcache raises on purpose.

    FeatCacheError                      exit code of the command line
    ├── UsageError (ValueError)                   2   an option or a specification makes no sense
    │   ├── ConfigError                           2   featcache.toml, or a value in it
    │   └── UnknownNameError (LookupError)        2   no such backbone, data source, cut, head, …
    │       └── UnknownCutError                   2   no module of that name in the backbone
    ├── SplitError (ValueError)                   1   the cut exists, but caching there would be unsound
    ├── FingerprintError (TypeError)              1   a thing has no deterministic identity
    ├── DataError (ValueError)                    1   the dataset cannot be used as it is
    │   ├── DataNotFoundError (FileNotFoundError) 1   no such file or folder
    │   ├── UnreadableSampleError (OSError)       1   a sample exists but cannot be read
    │   └── NonFiniteError                        1   features came out as NaN or infinity
    ├── StoreError (OSError)                      1   the store cannot be used
    │   ├── NotAStoreError                        1   the folder is something else
    │   ├── StoreFormatError                      1   written by a newer featcache
    │   ├── StorePermissionError (PermissionError) 1  reading or writing is not allowed
    │   └── CorruptError (ValueError)             1   a file of the store is damaged or hostile
    ├── StaleError (LookupError)                  3   features are stale, missing or incomplete
    ├── HeadError (ValueError)                    1   a head cannot be trained, loaded or used
    └── MissingDependencyError (ImportError)      1   an optional package is needed

Every message says what was asked, what was found and what to do next.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

__all__ = [
    "ConfigError",
    "CorruptError",
    "DataError",
    "DataNotFoundError",
    "FeatCacheError",
    "FingerprintError",
    "HeadError",
    "MissingDependencyError",
    "NonFiniteError",
    "NotAStoreError",
    "SplitError",
    "StaleError",
    "StoreError",
    "StoreFormatError",
    "StorePermissionError",
    "UnknownCutError",
    "UnknownNameError",
    "UnreadableSampleError",
    "UsageError",
    "near_names",
    "printable",
]

SURROGATES = re.compile("[\ud800-\udfff]")  # what Python reads bytes as that are not UTF-8


class FeatCacheError(Exception):
    """Base of every error that a user of featcache can cause.

    Attributes
    ----------
    exit_code : int
        The exit code of the command line.
    """

    exit_code = 1

    def __str__(self) -> str:
        """Return the message alone (KeyError and OSError would decorate it)."""
        return str(self.args[0]) if self.args else type(self).__name__


class UsageError(FeatCacheError, ValueError):
    """An option, argument or specification that makes no sense."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration file that cannot be used."""


class UnknownNameError(UsageError, LookupError):
    """A name that is not registered or does not exist."""


class UnknownCutError(UnknownNameError):
    """A cut that names no module of the backbone."""


class SplitError(FeatCacheError, ValueError):
    """A cut at which caching would be unsound."""


class FingerprintError(FeatCacheError, TypeError):
    """A thing that has no deterministic identity."""


class DataError(FeatCacheError, ValueError):
    """A dataset that cannot be used as it is."""


class DataNotFoundError(DataError, FileNotFoundError):
    """A dataset that is not where it was said to be."""


class UnreadableSampleError(DataError, OSError):
    """A sample that exists and cannot be read."""


class NonFiniteError(DataError):
    """A sample whose features are NaN or infinite."""


class StoreError(FeatCacheError, OSError):
    """A store that cannot be used."""


class NotAStoreError(StoreError):
    """A folder that holds something other than a store."""


class StoreFormatError(StoreError):
    """A store that a newer featcache wrote."""


class StorePermissionError(StoreError, PermissionError):
    """A store that may not be read or written."""


class CorruptError(StoreError, ValueError):
    """A file of the store that is damaged or hostile."""


class StaleError(FeatCacheError, LookupError):
    """Features that are stale, missing or incomplete."""

    exit_code = 3


class HeadError(FeatCacheError, ValueError):
    """A head that cannot be trained, loaded or used."""


class MissingDependencyError(FeatCacheError, ImportError):
    """An optional package that is needed and not installed."""


def one_line(error: BaseException, most: int = 300) -> str:
    """Return what an error says without line breaks, at most so many characters of it, without a full stop."""
    return " ".join(str(error).split())[:most].rstrip(".")


def printable(text: str) -> str:
    """Return text that any stream or file takes: bytes of a file's name that are not UTF-8 become ``\\xe9`` and the like."""
    return SURROGATES.sub(lambda found: ascii(found[0])[1:-1].replace("\\udc", "\\x"), text)


def near_names(name: str, known: Iterable[str], limit: int = 3) -> str:
    """Return ``" Did you mean 'a' or 'b'?"`` for the names near to this one, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=limit, cutoff=0.5)
    if not close:
        return ""
    return " Did you mean " + " or ".join(repr(each) for each in close) + "?"
