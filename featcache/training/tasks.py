"""What a head learns: one class, several labels, values, or a class for every pixel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from ..errors import DataError, HeadError, UsageError, near_names
from ..features import Features

__all__ = ["IGNORE_INDEX", "TASKS", "Task", "find_task", "output_tensor"]

TASKS = ("single_label", "multi_label", "regression", "dense")
IGNORE_INDEX = 255  # the pixel value that means "not labelled" in Pascal VOC, Cityscapes and their heirs

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Task:
    """What a head learns: one class, several labels, values, or a class for every pixel.

    Attributes
    ----------
    kind : str
        ``"single_label"``, ``"multi_label"``, ``"regression"`` or ``"dense"``.
    classes : tuple of str
        The names of the outputs.
    scalar : bool, default False
        Whether the targets of a regression are one number per sample, and not a vector.
    ignore_index : int, default 255
        The value of pixels in dense targets that do not count.
    size : tuple of int, optional
        The (height, width) of the masks of dense targets.
    """

    kind: str
    classes: tuple[str, ...]
    scalar: bool = False
    ignore_index: int = IGNORE_INDEX
    size: tuple[int, int] | None = None

    @property
    def outputs(self) -> int:
        """The width of the network's output: its channels for dense targets."""
        return len(self.classes)

    @property
    def classifies(self) -> bool:
        """Whether there is one class per sample or per pixel."""
        return self.kind in ("single_label", "dense")

    def check(self, targets: Array, dataset: str) -> None:
        """Check that targets fit the task.

        Parameters
        ----------
        targets : numpy.ndarray, shape (rows, …)
            The targets.
        dataset : str
            The name of the dataset, for the error message.

        Raises
        ------
        DataError
            If the targets are of another kind or shape than the task's.
        """
        _CHECKS[self.kind](targets, dataset)
        width = targets.shape[1] if targets.ndim == 2 else 1
        if self.kind in ("multi_label", "regression") and width != self.outputs:
            raise DataError(
                f"the targets of {dataset!r} have {width} values a sample, but there are {self.outputs} names of outputs "
                f"({', '.join(self.classes[:5])}): give as many names as values."
            )
        if self.classifies:
            counted = targets[targets != self.ignore_index] if self.kind == "dense" else targets
            _refuse_negative(counted, dataset)
            if len(counted) and counted.max() >= self.outputs:
                raise DataError(
                    f"a target of {dataset!r} is {counted.max()}, but there are {self.outputs} class names. Name every class."
                )

    def check_classes(self, classes: Sequence[str] | None, dataset: str) -> None:
        """Check that a dataset has the classes of the task, in the same order.

        A regression, or a dataset without class names, always passes.

        Parameters
        ----------
        classes : sequence of str, or None
            The class names of the dataset.
        dataset : str
            The name of the dataset, for the error message.

        Raises
        ------
        DataError
            If the classes differ, or are in another order.
        """
        if classes is None or self.kind == "regression" or list(classes) == list(self.classes):
            return
        place = next(
            (number for number, (a, b) in enumerate(zip(classes, self.classes, strict=False)) if a != b),
            min(len(classes), len(self.classes)),
        )
        theirs, mine = ([*names, "nothing"][min(place, len(names))] for names in (classes, self.classes))
        raise DataError(
            f"the classes of {dataset!r} ({len(classes)}) are not those of the head ({self.outputs}): number {place} is "
            f"{theirs!r} there and {mine!r} here. Train a head on this data, or name its classes as the head does."
        )

    def prepared(self, targets: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Return a batch of targets as the loss takes them.

        Parameters
        ----------
        targets : torch.Tensor, shape (batch, …)
            The targets.
        dtype : torch.dtype, default torch.float32
            The dtype of labels and values. Classes become int64.

        Returns
        -------
        torch.Tensor, shape (batch, …)
            The targets.
        """
        return targets.long() if self.classifies else targets.to(dtype)

    def aligned(self, output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the network's output in the shape that the loss takes.

        Parameters
        ----------
        output : torch.Tensor
            The output of the network: (batch, outputs), or (batch, classes, height, width) for dense targets.
        targets : torch.Tensor, shape (batch, …)
            The targets of the batch.

        Returns
        -------
        torch.Tensor
            The output.

        Raises
        ------
        HeadError
            If the output does not fit the task or the targets.
        """
        if output.dim() != (4 if self.kind == "dense" else 2):
            wanted = "[batch, classes, height, width]" if self.kind == "dense" else f"[batch, {self.outputs}]"
            raise HeadError(
                f"the network's output has shape {list(output.shape)}, but {self.kind} targets need {wanted}: choose another "
                "network, or another --task."
            )
        if self.kind == "regression" and self.scalar and output.dim() == 2 and output.shape[1] == 1:
            return output[:, 0]
        if self.kind == "dense" and output.shape[2:] != targets.shape[1:]:
            raise HeadError(
                f"the network's output is {_size(output.shape[2:])} but the targets are {_size(targets.shape[1:])}: "
                "resize the target masks to the output's size, or choose a network whose output has the input's size."
            )
        return output

    def kept(self, output: torch.Tensor) -> torch.Tensor:
        """Return what is kept of a batch's output.

        Parameters
        ----------
        output : torch.Tensor, shape (batch, …)
            The output of the network.

        Returns
        -------
        torch.Tensor
            The whole output, on the CPU. For dense targets the likeliest class of each pixel, uint8 up to 256 classes,
            else int64.
        """
        if self.kind != "dense":
            return output.cpu()
        return output.argmax(dim=1).to(torch.uint8 if self.outputs <= 256 else torch.int64).cpu()

    def probabilities(self, outputs: torch.Tensor) -> Array:
        """Return the probabilities of kept outputs.

        Parameters
        ----------
        outputs : torch.Tensor, shape (rows, classes)
            What ``kept`` returned.

        Returns
        -------
        numpy.ndarray, shape (rows, classes), float64
            The probabilities.

        Raises
        ------
        UsageError
            If the task is a regression or has dense targets.
        """
        if self.kind == "regression":
            raise UsageError("a regression has no probabilities: use predict_values.")
        if self.kind == "dense":
            raise UsageError(
                "of dense outputs the likeliest classes are kept: use predict_values, or head.model itself."
            )
        scores = outputs.double()
        found = torch.sigmoid(scores) if self.kind == "multi_label" else torch.softmax(scores, dim=1)
        return found.numpy()

    def decoded(self, outputs: torch.Tensor) -> Array:
        """Return the predictions of kept outputs, in the form of the targets.

        Parameters
        ----------
        outputs : torch.Tensor, shape (rows, …)
            What ``kept`` returned.

        Returns
        -------
        numpy.ndarray, shape (rows, …)
            Class numbers, rows of 0 and 1, values, or masks.
        """
        if self.kind == "dense":
            masks: Array = outputs.numpy()
            return masks
        if self.kind == "single_label":
            return outputs.argmax(dim=1).numpy()
        if self.kind == "multi_label":
            return (outputs > 0).long().numpy()
        values: Array = outputs.double().numpy()
        return values[:, 0] if self.scalar else values

    def to_dict(self) -> dict[str, Any]:
        """Return the task as JSON-able values, without its classes.

        Returns
        -------
        dict of str to Any
            The values of all other attributes.
        """
        return {name: value for name, value in asdict(self).items() if name != "classes"}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], classes: Iterable[str]) -> Task:
        """Return the task that ``to_dict`` wrote.

        Parameters
        ----------
        value : mapping of str to Any
            The result of ``to_dict``.
        classes : iterable of str
            The names of the outputs.

        Returns
        -------
        Task
            The task.

        Raises
        ------
        HeadError
            If this featcache does not know the kind of task.
        """
        if value["kind"] not in TASKS:
            raise HeadError(f"the task {value['kind']!r} is not known to this featcache. Upgrade it.")
        names = tuple(str(name) for name in classes)
        size = None if value["size"] is None else (int(value["size"][0]), int(value["size"][1]))
        return cls(str(value["kind"]), names, bool(value["scalar"]), int(value["ignore_index"]), size)


