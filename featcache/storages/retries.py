"""Trying again what an object store refused for the moment, and saying in one line what it refused for good."""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable
from typing import TypeVar

from ..errors import FeatCacheError, StoreError, StorePermissionError, one_line

__all__ = ["TruncatedError", "attempt"]

TRIES = 6
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0
NOT_TRANSIENT = (IsADirectoryError, NotADirectoryError, FileExistsError, NotImplementedError, ImportError)
SECRET = re.compile(r"(\?\S+|\b(?:sig|key|token|secret|signature|password)=\S+)", re.IGNORECASE)

Result = TypeVar("Result")
log = logging.getLogger(__name__)


class TruncatedError(OSError):
    """A body that is shorter, or longer, than the store says that the object is."""


def attempt(action: str, url: str, function: Callable[[], Result]) -> Result:
    """Return what a function returns, called again with growing pauses while the store only fails for the moment.

    Raises ``FileNotFoundError`` as it is, ``StorePermissionError`` where access is denied or no credentials are
    found, and ``StoreError`` after the last try.
    """
    pause_s = FIRST_PAUSE_S
    for number in range(1, TRIES + 1):
        try:
            return function()
        except (FileNotFoundError, FeatCacheError):
            raise
        except Exception as error:
            if isinstance(error, PermissionError) or "Credential" in type(error).__name__:
                raise StorePermissionError(
                    f"cannot {action} {url}: {_said(error)}. Check the credentials in the environment "
                    "(such as AWS_PROFILE, GOOGLE_APPLICATION_CREDENTIALS or AZURE_STORAGE_CONNECTION_STRING) and the rights."
                ) from None
            if isinstance(error, NOT_TRANSIENT) or number == TRIES or not _may_pass(error):
                tries = f" (tried {number} times)" if number > 1 else ""
                raise StoreError(
                    f"cannot {action} {url}: {_said(error)}{tries}. Everything committed so far is kept: run again when "
                    "the object store answers."
                ) from None
            log.warning("cannot %s %s: %s; trying again in %.1f s", action, url, _said(error), pause_s)
            time.sleep(pause_s * random.uniform(0.5, 1.0))  # not all workers at once
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
    raise AssertionError("unreachable")


def _may_pass(error: Exception) -> bool:
    if "after shutdown" in str(error):  # of this process: no client works any more
        return False
    # Clients of object stores have errors of their own for a broken connection, which derive from no common class.
    return isinstance(error, (OSError, EOFError, TimeoutError)) or type(error).__module__.partition(".")[0] not in (
        "builtins",
        "fsspec",
    )


def _said(error: Exception) -> str:
    """Return what an error says in one line, without queries and signatures, which can hold credentials."""
    message = one_line(error, 10_000) or type(error).__name__  # a secret is found whole, then the text is cut
    return SECRET.sub("…", message)[:300].rstrip(". ")
