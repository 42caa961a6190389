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

from ..errors import DataError, NonFiniteError, UnreadableSampleError, UsageError
from ..machine import exact_numerics, on_device, pick_device, to_device
from ..progress import ProgressCallback, ProgressEvent, silent
from ..samples import Unreadable, stack_inputs
from ..training import Task, output_tensor
from .trained import TrainedHead

__all__ = ["Predictions", "predict"]


@dataclass
class Predictions:
    """What the network says of each input; ``skipped`` ones could not be read.

    ``labels`` are class names; of several labels those that are predicted, joined by ``|``; of dense targets the class of
    most pixels; of values they are empty. ``probabilities`` (inputs, classes) are empty (inputs, 0) for values and dense
    targets. ``values`` are as the targets are written: class numbers, rows of 0 and 1, values, or masks.
    """

    names: list[str]
    labels: list[str]
    classes: list[str]
    probabilities: np.ndarray[Any, Any]
    skipped: list[Unreadable] = field(default_factory=list)
    task: Task | None = None
    values: np.ndarray[Any, Any] = field(default_factory=lambda: np.zeros(0))

    def to_csv(self) -> str:
        """Return CSV text: name, label, probability of the label, and one column a class.

        Of several labels there is no single probability; of values there is neither label nor probability, and of dense
        targets the columns hold each class's share of the pixels.
        """
        kind = "single_label" if self.task is None else self.task.kind
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        between = {"single_label": ["label", "probability"], "multi_label": ["labels"], "dense": ["label"]}.get(
            kind, []
        )
        writer.writerow(["name", *between, *self.classes])
        for name, label, row in zip(self.names, self.labels, self._columns(), strict=True):
            filled = {"single_label": [label, f"{max(row, default=0.0):.6f}"], "regression": []}.get(kind, [label])
            writer.writerow(
                [name, *filled, *(f"{value:.6g}" if kind == "regression" else f"{value:.6f}" for value in row)]
            )
        return out.getvalue()

    def to_json(self) -> str:
        """Return JSON text: a list of inputs with name, label and probabilities by class name.

        Several labels are a list of names; values stand by name under ``values``, the shares of the pixels of dense
        targets under ``shares``.
        """
        kind = "single_label" if self.task is None else self.task.kind
        key = {"regression": "values", "dense": "shares"}.get(kind, "probabilities")
        described = []
        for name, label, row in zip(self.names, self.labels, self._columns(), strict=True):
            one: dict[str, Any] = {"name": name}
            if kind == "multi_label":
                one["labels"] = label.split("|") if label else []
            elif kind != "regression":
                one["label"] = label
            rounded = [float(f"{value:.6g}") if kind == "regression" else round(float(value), 6) for value in row]
            described.append({**one, key: dict(zip(self.classes, rounded, strict=True))})
        return json.dumps(described, indent=1)

    def _columns(self) -> np.ndarray[Any, Any]:
        """Return one number for each input and class."""
        if self.task is None or self.task.kind in ("single_label", "multi_label"):
            return self.probabilities
        if self.task.kind == "regression":
            return self.values.reshape(len(self.names), -1)
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
    """Return what the whole network says of every input.

    ``inputs`` is a map-style dataset, a sequence or any iterable; its items are inputs, or (input, target) pairs whose
    target is not looked at; where it names ``classes``, they must be the head's. ``transform`` is applied to each input.
    Names are those of the dataset (``names``), else ``item 0``, … Raises :class:`UnreadableSampleError` for an input that
    cannot be read, unless ``on_error`` is ``"skip"``, and :class:`DataError` for data of other classes.
    """
    if on_error not in ("raise", "skip"):
        raise UsageError(f"on_error must be 'raise' or 'skip', not {on_error!r}.")
    if batch_size < 1:
        raise UsageError(f"batch_size must be at least 1, not {batch_size}.")
    where, task = pick_device(device), head.task
    named = getattr(inputs, "classes", None)
    if named is not None and len(named) > 1:  # one folder of unsorted images is a class to some datasets
        task.check_classes([str(name) for name in named], str(getattr(inputs, "name", type(inputs).__name__)))
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
                waiting.append(value if transform is None else transform(value))
                found.names.append(name)
            except OSError as error:
                if on_error == "raise":
                    raise UnreadableSampleError(
                        f"{name} cannot be read: {error}. Remove it, or use --on-error skip."
                    ) from error
                found.skipped.append(Unreadable(position, name, str(error)))
            if len(waiting) == batch_size:
                parts.append(_scores(head, stack_inputs(waiting, transform), where))
                waiting = []
                progress(ProgressEvent("predict", done, max(total, done), "samples"))
        if waiting:
            parts.append(_scores(head, stack_inputs(waiting, transform), where))
            progress(ProgressEvent("predict", done, max(total, done), "samples"))
    if not parts:
        raise DataError(f"none of the {done} inputs can be read." if done else "there are no inputs to predict.")
    outputs = torch.cat(parts)
    finite = torch.isfinite(outputs).flatten(1).all(dim=1)
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


def _labels(task: Task, values: np.ndarray[Any, Any]) -> list[str]:
    if task.kind == "regression":
        return [""] * len(values)
    if task.kind == "multi_label":
        return ["|".join(task.classes[number] for number in np.flatnonzero(row)) for row in values]
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


def _scores(head: TrainedHead, batch: Any, device: torch.device) -> torch.Tensor:
    inputs = to_device(batch, device)
    output = head.model(**inputs) if isinstance(inputs, dict) else head.model(*inputs)
    scores = head.task.kept(output_tensor(output))
    return scores.float() if scores.is_floating_point() else scores
