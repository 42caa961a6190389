"""Events as JSON lines on stderr, for those who collect logs: ``--log-json``."""

from __future__ import annotations

import json
import logging
import sys
import time

__all__ = ["is_json", "log_as_json", "log_plainly", "logger"]

STANDARD = {*vars(logging.makeLogRecord({})), "message", "event"}
logger = logging.getLogger("featcache")


class _Lines(logging.Handler):
    """Writes one JSON object per line: time, level, logger, event, message and whatever the event carries."""

    def emit(self, record: logging.LogRecord) -> None:
        carried = {name: value for name, value in vars(record).items() if name not in STANDARD}
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": getattr(record, "event", "message"),
            "message": record.getMessage(),
            **carried,
        }
        sys.stderr.write(json.dumps(line, default=str) + "\n")
        sys.stderr.flush()


def log_as_json() -> None:
    """Write everything that goes to stderr as JSON lines from here on."""
    if not is_json():
        logger.addHandler(_Lines())
        logger.setLevel(logging.INFO)


def log_plainly() -> None:
    """Undo ``log_as_json``."""
    for handler in [each for each in logger.handlers if isinstance(each, _Lines)]:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)


def is_json() -> bool:
    """Return whether words are to be JSON lines."""
    return any(isinstance(each, _Lines) for each in logger.handlers)
