"""How ``--help`` is laid out: commands by step, and a command's own options before those that many share."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import click

__all__ = ["STEPS", "write_commands", "write_options"]

STEPS = {
    "Start": ("init", "cuts"),
    "Choose": ("plan", "probe", "sweep"),
    "Compute": ("extract", "train-head"),
    "Use": ("predict", "export", "report", "heads"),
    "Store": ("status", "explain", "ls", "verify", "gc", "pin", "unpin"),
}
SHARED = {
    "Splits": ("validation", "train_splits", "validation_splits", "test_splits"),
    "Data and network": (
        "backbone", "weights", "data", "image_size", "transform", "decoding", "exif", "background", "on_error", "batch_size",
        "device",
    ),
    "What is stored": (
        "store", "dtype", "numerics", "pool", "views", "augment", "view_seed", "from_lossy", "codec", "store_budget",
    ),
    "Output": ("as_json", "quiet", "config"),
}  # fmt: skip


def write_options(command: click.Command, context: click.Context, formatter: click.HelpFormatter) -> None:
    """Write a command's options in groups, its own ones first."""
    places = {name: title for title, names in SHARED.items() for name in names}
    groups: dict[str, list[tuple[str, str]]] = {"Options": [], **{title: [] for title in SHARED}}
    asks = command.get_help_option(context)
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None:
            last = "Output" if parameter is asks else "Options"
            groups[places.get(str(parameter.name), last)].append(record)
    for title, records in groups.items():
        if records:
            with formatter.section(title):
                formatter.write_dl(records)


def write_commands(commands: Sequence[tuple[str, click.Command]], formatter: click.HelpFormatter) -> None:
    """Write what commands are for, by the step in which they are used."""
    width = max(len(name) for name, _ in commands)
    for title, names in STEPS.items():
        shown = _described([each for each in commands if each[0] in names], formatter.width - width - 6)
        with formatter.section(title):
            formatter.write_dl([(name.ljust(width), words) for name, words in shown])


def _described(commands: Collection[tuple[str, click.Command]], most: int) -> list[tuple[str, str]]:
    return [(name, command.get_short_help_str(most)) for name, command in commands]
