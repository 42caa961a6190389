"""Running a trained network on new inputs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate

from ..devices import exact_numerics, on_device, pick_device, to_device
from ..errors import DataError, UnreadableSampleError, UsageError
from ..progress import ProgressCallback, ProgressEvent, silent
from ..request import as_inputs, collate
from ..samples import Samples, Unreadable
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
    dataset: Any,
    *,
    transform: Callable[[Any], Any] | None = None,
    batch_size: int = 64,
    device: str | None = None,
    on_error: str = "raise",
    progress: ProgressCallback = silent,
) -> Predictions:
    """Return what the whole network says of every item of a dataset of (input, target); targets are not looked at.

    Raises :class:`UnreadableSampleError` for an input that cannot be read, unless ``on_error`` is ``"skip"``.
    """
    if on_error not in ("raise", "skip"):
        raise UsageError(f"on_error must be 'raise' or 'skip', not {on_error!r}.")
    samples = Samples(dataset, transform)
    where = pick_device(device)
    count = len(samples.dataset)
    names: list[str] = []
    parts: list[torch.Tensor] = []
    skipped: list[Unreadable] = []
    with torch.no_grad(), exact_numerics(), on_device(head.model, where):
        for start in range(0, count, batch_size):
            values = []
            for position in range(start, min(start + batch_size, count)):
                try:
                    values.append(samples.input(position))
                except OSError as error:
                    if on_error == "raise":
                        raise UnreadableSampleError(
                            f"{samples.label(position)} cannot be read: {error}. Remove it, or use --on-error skip."
                        ) from error
                    skipped.append(Unreadable(position, samples.label(position), str(error)))
                    continue
                names.append(samples.label(position))
            if values:
                inputs = to_device(as_inputs(collate(values, default_collate)), where)
                output = head.model(**inputs) if isinstance(inputs, dict) else head.model(*inputs)
                parts.append(output.float().cpu())
            progress(ProgressEvent("predict", min(start + batch_size, count), count, "samples"))
    if not parts:
        raise DataError(f"none of the {count} inputs can be read." if count else "there are no inputs to predict.")
    probabilities = torch.softmax(torch.cat(parts).double(), dim=1).numpy()
    labels = [head.classes[number] for number in probabilities.argmax(axis=1).tolist()]
    return Predictions(names, labels, head.classes, probabilities, skipped)
