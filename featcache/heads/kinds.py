"""The kinds of heads: how each is built, trained, and put back together from a folder."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, TypeGuard

import numpy as np
import torch
from torch import nn

from ..errors import HeadError, UnknownNameError, UsageError, near_names
from ..features import Features
from ..machine import available_memory_bytes
from ..progress import ProgressCallback
from ..registry import Registry
from ..splitting import Split, fold, lone_linear
from ..training import Division, EpochRecord, Task, TrainOptions, fit, solve, solves, takes_frontier
from .all_layers import ALL_LAYERS, JoinedSplit
from .dense import dense_network
from .estimators import fit_estimator
from .layers import EstimatorLayer, as_layer
from .linear import HeadNetwork, pooled_network, token_network
from .network import choose_trainable, new_network, refuse_other_sizes, same_network, train_mode

__all__ = ["BuiltHead", "HeadKind", "SharedHead", "built_suffix", "find_kind", "head_kinds"]

FOLDED_SHARE = 0.4  # of the free memory that folded features may fill
STORED_AT = "head."  # where a network on pooled features has its last layer


@dataclass
class BuiltHead:
    """What a head consists of.

    Attributes
    ----------
    model : torch.nn.Module
        The whole network.
    split : Split
        The cut through ``model``.
    layers : torch.nn.Module
        The module from what crosses the cut to class scores (batch, classes).
    stored : torch.nn.Module
        The module whose tensors are saved.
    stored_at : str, default ""
        The beginning of the names of ``stored`` in ``model``.
    estimator : Any, optional
        The fitted scikit-learn estimator, if the head is one.
    strength : float, optional
        The strength of the penalty that a linear head was solved with.
    """

    model: nn.Module
    split: Split
    layers: nn.Module
    stored: nn.Module
    stored_at: str = ""
    estimator: Any = None
    strength: float | None = None


class SharedHead(BuiltHead):
    """One of many linear heads, whose network is copied when it is first asked for.

    ``network`` is that of another head, which nobody else may change.
    """

    def __init__(self, network: HeadNetwork, layer: nn.Linear) -> None:
        self._network, self._pool = network, copy.deepcopy(network.pool)
        self.layers, self.stored = nn.Sequential(self._pool, layer).eval(), layer
        self.stored_at, self.estimator, self.strength = STORED_AT, None, None

    @cached_property
    def model(self) -> nn.Module:  # type: ignore[override]
        """Return the whole network."""
        with torch.inference_mode(False):  # tensors made under it could not be trained
            made = copy.deepcopy(self._network).eval()
        made.pool, made.head = self._pool, self.stored
        return made

    @cached_property
    def split(self) -> Split:  # type: ignore[override]
        """Return the cut of the network."""
        cut: Split = self.model.__dict__["_split"]
        return cut


class HeadKind(Protocol):
    """One kind of head.

    Register an instance in ``featcache.heads.head_kinds``, and ``head="name"`` or ``head="name:detail"`` finds it.
    """

    def build(self, split: Split, task: Task, options: TrainOptions, device: torch.device) -> BuiltHead:
        """Build the untrained head on a copy of the split's model.

        The result is seeded and the same each time.

        Parameters
        ----------
        split : Split
            The network, cut where the features were taken.
        task : Task
            What the head learns.
        options : TrainOptions
            The options of training.
        device : torch.device
            The device of the head.

        Returns
        -------
        BuiltHead
            The untrained head.
        """
        ...

    def train(
        self, built: BuiltHead, rows: Division, options: TrainOptions, task: Task, progress: ProgressCallback
    ) -> list[EpochRecord]:
        """Train the head in place, on the device that it is on.

        Parameters
        ----------
        built : BuiltHead
            The head that ``build`` returned.
        rows : Division
            The training, validation and test rows.
        options : TrainOptions
            The options of training.
        task : Task
            What the head learns.
        progress : callable
            Called with a ``ProgressEvent`` after each epoch.

        Returns
        -------
        list of EpochRecord
            One record per epoch.
        """
        ...

    def restore(self, built: BuiltHead, estimator: Any, task: Task) -> None:
        """Put a fitted estimator that was saved with the head into its place.

        Parameters
        ----------
        built : BuiltHead
            The head that ``build`` returned.
        estimator : Any
            The estimator.
        task : Task
            What the head learned.
        """
        ...


class SuffixHead:
    """All that comes after the cut, with a new last layer."""

    def build(self, split: Split, task: Task, options: TrainOptions, device: torch.device) -> BuiltHead:
        """Return a copy of the network; what is not to be trained needs no gradients."""
        keeps = task.kind == "output"
        network = same_network(split, device) if keeps else new_network(split, task.outputs, options.seed, device)
        choose_trainable(network.suffix, options.trainable)
        return built_suffix(network)

    def train(
        self, built: BuiltHead, rows: Division, options: TrainOptions, task: Task, progress: ProgressCallback
    ) -> list[EpochRecord]:
        """Train the suffix; what training never changes is run once where its results fit into memory."""
        suffix, device = built.stored, _device(built)
        if built.split.flat:
            refuse_other_sizes(built.layers, _restored(built.split.replayed()), rows.train, options.batch_size)
        trainable = {name for name, parameter in suffix.named_parameters() if parameter.requires_grad}

        def prepare() -> None:
            train_mode(suffix, trainable, options.trainable is None)

        prepare()
        rest, train, validation = built.layers, rows.train, rows.validation
        if options.fold and rest is suffix and not _asks_for_frontier(options):
            frozen, folded = fold(suffix, trainable)
            mapped = None if frozen is None else _mapped(frozen.eval(), rows, options.batch_size, device)
            if mapped is not None:
                rest, (train, validation) = folded, mapped
        divided = replace(rows, train=train, validation=validation)
        if _solved(built, lone_linear(rest), divided, options, task):
            return []
        return fit(rest, prepare, divided, options, task, device, progress, suffix)

    def restore(self, built: BuiltHead, estimator: Any, task: Task) -> None:
        """Refuse: this head holds no estimator."""
        raise UsageError("a suffix head holds no scikit-learn estimator.")


class LinearHead:
    """One linear layer on pooled features, at each place of a map for dense targets, or on each token.

    It is a good class to inherit for a head of your own.
    """

    def build(self, split: Split, task: Task, options: TrainOptions, device: torch.device) -> BuiltHead:
        """Build prefix, pooling and a new linear layer.

        Parameters
        ----------
        split : Split
            The network, cut where the features were taken.
        task : Task
            What the head learns.
        options : TrainOptions
            The options of training. ``pool`` and ``seed`` count here.
        device : torch.device
            The device of the head.

        Returns
        -------
        BuiltHead
            The untrained head.

        Raises
        ------
        UsageError
            If ``options.trainable`` is given.
        """
        return _pooled(split, task, options, device)

    def train(
        self, built: BuiltHead, rows: Division, options: TrainOptions, task: Task, progress: ProgressCallback
    ) -> list[EpochRecord]:
        """Fit the layer to features that are pooled once, by a solver or by steps.

        Parameters
        ----------
        built : BuiltHead
            The head that ``build`` returned.
        rows : Division
            The training, validation and test rows.
        options : TrainOptions
            The options of training.
        task : Task
            What the head learns.
        progress : callable
            Called with a ``ProgressEvent`` after each epoch.

        Returns
        -------
        list of EpochRecord
            One record per epoch. Empty if the layer is solved.

        Raises
        ------
        HeadError
            If the loss diverges.
        UsageError
            If the options ask for a solver that does not fit the task or the other options.
        """
        network, device = _network(built), _device(built)
        if task.kind == "token" or _asks_for_frontier(options):  # as many vectors as a sample has tokens
            solves(options, task, rows.train)  # which refuses a solver that was asked for
            return fit(built.layers, built.layers.train, rows, options, task, device, progress)
        train = rows.train.map(network.pool, device=str(device))
        validation = None if rows.validation is None else rows.validation.map(network.pool, device=str(device))
        layer, pooled = network.head, replace(rows, train=train, validation=validation)
        if _solved(built, layer, pooled, options, task):
            return []
        return fit(layer, layer.train, pooled, options, task, device, progress)

    def restore(self, built: BuiltHead, estimator: Any, task: Task) -> None:
        """Refuse: this head holds no estimator.

        Parameters
        ----------
        built : BuiltHead
            The head that ``build`` returned.
        estimator : Any
            The estimator.
        task : Task
            What the head learned.

        Raises
        ------
        UsageError
            Always.
        """
        raise UsageError("a linear head holds no scikit-learn estimator.")


class AllLayersHead(LinearHead):
    """One linear layer on the pooled features of several cuts together."""

    def build(self, split: Split, task: Task, options: TrainOptions, device: torch.device) -> BuiltHead:
        """Build the prefix up to the last of the cuts, the pooling of what each returns, and a new linear layer."""
        if not isinstance(split, JoinedSplit):
            raise UsageError("head='all-layers' reads the features of several cuts: give a split and features of each.")
        if task.places:
            raise UsageError(
                f"all-layers gives one answer for each sample: for {task.kind} targets use suffix or linear."
            )
        return super().build(split, task, options, device)


class EstimatorHead:
    """A scikit-learn classifier on pooled features."""

    def build(self, split: Split, task: Task, options: TrainOptions, device: torch.device) -> BuiltHead:
        """Return prefix, pooling and a linear layer, in whose place the fitted estimator is put unless it is linear."""
        if task.places:
            raise UsageError(
                f"scikit-learn's estimators give one answer a sample: for {task.kind} targets use suffix or linear."
            )
        return _pooled(split, task, options, device)

    def train(
        self, built: BuiltHead, rows: Division, options: TrainOptions, task: Task, progress: ProgressCallback
    ) -> list[EpochRecord]:
        """Fit the estimator on the training rows, and on all their views where there are any."""
        pooled = rows.train.map(_network(built).pool, device=str(_device(built)))
        views = [pooled.numpy(view) for view in range(pooled.views + 1)]
        vectors, targets = (np.concatenate(each) for each in zip(*views, strict=True))
        weights = None if rows.weights is None else np.tile(rows.weights, len(views))
        name = options.head.partition(":")[2]
        estimator = fit_estimator(name, options.parameters, vectors, targets, options.seed, task, weights)
        self._put(built, as_layer(estimator, task, vectors), estimator)
        return []

    def restore(self, built: BuiltHead, estimator: Any, task: Task) -> None:
        """Put an estimator that was read from a folder in the linear layer's place."""
        if task.kind == "multi_label" and type(estimator).__name__ != "MultiOutputClassifier":
            raise HeadError("the saved estimator is not one for several labels: train the head again.")
        self._put(built, EstimatorLayer(estimator, task), estimator)

    def _put(self, built: BuiltHead, layer: nn.Module, estimator: Any) -> None:
        network = _network(built)
        layer.to(_device(built))
        network.head = layer
        built.layers, built.stored, built.estimator = nn.Sequential(network.pool, layer), layer, estimator


