"""Which process of which machine a small file belongs to, and whether that process is known to be dead."""

from __future__ import annotations

import os
import socket
from functools import lru_cache

__all__ = ["is_dead", "owner_name"]


def owner_name() -> str:
    """Return ``host~pid`` of this process, safe in a file name."""
    return f"{_host()}~{os.getpid()}"


def is_dead(owner: str) -> bool:
    """Return whether the process is known to be gone: it was of this machine, and no process has its number now."""
    host, _, pid = owner.partition("~")
    if host != _host() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False
    return False


@lru_cache(maxsize=1)
def _host() -> str:
    # Containers may share a host's name and yet count their processes apart.
    try:
        space = os.readlink("/proc/self/ns/pid").strip("pid:[]")  # noqa: PTH115
    except OSError:
        space = ""
    return "-".join(part for part in (socket.gethostname().replace("~", "-").replace("/", "-"), space) if part)
