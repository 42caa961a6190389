"""Heads from scikit-learn: any of its classifiers, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import HeadError, MissingDependencyError, UnknownNameError, UsageError, near_names

__all__ = [
    "EstimatorLayer",
    "as_layer",
    "estimator_names",
    "fit_estimator",
    "load_estimator",
    "save_estimator",
]

DEFAULTS: dict[str, dict[str, Any]] = {"LogisticRegression": {"max_iter": 1000}}
ABSENT = -1e9  # the score of a class that the estimator never saw

Array = np.ndarray[Any, Any]


class EstimatorLayer(nn.Module):
    """A fitted estimator as the last layer of a network: log-probabilities from vectors, without gradients."""

    def __init__(self, estimator: Any, classes: int) -> None:
        super().__init__()
        self.estimator = estimator
        self.classes = classes

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return log-probabilities (batch, classes)."""
        values = vectors.detach().cpu().numpy()
        seen = np.asarray(self.estimator.classes_, dtype=np.int64)
        scores = np.zeros((len(values), self.classes))
        if hasattr(self.estimator, "predict_proba"):
            scores[:, seen] = self.estimator.predict_proba(values)
        else:
            scores[np.arange(len(values)), self.estimator.predict(values)] = 1.0
        return torch.from_numpy(np.log(np.clip(scores, 1e-12, None))).to(vectors.device, torch.float32)


def estimator_names() -> list[str]:
    """Return the names of scikit-learn's classifiers."""
    from sklearn.utils import all_estimators

    return [name for name, _ in all_estimators(type_filter="classifier")]


def fit_estimator(name: str, parameters: Mapping[str, Any], vectors: Array, targets: Array, seed: int) -> Any:
    """Return a fitted classifier; raises :class:`UnknownNameError`, :class:`UsageError` or :class:`HeadError`."""
    from sklearn.utils import all_estimators

    known = dict(all_estimators(type_filter="classifier"))
    if name not in known:
        raise UnknownNameError(
            f"scikit-learn has no classifier {name!r}.{near_names(name, known)} For instance: LogisticRegression, "
            "RidgeClassifier, LinearSVC, KNeighborsClassifier, RandomForestClassifier."
        )
    try:
        estimator = known[name](**DEFAULTS.get(name, {}))
    except TypeError as error:
        raise UsageError(
            f"scikit-learn's {name} needs other estimators to be built from; it cannot be named alone."
        ) from error
    settable = estimator.get_params()
    for key in parameters:
        if key not in settable:
            raise UsageError(
                f"{name} has no parameter {key!r}.{near_names(key, settable)} Known: {', '.join(settable)}."
            )
    if settable.get("random_state", 0) is None:
        estimator.set_params(random_state=seed)
    try:
        return estimator.set_params(**parameters).fit(vectors, targets)
    except (ValueError, TypeError) as error:
        raise HeadError(f"scikit-learn's {name} could not be fitted: {error}") from error


def as_layer(estimator: Any, classes: int) -> nn.Module:
    """Return a fitted estimator as a module: a linear layer where it is linear, so that it saves as plain tensors."""
    coefficients, intercept = getattr(estimator, "coef_", None), getattr(estimator, "intercept_", None)
    seen = np.asarray(estimator.classes_, dtype=np.int64)
    if (
        coefficients is None
        or intercept is None
        or np.ndim(coefficients) != 2
        or len(coefficients) not in (1, len(seen))
    ):
        return EstimatorLayer(estimator, classes)
    weight, bias = np.zeros((classes, coefficients.shape[1])), np.full(classes, ABSENT)
    if len(coefficients) == 1:  # two classes: a positive value speaks for the second
        bias[seen] = 0.0, float(np.ravel(intercept)[0])
        weight[seen[1]] = coefficients[0]
    else:
        weight[seen], bias[seen] = coefficients, intercept
    layer = nn.Linear(weight.shape[1], classes)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias))
    return layer


def save_estimator(estimator: Any) -> bytes:
    """Return a fitted estimator as bytes in the skops format, which runs no code when it is loaded."""
    data: bytes = _skops().dumps(estimator)
    return data


def load_estimator(content: bytes) -> Any:
    """Return the estimator that :func:`save_estimator` wrote; raises :class:`HeadError` if it holds foreign types."""
    skops = _skops()
    foreign = [name for name in skops.get_untrusted_types(data=content) if not name.startswith(("sklearn.", "numpy."))]
    if foreign:
        raise HeadError(
            f"the saved estimator holds types that are not scikit-learn's ({', '.join(foreign)}): not loaded."
        )
    return skops.loads(content, trusted=skops.get_untrusted_types(data=content))


def _skops() -> Any:
    try:
        import skops.io
    except ImportError as error:
        raise MissingDependencyError(
            "saving or loading this head needs skops: pip install 'featcache[estimators]'. Linear estimators need it not."
        ) from error
    return skops.io
