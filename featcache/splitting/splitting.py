"""``split``: a network, cut after a named module, as prefix and suffix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload

import torch
from torch import nn

from ..errors import SplitError, UnknownCutError, UsageError, near_names, one_line
from ..machine import on_device
from ..tensorspec import TensorSpec
from .analysis import CutAnalysis, analyse
from .clone import deep_copy, skeleton
from .compare import compare
from .examples import Examples, examples
from .flat import Program, build_flat, guard_graph
from .guarded import GuardedSuffix
from .inputs import Call, as_call, as_given, copied
from .nearest import nearest_cuts
from .prefix import run_prefix, run_prefixes
from .proof import proven
from .randomness import quiet, seeded
from .recording import recorded
from .replay import ReplaySuffix
from .runs import Runs
from .structure import program_digest, structure_digest, weight_digests
from .tied import warn_of_tied, with_tied_frozen
from .training_path import with_training_path
from .trees import tensors_in
from .trial import refuse_mixed_rows, refuse_unseen
from .wrappers import name_inside, unwrapped

__all__ = ["Split", "as_now", "check_all", "prefixes", "split", "split_at"]

Inputs = tuple[Any, ...] | Mapping[str, Any]


class Split:
    """A network cut after one module, with a ``prefix`` up to and including it and a ``suffix`` after it.

    ``featcache.split`` makes it; you rarely call the class yourself. A split can be deep-copied and pickled. Unpickling
    records the network again.

    Parameters
    ----------
    model : torch.nn.Module
        The whole network, without wrappers. The split refers to it and does not copy it.
    analysis : CutAnalysis
        What the recording says about the cut.
    structure : str
        The digest of the computation before the cut.
    program : str
        The digest of the whole computation on the example.
    graph : tuple of (torch.fx.Graph, dict of str to torch.Tensor), or None
        The suffix as a graph with its constants. None if the suffix replays the model's own code.
    example_inputs : tuple or mapping of str
        The inputs on which the network was recorded.
    other_length : tuple or mapping of str, optional
        The same at another length, where samples vary in length.
    shares_modules : bool, default False
        Whether the suffix consists of the network's own modules, in their modes, rather than of modules of its own.

    Attributes
    ----------
    model : torch.nn.Module
        The whole network.
    cut : str
        The name of the module after which the network is cut.
    frontier : tuple of TensorSpec
        The tensors that cross the cut.
    structure : str
        The digest of the computation before the cut.
    suffix : torch.nn.Module
        The part after the cut, ready to be trained. Called with what ``prefix`` returns, it gives the output of the
        network. It has the network's parameters and buffers, and modes of its own: training mode, as the network's own
        ``train`` sets it, or, if the network is in training mode, those that its modules are in.
    example_inputs : tuple or mapping of str
        The inputs on which the network was recorded.
    other_length : tuple or mapping of str, or None
        The same at another length.

    Examples
    --------
    >>> import torch
    >>> import featcache
    >>> network = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    >>> cut = featcache.split(network, "1", (torch.zeros(2, 8),))
    >>> cut
    Split(Sequential at '1': 1 [4]; flat suffix)
    >>> inputs = torch.randn(5, 8)
    >>> torch.equal(cut.suffix(cut.prefix(inputs)), network(inputs))
    True
    """

    def __init__(
        self,
        model: nn.Module,
        analysis: CutAnalysis,
        structure: str,
        program: str,
        graph: Program | None,
        example_inputs: Inputs,
        other_length: Inputs | None = None,
        shares_modules: bool = False,
    ) -> None:
        self.model = model
        self.cut = analysis.cut
        self.frontier: tuple[TensorSpec, ...] = tuple(crossing.spec for crossing in analysis.crossings)
        self.structure = structure
        self._program = program
        self.example_inputs = example_inputs
        self.other_length = other_length
        self._analysis = analysis
        self._graph = graph
        self._shares_modules = shares_modules
        if not shares_modules:  # the caller's network keeps its modes, whatever those of the suffix are
            model = skeleton(model, None if model.training else True, shares_objects=True, lasting=True)
        self.suffix = self._make_suffix(model)

    @property
    def flat(self) -> bool:
        """Whether the suffix is an ordinary torch.fx graph. Otherwise it replays the model's own code."""
        return self._graph is not None

    @property
    def guards(self) -> tuple[str, ...]:
        """The names of the inputs whose content decides on the path before the cut, such as masks."""
        return self._analysis.guards

    @property
    def side_inputs(self) -> tuple[str, ...]:
        """The names of the frontier tensors that are inputs of the model as they are, such as masks."""
        return tuple(crossing.spec.name for crossing in self._analysis.crossings if crossing.carried)

    @property
    def weights(self) -> dict[str, str]:
        """The digests of every parameter and buffer used up to the cut, as they are now, by name."""
        return weight_digests(self.model, self._analysis.state_before)

    def prefix(self, *args: Any, **kwargs: Any) -> torch.Tensor | dict[str, torch.Tensor]:
        """Return what crosses the cut.

        The prefix runs in evaluation mode without gradients, on a skeleton of the model: the model's own modes and
        hooks are not touched.

        Parameters
        ----------
        *args : Any
            The positional inputs, as the model takes them, with the batch as first dimension.
        **kwargs : Any
            The keyword inputs, as the model takes them.

        Returns
        -------
        torch.Tensor or dict of str to torch.Tensor
            The tensor that crosses the cut, or a dict of tensors by name if several cross it. The batch is the first
            dimension.
        """
        args, kwargs = (args, kwargs) if args else as_call(kwargs, self.model)
        running = skeleton(self.model, own_buffers=self._analysis.writes_state)
        found = run_prefix(running, self._analysis, args, kwargs)
        return as_given(found)  # type: ignore[no-any-return]

    def check(self, *args: Any, **kwargs: Any) -> float:
        """Return how far ``suffix(prefix(x))`` is from the whole model, relative to the output's scale.

        Parameters
        ----------
        *args : Any
            The positional inputs, as the model takes them, with the batch as first dimension.
        **kwargs : Any
            The keyword inputs, as the model takes them.

        Returns
        -------
        float
            The largest difference, relative to the scale of the output. 0.0 means equal bit for bit.

        Raises
        ------
        SplitError
            If the difference is above 1e-5, or the output is not finite.
        """
        return check_all([self], kwargs or args)[0]

    def shallower(self, cut: str) -> Split:
        """Return the network cut after a module that runs earlier, from the same recording.

        Nothing is run, so the suffix of the result is not proven.

        Parameters
        ----------
        cut : str
            The name of the module to cut after.

        Returns
        -------
        Split
            The split at the shallower cut.

        Raises
        ------
        SplitError
            If the module does not run before this split's cut.
        """
        analysis = analyse(self.model, cut, self._analysis.runs)
        if not analysis.ends_before(self._analysis):
            raise SplitError(f"the cut {cut!r} is not reached before {self.cut!r}.")
        return Split(
            self.model,
            analysis,
            structure_digest(analysis),
            self._program,
            None,
            self.example_inputs,
            self.other_length,
        )

    def examples(self) -> list[Inputs]:
        """Return the example inputs at two batch sizes, and at two lengths if samples vary in length.

        Returns
        -------
        list of tuple or dict
            Each entry is a tuple of positional inputs or a dict of keyword inputs.
        """
        given = examples(self.model, self.example_inputs, self.other_length)
        return [_inputs(call) for call in given.trials()]

    def replayed(self) -> Split:
        """Return the same split with a suffix that replays the model's own forward.

        Returns
        -------
        Split
            The split without a graph.
        """
        return self._again(self.model, None, self._shares_modules)

    def rebind(self, model: nn.Module) -> Split:
        """Return the same split of another instance of the network.

        Parameters
        ----------
        model : torch.nn.Module
            The other instance. Its last layer may have another number of outputs.

        Returns
        -------
        Split
            The split of ``model``. Its suffix consists of the modules of ``model``, in their modes.
        """
        return self._again(model, self._graph, shares_modules=True)

    def _again(self, model: nn.Module, graph: Program | None, shares_modules: bool) -> Split:
        return Split(
            model,
            self._analysis,
            self.structure,
            self._program,
            graph,
            self.example_inputs,
            self.other_length,
            shares_modules,
        )

    def _make_suffix(self, model: nn.Module) -> nn.Module:
        model = with_tied_frozen(model, self._analysis)
        if self._graph is None:
            return ReplaySuffix(model, self._analysis)
        flat = build_flat(model, self._graph, self.frontier)
        if not self._analysis.guards:
            return flat
        guards, recorded = guard_graph(self._analysis)
        return GuardedSuffix(model, self._analysis, flat, build_flat(model, guards, self.frontier), recorded)

    def __deepcopy__(self, memo: dict[int, Any]) -> Split:
        copied = memo.setdefault(id(self.model), deep_copy(self.model))
        return self._again(copied, self._graph, self._shares_modules)

    def __reduce__(self) -> tuple[Any, ...]:
        # Recorded calls do not pickle; the recording is made again where the split is needed.
        return split, (self.model, self.cut, self.example_inputs, self.other_length)

    def __repr__(self) -> str:
        tensors = ", ".join(f"{spec.name} {list(spec.shape)}" for spec in self.frontier)
        kind = "flat suffix" if self.flat else "replayed suffix"
        if self._analysis.guards:
            kind += f", guarded by {', '.join(self._analysis.guards)}"
        return f"Split({type(self.model).__name__} at {self.cut!r}: {tensors}; {kind})"


