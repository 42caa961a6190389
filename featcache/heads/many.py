"""Many linear heads in one pass over the features: learning rates, weight decays and seeds side by side."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from ..devices import pick_device
from ..errors import UsageError
from ..features import Features
from ..split import Split
from .head import TrainedHead, check_origin, pool_of, scored
from .kinds import LINEAR, HeadParts
from .losses import TaskLoss, plain_loss
from .metrics import EpochRecord
from .options import TrainOptions
from .rows import Division, divide
from .tasks import find_task
from .train import make_optimizer, make_schedule

__all__ = ["train_heads"]

VARIED = ("learning_rate", "weight_decay", "seed")
BETAS, EPSILON = (0.9, 0.999), 1e-8

State = tuple[torch.Tensor, torch.Tensor]


def train_heads(
    split: Split, features: Features, grid: Sequence[Mapping[str, Any]], *, device: str | None = None, **options: Any
) -> list[TrainedHead]:
    """Return one linear head for each entry of ``grid``, all trained in one pass over the features.

    An entry gives ``learning_rate``, ``weight_decay`` and ``seed``; what it leaves out, and all else, comes from
    ``options`` as for :func:`featcache.train_head`. Each head equals within rounding the one that ``train_head`` makes
    with its options. Heads of one seed share the order of rows and one forward product, so it is seeds that cost.
    Raises :class:`UsageError` for other keys, for other heads than linear ones of class targets, and for ``patience``,
    ``metric`` and sample weights, with which heads would part ways.
    """
    if options.get("head", "linear") != "linear":
        raise UsageError("train_heads trains linear heads: use featcache.train_head for others.")
    entries = [_options(entry, options) for entry in grid]
    if not entries:
        return []
    first = entries[0]
    if first.patience is not None or first.metric is not None or first.optimizer == "adam":
        raise UsageError(
            "train_heads knows neither patience nor metric, and adamw and sgd only: use featcache.train_head."
        )
    check_origin(split, features)
    task = find_task(features, first.task, first.ignore_index)
    if task.kind != "single_label":
        raise UsageError(
            f"train_heads is for single labels, and these targets are {task.kind}: use featcache.train_head."
        )
    pool, where = pool_of(features, "linear", first.pool), pick_device(device)
    made: dict[int, TrainedHead] = {}
    for seed in dict.fromkeys(entry.seed for entry in entries):
        started_s = time.perf_counter()
        places = [place for place, entry in enumerate(entries) if entry.seed == seed]
        chosen = [replace(entries[place], pool=pool) for place in places]
        rows = divide(features, chosen[0].validation, seed, task)
        with torch.inference_mode(False), torch.enable_grad():
            parts = [LINEAR.build(split, task, each, where) for each in chosen]
            histories = _fit(parts, rows, chosen, task, where)
        for place, part, each, history in zip(places, parts, chosen, histories, strict=True):
            part.model.eval()
            head = TrainedHead(part, task, each, features.recipe, features.dataset, features.snapshot, history)
            made[place] = scored(head, rows, where)
            head.elapsed_s = (time.perf_counter() - started_s) / len(places)
    return [made[place] for place in range(len(entries))]


def _options(entry: Mapping[str, Any], shared: Mapping[str, Any]) -> TrainOptions:
    unknown = sorted(set(entry) - set(VARIED))
    if unknown:
        raise UsageError(f"an entry of the grid gives {', '.join(VARIED)}, not {', '.join(unknown)}.")
    made = TrainOptions(**{**shared, **entry, "head": "linear"})
    return replace(made, learning_rate=made.learning_rate or 1e-2)


def _fit(
    parts: list[HeadParts], rows: Division, options: list[TrainOptions], task: Any, device: torch.device
) -> list[list[EpochRecord]]:
    """Train the layers in place: as one stacked layer, each head with its own rates."""
    pool = parts[0].model.get_submodule("pool")
    train = rows.train.map(pool, device=str(device))
    validation = None if rows.validation is None else rows.validation.map(pool, device=str(device))
    layers = [part.stored for part in parts]
    stacked = [torch.stack([getattr(layer, name).detach() for layer in layers]) for name in ("weight", "bias")]
    stacked = [each.requires_grad_() for each in stacked]
    loss_of = TaskLoss(task, options[0], train.targets).to(device, torch.float32)
    loader = train.loader(options[0].batch_size, seed=options[0].seed, device=str(device))
    schedules = []
    for each in options:
        optimizer = make_optimizer([torch.nn.Parameter(torch.zeros(1))], each)
        schedules.append(make_schedule(optimizer, each, len(loader)).lr_lambdas[0])
    step_of = _Steps(stacked, options, schedules)
    best: list[tuple[float, State] | None] = [None] * len(parts)
    histories: list[list[EpochRecord]] = [[] for _ in parts]
    judged = None if validation is None else tuple(torch.from_numpy(each).to(device) for each in validation.numpy())
    for epoch in range(options[0].epochs):
        started_s = time.perf_counter()
        total = torch.zeros(len(parts), device=device, dtype=torch.float64)
        for inputs, targets in loader:
            losses = torch.vmap(loss_of, in_dims=(0, None))(_scores(inputs, stacked), targets)
            step_of(torch.autograd.grad(losses.sum(), stacked))
            total += losses.detach() * len(targets)
        for number, history in enumerate(histories):
            loss = accuracy = None
            state = (stacked[0][number].detach().clone(), stacked[1][number].detach().clone())
            if judged is not None:
                inputs, targets = judged
                output = torch.nn.functional.linear(inputs, *state)
                loss = float(plain_loss(task, output, targets)) / len(targets)
                accuracy = float((output.argmax(1) == targets).float().mean())
            kept = best[number]
            if loss is None or kept is None or loss < kept[0]:
                best[number] = (loss or 0.0, state)
            rate = step_of.rate(number)
            taken_s = (time.perf_counter() - started_s) / len(parts)
            history.append(
                EpochRecord(epoch + 1, float(total[number]) / len(train), loss, accuracy, rate, taken_s, None)
            )
    for layer, found in zip(layers, best, strict=True):
        if found is not None:
            layer.load_state_dict({"weight": found[1][0], "bias": found[1][1]})
    return histories


def _scores(inputs: torch.Tensor, stacked: list[torch.Tensor]) -> torch.Tensor:
    """Return the scores of every head (heads, rows, classes), by one product."""
    weight, bias = stacked
    scores = inputs @ weight.flatten(0, 1).T
    return scores.view(len(inputs), *weight.shape[:2]).transpose(0, 1) + bias[:, None]


class _Steps:
    """The steps of SGD with momentum or AdamW, as torch's, with rates and decays of each head."""

    def __init__(self, stacked: list[torch.Tensor], options: list[TrainOptions], schedules: list[Any]) -> None:
        self.stacked, self.sgd, self.schedules = stacked, options[0].optimizer == "sgd", schedules
        self.rates = [float(each.learning_rate or 0) for each in options]
        self.decays = torch.tensor([each.weight_decay for each in options], device=stacked[0].device)
        self.first = [torch.zeros_like(each) for each in stacked]
        self.second = [torch.zeros_like(each) for each in stacked]
        self.taken = 0

    def rate(self, number: int) -> float:
        """Return the rate that a head's next step has."""
        return self.rates[number] * float(self.schedules[number](self.taken))

    def __call__(self, gradients: tuple[torch.Tensor, ...]) -> None:
        """Take one step."""
        rates = torch.tensor([self.rate(number) for number in range(len(self.rates))], device=self.decays.device)
        self.taken += 1
        with torch.no_grad():
            for value, gradient, first, second in zip(self.stacked, gradients, self.first, self.second, strict=True):
                shape = (-1, *(1 for _ in value.shape[1:]))
                rate, decay = rates.view(shape), self.decays.view(shape)
                if self.sgd:
                    first.mul_(0.9).add_(gradient + decay * value)
                    value.sub_(rate * first)
                    continue
                value.mul_(1 - rate * decay)
                first.lerp_(gradient, 1 - BETAS[0])
                second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
                scale = (second.sqrt() / (1 - BETAS[1] ** self.taken) ** 0.5).add_(EPSILON)
                value.sub_(rate / (1 - BETAS[0] ** self.taken) * first / scale)
