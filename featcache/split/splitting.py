"""``split``: a network, cut behind a named module, as prefix and suffix."""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

from ..errors import SplitError, UnknownCutError, UsageError, near_names
from ..tensorspec import TensorSpec
from .analysis import CutAnalysis, analyse
from .clone import skeleton
from .flat import NotFlatError, build_flat, flat_graph
from .record import Run, record
from .replay import ReplaySuffix, run_prefix
from .structure import structure_digest, structure_lines, weight_digests
from .trial import compare, examples, frozen_reference, refuse_tied, refuse_train_only_branch, seeded

__all__ = ["Split", "split"]

Inputs = tuple[Any, ...] | Mapping[str, Any]
TRIES = 3
ONE_AT_A_TIME = threading.Lock()  # trials seed torch's generator, of which there is one for all threads


class Split:
    """A network cut behind one module: :attr:`prefix` up to and including it, :attr:`suffix` behind it.

    ``frontier`` describes the tensors that cross the cut. ``structure`` is the digest of the computation before it,
    ``weights`` the digests of the parameters and buffers that this computation uses, as they are now. ``flat`` says
    whether the suffix is an ordinary graph, or replays the model's own code.
    """

    def __init__(
        self,
        model: nn.Module,
        analysis: CutAnalysis,
        structure: str,
        graph: tuple[fx.Graph, dict[str, torch.Tensor]] | None,
        example_inputs: Inputs,
    ) -> None:
        self.model = model
        self.cut = analysis.cut
        self.frontier: tuple[TensorSpec, ...] = tuple(crossing.spec for crossing in analysis.crossings)
        self.structure = structure
        self.example_inputs = example_inputs
        self._analysis = analysis
        self._graph = graph
        self.suffix = self._make_suffix(model)

    @property
    def flat(self) -> bool:
        """Return whether the suffix is an ordinary torch.fx graph."""
        return self._graph is not None

    @property
    def weights(self) -> dict[str, str]:
        """Return the digests of every parameter and buffer that is used up to the cut, as they are now, by name."""
        return weight_digests(self.model, self._analysis.state_before)

    @property
    def structure_calls(self) -> list[str]:
        """Return the torch calls up to the cut, one readable line each."""
        return [str(line) for line in structure_lines(self._analysis, self._analysis.run, self._analysis.other)]

    def prefix(self, *args: Any, **kwargs: Any) -> torch.Tensor | dict[str, torch.Tensor]:
        """Return what crosses the cut: a tensor, or a dict of tensors by name where several cross it.

        Runs in evaluation mode without gradients, on a skeleton: the model's own modes and hooks are not touched.
        """
        found = run_prefix(skeleton(self.model), self._analysis, args, kwargs)
        return found if len(found) > 1 else next(iter(found.values()))

    def check(self, *args: Any, **kwargs: Any) -> float:
        """Return the largest difference of suffix(prefix(x)) from the whole model, relative to the output's scale.

        0.0 is bit for bit. Raises :class:`SplitError` where it is above 1e-5, or where the output is not finite.
        """
        running = skeleton(self.model, own_buffers=True)
        with torch.no_grad():
            whole = running(*args, **kwargs)
            again = self._make_suffix(running)(self.prefix(*args, **kwargs))
        return compare(whole, again, f"suffix(prefix(x)) at the cut {self.cut!r}")

    def rebind(self, model: nn.Module) -> Split:
        """Return the same split of another instance of the network, whose last layer may have other outputs."""
        return Split(model, self._analysis, self.structure, self._graph, self.example_inputs)

    def _make_suffix(self, model: nn.Module) -> nn.Module:
        if self._graph is None:
            return ReplaySuffix(model, self._analysis)
        graph, constants = self._graph
        return build_flat(model, copy.deepcopy(graph), constants)

    def __deepcopy__(self, memo: dict[int, Any]) -> Split:
        return self.rebind(copy.deepcopy(self.model, memo))

    def __reduce__(self) -> tuple[Any, ...]:
        # Recorded calls do not pickle; the recording is made again where the split is needed.
        return split, (self.model, self.cut, self.example_inputs)

    def __repr__(self) -> str:
        tensors = ", ".join(f"{spec.name} {list(spec.shape)}" for spec in self.frontier)
        kind = "flat" if self.flat else "replayed"
        return f"Split({type(self.model).__name__} at {self.cut!r}: {tensors}; {kind} suffix)"


