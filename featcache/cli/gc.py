"""``featcache gc``, ``pin`` and ``unpin``: dropping what nothing refers to, and keeping what should stay."""

from __future__ import annotations

from typing import Any

import click

from .options import command, cut_option, project_options, store_option, the_project
from .output import age, count, print_json, print_line, print_table, short_id, size


@command("gc")
@project_options
@cut_option
@click.option("--yes", is_flag=True, help="Delete. Without this option, gc only lists what it would delete.")
@click.option(
    "--max-size",
    metavar="SIZE",
    help="Delete only the least recently used, until the rest fits in this size, such as 50GB.",
)
def gc_command(as_json: bool, cut: tuple[str, ...], yes: bool, max_size: str | None, **options: Any) -> int:
    """List what nothing refers to, and delete it with --yes.

    Keeps what the configuration, a head or a pin refers to, what another process uses, and rows of deleted samples
    inside a set that is kept. Without --cut, the configuration refers to every cut that is stored.

    \b
    featcache gc                         list what would be deleted
    featcache gc --yes --max-size 50GB   delete the least recently used, until the rest fits
    """
    from ..catalog import FeatureStore

    store = FeatureStore(options["store"])
    keep: Any = ()
    if options.get("backbone") and options.get("data") and store.storage.list("sets"):
        keep = the_project(options).referenced(cut)
    report = store.gc(keep, delete=yes, max_size=max_size)
    failed = bool(report.deleted and report.over_bytes)
    if as_json:
        print_json(report)
        return 1 if failed else 0
    if report.garbage:
        print_table(
            ["garbage", "size", "written", "last used", "what"],
            [
                [each.path, size(each.size_bytes), age(each.age_s), age(each.unused_s), each.description]
                for each in report.garbage
            ],
        )
    for kept in report.kept:
        print_line(f"kept {short_id(kept.recipe)}: {kept.reason} refers to it.")
    if not keep:
        print_line("no configuration was given (backbone and data), so only heads, pins and processes keep a set.")
    verb = "deleted" if yes else "would delete"
    print_line(
        f"{verb} {count(len(report.garbage), 'set or snapshot', 'sets and snapshots')} ({size(report.garbage_bytes)} of "
        f"{size(report.store_bytes)}) and {count(report.temporary_files, 'temporary file')} of dead writers."
    )
    if report.over_bytes:
        print_line(
            f"what is left is {size(report.over_bytes)} above {max_size}: all of it is referred to. Unpin or delete heads."
        )
    if report.garbage and not yes:
        print_line("Nothing was deleted; `featcache gc --yes` does.")
    return 1 if failed else 0


@command("pin")
@store_option
@click.argument("recipe", metavar="SET")
@click.option("--reason", default="", help="Why to keep the set; gc shows it.")
def pin_command(as_json: bool, store: str, recipe: str, reason: str) -> None:
    """Keep a set, even if nothing refers to it.

    SET is the beginning of a set's name, as `featcache ls` shows it.

    \b
    featcache pin 3f9a1c2 --reason "the paper's features"
    featcache unpin 3f9a1c2
    """
    from ..catalog import FeatureStore

    made = FeatureStore(store).pin(recipe, reason)
    if as_json:
        print_json(made)
    else:
        print_line(f"pinned {made.recipe}: gc keeps it.")


@command("unpin")
@store_option
@click.argument("recipe", metavar="SET")
def unpin_command(as_json: bool, store: str, recipe: str) -> None:
    """Remove a pin.

    SET is the beginning of a set's name, as `featcache ls` shows it.

    \b
    featcache unpin 3f9a1c2
    """
    from ..catalog import FeatureStore

    found = FeatureStore(store).unpin(recipe)
    if as_json:
        print_json({"recipe": found})
    else:
        print_line(f"unpinned {found}.")