@overload
def split(model: nn.Module, cut: str, example_inputs: Inputs, other_length: Inputs | None = None) -> Split: ...


@overload
def split(
    model: nn.Module, cut: list[str] | tuple[str, ...], example_inputs: Inputs, other_length: Inputs | None = None
) -> list[Split]: ...


def split(
    model: nn.Module, cut: str | list[str] | tuple[str, ...], example_inputs: Inputs, other_length: Inputs | None = None
) -> Split | list[Split]:
    """Cut a network after a module, or after each of several.

    The network is recorded on the example inputs, and the result is proven: ``suffix(prefix(x))`` equals the whole
    network in evaluation mode and for a training step, or the cut is refused.

    Parameters
    ----------
    model : torch.nn.Module
        The network to cut. It is not changed. What torch.compile, DataParallel or DistributedDataParallel wrapped around
        it is taken off.
    cut : str or sequence of str
        The name of the module to cut after, as in ``model.named_modules()``, or several. ``featcache.cuts`` lists the
        candidates.
    example_inputs : tuple or mapping of str
        Positional inputs (a tuple) or keyword inputs (a dict), as the model takes them, with the batch as first
        dimension. The network runs on them a few times in evaluation mode. If samples vary in length (texts, sounds),
        give a padded batch with its mask.
    other_length : tuple or mapping of str, optional
        Another padded batch like ``example_inputs``, padded to another length. Sizes that differ between the two vary,
        and are None in ``Split.frontier``.

    Returns
    -------
    Split or list of Split
        The network as prefix and suffix. A list with one split per cut, from one recording, if several are given.

    Raises
    ------
    UnknownCutError
        If ``cut`` is not the name of a module.
    SplitError
        If caching at that cut is unsound or does not reproduce the model.
    UsageError
        If ``example_inputs`` holds no batch, or ``other_length`` has the same shapes or holds other inputs.

    Examples
    --------
    >>> import torch
    >>> import featcache
    >>> network = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    >>> cut = featcache.split(network, "1", (torch.zeros(2, 8),))
    >>> cut.prefix(torch.zeros(5, 8)).shape
    torch.Size([5, 4])
    >>> cut.check(torch.randn(5, 8))
    0.0
    """
    if isinstance(cut, str):
        return split_at(model, [cut], example_inputs, other_length)[0]
    return split_at(model, cut, example_inputs, other_length)


