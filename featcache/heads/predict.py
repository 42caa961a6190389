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

from ..devices import exact_numerics, on_device, pick_device, to_device
from ..errors import DataError, NonFiniteError, UnreadableSampleError, UsageError
from ..progress import ProgressCallback, ProgressEvent, silent
from ..samples import Unreadable
from ..stacking import stack_inputs
from .head import TrainedHead

__all__ = ["Predictions", "predict"]


@dataclass
class Predictions:
    """The predicted class of each input, with the probabilities of all; ``skipped`` could not be read."""

    names: list[str]
    labels: list[str]
    classes: list[str]
    probabilities: np.ndarray[Any, Any]
    skipped: list[Unreadable] = field(default_factory=list)

    def to_csv(self) -> str:
        """Return CSV text: name, label, probability of the label, and one column a class."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["name", "label", "probability", *self.classes])
        for name, label, row in zip(self.names, self.labels, self.probabilities, strict=True):
            writer.writerow([name, label, f"{row.max():.6f}", *(f"{value:.6f}" for value in row)])
        return out.getvalue()

    def to_json(self) -> str:
        """Return JSON text: a list of inputs with name, label and probabilities by class name."""
        return json.dumps(
            [
                {
                    "name": name,
                    "label": label,
                    "probabilities": {
                        key: round(float(value), 6) for key, value in zip(self.classes, row, strict=True)
                    },
                }
                for name, label, row in zip(self.names, self.labels, self.probabilities, strict=True)
            ],
            indent=1,
        )


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
    target is not looked at. ``transform`` is applied to each input. Names are those of the dataset (``names``), else
    ``item 0``, … Raises :class:`UnreadableSampleError` for an input that cannot be read, unless ``on_error`` is ``"skip"``.
    """
    if on_error not in ("raise", "skip"):
        raise UsageError(f"on_error must be 'raise' or 'skip', not {on_error!r}.")
    if batch_size < 1:
        raise UsageError(f"batch_size must be at least 1, not {batch_size}.")
    where = pick_device(device)
    found = Predictions([], [], head.classes, np.zeros((0, len(head.classes))))
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
    found.probabilities = torch.softmax(torch.cat(parts).double(), dim=1).numpy()
    if not np.isfinite(found.probabilities).all():
        bad = int(np.flatnonzero(~np.isfinite(found.probabilities).all(axis=1))[0])
        raise NonFiniteError(f"the network's output for {found.names[bad]} is NaN or infinite: check that input.")
    found.labels = [head.classes[number] for number in found.probabilities.argmax(axis=1).tolist()]
    return found


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
    output: torch.Tensor = head.model(**inputs) if isinstance(inputs, dict) else head.model(*inputs)
    return output.float().cpu()
