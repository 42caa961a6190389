"""Makes small changes at random to the rooms that decide what is stale, what a row is and what is safe, and sees which of
them the tests notice: in copies of the working tree, which itself is left alone."""

from __future__ import annotations

import argparse
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue

from .changes import Mutant, chosen

ROOT = Path(__file__).parents[2]
NEAR = {"extraction/missing.py": "tests/extraction/test_missing.py", "training/rows.py": "tests/training/test_rows.py"}
# What is asked only about what the tests of the room itself let pass.
WIDER = ("tests/hdf5", "tests/extraction", "tests/catalog", "tests/datasets", "tests/features", "tests/store")
EQUIVALENT = Path(__file__).with_name("equivalent.txt")
SHORTEST_LIMIT_S, LIMIT_FACTOR = 60, 3


def tests_for(mutant: Mutant, copy: Path, near_only: bool) -> Iterator[list[str]]:
    """Yield what to ask, one after another: the quick tests of the room, those that name the file first; then more."""
    room, stem = mutant.file.split("/")[0], Path(mutant.file).stem
    near = NEAR.get(mutant.file, f"tests/{room}")
    found = sorted((copy / near).glob("test_*.py")) or [copy / near]
    found.sort(key=lambda file: stem not in file.read_text("utf-8"))
    yield ["-m", "not slow", *(str(file.relative_to(copy)) for file in found)]
    if not near_only:
        yield ["-m", "not slow", *(each for each in WIDER if each != near)]


def copied(folder: Path) -> Path:
    """Copy what git knows, or would take, of the working tree."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def passed(copy: Path, tests: list[str], limit_s: float | None = None) -> bool:
    """Return whether tests pass in a copy, within a limit."""
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "--hypothesis-seed=0", *tests]
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(
        command, cwd=copy, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        return running.wait(limit_s) in (0, 5)  # 5: there are none
    except subprocess.TimeoutExpired:
        return False
    finally:
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)  # also what the tests started
        running.wait()


class Workshop:
    """Copies of the working tree, in each of which one mutant at a time is tried."""

    def __init__(self, folder: Path, jobs: int, near: bool) -> None:
        self.near = near
        self.limits_s: dict[str, float] = {}
        self.copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(jobs):
            self.copies.put(copied(folder / str(number)))

    def noticed(self, mutant: Mutant) -> bool:
        """Return whether any tests notice a mutant."""
        copy = self.copies.get()
        try:
            return any(self._noticed(copy, mutant, tests) for tests in tests_for(mutant, copy, self.near))
        finally:
            self.copies.put(copy)

    def _noticed(self, copy: Path, mutant: Mutant, tests: list[str]) -> bool:
        which, started_s = " ".join(sorted(tests)), time.monotonic()
        if which not in self.limits_s:
            if not passed(copy, tests):
                raise SystemExit(f"without any change, these tests do not pass: {which}")
            self.limits_s[which] = max(SHORTEST_LIMIT_S, LIMIT_FACTOR * (time.monotonic() - started_s))
        path = copy / "featcache" / mutant.file
        path.write_text(mutant.after, "utf-8")
        try:
            return not passed(copy, tests, self.limits_s[which])
        finally:
            path.write_text(mutant.before, "utf-8")


def known_as_equivalent() -> set[tuple[str, ...]]:
    """Return the keys of the mutants that change nothing that a test could see."""
    blocks = EQUIVALENT.read_text("utf-8").split("\n\n") if EQUIVALENT.exists() else []
    lines = ([line for line in block.splitlines() if not line.startswith("#")] for block in blocks)
    return {tuple(each) for each in lines if each}


def main() -> int:
    """Run a sample, and return 1 where too few of it are noticed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20, help="how many mutants")
    parser.add_argument("--seed", type=int, default=None, help="which ones; by default others each time")
    parser.add_argument("--only", default="", help="only files that this regular expression finds, such as ^store/")
    parser.add_argument("--near", action="store_true", help="ask only the tests of the room")
    parser.add_argument("--least", type=float, default=0.9, help="the share that has to be noticed")
    parser.add_argument("--jobs", type=int, default=2, help="how many are tried at once")
    options = parser.parse_args()
    seed = secrets.randbelow(10**6) if options.seed is None else options.seed
    print(f"mutants: count {options.count}, seed {seed}", flush=True)
    equivalent = known_as_equivalent()
    drawn = chosen(options.count, random.Random(seed), options.only)
    mutants = [each for each in drawn if each.key not in equivalent]
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, ThreadPoolExecutor(options.jobs) as pool:
        workshop = Workshop(Path(folder), options.jobs, options.near)
        unnoticed = 0
        for mutant, found in zip(mutants, pool.map(workshop.noticed, mutants), strict=True):
            unnoticed += not found
            print(
                f"{'noticed' if found else 'NOT NOTICED'}: {mutant.file}", *([] if found else [mutant.diff]), flush=True
            )
    share = 1 - unnoticed / max(1, len(mutants))
    print(
        f"{len(mutants) - unnoticed} of {len(mutants)} mutants were noticed ({share:.0%}); "
        f"{len(drawn) - len(mutants)} are known as equivalent; seed {seed}"
    )
    return int(share < options.least)


if __name__ == "__main__":
    sys.exit(main())
