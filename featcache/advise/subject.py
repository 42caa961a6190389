"""What advice is asked about: a network, the samples that it gets to see, and the cuts in question."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..codecs import Stored
from ..errors import UnknownCutError, UsageError, near_names
from ..extraction import Example, example_of, samples_of
from ..progress import ProgressCallback, ProgressEvent, silent
from ..samples import Samples
from ..splitting import Cut, cuts, name_inside

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Subject", "boundaries", "subject"]

LEAST_STEP = 0.03  # of the parameters or FLOPs: boundaries nearer than that are not told apart
MOST_BOUNDARIES = 8


@dataclass(frozen=True)
class Subject:
    """A network and its samples, with an example input and the candidate cuts in the order of computation."""

    model: nn.Module
    samples: Samples
    example: Example
    candidates: tuple[Cut, ...]

    def find(self, names: Sequence[str] | None) -> list[Cut]:
        """Return the candidates of those names in the order of computation; for None the boundaries worth comparing.

        Raises ``UnknownCutError`` for a name that is not a candidate, ``UsageError`` for one that is refused.
        """
        if names is None:
            return boundaries(self.candidates)
        names = [name_inside(self.model, name) for name in names]
        known = {cut.name: cut for cut in self.candidates}
        for name in names:
            if name not in known:
                raise UnknownCutError(
                    f"the backbone has no candidate cut {name!r}.{near_names(name, known)} `featcache cuts` lists them."
                )
            if known[name].refused is not None:
                raise UsageError(f"the backbone cannot be cut at {name!r}: {known[name].refused}")
        if not names:
            raise UsageError("no cut was given: name some, or leave cuts out for the boundaries worth comparing.")
        return [cut for cut in self.candidates if cut.name in names]


def subject(
    model: nn.Module,
    dataset: Any,
    transform: Callable[[Any], Any] | None = None,
    name: str | None = None,
    stored: Stored | None = None,
    progress: ProgressCallback = silent,
) -> Subject:
    """Return the subject that these arguments of ``featcache.extract`` make; ``dataset`` may be a specification."""
    samples = samples_of(dataset, transform, name, stored)
    progress(ProgressEvent("record", 0, 1, "networks"))
    example = example_of(samples)
    found = Subject(model, samples, example, tuple(cuts(model, example.inputs, example.other_length)))
    progress(ProgressEvent("record", 1, 1, "networks"))
    return found


def boundaries(candidates: Sequence[Cut], most: int = MOST_BOUNDARIES) -> list[Cut]:
    """Return the cuts worth comparing, shallowest first.

    Of cuts with nothing trainable between them, the one whose frontier is smallest counts: freezing up to either trains the
    same layers. The last layer is never one: a head is trained from it, not after it. Of cuts that lie close together, as
    in a network of many blocks, the deepest stays.
    """
    usable = [cut for cut in candidates if cut.refused is None and cut.parameters_share < 1]
    groups: list[list[Cut]] = []
    for cut in usable:
        if groups and cut.parameters_share == groups[-1][-1].parameters_share:
            groups[-1].append(cut)
        else:
            groups.append([cut])
    distinct = [min(reversed(group), key=lambda cut: cut.size_bytes) for group in groups]
    step = LEAST_STEP
    kept = _spaced(distinct, step)
    while len(kept) > most:
        step *= 1.25
        kept = _spaced(distinct, step)
    return kept


def _spaced(distinct: Sequence[Cut], step: float) -> list[Cut]:
    """Return the deepest cut, and going up each that is a step of FLOPs or parameters away from the one kept before."""
    kept: list[Cut] = []
    for cut in reversed(distinct):
        far = not kept or (
            kept[-1].flops_share - cut.flops_share >= step or kept[-1].parameters_share - cut.parameters_share >= step
        )
        if far:
            kept.append(cut)
    return kept[::-1]
