"""Heads from scikit-learn: any of its classifiers, by name."""

from __future__ import annotations

import importlib
import io
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from ..devices import available_memory_bytes
from ..errors import HeadError, MissingDependencyError, UnknownNameError, UsageError, near_names
from ..seeding import seeded

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
        try:
            if hasattr(self.estimator, "predict_proba"):
                scores[:, seen] = self.estimator.predict_proba(values)
            rows, predicted = np.arange(len(values)), self.estimator.predict(values)
        except ValueError as error:  # such as a radius in which there are no neighbors
            name = type(self.estimator).__name__
            raise HeadError(f"scikit-learn's {name} cannot predict: {' '.join(str(error).split())[:300]}") from error
        if not hasattr(self.estimator, "predict_proba"):
            scores[rows, predicted] = 1.0
        # Some estimators decide otherwise than by their probabilities (nearest centroids, Platt scaling): the decision
        # counts, and gets the largest one.
        likeliest = scores.argmax(axis=1)
        scores[rows, predicted], scores[rows, likeliest] = scores[rows, likeliest], scores[rows, predicted]
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
        words = " ".join(str(error).split())[:300]
        raise HeadError(f"scikit-learn's {name} could not be fitted: {words}") from error


def as_layer(estimator: Any, classes: int, vectors: Array) -> nn.Module:
    """Return a fitted estimator as a module: a linear layer where it is linear, so that it saves as plain tensors.

    It is linear if its decision function on ``vectors`` (rows, width) is the one that its coefficients give: a linear
    SVC is not, whose coefficients are those of pairs of classes. The layer's softmax is scikit-learn's ``predict_proba``
    for logistic regression and linear discriminant analysis; for others, which give none or normalise otherwise, it ranks
    the classes in the same order.
    """
    coefficients, intercept = getattr(estimator, "coef_", None), getattr(estimator, "intercept_", None)
    if coefficients is None or intercept is None or not hasattr(estimator, "decision_function"):
        return EstimatorLayer(estimator, classes)
    seen = np.asarray(estimator.classes_, dtype=np.int64)
    decision = estimator.decision_function(vectors).reshape(len(vectors), -1)
    if np.ndim(coefficients) != 2 or coefficients.shape != (decision.shape[1], vectors.shape[1]):
        return EstimatorLayer(estimator, classes)
    bias_of = np.broadcast_to(np.ravel(intercept), decision.shape[1:])
    if not np.allclose(vectors @ coefficients.T + bias_of, decision, rtol=1e-3, atol=1e-3 * np.abs(decision).max()):
        return EstimatorLayer(estimator, classes)
    weight, bias = np.zeros((classes, coefficients.shape[1])), np.full(classes, ABSENT)
    if decision.shape[1] == 1:  # two classes: a positive value speaks for the second
        bias[seen] = 0.0, float(bias_of[0])
        weight[seen[1]] = coefficients[0]
    else:
        weight[seen], bias[seen] = coefficients, bias_of
    with seeded(0), torch.no_grad():  # the layer draws initial weights, which must not move the caller's generator
        layer = nn.Linear(weight.shape[1], classes, dtype=torch.float32)
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias))
    return layer


def save_estimator(estimator: Any) -> bytes:
    """Return a fitted estimator as bytes in the skops format, which runs no code when it is loaded."""
    skops = _skops()
    try:
        data: bytes = skops.dumps(estimator)
    except Exception as error:  # skops raises many kinds for what it cannot write
        raise HeadError(f"scikit-learn's {type(estimator).__name__} cannot be saved by skops: {error}") from error
    return data


def load_estimator(content: bytes, name: str, width: int) -> Any:
    """Return the estimator that :func:`save_estimator` wrote.

    Raises :class:`HeadError` if it is not scikit-learn's ``name`` for vectors of ``width`` values, if it would fill more
    than half of the free memory, or if it holds anything but scikit-learn's own classes. Functions are refused as well,
    wherever they come from: a parameter that is one would be called on prediction.
    """
    skops = _skops()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            size_bytes = sum(entry.file_size for entry in archive.infolist())
        if size_bytes > available_memory_bytes() / 2:
            raise HeadError(
                f"the saved estimator claims {size_bytes} bytes, more than the free memory allows: not loaded."
            )
        listed = skops.get_untrusted_types(data=content)
        foreign = [each for each in listed if not _is_class_of_sklearn(each)]
        if foreign:
            raise HeadError(f"the saved estimator holds what is not scikit-learn's ({', '.join(foreign)}): not loaded.")
        estimator = skops.loads(content, trusted=listed)
    except HeadError:
        raise
    except Exception as error:  # damaged files fail in many ways
        raise HeadError(
            f"the saved estimator is damaged ({type(error).__name__}: {error}). Train the head again."
        ) from error
    found = f"{type(estimator).__name__} for {getattr(estimator, 'n_features_in_', None)} values"
    if found != f"{name} for {width} values" or not type(estimator).__module__.startswith("sklearn."):
        raise HeadError(f"the saved estimator is {found}, not {name} for {width} values: not loaded.")
    return estimator


def _is_class_of_sklearn(name: str) -> bool:
    if not name.startswith("sklearn."):
        return False
    module, _, attribute = name.rpartition(".")
    try:
        return isinstance(getattr(importlib.import_module(module), attribute), type)
    except (ImportError, AttributeError):
        return False


def _skops() -> Any:
    try:
        import skops.io
    except ImportError as error:
        raise MissingDependencyError(
            "saving or loading this head needs skops: pip install 'featcache[estimators]'. Linear estimators need it not."
        ) from error
    return skops.io
