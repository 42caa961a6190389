"""Running a trained network on new inputs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..errors import DataError, NonFiniteError, UnreadableSampleError, UsageError, printable
from ..extras import need
from ..machine import exact_numerics, on_device, pick_device, to_device
from ..progress import ProgressCallback, ProgressEvent, silent
from ..samples import TARGET_PADDING, Unreadable, apply, length_of, stack_inputs
from ..splitting import as_call
from ..tables import html_table
from ..training import Task, output_tensor
from .trained import TrainedHead

__all__ = ["Predictions", "predict"]

DECODED_BY = {"scale": "decoding", "exif": "exif", "background": "background"}


@dataclass(repr=False)
class Predictions:
    """What the network predicts for each input.

    Attributes
    ----------
    names : list of str
        The name of each input that could be read.
    labels : list of str
        The class name of each input. For several labels the predicted ones, joined by ``|``; for tokens that of each,
        joined by spaces; for dense targets the class of most pixels; for values an empty string.
    classes : list of str
        The names of the outputs.
    probabilities : numpy.ndarray, shape (inputs, classes), float64
        The probability of each class. The shape is (inputs, 0) for values, dense targets and tokens.
    skipped : list of Unreadable
        The inputs that could not be read, each with its ``position``, ``name`` and ``reason``.
    task : Task, optional
        What the head learned.
    values : numpy.ndarray, shape (inputs, …)
        The predictions in the form of the targets: class numbers, rows of 0 and 1, values, masks, or the classes of
        tokens, padded with -100.
    """

    names: list[str]
    labels: list[str]
    classes: list[str]
    probabilities: np.ndarray[Any, Any]
    skipped: list[Unreadable] = field(default_factory=list)
    task: Task | None = None
    values: np.ndarray[Any, Any] = field(default_factory=lambda: np.zeros(0))

    def to_csv(self) -> str:
        """Return the predictions as CSV text.

        The columns are the name, the label, the probability of the label, and one column per class. Several labels have
        no single probability, and values have neither label nor probability. For dense targets the columns of the
        classes hold each class's share of the pixels. For tokens there is a column of their classes, joined by spaces.

        Returns
        -------
        str
            The CSV text, with a header line.
        """
        form = ".6g" if self._kind in ("regression", "output") else ".6f"
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        header, rows = self._table()
        writer.writerow(header)
        writer.writerows([each if isinstance(each, str) else format(each, form) for each in row] for row in rows)
        return printable(out.getvalue())

    def to_pandas(self) -> Any:
        """Return the predictions as a table with the columns of ``to_csv``.

        Returns
        -------
        pandas.DataFrame
            One row per input.

        Raises
        ------
        MissingDependencyError
            If pandas is not installed.
        """
        header, rows = self._table()
        return need("pandas", "pandas", "to_pandas").DataFrame(rows, columns=header)

    def __repr__(self) -> str:
        kinds = f"{len(self.classes)} classes" if self._kind not in ("regression", "output") else "values"
        skipped = f", {len(self.skipped)} skipped" if self.skipped else ""
        return f"Predictions({len(self.names)} inputs, {kinds}{skipped})"

    def _repr_html_(self) -> str:
        return html_table(*self._table())

    @property
    def _kind(self) -> str:
        return "single_label" if self.task is None else self.task.kind

    def _table(self) -> tuple[list[str], list[list[Any]]]:
        between = {
            "single_label": ["label", "probability"], "multi_label": ["labels"], "dense": ["label"], "token": ["labels"],
        }.get(self._kind, [])  # fmt: skip
        rows = []
        for name, label, row in zip(self.names, self.labels, self._columns(), strict=True):
            filled = {"single_label": [label, float(max(row, default=0.0))], "regression": [], "output": []}
            rows.append([name, *filled.get(self._kind, [label]), *row.tolist()])
        return ["name", *between, *self._names()], rows

    def to_json(self) -> str:
        """Return the predictions as JSON text.

        The text is a list of inputs with name, label and probabilities by class name. Several labels are a list of
        names under ``labels``, and so are the classes of tokens, which have no probabilities. Values are under
        ``values`` by name, and the pixel shares of dense targets under ``shares``.

        Returns
        -------
        str
            The JSON text.
        """
        kind = self._kind
        key = {"regression": "values", "output": "values", "dense": "shares"}.get(kind, "probabilities")
        described = []
        for name, label, row in zip(self.names, self.labels, self._columns(), strict=True):
            one: dict[str, Any] = {"name": printable(name)}
            label = printable(label)
            if kind == "multi_label":
                one["labels"] = label.split("|") if label else []
            elif kind == "token":
                described.append({**one, "labels": label.split(" ")})
                continue
            elif kind not in ("regression", "output"):
                one["label"] = label
            plain = kind in ("regression", "output")
            rounded = [float(f"{value:.6g}") if plain else round(float(value), 6) for value in row]
            described.append({**one, key: dict(zip(map(printable, self._names()), rounded, strict=True))})
        return json.dumps(described, indent=1)

    def _names(self) -> list[str]:
        """Return the name of each column."""
        if self.task is None or self.task.kind not in ("token", "output"):
            return self.classes
        return [f"value {number}" for number in range(self._columns().shape[1])]

    def _columns(self) -> np.ndarray[Any, Any]:
        """Return one number for each input and class."""
        if self.task is None or self.task.kind in ("single_label", "multi_label"):
            return self.probabilities
        if self.task.kind in ("regression", "output"):
            return self.values.reshape(len(self.names), -1)
        if self.task.kind == "token":
            return np.zeros((len(self.names), 0))
        return _shares(self.values, len(self.classes))


def _shares(masks: np.ndarray[Any, Any], classes: int) -> np.ndarray[Any, Any]:
    counts = np.stack([np.bincount(mask.reshape(-1), minlength=classes) for mask in masks])
    shares: np.ndarray[Any, Any] = counts / counts.sum(axis=1, keepdims=True)
    return shares


def predict(
    head: TrainedHead,
    inputs: Any,
    *,
    transform: Callable[[Any], Any] | None = None,
    batch_size: int = 64,
    device: str | None = None,
    on_error: str = "raise",
    progress: ProgressCallback = silent,
) -> Predictions:
    """Run a whole trained network on new inputs.

    Parameters
    ----------
    head : TrainedHead
        The trained head.
    inputs : Any
        A map-style dataset, a sequence or any iterable. Its items are inputs, or (input, target) pairs whose target is
        ignored. If it has ``classes``, they must be those of the head. Names are those of the dataset (``names``), else
        ``item 0``, ``item 1`` and so on.
    transform : callable, optional
        Applied to each input.
    batch_size : int, default 64
        The number of inputs that run at once.
    device : str, optional
        The device to run on. By default the best one there is.
    on_error : str, default "raise"
        What to do with an input that cannot be read, or with a text or sound that the transform does not take:
        ``"raise"`` or ``"skip"``.
    progress : callable, optional
        Called with a ``ProgressEvent`` after each batch.

    Returns
    -------
    Predictions
        The predictions for every input that could be read.

    Raises
    ------
    UnreadableSampleError
        If an input cannot be read, unless ``on_error`` is ``"skip"``.
    NonFiniteError
        If the network's output for an input is NaN or infinite.
    DataError
        If the data has other classes than the head or is decoded in another way, the transform does not take a text or
        sound (unless ``on_error`` is ``"skip"``), or there are no inputs.
    UsageError
        If ``on_error`` or ``batch_size`` is not valid.

    Examples
    --------
    >>> import torch
    >>> import featcache
    >>> network = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    >>> samples = [(torch.randn(8), number % 3) for number in range(30)]
    >>> cut = featcache.split(network, "1", (torch.zeros(2, 8),))
    >>> features = featcache.extract(cut, samples, "features")
    >>> head = featcache.train_head(cut, features, epochs=1)
    >>> found = featcache.predict(head, [torch.randn(8), torch.randn(8)])
    >>> found.names
    ['item 0', 'item 1']
    >>> found.probabilities.shape
    (2, 3)
    """
    if on_error not in ("raise", "skip"):
        raise UsageError(f"on_error must be 'raise' or 'skip', not {on_error!r}.")
    if batch_size < 1:
        raise UsageError(f"batch_size must be at least 1, not {batch_size}.")
    where, task = pick_device(device), head.task
    named = getattr(inputs, "classes", None)
    if named is not None and len(named) > 1:  # one folder of unsorted images is a class to some datasets
        task.check_classes([str(name) for name in named], str(getattr(inputs, "name", type(inputs).__name__)))
    _check_decoding(inputs, head)
    if transform is not None and hasattr(inputs, "scaled_for"):
        inputs = inputs.scaled_for(transform)
    found = Predictions([], [], head.classes, np.zeros((0, 0)), task=task)
    parts: list[torch.Tensor] = []
    waiting: list[Any] = []
    total = len(inputs) if hasattr(inputs, "__len__") else 0
    done = 0
    with torch.no_grad(), exact_numerics(), on_device(head.model, where):
        for position, name, fetch in _items(inputs):
            done = position + 1
            try:
                value = fetch()
                waiting.append(value if transform is None else apply(transform, value))
                found.names.append(name)
            except OSError as error:
                if on_error == "raise":
                    raise UnreadableSampleError(
                        f"{name} cannot be read: {error}. Remove it, or use --on-error skip."
                    ) from error
                found.skipped.append(Unreadable(position, name, str(error)))
            except DataError as error:  # a text or sound that the transform does not take
                if on_error == "raise":
                    raise DataError(f"{name}: {error}") from error
                found.skipped.append(Unreadable(position, name, str(error)))
            if len(waiting) == batch_size:
                parts.append(_scores(head, waiting, transform, where))
                waiting = []
                progress(ProgressEvent("predict", done, max(total, done), "samples"))
        if waiting:
            parts.append(_scores(head, waiting, transform, where))
            progress(ProgressEvent("predict", done, max(total, done), "samples"))
    if not parts:
        first = f"none of the {done} inputs can be read; the first: {found.skipped[0].reason}" if done else ""
        raise DataError(first or "there are no inputs to predict.")
    outputs = task.joined(parts)
    finite = torch.isfinite(outputs).reshape(len(outputs), -1).all(dim=1)
    if not finite.all():
        bad = found.names[int(torch.nonzero(~finite)[0])]
        raise NonFiniteError(f"the network's output for {bad} is NaN or infinite: check that input.")
    found.values = task.decoded(outputs)
    if task.kind in ("single_label", "multi_label"):
        found.probabilities = task.probabilities(outputs)
    else:
        found.probabilities = np.zeros((len(outputs), 0))
    found.labels = _labels(task, found.values)
    return found


def _check_decoding(inputs: Any, head: TrainedHead) -> None:
    """Raise ``DataError`` where images are decoded in another way than those that the head was trained on."""
    ways = [
        each if isinstance(each, dict) else {} for each in (getattr(inputs, "decoding", None), head.recipe.decoding)
    ]
    if not all(way.get("decoder") == "PIL" for way in ways):
        return
    for option in ("scale", "exif", "background"):
        found, trained = (way.get(option, "not given") for way in ways)
        if found != trained:
            raise DataError(
                f"the head was trained on images decoded with another {DECODED_BY[option]} ({trained}) than these "
                f"({found}): open them in the same way."
            )


def _labels(task: Task, values: np.ndarray[Any, Any]) -> list[str]:
    if task.kind in ("regression", "output"):
        return [""] * len(values)
    if task.kind == "multi_label":
        return ["|".join(task.classes[number] for number in np.flatnonzero(row)) for row in values]
    if task.kind == "token":
        return [" ".join(task.classes[number] for number in row if number != TARGET_PADDING) for row in values]
    numbers = _shares(values, task.outputs).argmax(axis=1) if task.kind == "dense" else values
    return [task.classes[number] for number in numbers.tolist()]


def _items(inputs: Any) -> Iterator[tuple[int, str, Callable[[], Any]]]:
    """Yield position, name and a function that reads the input, so that one which fails does not end the rest."""
    names = getattr(inputs, "names", None)
    if hasattr(inputs, "__getitem__") and hasattr(inputs, "__len__"):
        for position in range(len(inputs)):
            name = f"item {position}" if names is None else str(names[position])
            yield position, name, lambda position=position: _input(inputs[position])  # type: ignore[misc]
        return
    try:
        iterator = iter(inputs)
    except TypeError:
        raise DataError(f"inputs are a dataset or an iterable of inputs; {type(inputs).__name__} is neither.") from None
    for position, item in enumerate(iterator):
        yield position, f"item {position}", lambda item=item: _input(item)  # type: ignore[misc]


def _input(item: Any) -> Any:
    return item[0] if isinstance(item, tuple | list) and len(item) == 2 else item


def _scores(
    head: TrainedHead, waiting: list[Any], transform: Callable[[Any], Any] | None, device: torch.device
) -> torch.Tensor:
    args, kwargs = as_call(to_device(stack_inputs(waiting, transform), device), head.model)
    output = head.model(*args, **kwargs)
    scores = head.task.kept(output_tensor(output), _own_steps(waiting))
    return scores.float() if scores.is_floating_point() else scores


def _own_steps(waiting: list[Any]) -> torch.Tensor | None:
    """Return which steps are an input's own where inputs of different lengths were padded, None where they were not."""
    lengths = [length_of(value) for value in waiting]
    found = [each[0] for each in lengths if each is not None and len(set(each)) == 1]
    if len(found) < len(waiting) or len(set(found)) == 1:
        return None
    return torch.arange(max(found)) < torch.tensor(found)[:, None]
