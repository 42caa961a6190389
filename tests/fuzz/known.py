"""Where the steps of a program stand, and what is known of it by construction."""

from __future__ import annotations

import dataclasses
import functools
import re
import string

from .pieces import DUBIOUS, MIXED, SOUND
from .pieces_inputs import POOLS
from .programs import STEMMED, Program

__all__ = ["Facts", "Layout", "facts"]


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known of a program by construction: its fact at the cut, and the names of what lies where."""

    fact: str
    cut: str
    shallower: str  # "" where there is no cut before
    before: tuple[str, ...]  # modules that run before the cut only
    frozen: tuple[str, ...]  # what runs before the cut, too: its weights are frozen
    edits_before: tuple[str, ...]  # statements
    edits_behind: tuple[str, ...]


class Layout:
    """Where each step of a program stands, and in which order modules end."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.stems = ["stem"] if program.kind in STEMMED else []

    def holder(self, number: int) -> str:
        """The name of what a step is an attribute of: '' for the network."""
        step = self.program.steps[number]
        return f"s{step.stage}" if step.stage else ""

    def path(self, number: int, attribute: str = "") -> str:
        """The name of a step's block, or of an attribute of it."""
        step = self.program.steps[number]
        parts = [self.holder(number), "" if step.loose else f"b{number}", attribute]
        return ".".join(part for part in parts if part)

    def filled(self, number: int, text: str) -> str:
        step = self.program.steps[number]
        at = ".".join(part for part in ("net", self.path(number)) if part)
        return string.Template(text).substitute(step.choices, n=str(number) if step.loose else "", at=at)

    def inner(self, number: int) -> list[str]:
        return [self.path(number, self.filled(number, each)) for each in self.program.steps[number].what.inner]

    def _ends(self, number: int) -> list[tuple[str, int]]:
        block = [] if self.program.steps[number].loose else [(self.path(number), -1)]
        return [*((each, -1) for each in self.inner(number)), ("", number), *block]

    @functools.cached_property
    def ends(self) -> list[tuple[str, int]]:
        """What ends, in order: (module, -1) or ('', step)."""
        found = [(each, -1) for each in self.stems]
        for unit in self.program.units():
            for number in unit:
                found += self._ends(number)
            if self.holder(unit[0]):
                found.append((self.holder(unit[0]), -1))
            for again, after in self.program.again:
                if after == unit[-1]:
                    found += self._ends(again)
            if self.program.kind == "image and ids" and any(self.program.steps[each].what in POOLS for each in unit):
                found.append(("text", -1))
        return found

    @property
    def cuts(self) -> list[str]:
        """Where the network can be cut, in order."""
        last = {path: place for place, (path, number) in enumerate(self.ends) if number < 0}
        return sorted(last, key=last.__getitem__)


def facts(program: Program) -> Facts:
    layout = Layout(program)
    cuts = layout.cuts or ["head"]
    chosen = min(int(program.cut * len(cuts)), len(cuts) - 1)
    cut = cuts[chosen]
    shallower = cuts[min(int(program.shallower * chosen), chosen - 1)] if chosen else ""
    ends = layout.ends
    places = [place for place, end in enumerate(ends) if end[0] == cut]
    at = places[-1] if places else len(ends)
    first, last = {}, {}
    for place, end in enumerate(ends):
        first.setdefault(end, place)
        last[end] = place
    started = [number for number in range(len(program.steps)) if first["", number] < at]
    partly = [n for n in range(len(program.steps)) if cut in layout.inner(n) and n not in started]
    found = {_fact(program, number, number in started) for number in range(len(program.steps))}
    fact = MIXED if MIXED in found else DUBIOUS if DUBIOUS in found else SOUND
    frozen = [path for (path, number), place in first.items() if number < 0 and place <= at]
    frozen += [each for number in started for each in _weights(layout, number)]
    behind = [n for n in range(len(program.steps)) if n not in started and n not in partly]
    tied = {number for pair in program.ties if pair[0] in started for number in pair}
    edits_before = [f"net.{each}.weight.data.view(-1)[0] += 0.3" for each in layout.stems if each in frozen]
    edits_before += [each for number in started for each in _edits(layout, number)]
    edits_behind = [each for n in behind for each in _edits(layout, n) if not (n in tied and "weight" in each)]
    if cut != "head":
        edits_behind.append("net.head.bias.data[0] += 1.0")
    return Facts(
        fact,
        cut,
        shallower,
        tuple(path for (path, number), place in last.items() if number < 0 and place <= at),
        tuple(frozen),
        tuple(edits_before),
        tuple(edits_behind),
    )


def _fact(program: Program, number: int, before: bool) -> str:
    step = program.steps[number]
    if step.what.fact == MIXED:
        # Where samples vary in length, what is mixed after the cut is also the padding, which is not cached.
        return MIXED if before or program.ragged else step.what.behind
    if before and step.what.open_fact and (step.loose or step.stage):
        return step.what.open_fact
    return (step.what.before if before else "") or step.what.fact


def _weights(layout: Layout, number: int) -> list[str]:
    names = re.findall(r'self\.(\w+\$n) =|register_buffer\("(\w+\$n)"', layout.program.steps[number].what.init)
    return [layout.path(number, layout.filled(number, one or other)) for one, other in names]


def _edits(layout: Layout, number: int) -> list[str]:
    step = layout.program.steps[number]
    made = [layout.filled(number, each) for each in step.what.edits]
    if not step.loose and step.style == "plain":
        at = f"net.{layout.path(number)}"
        made.append(f"{at}.register_forward_hook(lambda module, args, output: output * 2 + 0.5)")
        made.append(f"{at}.register_forward_pre_hook(lambda module, args: (args[0] * 2 + 0.5, *args[1:]))")
    return made