def split_at(
    model: nn.Module, cuts: Sequence[str], example_inputs: Inputs, other_length: Inputs | None = None
) -> list[Split]:
    """Return ``model`` cut after each of several modules, from one recording; otherwise as ``split``."""
    cuts, model = [name_inside(model, cut) for cut in cuts], unwrapped(model)
    refuse_unseen(model)
    known = [name for name, _ in model.named_modules() if name]
    for cut in cuts:
        if cut not in known:
            raise UnknownCutError(
                f"the backbone has no module {cut!r}.{near_names(cut, known)} `featcache cuts` lists the candidates."
            )
    given = examples(model, example_inputs, other_length)
    made = []
    with torch.inference_mode(False):
        runs = recorded(model, given)
        for cut in cuts:
            try:
                made.append(_split(model, cut, given, runs))
            except SplitError as error:
                near = nearest_cuts(model, cut, runs.run, lambda name: _split(model, name, given, runs))
                raise SplitError(f"{error} {near}") from None
            warn_of_tied(model, made[-1]._analysis)
    runs.release()
    return made


def as_now(splits: Sequence[Split]) -> list[Split]:
    """Return splits of their network as it is now: themselves, or new ones where the network does something else since.

    The network is recorded again. A split refers to its network, whose parameters and buffers are always read as they
    are; but an attribute, a plain tensor, a hook, an activation or a ``forward`` may have been replaced, too. Splits of
    several recordings are made again, from one. Raises ``SplitError`` where the network cannot be cut any more, ``UsageError``
    for no splits, those of several networks, or what is not a split.
    """
    other = next((each for each in splits if not isinstance(each, Split)), None)
    if other is not None:
        raise UsageError(
            f"a {type(other).__name__} is not a split: split it first, featcache.split(model, cut, example_inputs)."
        )
    if len({id(each.model) for each in splits}) != 1:
        raise UsageError(
            f"give one split or several of one network, not {len(splits)} splits of no network or of several."
        )
    first = splits[0]
    given = examples(first.model, first.example_inputs, first.other_length)
    (example,) = tensors_in(first.example_inputs)[:1]
    with on_device(first.model, example.device):
        with torch.inference_mode(False):
            runs = recorded(first.model, given)
            try:
                together = len({id(each._analysis.runs) for each in splits}) == 1
                same = together and all(_is_same(each, runs) for each in splits)
            except SplitError:
                same = False
        runs.release()
        if same:
            return list(splits)
        return split_at(first.model, [each.cut for each in splits], first.example_inputs, first.other_length)


