"""``python -m tests.fuzz.run``: check many random programs, print what fails as scripts, and a table at the end."""

from __future__ import annotations

import argparse
import collections
import itertools
import multiprocessing
import random
import re
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from .checker import Verdict, check
from .pieces import SOUND
from .programs import draw
from .shrink import script, shrunk

__all__ = ["Table", "main", "verdicts"]


class Table:
    """What became of many programs."""

    def __init__(self) -> None:
        self.counts: collections.Counter[tuple[str, str]] = collections.Counter()
        self.reasons: dict[str, list[int]] = {}
        self.failed: list[tuple[int, Verdict]] = []

    def add(self, seed: int, verdict: Verdict) -> None:
        self.counts[verdict.fact, verdict.kind] += 1
        if verdict.failed:
            self.failed.append((seed, verdict))
        if verdict.kind == "refused" and verdict.fact == SOUND:
            self.reasons.setdefault(_reason(verdict.what), []).append(seed)

    def count(self, kind: str) -> int:
        return sum(number for (_, each), number in self.counts.items() if each == kind)

    @property
    def refused_share(self) -> float:
        """The share of the sound programs that are refused."""
        sound = sum(number for (fact, kind), number in self.counts.items() if fact == SOUND and kind != "unfit")
        return self.counts[SOUND, "refused"] / max(1, sound)

    def __str__(self) -> str:
        kinds = ("right", "refused", "wrong", "crash", "unfit", "chaotic")
        lines = [f"{'':10}" + "".join(f"{kind:>9}" for kind in kinds)]
        for fact in ("sound", "dubious", "mixed"):
            lines.append(f"{fact:10}" + "".join(f"{self.counts[fact, kind]:9,}" for kind in kinds))
        lines.append(f"{sum(self.counts.values()):,} programs, {self.count('wrong')} wrong, {self.count('crash')} crashes, "
                     f"{100 * self.refused_share:.1f} % of the sound ones refused")  # fmt: skip
        lines += [
            f"  {len(seeds):4} refused: {reason} (seeds {seeds[:4]})"
            for reason, seeds in sorted(self.reasons.items(), key=lambda each: -len(each[1]))
        ]
        failed = collections.defaultdict(list)
        for seed, verdict in self.failed:
            failed[f"{verdict.kind} ({verdict.fact}), {verdict.check}: {_reason(verdict.what)}"].append(seed)
        lines += [
            f"  {len(seeds):4} {what} (seeds {seeds[:6]})"
            for what, seeds in sorted(failed.items(), key=lambda each: -len(each[1]))
        ]
        return "\n".join(lines)


def _reason(what: str) -> str:
    """What was said, without the names and numbers of one program."""
    short = re.sub(r" Nearest cuts.*", "", what, flags=re.DOTALL)
    short = re.sub(r"\[[^]]*\]|'[^']*'", "…", short)
    short = re.sub(r"\b(?:s\d\.)?(?:b\d+)(?:\.\w+)*\b", "…", short)
    return re.sub(r"[\d.]+(?:e[-+]\d+)?", "#", short)[:150]


def _one(seed: int) -> tuple[int, Verdict]:
    return seed, check(draw(seed))


def verdicts(seeds: Iterable[int], processes: int = 1) -> Iterator[tuple[int, Verdict]]:
    """Yield the verdicts on the programs of some seeds."""
    torch.set_num_threads(1)
    if processes == 1:
        yield from map(_one, seeds)
        return
    with multiprocessing.get_context("spawn").Pool(processes, torch.set_num_threads, (1,)) as pool:
        yield from pool.imap_unordered(_one, seeds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, help="how many programs; without it, until told")
    parser.add_argument("--seed", type=int, help="the first seed; a fresh one by default")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument(
        "--scripts", type=Path, help="a folder for the scripts of failing programs, which are printed otherwise"
    )
    parser.add_argument("--no-shrink", action="store_true", help="only say which programs fail")
    options = parser.parse_args()
    first = random.SystemRandom().randrange(10**6) * 1000 if options.seed is None else options.seed
    print(f"seed {first}", flush=True)
    table, started_s = Table(), time.monotonic()
    seeds = itertools.count(first) if options.count is None else range(first, first + options.count)
    try:
        for number, (seed, verdict) in enumerate(verdicts(seeds, options.processes), 1):
            table.add(seed, verdict)
            if verdict.failed:
                print(f"\nprogram {seed}: {verdict.kind} ({verdict.fact}), {verdict.check}: {verdict.what}", flush=True)
            if number % 100 == 0:
                print(
                    f"{number:,} programs, {len(table.failed)} failed, {time.monotonic() - started_s:.0f} s", flush=True
                )
    except KeyboardInterrupt:
        print("\ninterrupted", flush=True)
    print(table, flush=True)
    if not options.no_shrink:
        _print_scripts(table, options.scripts)
    return 1 if table.failed else 0


def _print_scripts(table: Table, folder: Path | None) -> None:
    """Shrink one program of each way to fail."""
    first: dict[tuple[str, str, str], tuple[int, Verdict]] = {}
    for seed, verdict in table.failed:
        first.setdefault((verdict.kind, verdict.check, _reason(verdict.what)), (seed, verdict))
    for seed, verdict in first.values():
        text = script(shrunk(draw(seed), verdict), verdict)
        if folder is None:
            print(f"\n{'-' * 20} program {seed}\n{text}", flush=True)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{seed}.py").write_text(text, "utf-8")
            print(f"program {seed}: {folder / f'{seed}.py'}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
