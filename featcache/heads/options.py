"""The options of training a head, checked once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import UsageError, near_names

__all__ = ["OPTIMIZERS", "SCHEDULES", "TrainOptions"]

OPTIMIZERS = ("adamw", "adam", "sgd")
SCHEDULES = ("cosine", "constant")


@dataclass(frozen=True)
class TrainOptions:
    """How a head is trained; see :func:`featcache.train_head` for what each option means."""

    head: str = "suffix"
    epochs: int = 20
    batch_size: int = 64
    optimizer: str = "adamw"
    learning_rate: float | None = None
    weight_decay: float = 0.01
    schedule: str = "cosine"
    warmup_epochs: float = 0.0
    label_smoothing: float = 0.0
    class_weights: str | Sequence[float] | None = None
    validation: float = 0.2
    patience: int | None = None
    seed: int = 0
    trainable: tuple[str, ...] | None = None
    fold: bool = True
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("warmup_epochs", 0), ("weight_decay", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} must be at least {least}, not {getattr(self, name)}.")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise UsageError(f"learning_rate must be above 0, not {self.learning_rate}.")
        if not 0 <= self.label_smoothing < 1:
            raise UsageError(f"label_smoothing must be from 0 up to 1, not {self.label_smoothing}.")
        if not 0 <= self.validation < 1:
            raise UsageError(f"validation is the share of the training rows from 0 up to 1, not {self.validation}.")
        if self.patience is not None and self.patience < 1:
            raise UsageError(f"patience must be at least 1 epoch, not {self.patience}.")
        for name, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
            given = getattr(self, name)
            if given not in known:
                raise UsageError(f"unknown {name} {given!r}.{near_names(given, known)} Known: {', '.join(known)}.")
        if isinstance(self.class_weights, str) and self.class_weights != "balanced":
            raise UsageError(f"class_weights must be 'balanced' or one number a class, not {self.class_weights!r}.")
        if self.parameters and not self.head.startswith("sklearn:"):
            raise UsageError("parameters are those of a scikit-learn head (sklearn:NAME); this head has none.")
