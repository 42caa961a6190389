"""What the commands print: one JSON document or a table on stdout, words and progress on stderr."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import printable
from ..progress import ProgressEvent, silent
from ..quantity import duration_in_words as duration, short_id, size_in_words as size
from .logs import is_json, logger

if TYPE_CHECKING:
    from ..samples import Unreadable

__all__ = [
    "age",
    "be_quiet",
    "count",
    "duration",
    "print_json",
    "print_left_out",
    "print_line",
    "print_notes",
    "print_problem",
    "print_skipped",
    "print_table",
    "print_text",
    "progress_bar",
    "short_id",
    "size",
    "write_text",
]

PROGRESS_EVERY_S = 1.0  # in logs
SHOWN = 5  # of a long list
QUIET = "featcache.quiet"


def print_line(words: str) -> None:
    """Write a sentence to stderr, unless the command is to be quiet."""
    if not _is_quiet():
        print_problem(words)


def print_problem(words: str) -> None:
    """Write a sentence to stderr that a quiet command says, too: an error or a warning."""
    words = printable(words)
    if is_json():
        logger.info(words)
    else:
        click.echo(words, err=True)


def be_quiet(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    """Have a command say only what is wrong: the callback of ``--quiet``."""
    context.meta[QUIET] = value


def _is_quiet() -> bool:
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(QUIET))


def print_text(text: str) -> None:
    """Write a line to stdout."""
    click.echo(printable(text))


def write_text(path: str, text: str) -> None:
    """Write a file of text; one that is there is replaced when the whole new one lies beside it."""
    from ..storages import whole_file

    with whole_file(Path(path)) as temporary:
        temporary.write_text(text, encoding="utf-8")


def print_notes(notes: Iterable[str]) -> None:
    """Write remarks to stderr, a line each."""
    for note in notes:
        print_line(f"note: {note}.")


def print_skipped(skipped: Sequence[Unreadable]) -> None:
    """Write to stderr which samples are skipped and why: the first few of them, and how many more."""
    for sample in skipped[:SHOWN]:
        print_line(f"skipped {sample.name}: {sample.reason}")
    if len(skipped) > SHOWN:
        print_line(f"skipped {len(skipped) - SHOWN:,} more; --json lists them all.")


def print_left_out(left_out: Mapping[str, int]) -> None:
    """Write to stderr how many rows of which splits are left out, nothing where there are none."""
    if left_out:
        from ..training import words_of_splits

        print_line(f"left out: {words_of_splits(left_out)}.")


def print_json(value: Any) -> None:
    """Write one JSON document to stdout; the keys of dataclasses are their field names."""
    click.echo(json.dumps(_plain(value), indent=1))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {printable(str(key)): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, str):
        return printable(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    return value


NUMBER = re.compile(r"-?[\d.,]+( \S+)?")


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write aligned columns to stdout; a column of numbers, with or without unit, is aligned right."""
    lines = [[printable(cell) for cell in line] for line in (header, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    right = [
        bool(rows) and all(NUMBER.fullmatch(row[column]) or row[column] in ("", "-") for row in rows)
        for column in range(len(header))
    ]
    for line in lines:
        cells = [
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(line, widths, right, strict=True)
        ]
        click.echo("  ".join(cells).rstrip())


def age(elapsed_s: float) -> str:
    """Return how long ago something was: 40 s ago, 5 min ago, 7 h ago, 12 days ago."""
    for unit, unit_s in (("days", 86400), ("h", 3600), ("min", 60)):
        if elapsed_s >= 2 * unit_s:
            return f"{int(elapsed_s // unit_s)} {unit} ago"
    return f"{max(0, int(elapsed_s))} s ago"


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun: 1 sample, 1,797 samples."""
    return f"{number:,} " + (noun if number == 1 else plural or noun + "s")


def _event(event: ProgressEvent) -> dict[str, Any]:
    return {"event": "progress", "stage": event.stage, "done": event.done, "total": event.total, "unit": event.unit}


@contextmanager
def progress_bar() -> Iterator[Callable[[ProgressEvent], None]]:
    """Give a progress callback that draws a tqdm bar with rate and remaining time on a terminal's stderr."""
    if _is_quiet():
        yield silent
        return
    bars: dict[str, Any] = {}
    said_s = 0.0

    def show(event: ProgressEvent) -> None:
        from tqdm import tqdm

        nonlocal said_s
        if is_json():
            if event.done == event.total or time.monotonic() - said_s > PROGRESS_EVERY_S:
                said_s = time.monotonic()
                logger.info("%s: %d of %d %s", event.stage, event.done, event.total, event.unit, extra=_event(event))
            return

        bar = bars.get(event.stage)
        if bar is None:
            for other in bars.values():
                other.close()
            bar = bars[event.stage] = tqdm(
                total=event.total,
                desc=event.stage,
                unit=f" {event.unit}",
                file=sys.stderr,
                disable=None,
                leave=False,
            )
        if event.message:
            bar.set_postfix_str(event.message)
        bar.update(event.done - bar.n)

    try:
        yield show
    finally:
        for bar in bars.values():
            bar.close()
