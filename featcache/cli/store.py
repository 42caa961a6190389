"""``featcache ls`` and ``featcache verify``: what is stored, and whether it is whole."""

from __future__ import annotations

import time
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from .options import command, cut_option, project_options, store_option, stored_cuts, the_project
from .output import count, print_json, print_line, print_table, print_text, short_id, size

if TYPE_CHECKING:
    from ..catalog import Recomputed, SetInfo, VerifyReport


@command("ls")
@store_option
def ls_command(as_json: bool, store: str) -> None:
    """List the feature sets of a store.

    \b
    featcache ls
    featcache ls --store s3://bucket/features --json
    """
    from ..catalog import FeatureStore

    sets = FeatureStore(store).sets()
    if as_json:
        print_json(sets)
        return
    if not sets:
        print_line(f"{store} holds no feature sets yet; `featcache extract` makes them.")
        return
    print_table(
        ["set", "cut", "stored", "features", "rows", "size", "heads", "written"],
        [
            [
                short_id(info.recipe),
                info.cut,
                ", ".join(_stored(info)),
                " + ".join(str(spec) for spec in info.frontier),
                f"{info.rows:,}",
                size(info.size_bytes),
                f"{len(info.heads):,}",
                time.strftime("%Y-%m-%d %H:%M", time.localtime(info.modified_s)),
            ]
            for info in sets
        ],
    )


def _stored(info: SetInfo) -> list[str]:
    """Return how a set is stored, where that is not the usual way."""
    words = [info.dtype]
    if info.numerics != "exact":
        words.append(f"{info.numerics} numerics")
    if info.pool is not None:
        words.append(f"pooled ({info.pool})")
    return [*words, "random views"] if info.views else words


@command("verify")
@project_options
@cut_option
@click.option("--repair", is_flag=True, help="Drop what is damaged, so that the next extract recomputes only that.")
@click.option(
    "--recompute", type=click.IntRange(min=1), metavar="N", help="Compare N rows of each cut with fresh ones."
)
def verify_command(as_json: bool, cut: tuple[str, ...], repair: bool, recompute: int | None, **options: Any) -> int:
    """Compare every byte of a store with its checksums.

    Exits 1 if something is damaged. With --recompute, also computes rows again and compares them. Only this option needs
    a backbone and data.

    \b
    featcache verify
    featcache verify --repair
    """
    from ..catalog import FeatureStore

    report = FeatureStore(options["store"]).verify(repair)
    compared = _recomputed(options, cut, recompute) if recompute is not None else []
    if as_json:
        print_json({**{each.name: getattr(report, each.name) for each in fields(report)}, "recomputed": compared})
    else:
        _say(report, repair)
        for each in compared:
            _say_compared(each)
    return 1 if report.unrepaired or not all(each.within_rounding for each in compared) else 0


def _recomputed(options: dict[str, Any], cut: tuple[str, ...], rows: int) -> list[Recomputed]:
    project = the_project(options)
    return project.recompute(stored_cuts(project, cut), rows)


def _say(report: VerifyReport, repair: bool) -> None:
    print_text(
        f"{count(report.sets, 'set')}, {count(report.shards, 'shard')}, {count(report.rows, 'row')}, "
        f"{count(report.snapshots, 'snapshot')}, {count(report.heads, 'head')}, {size(report.size_bytes)} read: "
        f"{count(len(report.damaged), 'damaged file')}."
    )
    for damage in report.damaged:
        rows = "".join(f", rows {first} to {last - 1}" for first, last in damage.rows)
        done = f" Repaired: {damage.repair}." if damage.repair else ""
        print_text(f"damaged: {damage.path}{rows}: {damage.reason}{done}")
    if report.unrepaired and not repair:
        print_line("`featcache verify --repair` drops what is damaged; `featcache extract` then recomputes just that.")


def _say_compared(found: Recomputed) -> None:
    verdict = "within rounding" if found.within_rounding else "more than rounding explains"
    where = f" at {found.sample}" if found.sample else ""
    print_text(
        f"{found.cut}: {count(found.rows, 'row')} recomputed, largest difference {found.largest_difference:.3g} "
        f"({found.relative_difference:.1e} of the largest value){where}: {verdict}."
    )
    for name, (stored, now) in found.provenance.items():
        print_text(f"  {name}: stored with {stored}, now {now}")
