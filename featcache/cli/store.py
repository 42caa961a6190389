"""``featcache ls`` and ``featcache verify``: what is stored, and whether it is whole."""

from __future__ import annotations

import time

import click

from .options import command, store_option
from .output import count, document, size, table, tell


@command("ls")
@store_option
def ls_command(as_json: bool, store: str) -> None:
    """List the feature sets of a store."""
    from ..catalog import FeatureStore

    sets = FeatureStore(store).sets()
    if as_json:
        document(sets)
        return
    if not sets:
        tell(f"{store} holds no feature sets yet; `featcache extract` makes them.")
        return
    table(
        ["set", "cut", "dtype", "frontier", "rows", "shards", "size", "written"],
        [
            [
                info.recipe,
                info.cut,
                info.dtype,
                " + ".join(str(spec) for spec in info.frontier),
                f"{info.rows:,}",
                f"{info.shards:,}",
                size(info.size_bytes),
                time.strftime("%Y-%m-%d %H:%M", time.localtime(info.modified_s)),
            ]
            for info in sets
        ],
    )


@command("verify")
@store_option
def verify_command(as_json: bool, store: str) -> int:
    """Read every byte of a store and compare it with its checksums; exit 1 if something is damaged."""
    from ..catalog import FeatureStore

    report = FeatureStore(store).verify()
    if as_json:
        document(report)
    else:
        click.echo(
            f"{count(report.sets, 'set')}, {count(report.shards, 'shard')}, {count(report.rows, 'row')}, "
            f"{count(report.snapshots, 'snapshot')}, {size(report.size_bytes)} read: "
            f"{count(len(report.damaged), 'damaged file')}."
        )
        for damage in report.damaged:
            rows = "".join(f", rows {first} to {last - 1}" for first, last in damage.rows)
            click.echo(f"damaged: {damage.path}{rows}: {damage.reason}")
        if report.damaged:
            tell("Delete the damaged files and run `featcache extract` to have their rows recomputed.")
    return 1 if report.damaged else 0