def _is_same(split: Split, runs: Runs) -> bool:
    analysis = analyse(split.model, split.cut, runs)
    return structure_digest(analysis) == split.structure and program_digest(analysis) == split._program


def prefixes(
    splits: Sequence[Split], inputs: Inputs, model: nn.Module | None = None, follow: bool = False
) -> list[dict[str, torch.Tensor]]:
    """Return what crosses the cut of each split, by name, from a single run of the model.

    With ``follow``, ``SplitError`` is raised where the model takes a path before the cut that was not recorded.
    The splits must come from one call of ``split_at``. ``model`` is another instance of theirs that is run instead.
    """
    args, kwargs = as_call(inputs, splits[0].model)
    analyses = [each._analysis for each in splits]
    writes_state = any(each.writes_state for each in analyses)
    running = skeleton(splits[0].model if model is None else model, own_buffers=writes_state)
    return run_prefixes(running, analyses, args, kwargs, follow)


def check_all(
    splits: Sequence[Split], inputs: Inputs, frontiers: Sequence[dict[str, torch.Tensor]] | None = None
) -> list[float]:
    """Return ``Split.check`` of several splits of one network, which is run once; ``frontiers`` are what crosses, if known."""
    args, kwargs = as_call(inputs, splits[0].model)
    running = skeleton(splits[0].model, own_buffers=True)
    with torch.no_grad(), quiet():
        mine, named = copied((args, kwargs))
        whole = seeded(running, *mine, **named)
        found = []
        for split, frontier in zip(splits, frontiers or prefixes(splits, inputs), strict=True):
            suffix = split._make_suffix(skeleton(split.model, own_buffers=True)).eval()
            try:
                again = seeded(suffix, as_given(frontier))
            except (NotImplementedError, TypeError, KeyError, AttributeError) as error:
                raise SplitError(
                    f"the suffix after {split.cut!r} cannot be run on these samples: {type(error).__name__}: "
                    f"{one_line(error, 200)}."
                ) from error
            found.append(compare(whole, again, f"suffix(prefix(x)) at the cut {split.cut!r}"))
    return found


def _split(model: nn.Module, cut: str, given: Examples, runs: Runs) -> Split:
    analysis = analyse(model, cut, runs)
    structure, program = structure_digest(analysis), program_digest(analysis)
    refuse_mixed_rows(model, analysis, given)
    warm = runs.warm or model
    analysis = with_training_path(warm, analysis, given.two)
    if analysis.training_inputs:
        more = analyse(model, cut, runs, analysis.training_inputs)
        analysis = with_training_path(warm, more, given.two)

    def make(model: nn.Module, analysis: CutAnalysis, graph: Program | None) -> Split:
        return Split(model, analysis, structure, program, graph, (), shares_modules=True)

    analysis, graph = proven(make, model, analysis, given)
    resized = None if given.resized is None else _inputs(given.resized)
    return Split(model, analysis, structure, program, graph, _inputs(given.two), resized)


def _inputs(call: Call) -> Inputs:
    return dict(call[1]) or call[0]