def find_task(features: Features, kind: str | None = None, ignore_index: int = IGNORE_INDEX) -> Task:
    """Return the task that the targets are for; ``kind`` overrides what their type and shape suggest.

    Whole numbers are classes, rows of 0 and 1 several labels, other numbers values, whole-number maps dense targets.
    Raises ``DataError`` for targets of the wrong kind, ``UsageError`` for a kind that is not known.
    """
    targets, dataset = features.targets, features.dataset
    if kind is not None and kind not in TASKS:
        raise UsageError(f"unknown task {kind!r}.{near_names(kind, TASKS)} Known: {', '.join(TASKS)}.")
    if not len(targets):
        raise DataError(f"{dataset!r} has no rows to train on.")
    chosen = kind or _suggested(targets, dataset)
    _CHECKS[chosen](targets, dataset)
    scalar = chosen == "regression" and targets.ndim == 1
    size = (targets.shape[1], targets.shape[2]) if chosen == "dense" else None
    task = Task(chosen, tuple(_names(features, chosen, ignore_index)), scalar, ignore_index, size)
    task.check(targets, dataset)
    return task


def output_tensor(output: Any) -> torch.Tensor:
    """Return the scores in what a network returns: a tensor, ``logits`` or ``out`` of a mapping, or the first tensor.

    Raises ``HeadError`` where there is no tensor.
    """
    if isinstance(output, torch.Tensor):
        return output
    parts = output if isinstance(output, Mapping) else getattr(output, "__dict__", {})
    for name in ("logits", "out"):
        if isinstance(parts.get(name), torch.Tensor):
            found: torch.Tensor = parts[name]
            return found
    values = output if isinstance(output, tuple | list) else parts.values()
    first = next((each for each in values if isinstance(each, torch.Tensor)), None)
    if first is None:
        raise HeadError(
            f"the network's output is {type(output).__name__}, not a tensor of class scores, and holds none: wrap it so that "
            "it returns one, or use --head linear."
        )
    return first