def split(model: nn.Module, cut: str, example_inputs: Inputs) -> Split:
    """Return ``model`` cut behind the module named ``cut``.

    ``example_inputs`` is a tuple of positional or a dict of keyword inputs, as the model takes them, with the batch as
    first dimension; it is run a few times in evaluation mode. Raises :class:`UnknownCutError` for a name that is no
    module, :class:`SplitError` where caching at that cut would be unsound or does not reproduce the model.
    """
    known = [name for name, _ in model.named_modules() if name]
    if cut not in known:
        raise UnknownCutError(
            f"the backbone has no module {cut!r}.{near_names(cut, known)} `featcache cuts` lists the candidates."
        )
    given = examples(example_inputs)
    runs = recorded(model, given)
    analysis = analyse(model, cut, runs[0], runs[1])
    refuse_tied(model, analysis)
    structure = structure_digest(analysis, runs[2])
    refuse_train_only_branch(model, analysis, given.two)
    stored = dict(given.two[1]) or given.two[0]
    graph = _proven_graph(model, analysis, structure, given)
    for run in runs:
        run.release()
    return Split(model, analysis, structure, graph, stored)


def recorded(model: nn.Module, given: Any) -> tuple[Run, Run, Run]:
    """Return three recorded runs: the example with a batch of two, of three, and of two with other values.

    Raises :class:`SplitError` where the model fails, or gives another output for equal input.
    """
    running = skeleton(model)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            first = running(*given.two[0], **given.two[1])  # some models fill caches of their own in a first pass
            second = running(*given.two[0], **given.two[1])
        runs = tuple(
            record(model, inputs[0], inputs[1], batch)
            for inputs, batch in ((given.two, 2), (given.three, 3), (given.other, 2))
        )
    except (SplitError, UsageError):
        raise
    except Exception as error:
        raise SplitError(
            f"the model cannot be run on the example input: {type(error).__name__}: {error}. Check that the transform fits "
            "the model."
        ) from error
    difference = compare(first, second, "a second evaluation pass", refuse=False)
    if difference:
        raise SplitError(
            f"the model gives another output for equal input in evaluation mode (relative difference {difference:.1e}): "
            "it draws random numbers or keeps state, so its features cannot be cached."
        )
    return runs  # type: ignore[return-value]


def _proven_graph(model: nn.Module, analysis: CutAnalysis, structure: str, given: Any) -> Any:
    """Return the flat graph if it equals the model, None if the replay does; raises :class:`SplitError` if neither."""
    try:
        graph = flat_graph(analysis)
        _prove(Split(skeleton(model, own_buffers=True), analysis, structure, graph, ()), given)
        return graph
    except NotFlatError:
        pass
    except Exception:  # any failure only means that the graph is not the model
        pass
    _prove(Split(skeleton(model, own_buffers=True), analysis, structure, None, ()), given)
    return None


def _prove(made: Split, given: Any) -> None:
    """Compare suffix(prefix(x)) with the model at two batch sizes in evaluation mode, and once in training mode."""
    for args, kwargs in (given.two, given.three):
        made.check(*args, **kwargs)
    for attempt in range(TRIES):
        try:
            return _prove_training(made, given.three)
        except SplitError:
            # Another thread may have drawn from torch's one generator meanwhile; a real difference comes every time.
            if attempt == TRIES - 1:
                raise
    return None


def _prove_training(made: Split, call: Any) -> None:
    args, kwargs = call
    with ONE_AT_A_TIME:
        expected, buffers = frozen_reference(made.model, made._analysis, args, kwargs)
        trial = made.rebind(skeleton(made.model, own_buffers=True))
        trial.suffix.train()
        frontier = trial.prefix(*args, **kwargs)
        if isinstance(expected, Exception):
            return  # the model itself cannot be trained on this example
        output = seeded(lambda: trial.suffix(frontier))
    compare(expected, output, f"the suffix behind {made.cut!r} in training mode")
    theirs = dict(trial.model.named_buffers())
    compare(
        buffers,
        {name: theirs[name] for name in buffers},
        f"the buffers behind {made.cut!r} after a training step",
    )
