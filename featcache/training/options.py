"""The options of training a head, checked once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..codecs import POOLS
from ..errors import UsageError, near_names
from ..samples import UNLABELLED, split_name, split_role
from .averaging import parse_average

__all__ = ["LR_SCHEDULES", "OPTIMIZERS", "SPLIT_OPTIONS", "WEIGHT_DECAY", "TrainOptions"]

OPTIMIZERS = ("adamw", "adam", "sgd", "lbfgs")
WEIGHT_DECAY = 0.01  # of steps, unless told
LR_SCHEDULES = ("cosine", "constant")
SPLIT_OPTIONS = ("train_splits", "validation_splits", "test_splits")


@dataclass(frozen=True)
class TrainOptions:
    """How a head is trained; see ``featcache.train_head`` for what each option means."""

    head: str = "suffix"
    epochs: int = 20
    batch_size: int = 64
    optimizer: str | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    lr_schedule: str = "cosine"
    warmup_epochs: float = 0.0
    label_smoothing: float = 0.0
    class_weights: str | Sequence[float] | None = None
    validation: float = 0.2
    patience: int | None = None
    seed: int = 0
    trainable: tuple[str, ...] | None = None
    fold: bool = True
    parameters: Mapping[str, Any] = field(default_factory=dict)
    pool: str = "auto"
    task: str | None = None
    metric: str | None = None
    ignore_index: int | None = None
    schedule: str | None = None
    freeze_schedule: str | None = None
    learning_rates: Mapping[str, float] | None = None
    clip_norm: float | None = None
    average: str | None = None
    mixed_precision: bool = False
    train_splits: Sequence[str] | None = None
    validation_splits: Sequence[str] | None = None
    test_splits: Sequence[str] | None = None
    loss: Callable[..., Any] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("warmup_epochs", 0), ("weight_decay", 0)):
            if getattr(self, name) is not None and not least <= getattr(self, name) < math.inf:  # nor NaN
                raise UsageError(f"{name} must be a number from {least} on, not {getattr(self, name)}.")
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise UsageError(f"learning_rate must be a finite number above 0, not {self.learning_rate}.")
        if self.warmup_epochs > self.epochs:
            raise UsageError(f"warmup_epochs must be at most the {self.epochs} epochs, not {self.warmup_epochs}.")
        if not 0 <= self.label_smoothing < 1:
            raise UsageError(f"label_smoothing must be from 0 up to 1, not {self.label_smoothing}.")
        if not 0 <= self.validation < 1:
            raise UsageError(f"validation is the share of the training rows from 0 up to 1, not {self.validation}.")
        if self.patience is not None and self.patience < 1:
            raise UsageError(f"patience must be at least 1 epoch, not {self.patience}.")
        for name, known in (("optimizer", OPTIMIZERS), ("lr_schedule", LR_SCHEDULES), ("pool", POOLS)):
            given = getattr(self, name)
            if given is not None and given not in known:
                raise UsageError(f"unknown {name} {given!r}.{near_names(given, known)} Known: {', '.join(known)}.")
        if isinstance(self.class_weights, str) and self.class_weights != "balanced":
            raise UsageError(f"class_weights must be 'balanced' or one number a class, not {self.class_weights!r}.")
        if self.class_weights is not None and not isinstance(self.class_weights, str):
            # Arrays and tensors become plain numbers, which are saved with the head.
            try:
                plain = tuple(float(weight) for weight in self.class_weights)
            except (TypeError, ValueError) as error:
                raise UsageError(f"class_weights must be numbers, one a class ({error}).") from error
            object.__setattr__(self, "class_weights", plain)
        object.__setattr__(self, "seed", int(self.seed))
        self._name_splits()
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise UsageError(f"clip_norm must be above 0, not {self.clip_norm}.")
        if self.average is not None:
            parse_average(self.average)
        if self.learning_rates is not None:
            object.__setattr__(self, "learning_rates", _plain_rates(self.learning_rates) or None)
        of_steps = self.clip_norm or self.average or self.learning_rates or self.mixed_precision
        if self.head.startswith("sklearn:") and of_steps:
            raise UsageError(
                "a scikit-learn head is fitted by scikit-learn: leave clip_norm, average, learning_rates and mixed_precision "
                "out."
            )
        if self.loss is not None:
            if self.head.startswith("sklearn:"):
                raise UsageError("a scikit-learn head has a loss of its own: give loss with suffix or linear.")
            if self.label_smoothing or self.class_weights is not None:
                raise UsageError(
                    "label_smoothing and class_weights do not go with a loss of your own: have it do that."
                )
        if self.parameters and not self.head.startswith("sklearn:"):
            raise UsageError("parameters are those of a scikit-learn head (sklearn:NAME); this head has none.")

    @property
    def decay(self) -> float:
        """Return the weight decay of steps."""
        return WEIGHT_DECAY if self.weight_decay is None else self.weight_decay

    def for_steps(self) -> TrainOptions:
        """Return the options with the optimizer and the weight decay that steps are taken with."""
        return replace(self, optimizer=self.optimizer or "adamw", weight_decay=self.decay)

    def _name_splits(self) -> None:
        """Bring the names of splits to one form; raises ``UsageError`` for one that is given two uses."""
        seen: dict[str, str] = {}
        for option in SPLIT_OPTIONS:
            given = getattr(self, option)
            if given is None:
                continue
            # One text would be taken for its letters.
            names = tuple(split_name(str(each)) for each in (given.split(",") if isinstance(given, str) else given))
            object.__setattr__(self, option, names)
            for name in names:
                if split_role(name) == UNLABELLED:
                    raise UsageError(f"{option} names {name!r}, whose rows have no labels: leave it out.")
                if seen.setdefault(name, option) != option:
                    raise UsageError(f"the split {name!r} is in both {seen[name]} and {option}: name it once.")


def _plain_rates(given: Any) -> dict[str, float]:
    try:
        rates = {str(pattern): float(rate) for pattern, rate in given.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise UsageError(f"learning_rates must be a number for each name or pattern ({error}).") from error
    for pattern, rate in rates.items():
        if not 0 < rate < math.inf:
            frozen = ": to freeze it, use trainable" if rate == 0 else ""
            raise UsageError(f"learning_rates must be finite numbers above 0, not {rate} for {pattern!r}{frozen}.")
    return rates
