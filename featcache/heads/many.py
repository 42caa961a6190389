"""Many linear heads in one pass over the features: learning rates, weight decays and seeds side by side."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from ..errors import HeadError, UsageError, near_names
from ..features import Features
from ..machine import pick_device
from ..splitting import Split, as_now
from ..tables import Records
from ..training import (
    Division,
    EpochRecord,
    Task,
    TaskLoss,
    TrainOptions,
    divide,
    find_task,
    make_optimizer,
    make_schedule,
    product,
)
from .kinds import LINEAR, SharedHead
from .linear import HeadNetwork, linear_head
from .train import check_origin, pool_of, scored
from .trained import TrainedHead, check_finite

__all__ = ["train_heads"]

VARIED = ("learning_rate", "weight_decay", "seed")
BETAS, EPSILON = (0.9, 0.999), 1e-8
TO_BASE_2 = 1 / math.log(2)
JUDGED_SCORES = 1 << 20  # at once, so that they stay in the processor's cache


def train_heads(
    split: Split, features: Features, grid: Sequence[Mapping[str, Any]], *, device: str | None = None, **options: Any
) -> list[TrainedHead]:
    """Train many linear heads in one pass over the features.

    Each head equals, within rounding, the one that ``featcache.train_head`` makes with its options. Heads with the same
    seed share the order of rows and one forward product, so the cost grows with the number of seeds. The network is
    copied once, and again for a head when its ``model`` or ``split`` is first asked for, so heads share no tensors.

    Parameters
    ----------
    split : Split
        The network, cut where the features were taken.
    features : Features
        The cached features of the samples, with their targets. The targets must be single classes.
    grid : sequence of mapping of str to Any
        One entry per head, with any of ``learning_rate``, ``weight_decay`` and ``seed``. What an entry leaves out comes
        from ``options``. The learning rate is 1e-2 if neither gives one.
    device : str, optional
        The device to train on. By default the best one there is.
    **options : Any
        The other options of ``featcache.train_head``, shared by all heads, except ``sample_weights`` and ``progress``.

    Returns
    -------
    list of TrainedHead
        One head per entry of ``grid``, in its order.

    Raises
    ------
    UsageError
        If an entry has another key, ``options`` holds one that is not shared, the head is not linear, or the targets are
        not single classes. Also for
        ``patience`` and ``metric``, with which heads would part ways, and for the optimizer ``"adam"``.
    HeadError
        If the loss of a head diverges.
    StaleError
        If the features belong to another network.

    Examples
    --------
    >>> import torch
    >>> import featcache
    >>> network = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    >>> samples = [(torch.randn(8), number % 3) for number in range(30)]
    >>> cut = featcache.split(network, "1", (torch.zeros(2, 8),))
    >>> features = featcache.extract(cut, samples, "features")
    >>> grid = [{"learning_rate": 0.1}, {"learning_rate": 0.01, "seed": 1}]
    >>> heads = featcache.train_heads(cut, features, grid, epochs=2)
    >>> [(head.options.learning_rate, head.options.seed) for head in heads]
    [(0.1, 0), (0.01, 1)]
    """
    if options.get("head", "linear") != "linear":
        raise UsageError("train_heads trains linear heads: use featcache.train_head for others.")
    known = [each.name for each in dataclasses.fields(TrainOptions)]
    for name in options:
        if name not in known:
            raise UsageError(f"train_heads has no option {name!r} that all heads share.{near_names(name, known)}")
    entries = [_options(entry, options) for entry in grid]
    if not entries:
        return []
    first = entries[0]
    if first.patience is not None or first.metric is not None or first.optimizer not in ("adamw", "sgd"):
        raise UsageError(
            "train_heads knows neither patience nor metric, and adamw and sgd only: use featcache.train_head."
        )
    if first.loss is not None or first.learning_rates or first.clip_norm or first.average or first.mixed_precision:
        raise UsageError(
            "train_heads knows no loss but cross entropy, nor learning_rates, clip_norm, average or mixed_precision: use "
            "featcache.train_head."
        )
    (split,) = as_now([split])
    check_origin(split, features)
    task = find_task(features, first.task, first.ignore_index)
    if task.kind != "single_label":
        raise UsageError(
            f"train_heads is for single labels, and these targets are {task.kind}: use featcache.train_head."
        )
    pool, where = pool_of(features, "linear", first.pool), pick_device(device)
    with torch.inference_mode(False):
        network = LINEAR.build(split, task, replace(first, pool=pool), where).model
    assert isinstance(network, HeadNetwork)
    made: dict[int, TrainedHead] = {}
    for seed in dict.fromkeys(entry.seed for entry in entries):
        started_s = time.perf_counter()
        places = [place for place, entry in enumerate(entries) if entry.seed == seed]
        chosen = [replace(entries[place], pool=pool) for place in places]
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(where.type, enabled=False):
            rows = _pooled(divide(features, chosen[0], task), network.pool, where)
            layers, histories = _fit(_first_layer(network, seed), rows, chosen, task, where)
        heads = [
            TrainedHead(
                SharedHead(network, layer), task, each, features.recipe, features.dataset, features.snapshot, told
            )
            for layer, each, told in zip(layers, chosen, histories, strict=True)
        ]
        scored(heads, rows, partial(_outputs, layers, where))
        made.update(zip(places, heads, strict=True))
        for head in heads:
            head.elapsed_s, head.rows = (time.perf_counter() - started_s) / len(places), rows.used
    return [made[place] for place in range(len(entries))]


def _options(entry: Mapping[str, Any], shared: Mapping[str, Any]) -> TrainOptions:
    unknown = sorted(set(entry) - set(VARIED))
    if unknown:
        raise UsageError(f"an entry of the grid gives {', '.join(VARIED)}, not {', '.join(unknown)}.")
    made = TrainOptions(**{**shared, **entry, "head": "linear"}).for_steps()
    return replace(made, learning_rate=made.learning_rate or 1e-2)


def _pooled(rows: Division, pool: nn.Module, device: torch.device) -> Division:
    """Return the rows pooled, once for all heads."""
    divided = (rows.train, rows.validation, rows.test)
    train, validation, test = (None if each is None else each.map(pool, device=str(device)) for each in divided)
    assert train is not None
    return replace(rows, train=train, validation=validation, test=test)


def _first_layer(network: HeadNetwork, seed: int) -> nn.Linear:
    """Return the layer that heads of a seed begin with."""
    layer = network.head
    assert isinstance(layer, nn.Linear)
    return linear_head(layer.in_features, layer.out_features, seed).to(layer.weight.device)


def _outputs(layers: list[nn.Linear], device: torch.device, pooled: Features) -> Iterator[torch.Tensor]:
    """Yield the scores of each head for pooled rows, on the CPU; raises ``HeadError`` if not finite."""
    vectors = _tensors(pooled, device)[0]
    for layer in layers:
        scores = (product(vectors, layer.weight) + layer.bias.detach()).cpu()
        check_finite(scores, pooled)
        yield scores


def _tensors(pooled: Features, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    vectors, targets = (torch.from_numpy(each).to(device) for each in pooled.numpy())
    return vectors, targets.long()


def _fit(
    start: nn.Linear, rows: Division, options: list[TrainOptions], task: Task, device: torch.device
) -> tuple[list[nn.Linear], list[Records[EpochRecord]]]:
    """Return a layer trained on pooled rows for each of the options: as one stacked layer, each with its own rates."""
    train, validation, heads = rows.train, rows.validation, len(options)
    stacked = [each.detach().expand(heads, *each.shape).clone() for each in (start.weight, start.bias)]
    shares_of, weights = TaskLoss(task, options[0], train.targets).to(device, torch.float32).shares(device)
    loader = train.loader(options[0].batch_size, seed=options[0].seed, device=str(device), world_size=1)
    optimizer = make_optimizer([nn.Parameter(torch.zeros(1))], options[0])
    step_of = _Steps(stacked, options, make_schedule(optimizer, options[0], len(loader)).lr_lambdas[0])
    best = [each.clone() for each in stacked]
    least: torch.Tensor | None = None
    histories = [Records[EpochRecord]() for _ in options]
    judged = None if validation is None else _tensors(validation, device)
    for epoch in range(options[0].epochs):
        started_s = time.perf_counter()
        total = torch.zeros(heads, device=device, dtype=torch.float64)
        for inputs, targets in loader:
            # By hand, since autograd's way from the losses to the scores takes twice as long.
            targets = targets.long()
            shares = shares_of.index_select(1, targets).div_(weights[targets].sum())
            logarithms = _scores(inputs, stacked).log_softmax(1)
            losses = logarithms.flatten(1) @ -shares.flatten()
            # Not exp, which is MKL's on a processor: half as fast, and a tenth where the results are near 0.
            gradient = logarithms.mul_(TO_BASE_2).exp2_().mul_(shares.sum(0)).sub_(shares)
            step_of([product(gradient.flatten(0, 1), inputs.T).view_as(stacked[0]), gradient.sum(2)])
            total += losses * len(targets)
        found = None if judged is None else _judge(*judged, stacked)
        better = torch.ones(heads, dtype=torch.bool, device=device)
        if found is not None and least is not None:
            better = found[0] < least
        for kept, now in zip(best, stacked, strict=True):
            kept[better] = now[better]
        if found is not None:
            least = found[0] if least is None else torch.where(better, found[0], least)
        taken_s = (time.perf_counter() - started_s) / heads
        means = (total / len(train)).tolist()
        for mean, each in zip(means, options, strict=True):
            if not math.isfinite(mean):
                raise HeadError(
                    f"the loss became {mean} in epoch {epoch + 1}: use a smaller learning_rate than "
                    f"{each.learning_rate:g} in the grid."
                )
        losses_found, accuracies = ([None] * heads,) * 2 if found is None else (each.tolist() for each in found)
        for number, history in enumerate(histories):
            told = (losses_found[number], accuracies[number], step_of.rate(number), taken_s)
            history.append(EpochRecord(epoch + 1, means[number], *told, None))
    layers = [copy.deepcopy(start).eval() for _ in options]
    for layer, weight, bias in zip(layers, *best, strict=True):
        layer.load_state_dict({"weight": weight, "bias": bias})
    return layers, histories


def _scores(inputs: torch.Tensor, stacked: list[torch.Tensor]) -> torch.Tensor:
    """Return the scores of every head (heads, classes, rows), by one product: rows last, which the loss is fastest on."""
    weight, bias = stacked
    return product(weight.flatten(0, 1), inputs).view(*bias.shape, -1).add_(bias[..., None])


def _judge(
    inputs: torch.Tensor, targets: torch.Tensor, stacked: list[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean loss and the accuracy of each head."""
    heads, classes, _ = stacked[0].shape
    loss, right = torch.zeros((2, heads), device=inputs.device, dtype=torch.float64).unbind()
    count = max(1, JUDGED_SCORES // (heads * classes))
    for start in range(0, len(inputs), count):
        scores = _scores(inputs[start : start + count], stacked)
        expected = targets[start : start + count].expand(heads, -1)
        loss += nn.functional.cross_entropy(scores, expected, reduction="none").sum(1)
        right += (scores.max(1).indices == expected).sum(1)
    return loss / len(inputs), right / len(inputs)


class _Steps:
    """The steps of SGD with momentum or AdamW, as torch's, with rates and decays of each head."""

    def __init__(self, stacked: list[torch.Tensor], options: list[TrainOptions], schedule: Any) -> None:
        self.stacked, self.sgd, self.schedule = stacked, options[0].optimizer == "sgd", schedule
        self.rates = [float(each.learning_rate or 0) for each in options]
        self.decays = torch.tensor([each.decay for each in options], device=stacked[0].device)
        self.first = [torch.zeros_like(each) for each in stacked]
        self.second = [torch.zeros_like(each) for each in stacked]
        self.held = [torch.empty_like(each) for each in stacked]  # new memory costs more than what is done in it
        self.taken = 0

    def rate(self, number: int) -> float:
        """Return the rate that a head's next step has."""
        return self.rates[number] * float(self.schedule(self.taken))

    def __call__(self, gradients: Sequence[torch.Tensor]) -> None:
        """Take one step."""
        rates = torch.tensor(self.rates, device=self.decays.device) * float(self.schedule(self.taken))
        self.taken += 1
        with torch.no_grad():
            tensors = zip(self.stacked, gradients, self.first, self.second, self.held, strict=True)
            for value, gradient, first, second, held in tensors:
                shape = (-1, *(1 for _ in value.shape[1:]))
                rate, decay = rates.view(shape), self.decays.view(shape)
                if self.sgd:
                    first.mul_(0.9).add_(gradient + decay * value)
                    value.sub_(rate * first)
                    continue
                value.mul_(1 - rate * decay)
                first.lerp_(gradient, 1 - BETAS[0])
                second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
                unbiased = (1 - BETAS[1] ** self.taken) ** 0.5
                scale = torch.sqrt(second, out=held).add_(EPSILON * unbiased).div_(rate)
                value.addcdiv_(first, scale, value=-unbiased / (1 - BETAS[0] ** self.taken))