class Restored(nn.Module):
    """A suffix whose backbone computes in another precision than float32, in which cached features are handed out."""

    def __init__(self, suffix: nn.Module, dtypes: Mapping[str, torch.dtype]) -> None:
        super().__init__()
        self.suffix = suffix
        self.dtypes = dict(dtypes)

    def forward(self, frontier: torch.Tensor | Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return class scores (batch, classes)."""
        if isinstance(frontier, torch.Tensor):
            scores: torch.Tensor = self.suffix(frontier.to(next(iter(self.dtypes.values()))))
        else:
            # Not all cross the cut: of samples that vary in length there is a mask beside.
            scores = self.suffix(
                {name: values.to(self.dtypes.get(name, values.dtype)) for name, values in frontier.items()}
            )
        return scores


def built_suffix(network: Split) -> BuiltHead:
    """Return the head that is all of a network that comes after a cut."""
    return BuiltHead(network.model, network, _restored(network), network.suffix)


def _restored(network: Split) -> nn.Module:
    dtypes = {spec.name: getattr(torch, spec.dtype) for spec in network.frontier}
    odd = any(dtype.is_floating_point and dtype != torch.float32 for dtype in dtypes.values())
    return Restored(network.suffix, dtypes) if odd else network.suffix


def _pooled(split: Split, task: Task, options: TrainOptions, device: torch.device) -> BuiltHead:
    if options.trainable is not None:
        raise UsageError("trainable names modules of the suffix; a head on pooled features trains none of them.")
    if options.learning_rates:
        raise UsageError("learning_rates are those of modules of the suffix; a head on pooled features has one layer.")
    if task.kind == "output":
        raise UsageError(
            "a head on pooled features has a new layer, but task='output' keeps the network's own: use --head suffix."
        )
    with torch.inference_mode(False):
        if task.kind == "token":
            network = token_network(split, task.outputs, options.seed)
        elif task.size is None:
            network = pooled_network(split, options.pool, task.outputs, options.seed)
        else:
            network = dense_network(split, task.outputs, task.size, options.seed)
        network.to(device)
    cut: Split = network.__dict__["_split"]
    return BuiltHead(network, cut, nn.Sequential(network.pool, network.head), network.head, STORED_AT)


def _asks_for_frontier(options: TrainOptions) -> bool:
    """Return whether the loss takes what crosses the cut, which must be what was cached."""
    return options.loss is not None and takes_frontier(options.loss)


def _solved(built: BuiltHead, layer: nn.Module | None, rows: Division, options: TrainOptions, task: Task) -> bool:
    """Solve the layer that is all that is trained, if it can be; raises ``UsageError`` where that was asked for and cannot be."""
    if _is_plain(layer) and solves(options, task, rows.train):
        built.strength = solve(layer, rows, options, task, _device(built))
        return True
    if options.optimizer == "lbfgs":
        raise UsageError(
            f"after {built.split.cut!r} there is more to train than one linear layer, which is all that lbfgs solves: use "
            "--head linear, or another optimizer."
        )
    return False


def _is_plain(layer: nn.Module | None) -> TypeGuard[nn.Linear]:
    """Return whether a module is torch's own linear layer, trained as a whole: one of another kind would be solved wrongly."""
    if type(layer) is not nn.Linear or layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer):
        return False
    return layer.bias is not None and layer.weight.requires_grad and layer.bias.requires_grad


