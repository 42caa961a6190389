"""Any scikit-learn scorer, by name, over what a network gave for held-out rows."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch

from ..errors import UnknownNameError, UsageError, near_names, one_line
from .tasks import Task

__all__ = ["check_scorer", "score"]

Array = np.ndarray[Any, Any]


def check_scorer(name: str) -> None:
    """Raise ``UnknownNameError`` unless scikit-learn has a scorer of this name."""
    from sklearn.metrics import get_scorer_names

    known = get_scorer_names()
    if name not in known:
        raise UnknownNameError(
            f"scikit-learn has no scorer {name!r}.{near_names(name, known)} For instance: accuracy, balanced_accuracy, "
            "f1_macro, roc_auc_ovr, neg_log_loss, r2, neg_mean_absolute_error."
        )


def score(name: str, task: Task, targets: Array, outputs: torch.Tensor) -> float:
    """Return a scorer's value, of which more is better; raises ``UsageError`` where it does not fit the task."""
    from sklearn.metrics import get_scorer

    check_scorer(name)
    true, predicted = np.asarray(targets), task.decoded(outputs)
    held: dict[str, Array] = {}
    if task.places:
        true, predicted = task.labelled(true, predicted)
    elif task.kind != "regression":
        held["predict_proba"] = task.probabilities(outputs)
        held["decision_function"] = _decision(task, outputs)
        true = true.astype(np.int64)
    held["predict"] = predicted
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as a class that is never predicted, in the first epochs
            value = float(get_scorer(name)(_held_outputs(task, held), np.arange(len(true)).reshape(-1, 1), true))
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(
            f"the scorer {name!r} cannot judge a {task.kind} task on these rows ({one_line(error)}): choose another --metric."
        ) from error
    if not np.isfinite(value):
        raise UsageError(
            f"the scorer {name!r} gives {value} on the {len(true)} rows to judge by: choose another --metric, or more rows."
        )
    return value


def _decision(task: Task, outputs: torch.Tensor) -> Array:
    values: Array = outputs.double().numpy()
    if task.kind == "single_label" and task.outputs == 2:  # scikit-learn has one column for two classes
        return values[:, 1] - values[:, 0]
    return values


def _held_outputs(task: Task, held: dict[str, Array]) -> Any:
    """Return a fitted estimator, as scikit-learn takes them, whose answers are those that the network gave."""
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

    mixin: Any = RegressorMixin if task.kind == "regression" else ClassifierMixin

    def answer(method: str) -> Any:
        def given(self: Any, rows: Array) -> Array:
            chosen: Array = held[method][np.asarray(rows).ravel()]
            return chosen

        given.__name__ = method  # scikit-learn looks at it
        return given

    made = type("HeldOutputs", (mixin, BaseEstimator), {method: answer(method) for method in held})()
    made.fitted_ = True
    if task.kind != "regression":
        made.classes_ = np.arange(task.outputs)
    return made
