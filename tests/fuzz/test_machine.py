"""The machine that looks for silent differences finds those that are planted."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

import featcache
from featcache.catalog.feature_store import FeatureStore

from .checker import check
from .known import facts
from .programs import PIECES, Program, Step, draw
from .shrink import script, shrunk
from .writing import source

ROOT = Path(__file__).parents[2]
NET = Program(
    7,
    "vectors",
    (
        Step("linear and activation", {"act": "nn.Tanh()"}),
        Step("batch norm"),
        Step("linear"),
        Step("dropout", {"p": "0.2", "more": ""}),
    ),
    cut=0.6,
    shallower=0.4,
)


def test_a_seed_gives_the_same_program_every_time() -> None:
    assert [draw(seed) for seed in range(50)] == [draw(seed) for seed in range(50)]
    assert len({source(draw(seed)) for seed in range(50)}) == 50


def test_a_program_comes_back_from_its_description() -> None:
    for seed in range(100):
        program = draw(seed)
        assert Program.from_json(program.to_json()) == program


def test_every_piece_occurs() -> None:
    wanted, seen = set(PIECES), set()
    for seed in itertools.count():
        seen |= {step.piece for step in draw(seed).steps}
        if seen == wanted:
            break
        assert seed < 20_000, wanted - seen


def test_programs_of_all_facts_are_drawn_most_of_them_sound() -> None:
    found = [facts(draw(seed)).fact for seed in range(400)]
    assert found.count("sound") > 240
    assert found.count("mixed") > 20
    assert found.count("dubious") > 20


def test_a_plain_network_is_found_right() -> None:
    assert check(NET).kind == "right", check(NET)


def test_a_mixing_network_is_refused() -> None:
    mixed = Program(7, "vectors", (Step("linear"), Step("batch mean"), Step("linear")), cut=0.9)
    assert (check(mixed).fact, check(mixed).kind) == ("mixed", "refused")


# It is planted behind featcache's own proof, which would refuse it.
PREFIX_IS_OFF = """
import featcache
plain = featcache.split

def off(*args, **kwargs):
    made = plain(*args, **kwargs)
    true = made.prefix
    made.prefix = lambda *args, **kwargs: true(*args, **kwargs) + 1e-3
    return made
"""


def prefix_is_off(patch: pytest.MonkeyPatch) -> None:
    names: dict = {}
    exec(PREFIX_IS_OFF, names)
    patch.setattr(featcache, "split", names["off"])


def stored_rows_are_off(patch: pytest.MonkeyPatch) -> None:
    plain = featcache.Features.__getitem__
    patch.setattr(featcache.Features, "__getitem__", lambda self, index: (plain(self, index)[0] + 1e-3, 0))


def names_ignore_weights(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(featcache.Split, "weights", property(lambda self: {}))


def names_differ_by_chance(patch: pytest.MonkeyPatch) -> None:
    plain, numbers = FeatureStore.status, itertools.count()

    def other(self, *args, **kwargs):
        found = plain(self, *args, **kwargs)
        return found.__class__(**{**vars(found), "recipe": f"{found.recipe}{next(numbers)}"})

    patch.setattr(FeatureStore, "status", other)


def suffix_is_never_trained(patch: pytest.MonkeyPatch) -> None:
    plain = featcache.split

    def evaluating(*args, **kwargs):
        made = plain(*args, **kwargs)
        made.suffix.eval()
        made.suffix.train = lambda mode=True: made.suffix
        return made

    patch.setattr(featcache, "split", evaluating)


def network_is_touched(patch: pytest.MonkeyPatch) -> None:
    plain = featcache.cuts

    def touching(model, *args, **kwargs):
        model.train()
        return plain(model, *args, **kwargs)

    patch.setattr(featcache, "cuts", touching)


def network_crashes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("featcache.splitting.splitting.structure_digest", lambda analysis: {}["absent"])


PLANTED = {
    prefix_is_off: ("wrong", "check_suffix"),
    stored_rows_are_off: ("wrong", "check_rows"),
    names_ignore_weights: ("wrong", "check_edits"),
    names_differ_by_chance: ("wrong", "check_names"),
    suffix_is_never_trained: ("wrong", "check_training"),
    network_is_touched: ("wrong", "check_left_alone"),
    network_crashes: ("crash", "check_rows"),
}


@pytest.mark.slow
@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_fault_is_found(plant, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check(NET).kind == "right"
    plant(monkeypatch)
    found = check(NET)
    assert (found.kind, found.check) == PLANTED[plant], found.what


@pytest.mark.slow
def test_a_failing_program_shrinks_to_a_script_that_fails_by_itself(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    failing = Program(
        7,
        "vectors",
        (Step("linear"), Step("number", hook="forward"), Step("linear"), Step("scale"), Step("layer norm")),
        cut=0.9,
        mode="train",
    )
    prefix_is_off(monkeypatch)
    verdict = check(failing)
    smaller = shrunk(failing, verdict)
    assert len(smaller.steps) < 3
    assert len(source(smaller)) < len(source(failing))
    assert smaller.mode == "eval"
    assert (check(smaller).kind, check(smaller).check) == (verdict.kind, verdict.check)
    planted = f"{PREFIX_IS_OFF}\nfeatcache.split = off\n"
    path = tmp_path / "program.py"
    for fault, expected in ((planted, 1), ("", 0)):
        path.write_text(fault + script(smaller, verdict), "utf-8")
        done = subprocess.run(
            [sys.executable, str(path)], capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}
        )
        assert done.returncode == expected, done.stderr
        assert ("WrongError: suffix(prefix(x))" in done.stderr) == bool(expected)