def _suggested(targets: Array, dataset: str) -> str:
    kind, rank = targets.dtype.kind, targets.ndim
    if rank == 2 and np.isin(targets, (0, 1)).all():
        return "multi_label"
    if kind == "f" and rank <= 2:
        return "regression"
    if kind in "biu" and rank == 1:
        return "single_label"
    if kind in "biu" and rank == 3:
        return "dense"
    raise DataError(
        f"the targets of {dataset!r} are {_words(targets)}: give each sample one whole number (a class), a row of 0 and 1 "
        "(several labels), a float or a row of floats (values), or a map of whole numbers (dense); or say --task regression."
    )


def _check_classes(targets: Array, dataset: str) -> None:
    if targets.ndim != 1 or targets.dtype.kind not in "biu":
        raise DataError(
            f"the targets of {dataset!r} are {_words(targets)}, not class numbers: give each sample one whole number."
        )
    _refuse_negative(targets, dataset)


def _check_labels(targets: Array, dataset: str) -> None:
    if targets.ndim != 2 or not np.isin(targets, (0, 1)).all():
        raise DataError(
            f"the targets of {dataset!r} are {_words(targets)}, not several labels: give each sample a row of 0 and 1, one "
            "number a label."
        )


def _check_values(targets: Array, dataset: str) -> None:
    if targets.ndim not in (1, 2) or targets.dtype.kind not in "biuf":
        raise DataError(
            f"the targets of {dataset!r} are {_words(targets)}, not values: give each sample a number or a row of numbers."
        )
    if not np.isfinite(targets).all():
        row = int(np.flatnonzero(~np.isfinite(targets.reshape(len(targets), -1)).all(axis=1))[0])
        raise DataError(f"target {row} of {dataset!r} is NaN or infinite: give every sample finite values.")


def _check_maps(targets: Array, dataset: str) -> None:
    if targets.ndim != 3 or targets.dtype.kind not in "biu":
        raise DataError(
            f"the targets of {dataset!r} are {_words(targets)}, not dense: give each sample a (height, width) map of class "
            "numbers."
        )


def _refuse_negative(targets: Array, dataset: str) -> None:
    if len(targets) and targets.min() < 0:
        raise DataError(f"the targets of {dataset!r} hold {targets.min()}: class numbers begin at 0.")


_CHECKS = {
    "single_label": _check_classes,
    "multi_label": _check_labels,
    "regression": _check_values,
    "dense": _check_maps,
}


def _names(features: Features, kind: str, ignore_index: int) -> list[str]:
    targets = features.targets
    if kind == "regression":
        width = targets.shape[1] if targets.ndim == 2 else 1
        if features.classes and len(features.classes) == width:
            return features.classes
        return ["value"] if width == 1 else [f"value {number}" for number in range(width)]
    if features.classes:
        return features.classes
    if kind == "multi_label":
        return [str(number) for number in range(targets.shape[1])]
    counted = targets[targets != ignore_index] if kind == "dense" else targets
    if not len(counted):
        raise DataError(f"every pixel of the targets of {features.dataset!r} is {ignore_index}, which is ignored.")
    return [str(number) for number in range(int(counted.max()) + 1)]


def _words(targets: Array) -> str:
    return f"{targets.dtype} of shape {list(targets.shape[1:])}"


def _size(shape: torch.Size) -> str:
    return "×".join(str(each) for each in shape) or "one value"
