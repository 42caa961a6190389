"""Solving a linear layer to convergence, with the strength of its penalty chosen on rows that it is not fitted to."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ..errors import HeadError, UsageError
from ..features import Features
from ..machine import available_memory_bytes
from .losses import TaskLoss, plain_loss
from .options import WEIGHT_DECAY, TrainOptions
from .rows import Division
from .scorers import score
from .tasks import Task

__all__ = ["solve", "solves"]

SOLVED_TASKS = ("single_label", "multi_label", "regression")
STEP_OPTIONS = (
    "learning_rate",
    "loss",
    "clip_norm",
    "average",
    "mixed_precision",
    "patience",
    "learning_rates",
)
STRENGTHS = tuple(10.0**-power for power in range(7))  # for features of variance 1
FOLDS = 5
FOLDED_ROWS = 5000  # with more, one fold tells enough
PIECE_ROWS = 1 << 14
HELD_VALUES = 1 << 26  # features that are brought to variance 1 once, and not at every look
HELD_SHARE = 0.4  # of the free memory that the vectors may fill
MOST_STEPS = 200
QUICKLY_SOLVED = 4e9  # rows × dimensions × outputs: beyond, many steps come as far in less time

Array = np.ndarray[Any, Any]
Layer = tuple[torch.Tensor, torch.Tensor]  # weight and bias, float64


def solves(options: TrainOptions, task: Task, features: Features) -> bool:
    """Return whether a linear layer on these features is solved, and not trained by steps.

    Raises ``UsageError`` where the options ask for a solver that does not fit the task or other options.
    """
    if options.optimizer not in (None, "lbfgs"):
        return False
    vectors = [len(spec.value_shape) == 1 and not spec.ragged for spec in features.frontier] == [True]
    of_steps = [name for name in STEP_OPTIONS if getattr(options, name) not in (None, False)]
    if options.optimizer is None:
        values = len(features) * (features.views + 1) * sum(math.prod(spec.value_shape) for spec in features.frontier)
        quickly = values * task.outputs <= QUICKLY_SOLVED and values * 4 <= HELD_SHARE * available_memory_bytes()
        return vectors and quickly and task.kind in SOLVED_TASKS and not of_steps
    if of_steps:
        raise UsageError(f"lbfgs takes no steps that {of_steps[0]} could belong to: use --optimizer adamw.")
    if task.kind not in SOLVED_TASKS:
        raise UsageError(f"lbfgs solves {', '.join(SOLVED_TASKS)}, not a {task.kind} task: use --optimizer adamw.")
    if not vectors:
        raise UsageError(
            "lbfgs solves a layer on one vector for each sample, which these features are not: use --head linear."
        )
    return True


def solve(layer: nn.Linear, rows: Division, options: TrainOptions, task: Task, device: torch.device) -> float:
    """Fit a linear layer to the vectors of the training rows in place, and return the strength of its penalty.

    What is minimised is the task's loss plus half the strength times the sum of the squared weights, of features with mean 0
    and variance 1 (and values, too, in a regression); the bias is not penalised. The solver is torch's L-BFGS. The strength is
    that of the options, or the one of ``STRENGTHS`` that is best on the validation rows, or by cross-validation without them,
    by loss or by the scorer that the options name; of fewer than five rows it is 0.01. Rows are judged as they are, and
    fitted to with their views.
    """
    if device.type == "mps":  # it has no float64
        device = torch.device("cpu")
    rows = _counting(rows)
    train = _Rows.of(rows.train, rows.weights, device)
    loss_of = TaskLoss(task, options, rows.train.targets).to(device)
    strength, found = options.weight_decay, None
    if strength is None and rows.validation is not None:
        strength, found = _best([(train, _Rows.of(rows.validation, None, device, views=0))], loss_of, options)
    elif strength is None and len(rows.train) < FOLDS:
        strength = WEIGHT_DECAY
    elif strength is None:
        folds = _folds(rows.train, task, options.seed)
        strength, _ = _best([(train.take(fitted), train.take(judged)) for fitted, judged in folds], loss_of, options)
    if found is None:
        assert strength is not None
        path = [*(each for each in STRENGTHS if each > strength), strength]
        *_, found = _path(train, loss_of, path, held=train.values <= HELD_VALUES)
    if not all(bool(torch.isfinite(each).all()) for each in found):
        raise HeadError("the linear layer cannot be solved on these features: use --optimizer adamw.")
    with torch.no_grad():
        layer.weight.copy_(found[0])
        layer.bias.copy_(found[1])
    return strength


def _counting(rows: Division) -> Division:
    """Return the same rows without those for training whose weight is 0; the mean of the others is 1 again."""
    if rows.weights is None or rows.weights.all():
        return rows
    kept = np.flatnonzero(rows.weights)
    return replace(rows, train=rows.train.subset(kept), weights=rows.weights[kept] / rows.weights[kept].mean())


@dataclass(frozen=True)
class _Rows:
    """Vectors with their targets and weights, on the device that they are solved on; ``chosen`` are some of the vectors."""

    vectors: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor | None
    chosen: torch.Tensor | None = None

    @classmethod
    def of(cls, features: Features, weights: Array | None, device: torch.device, views: int | None = None) -> _Rows:
        """Return all rows of features, and those of their views after them."""
        given = [features.numpy(view) for view in range(1 + (features.views if views is None else views))]
        vectors, targets = (np.concatenate(each) if len(each) > 1 else each[0] for each in zip(*given, strict=True))
        tiled = None if weights is None else torch.from_numpy(np.tile(weights, len(given))).float().to(device)
        return cls(torch.from_numpy(vectors).float().to(device), torch.from_numpy(targets).to(device), tiled)

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def values(self) -> int:
        """Return how many values all vectors have."""
        return len(self) * self.vectors.shape[1]

    def take(self, rows: Array) -> _Rows:
        """Return some of all rows, whose vectors are not copied."""
        chosen = torch.from_numpy(rows).to(self.vectors.device)
        weights = None if self.weights is None else self.weights[chosen]
        return _Rows(self.vectors, self.targets[chosen], weights, chosen)

    def pieces(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yield the places of some rows after another, and their vectors."""
        for start in range(0, len(self), PIECE_ROWS):
            piece = slice(start, start + PIECE_ROWS)
            yield piece, self.vectors[piece] if self.chosen is None else self.vectors[self.chosen[piece]]

    def moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and standard deviation of each dimension; where nothing varies, the deviation is 1."""
        shares = self.shares()[:, None]
        mean = torch.stack([(vectors * shares[piece]).sum(0) for piece, vectors in self.pieces()]).sum(0)
        squares = [((vectors - mean).square() * shares[piece]).sum(0) for piece, vectors in self.pieces()]
        spread = torch.stack(squares).sum(0).sqrt()
        least = 1e-6 * mean.abs() + torch.finfo(torch.float32).tiny
        return mean.float(), torch.where(spread > least, spread, torch.ones_like(spread)).float()

    def shares(self) -> torch.Tensor:
        """Return the share of each row in means, float64."""
        device = self.vectors.device
        weights = torch.ones(len(self), device=device) if self.weights is None else self.weights
        return weights.double() / weights.double().sum()

    def standardised(
        self, mean: torch.Tensor, spread: torch.Tensor, *, held: bool
    ) -> Callable[[], Iterable[tuple[slice, torch.Tensor]]]:
        """Return a function that gives pieces of the rows, with their vectors brought to mean 0 and variance 1."""

        def made() -> Iterator[tuple[slice, torch.Tensor]]:
            for piece, vectors in self.pieces():
                yield piece, (vectors - mean) / spread

        if not held:
            return made
        kept = list(made())
        return lambda: kept


def _folds(features: Features, task: Task, seed: int) -> list[tuple[Array, Array]]:
    """Return the rows to fit to, with their views, and to judge by, of each fold."""
    from sklearn.model_selection import KFold, StratifiedKFold

    targets, views = features.targets, features.views + 1
    stratified = task.kind == "single_label" and np.unique(targets, return_counts=True)[1].max() >= FOLDS
    kind: Any = StratifiedKFold if stratified else KFold
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a class that has fewer rows than there are folds
        found = list(kind(FOLDS, shuffle=True, random_state=seed).split(targets, targets if stratified else None))

    def with_views(rows: Array) -> Array:
        return np.concatenate([rows + len(targets) * view for view in range(views)])

    every = [(with_views(fitted), judged) for fitted, judged in found]
    return every[:1] if len(targets) > FOLDED_ROWS else every


def _best(pairs: Sequence[tuple[_Rows, _Rows]], loss_of: TaskLoss, options: TrainOptions) -> tuple[float, Layer]:
    """Return the strength that is best on the judged rows of all pairs of fitted and judged rows, and the first pair's layer.

    Of equal ones the strongest is best. The judged rows are judged together, since those of one fold may lack a class.
    """
    task = loss_of.task
    held = sum(fitted.values for fitted, _ in pairs) <= HELD_VALUES
    paths = [_path(fitted, loss_of, STRENGTHS, held=held) for fitted, _ in pairs]
    targets = torch.cat([judged.targets for _, judged in pairs])
    weighed = [judged.weights for _, judged in pairs if judged.weights is not None]
    weights = torch.cat(weighed) if weighed else None
    best, strength, layer = math.inf, STRENGTHS[0], None
    for each, found in zip(STRENGTHS, zip(*paths, strict=True), strict=True):
        outputs = torch.cat([_outputs(judged, made) for (_, judged), made in zip(pairs, found, strict=True)])
        if options.metric is None:
            bad = float(plain_loss(task, outputs, targets, weights)) / len(targets)
        else:
            bad = -score(options.metric, task, targets.cpu().numpy(), task.kept(outputs))
        if bad < best or layer is None:  # NaN is worse than all
            best, strength, layer = bad if bad < math.inf else math.inf, each, found[0]
    assert layer is not None
    return strength, layer


def _outputs(rows: _Rows, layer: Layer) -> torch.Tensor:
    weight, bias = (each.float() for each in layer)
    with torch.no_grad():
        return torch.cat([functional.linear(vectors, weight, bias) for _, vectors in rows.pieces()])


def _path(rows: _Rows, loss_of: TaskLoss, strengths: Sequence[float], *, held: bool) -> Iterator[Layer]:
    """Yield weight and bias for falling strengths, each begun where the last one ended."""
    task, device = loss_of.task, rows.vectors.device
    mean, spread = rows.moments()
    pieces, targets = rows.standardised(mean, spread, held=held), rows.targets
    plain: dict[str, Any] = {"dtype": torch.float32, "device": device}  # whatever the caller's default is
    centre, scale = torch.zeros(task.outputs, **plain), torch.ones(task.outputs, **plain)
    if task.kind == "regression":
        values, shares = targets.double().reshape(len(targets), -1), rows.shares()[:, None]
        centre = (values * shares).sum(0)
        scale = ((values - centre).square() * shares).sum(0).sqrt()
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        targets = ((values - centre) / scale).float().reshape(targets.shape)
    weight = torch.zeros(task.outputs, rows.vectors.shape[1], **plain, requires_grad=True)
    bias = torch.zeros(task.outputs, **plain, requires_grad=True)
    divisor = _divisor(loss_of, targets)
    for strength in strengths:
        optimizer: Any = torch.optim.LBFGS(
            [weight, bias], max_iter=MOST_STEPS, history_size=10, tolerance_grad=1e-6, tolerance_change=1e-8,
            line_search_fn="strong_wolfe",
        )  # fmt: skip

        def closure(optimizer: Any = optimizer, strength: float = strength) -> torch.Tensor:
            optimizer.zero_grad(set_to_none=False)
            penalty: Any = strength / 2 * weight.square().sum()
            penalty.backward()
            total: torch.Tensor = penalty.detach()
            for piece, vectors in pieces():
                outputs = functional.linear(vectors, weight, bias)
                each = loss_of.elementwise(*task.paired(outputs, targets[piece])).reshape(len(outputs), -1)
                if rows.weights is not None:
                    each = each * rows.weights[piece, None]
                loss: Any = each.sum() / divisor
                loss.backward()
                total = total + loss.detach()
            return total

        with torch.enable_grad():
            optimizer.step(closure)
        unscaled = weight.detach().double() / spread.double()
        offset = centre.double() + scale.double() * (bias.detach().double() - unscaled @ mean.double())
        yield scale.double()[:, None] * unscaled, offset


def _divisor(loss_of: TaskLoss, targets: torch.Tensor) -> float:
    """Return by what the sum of all losses is divided for the mean."""
    if loss_of.task.kind == "single_label":
        return float(loss_of.divisor(targets, targets.long()))
    return float(targets.numel())
