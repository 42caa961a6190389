"""``featcache heads``: the trained heads of a store, side by side."""

from __future__ import annotations

import time

import click

from .options import command, store_option
from .output import count, print_json, print_line, print_problem, print_table


@command("heads")
@store_option
@click.option("--remove", multiple=True, metavar="NAME", help="Remove this head; repeat the option to remove several.")
def heads_command(as_json: bool, store: str, remove: tuple[str, ...]) -> int:
    """Compare the trained heads of a store, or remove some.

    Figures are comparable if the heads were judged by the same rows: on the same data, and both by its test split or
    both by validation rows.

    \b
    featcache heads                      list them, with what they were judged by
    featcache heads --remove first-try   remove one
    """
    from ..project import remove_heads, saved_heads

    removed = tuple(dict.fromkeys(remove))
    if removed:
        remove_heads(store, removed)
        print_line(f"removed {count(len(removed), 'head')}: {', '.join(removed)}.")
    heads, damaged = saved_heads(store)
    for words in damaged:
        print_problem(f"not shown: {words}")
    code = 1 if damaged and not removed else 0
    if as_json:
        print_json(heads)
        return code
    if not heads:
        print_line(
            f"{store} holds no heads{' that can be read' if damaged else ''}; `featcache train-head` makes them."
        )
        return code
    print_table(
        ["head", "kind", "cut", "data", "judged by", "figures", "trained"],
        [
            [
                head.name,
                head.kind,
                head.cut,
                head.dataset,
                f"{head.split}, {count(head.samples, 'sample')}" if head.split else "nothing",
                ", ".join(f"{name} {value}" for name, value in head.figures.items()) or "-",
                time.strftime("%Y-%m-%d %H:%M", time.localtime(head.modified_s)),
            ]
            for head in heads
        ],
    )
    return code
