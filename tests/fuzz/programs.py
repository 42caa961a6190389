"""Programs: small descriptions of networks with data, drawn by seed, from which source code is written."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Sequence
from typing import Any

from .pieces import DUBIOUS, PLAIN, Piece
from .pieces_inputs import POOLS, SEQUENCES, TASKS
from .pieces_mixing import LOOK_ALIKES, MIXERS, MIXERS_OF

__all__ = ["KINDS", "PIECES", "STEMMED", "Program", "Step", "draw"]

PIECES = {
    piece.name: piece
    for group in (PLAIN, SEQUENCES, TASKS, POOLS, LOOK_ALIKES, MIXERS, *MIXERS_OF.values())
    for piece in group
}
# The inputs of each kind of network, by name, and the layout that its stem gives.
KINDS = {
    "vectors": (("x",), "vec"),
    "task": (("x", "task"), "vec"),
    "images": (("x",), "map"),
    "tokens": (("ids", "mask"), "seq"),
    "sequences": (("x", "lengths"), "seq"),
    "image and ids": (("x", "ids"), "map"),
}
STEMMED = ("images", "tokens", "sequences", "image and ids")  # they have a stem of their own
STYLES = ("plain", "dict", "dataclass", "tuple", "keyword")
HOOKS = ("forward", "pre", "keyword", "in place", "first")
OUTPUTS = ("tensor", "dict", "dataclass", "tuple")


@dataclasses.dataclass(frozen=True)
class Step:
    """A piece at its place: which values its placeholders take, how its block is called, in which stage it stands."""

    piece: str
    choices: dict[str, str] = dataclasses.field(default_factory=dict)
    loose: bool = False
    style: str = "plain"
    hook: str = ""
    stage: int = 0

    @property
    def what(self) -> Piece:
        return PIECES[self.piece]


@dataclasses.dataclass(frozen=True)
class Program:
    """A network with its data, its cut and how it is used.

    ``skips`` are (from step, to step, how), ``again`` (step, after which step), ``ties`` (step, to which step). ``cut``
    is a share of the places where it can be cut, ``shallower`` one of those before.
    """

    seed: int
    kind: str
    steps: tuple[Step, ...]
    cut: float = 0.5
    shallower: float = 0.0
    passing: str = "positional"
    skips: tuple[tuple[int, int, str], ...] = ()
    again: tuple[tuple[int, int], ...] = ()
    ties: tuple[tuple[int, int], ...] = ()
    tied_head: bool = False
    output: str = "tensor"
    own_train: str = ""
    mode: str = "eval"
    samples: int = 10
    first: str = "any"
    garbage: bool = False
    ragged: bool = False
    whole_mask: bool = False
    residual_stages: bool = False

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Program:
        values = json.loads(text)
        steps = tuple(Step(**each) for each in values.pop("steps"))
        pairs = {name: tuple(map(tuple, values.pop(name))) for name in ("skips", "again", "ties")}
        return cls(steps=steps, **pairs, **values)

    @property
    def inputs(self) -> tuple[str, ...]:
        return KINDS[self.kind][0]

    @property
    def layouts(self) -> list[str]:
        """The layout of ``x`` before each step."""
        layout, found = KINDS[self.kind][1], []
        for step in self.steps:
            found.append(layout)
            if step.what in POOLS:
                layout = "vec"
        return found

    def units(self) -> list[tuple[int, ...]]:
        """The steps in groups: a stage is one, and so is each step outside of them."""
        found: list[tuple[int, ...]] = []
        for number, step in enumerate(self.steps):
            if step.stage and found and self.steps[found[-1][-1]].stage == step.stage:
                found[-1] += (number,)
            else:
                found.append((number,))
        return found


def _chosen(rng: random.Random, piece: Piece) -> dict[str, str]:
    return {name: rng.choice(values) for name, values in piece.choices.items()}


def _step(rng: random.Random, piece: Piece, mixed: bool = False) -> Step:
    loose = rng.random() < 0.3 if piece.loose is None else piece.loose
    if loose:
        return Step(piece.name, _chosen(rng, piece), loose=True)
    style = rng.choice(STYLES) if rng.random() < 0.3 else "plain"
    hook = rng.choice(HOOKS) if style == "plain" and rng.random() < 0.12 else ""
    return Step(piece.name, _chosen(rng, piece), style=style, hook=hook)


def _candidates(kind: str, layout: str, ragged: bool) -> list[Piece]:
    own = [*SEQUENCES] if layout == "seq" else [*TASKS] if kind == "task" else []
    general = [*PLAIN, *LOOK_ALIKES]
    weighed = general + own * max(1, len(general) // (2 * max(1, len(own))))
    return [each for each in weighed if layout in each.layouts and (each.ragged or not ragged)]


def _mixer(rng: random.Random, kind: str, layout: str) -> Piece:
    own = MIXERS_OF["mask"] if layout == "seq" else MIXERS_OF["task"] if kind == "task" else []
    return rng.choice([each for each in [*MIXERS, *own * 3] if layout in each.layouts])


def _steps(rng: random.Random, kind: str, ragged: bool) -> list[Step]:
    first = KINDS[kind][1]
    steps: list[Step] = []
    for layout in dict.fromkeys((first, "vec")):
        pieces = _candidates(kind, layout, ragged)
        if rng.random() > 0.15:  # most programs are to be accepted
            pieces = [each for each in pieces if each.fact != DUBIOUS]
        count = rng.randint(2, 6) if layout == first else rng.randint(0, 3)
        chosen = [_step(rng, rng.choice(pieces)) for _ in range(count)]
        if layout != first:
            pools = [each for each in POOLS if first in each.layouts]
            chosen.insert(0, _step(rng, rng.choice(pools)))
        steps += chosen
    return steps


def _staged(rng: random.Random, steps: list[Step]) -> list[Step]:
    """Put one or two runs of steps into stages."""
    for number in (1, 2):
        if len(steps) < 3 or rng.random() > 0.3:
            continue
        start = rng.randrange(len(steps) - 1)
        end = min(len(steps), start + rng.randint(2, 3))
        run = steps[start:end]
        if all(not each.stage and each.what.loose is not True and each.what not in POOLS for each in run):
            steps[start:end] = [dataclasses.replace(each, stage=number) for each in run]
    return steps


def _runs_alone(step: Step) -> bool:
    return not (step.loose or step.stage or step.hook or step.what.modes) and step.style == "plain"


def _pairs(rng: random.Random, program: Program) -> Program:
    """Add skips, blocks that are called again, and tied weights."""
    units, layouts = program.units(), program.layouts
    skips, again, ties = [], [], []
    for _ in range(2):
        if rng.random() < 0.35:
            first, last = sorted(rng.choices(range(len(units)), k=2))
            inside = [number for unit in units[first : last + 1] for number in unit]
            same = len({layouts[number] for number in inside}) == 1
            if same and all(
                program.steps[each].what not in POOLS and program.steps[each].what.loose is not True for each in inside
            ):
                how = rng.choice(
                    ("x = x + {}", "x += {}", "x = torch.cat([x, {}], -1)[..., ::2]", "x = x * torch.sigmoid({})")
                )
                skips.append((inside[0], inside[-1], how))
    if rng.random() < 0.12:
        blocks = [n for n, step in enumerate(program.steps) if _runs_alone(step) and step.what not in POOLS]
        after = [(n, last[-1]) for n in blocks for last in units if last[-1] > n]
        after = [(n, m) for n, m in after if m + 1 < len(layouts) and layouts[m + 1] == layouts[n]]
        again += rng.sample(after, min(1, len(after)))
    tied = [n for n, step in enumerate(program.steps) if step.what.tied]
    if len(tied) > 1 and rng.random() < 0.3:
        ties.append(tuple(sorted(rng.sample(tied, 2))))
    return dataclasses.replace(program, skips=tuple(skips), again=tuple(again), ties=tuple(ties))


def draw(seed: int) -> Program:
    """Return the program of a seed."""
    rng = random.Random(seed)
    kind = rng.choice(tuple(KINDS))
    passing = rng.choice(("positional", "positional", "keyword", "**batch"))
    ragged = kind == "tokens" and rng.random() < 0.3
    steps = _staged(rng, _steps(rng, kind, ragged))
    if rng.random() < 0.22:
        layouts = Program(seed, kind, tuple(steps)).layouts
        place = rng.randrange(len(steps))
        mixer = _step(rng, _mixer(rng, kind, layouts[place]))
        steps.insert(place, dataclasses.replace(mixer, stage=_stage_around(steps, place)))
    program = Program(
        seed,
        kind,
        tuple(steps),
        cut=rng.random(),
        shallower=rng.random(),
        passing=rng.choice(("keyword", "**batch")) if ragged else passing,
        tied_head=kind == "tokens" and rng.random() < 0.15,
        output=rng.choice(OUTPUTS) if rng.random() < 0.4 else "tensor",
        own_train=rng.choice(("norm", "dropout", "first")) if rng.random() < 0.25 else "",
        mode=rng.choice(("eval", "eval", "train", "some")),
        first=rng.choice(("any", "full", "short")),
        garbage=rng.random() < 0.5,
        ragged=ragged,
        whole_mask=rng.random() < 0.5,
        residual_stages=rng.random() < 0.3,
    )
    return _pairs(rng, program)


def _stage_around(steps: Sequence[Any], place: int) -> int:
    """Return the stage that a step would part if it were put before another one."""
    before = steps[place - 1].stage if place else 0
    return before if before == steps[place].stage else 0
