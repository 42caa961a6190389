"""Options of a data specification, as ``csv:train.csv?path=image&target=label`` has them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import unquote

from ..errors import UsageError, near_names

__all__ = ["QUERY", "parse_options"]

# The last question mark counts, and only before NAME=VALUE: others are part of a file pattern.
QUERY = re.compile(r"^(?P<place>.*?)\?(?P<query>[A-Za-z_]\w*=[^&?]*(?:&[A-Za-z_]\w*=[^&?]*)*)$", re.DOTALL)


def parse_options(argument: str, kind: str, known: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Return the place that a specification names, and its options; raises ``UsageError`` for an unknown one."""
    found = QUERY.match(argument)
    if found is None:
        return argument, {}
    options: dict[str, str] = {}
    for part in found["query"].split("&"):
        key, _, value = part.partition("=")
        if key not in known:
            raise UsageError(
                f"{kind}: takes no option {key!r}.{near_names(key, known)} It takes {', '.join(known)}, as in "
                f"'{kind}:{found['place']}?{known[0]}=…'."
            )
        if key in options:
            raise UsageError(f"the option {key!r} of '{kind}:{argument}' is given twice: leave one out.")
        options[key] = unquote(value)
    if not found["place"]:
        raise UsageError(f"'{kind}:{argument}' names options only: put what they are for before the question mark.")
    return found["place"], options
