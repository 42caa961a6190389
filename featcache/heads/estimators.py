"""Heads from scikit-learn: any of its classifiers and regressors, by name."""

from __future__ import annotations

import importlib
import io
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import HeadError, MissingDependencyError, UnknownNameError, UsageError, near_names, one_line
from ..machine import available_memory_bytes
from ..training import Task

__all__ = [
    "estimator_names",
    "fit_estimator",
    "load_estimator",
    "save_estimator",
]

DEFAULTS: dict[str, dict[str, Any]] = {"LogisticRegression": {"max_iter": 1000}}
EXAMPLES = {
    "classifier": "LogisticRegression, RidgeClassifier, LinearSVC, KNeighborsClassifier, RandomForestClassifier",
    "regressor": "Ridge, LinearRegression, SVR, KNeighborsRegressor, RandomForestRegressor",
}

Array = np.ndarray[Any, Any]


def estimator_names(kind: str = "classifier") -> list[str]:
    """Return the names of scikit-learn's classifiers, or of its regressors."""
    from sklearn.utils import all_estimators

    return [name for name, _ in all_estimators(type_filter=kind)]


def fit_estimator(
    name: str,
    parameters: Mapping[str, Any],
    vectors: Array,
    targets: Array,
    seed: int,
    task: Task,
    weights: Array | None = None,
) -> Any:
    """Return a fitted classifier, or a regressor for values; of several labels or values, one fit for each if need be.

    Raises ``UnknownNameError``, ``UsageError`` or ``HeadError``.
    """
    estimator = _unfitted(name, parameters, seed, "regressor" if task.kind == "regression" else "classifier")
    given = {} if weights is None else {"sample_weight": weights}
    if given and not _takes_weights(estimator):
        raise UsageError(f"scikit-learn's {name} takes no sample weights: leave them out, or use another head.")
    try:
        if task.kind == "multi_label":
            return _one_each(estimator, vectors, targets, given)
        if task.kind == "regression":
            return _regressor(estimator, vectors, targets, given)
        return estimator.fit(vectors, targets, **given)
    except (ValueError, TypeError) as error:
        raise HeadError(f"scikit-learn's {name} could not be fitted: {one_line(error)}.") from error


def _takes_weights(estimator: Any) -> bool:
    from sklearn.utils.validation import has_fit_parameter

    return bool(has_fit_parameter(estimator, "sample_weight"))


def _unfitted(name: str, parameters: Mapping[str, Any], seed: int, kind: str) -> Any:
    from sklearn.utils import all_estimators

    known = dict(all_estimators(type_filter=kind))
    if name not in known:
        raise UnknownNameError(
            f"scikit-learn has no {kind} {name!r}.{near_names(name, known)} For instance: {EXAMPLES[kind]}."
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
        return estimator.set_params(**parameters)
    except (ValueError, TypeError) as error:
        raise HeadError(f"scikit-learn's {name} could not be fitted: {one_line(error)}.") from error


def _one_each(estimator: Any, vectors: Array, targets: Array, given: Mapping[str, Any]) -> Any:
    """Return one fitted classifier a label, as scikit-learn's MultiOutputClassifier, which refuses labels that none has."""
    from sklearn.base import clone
    from sklearn.dummy import DummyClassifier
    from sklearn.multioutput import MultiOutputClassifier

    made = MultiOutputClassifier(estimator)
    made.estimators_ = []
    for column in np.asarray(targets).astype(np.int64).T:
        alone = len(np.unique(column)) < 2
        one = DummyClassifier(strategy="most_frequent") if alone else clone(estimator)
        made.estimators_.append(one.fit(vectors, column, **({} if alone else given)))
    made.classes_ = [each.classes_ for each in made.estimators_]
    made.n_features_in_ = vectors.shape[1]
    return made


def _regressor(estimator: Any, vectors: Array, targets: Array, given: Mapping[str, Any]) -> Any:
    """Return a fitted regressor, one for each component of a vector where it takes numbers alone."""
    from sklearn.base import clone
    from sklearn.multioutput import MultiOutputRegressor

    if targets.ndim == 1:
        return estimator.fit(vectors, targets, **given)
    try:
        return clone(estimator).fit(vectors, targets, **given)
    except ValueError:
        made = MultiOutputRegressor(estimator).fit(vectors, targets, **given)
        made.n_features_in_ = vectors.shape[1]
        return made


def save_estimator(estimator: Any) -> bytes:
    """Return a fitted estimator as bytes in the skops format, which runs no code when it is loaded."""
    skops = _skops()
    try:
        data: bytes = skops.dumps(estimator)
    except Exception as error:  # skops raises many kinds for what it cannot write
        raise HeadError(f"scikit-learn's {type(estimator).__name__} cannot be saved by skops: {error}") from error
    return data


def load_estimator(content: bytes, name: str, width: int) -> Any:
    """Return the estimator that ``save_estimator`` wrote.

    Raises ``HeadError`` if it is not scikit-learn's ``name`` for vectors of ``width`` values, if it would fill more
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
    # Of several labels or values there is one fit for each, in scikit-learn's own wrapper.
    wrapped = type(estimator).__name__ in ("MultiOutputClassifier", "MultiOutputRegressor")
    kind = type(estimator.estimator if wrapped else estimator)
    found = f"{kind.__name__} for {getattr(estimator, 'n_features_in_', None)} values"
    if found != f"{name} for {width} values" or not kind.__module__.startswith("sklearn."):
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
