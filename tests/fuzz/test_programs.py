"""Random programs: what is served is never silently wrong, and what is sound is accepted."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from .checker import check, loaded
from .checks import check_elsewhere
from .programs import draw
from .run import Table
from .shrink import script, shrunk
from .writing import source

FIXED = range(100)
FRESH = 50
REFUSED = 0.02  # of the sound programs, at most
GROUPS = 10  # so that the processes of pytest share the work


def checked(seeds: Iterable[int]) -> Table:
    """Check some programs; fail with a script for the first one that is wrong."""
    table = Table()
    for seed in seeds:
        verdict = check(draw(seed))
        table.add(seed, verdict)
        if verdict.failed:
            print(script(shrunk(draw(seed), verdict), verdict))
            pytest.fail(f"program {seed}: {verdict.kind} in {verdict.check}: {verdict.what}")
    return table


@pytest.mark.slow
@pytest.mark.parametrize("group", range(GROUPS))
def test_no_program_of_a_fixed_seed_is_silently_wrong(group: int) -> None:
    checked(FIXED[group::GROUPS])


@pytest.mark.slow
@pytest.mark.parametrize("group", range(GROUPS // 2))
def test_no_program_of_a_fresh_seed_is_silently_wrong(group: int) -> None:
    first = random.SystemRandom().randrange(10**9)
    print(f"python -m tests.fuzz.run --seed {first} --count {FRESH // (GROUPS // 2)}")
    checked(range(first, first + FRESH // (GROUPS // 2)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [3, 13])
def test_another_process_gives_a_set_the_same_name(seed: int, tmp_path) -> None:
    check_elsewhere(loaded(source(draw(seed)), tmp_path / "elsewhere.py"))