def _network(built: BuiltHead) -> HeadNetwork:
    assert isinstance(built.model, HeadNetwork)
    return built.model


def _device(built: BuiltHead) -> torch.device:
    return next((tensor.device for tensor in (*built.model.parameters(), *built.model.buffers())), torch.device("cpu"))


def _mapped(
    frozen: nn.Module, rows: Division, batch_size: int, device: torch.device
) -> tuple[Features, Features | None] | None:
    """Return training and validation rows after the frozen layers, None where they would fill too much memory.

    Batches are as large as in training, because a row's last bits can depend on the size of its batch.
    """
    used = [each for each in (rows.train, rows.validation) if each is not None]
    sample = used[0].subset([0]).map(frozen, device=str(device))
    if sample.size_bytes * sum(len(each) for each in used) > FOLDED_SHARE * available_memory_bytes():
        return None
    mapped = [each.map(frozen, batch_size, device=str(device)) for each in used]
    return mapped[0], mapped[1] if len(mapped) > 1 else None


head_kinds: Registry[HeadKind] = Registry(
    "featcache.heads",
    "head",
    {
        "suffix": "featcache.heads.kinds:SUFFIX",
        "linear": "featcache.heads.kinds:LINEAR",
        ALL_LAYERS: "featcache.heads.kinds:ALL",
        "sklearn": "featcache.heads.kinds:SKLEARN",
    },
)

SUFFIX, LINEAR, ALL, SKLEARN = SuffixHead(), LinearHead(), AllLayersHead(), EstimatorHead()


def find_kind(head: str) -> HeadKind:
    """Return the kind that ``"name"`` or ``"name:detail"`` names; raises ``UnknownNameError`` if there is none."""
    name = head.partition(":")[0]
    if name not in head_kinds or head == "sklearn":
        words = ["sklearn:NAME" if each == "sklearn" else each for each in head_kinds.names()]
        words.sort(key=lambda each: (each != "suffix", each != "linear"))
        raise UnknownNameError(f"unknown head {head!r}.{near_names(head, words)} Known: {', '.join(words)}.")
    return head_kinds.get(name)
