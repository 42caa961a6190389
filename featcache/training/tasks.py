"""What a head learns: one class, several labels, values, a class for every pixel or token, or what a loss asks for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad

from ..errors import DataError, HeadError, UsageError, near_names
from ..features import Features
from ..samples import TARGET_PADDING
from .targets import check_targets, refuse_negative, suggested_kind
from .uses import labelled

__all__ = ["IGNORE_INDEX", "TASKS", "Task", "find_task", "output_tensor"]

TASKS = ("single_label", "multi_label", "regression", "dense", "token", "output")
IGNORE_INDEX = 255  # the pixel value that means "not labelled" in Pascal VOC, Cityscapes and their heirs

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Task:
    """What a head learns: one class, several labels, values, a class for every pixel or token, or what a loss asks for.

    Attributes
    ----------
    kind : str
        ``"single_label"``, ``"multi_label"``, ``"regression"``, ``"dense"``, ``"token"`` or ``"output"``.
    classes : tuple of str
        The names of the outputs. There are none for the network's own output.
    scalar : bool, default False
        Whether the targets of a regression are one number per sample, and not a vector.
    ignore_index : int, default 255
        The value of pixels in dense targets that do not count, or of tokens. Tokens of value -100 never count.
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
        """Whether there is one class per sample, pixel or token."""
        return self.kind == "single_label" or self.places

    @property
    def places(self) -> bool:
        """Whether there is one class per pixel or token, some of which do not count."""
        return self.kind in ("dense", "token")

    def counted(self, targets: Any) -> Any:
        """Return which pixels or tokens count.

        Parameters
        ----------
        targets : numpy.ndarray or torch.Tensor, shape (rows, …)
            The targets.

        Returns
        -------
        numpy.ndarray or torch.Tensor, shape (rows, …), bool
            True where a target counts.
        """
        found = targets != self.ignore_index
        return found & (targets != TARGET_PADDING) if self.kind == "token" else found

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
        check_targets(self.kind, targets, dataset)
        width = targets.shape[1] if targets.ndim == 2 else 1
        if self.kind in ("multi_label", "regression") and width != self.outputs:
            raise DataError(
                f"the targets of {dataset!r} have {width} values a sample, but there are {self.outputs} names of outputs "
                f"({', '.join(self.classes[:5])}): give as many names as values."
            )
        if self.classifies:
            counted = targets[self.counted(targets)] if self.places else targets
            refuse_negative(counted, dataset)
            if len(counted) and counted.max() >= self.outputs:
                raise DataError(
                    f"a target of {dataset!r} is {counted.max()}, but there are {self.outputs} class names. Name every class."
                )

    def check_classes(self, classes: Sequence[str] | None, dataset: str) -> None:
        """Check that a dataset has the classes of the task, in the same order.

        A regression, the network's own output and a dataset without class names always pass.

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
        if classes is None or self.kind in ("regression", "output") or list(classes) == list(self.classes):
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

    def paired(self, output: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the network's output and a batch of targets as the loss takes them.

        Parameters
        ----------
        output : torch.Tensor
            The output of the network: (batch, outputs), (batch, classes, height, width) for dense targets, or (batch,
            length, classes) for a class per token.
        targets : torch.Tensor, shape (batch, …)
            The targets. Those of tokens may be longer than the output by what does not count.

        Returns
        -------
        output : torch.Tensor
            The output. That of tokens has shape (batch × length, classes).
        targets : torch.Tensor
            The targets. Classes are int64, labels and values of the output's dtype.

        Raises
        ------
        HeadError
            If the output does not fit the task or the targets.
        """
        wanted = {
            "dense": (4, "[batch, classes, height, width]"), "token": (3, f"[batch, length, {self.outputs}]"),
        }.get(self.kind, (2, f"[batch, {self.outputs}]"))  # fmt: skip
        if output.dim() != wanted[0]:
            raise HeadError(
                f"the network's output has shape {list(output.shape)}, but {self.kind} targets need {wanted[1]}: choose another "
                "network, or another --task."
            )
        if self.kind == "token":
            known = self.of_length(targets, output.shape[1]).long()
            return output.flatten(0, 1), known.masked_fill(known == TARGET_PADDING, self.ignore_index).flatten()
        if self.kind == "dense" and output.shape[2:] != targets.shape[1:]:
            raise HeadError(
                f"the network's output is {_size(output.shape[2:])} but the targets are {_size(targets.shape[1:])}: "
                "resize the target masks to the output's size, or choose a network whose output has the input's size."
            )
        if self.kind == "regression" and self.scalar and output.shape[1] == 1:
            output = output[:, 0]
        return output, targets.long() if self.classifies else targets.to(output.dtype)

    def of_length(self, targets: Any, length: int) -> Any:
        """Return the targets of as many tokens as the network gives.

        Parameters
        ----------
        targets : numpy.ndarray or torch.Tensor, shape (rows, tokens)
            The targets.
        length : int
            The number of tokens that the network gives.

        Returns
        -------
        numpy.ndarray or torch.Tensor, shape (rows, length)
            The targets, without those beyond the length.

        Raises
        ------
        HeadError
            If there are fewer, or one that counts lies beyond the length.
        """
        found = targets.shape[1]
        if found < length or (found > length and bool(self.counted(targets[:, length:]).any())):
            raise HeadError(
                f"the network gives {length} tokens a sample, but there are targets for {found}: give each token of a sample "
                f"one, special tokens too, and {TARGET_PADDING} to those that do not count."
            )
        return targets[:, :length]

    def check_own(self, targets: torch.Tensor, own: torch.Tensor | None) -> None:
        """Check that no token that is padding has a target that counts.

        Parameters
        ----------
        targets : torch.Tensor, shape (batch, …)
            The targets of a batch.
        own : torch.Tensor, shape (batch, length), bool, or None
            Which tokens are a sample's own, None where all are.

        Raises
        ------
        HeadError
            If there is one.
        """
        if self.kind != "token" or own is None:
            return
        known = self.of_length(targets, own.shape[1])
        if bool((self.counted(known) & ~own).any()):
            raise HeadError(
                "a sample has targets for more tokens than it has: give each token of a sample one, special tokens too, and "
                f"{TARGET_PADDING} to those that do not count."
            )

    def labelled(self, targets: Array, predicted: Array) -> tuple[Array, Array]:
        """Return the targets of the pixels or tokens that count, and what is predicted there.

        Parameters
        ----------
        targets : numpy.ndarray, shape (rows, …)
            The targets.
        predicted : numpy.ndarray, shape (rows, …)
            The predictions.

        Returns
        -------
        targets : numpy.ndarray, shape (counted,)
            The class numbers of the targets.
        predicted : numpy.ndarray, shape (counted,)
            The class numbers of the predictions.

        Raises
        ------
        HeadError
            If the output does not fit the targets.
        """
        if self.kind == "token":
            targets = self.of_length(targets, predicted.shape[1])
            self.check_own(torch.from_numpy(targets), torch.from_numpy(predicted != TARGET_PADDING))
        counted = self.counted(targets)
        return targets[counted], predicted[counted]

    def kept(self, output: torch.Tensor, own: torch.Tensor | None = None) -> torch.Tensor:
        """Return what is kept of a batch's output.

        Parameters
        ----------
        output : torch.Tensor, shape (batch, …)
            The output of the network.
        own : torch.Tensor, shape (batch, length), bool, optional
            Which tokens are a sample's own, where others are padding.

        Returns
        -------
        torch.Tensor, shape (batch, …)
            The whole output, on the CPU. For dense targets the likeliest class of each pixel, uint8 up to 256 classes,
            else int64. For tokens theirs, int64, and -100 for padding.
        """
        if self.kind == "output" and not output.dim():
            raise HeadError("the network returns one number for a whole batch, so it predicts nothing of a sample.")
        if not self.places:
            return output.cpu()
        if self.kind == "dense":
            return output.argmax(dim=1).to(torch.uint8 if self.outputs <= 256 else torch.int64).cpu()
        likeliest = output.argmax(dim=-1)
        if own is not None and own.shape == likeliest.shape:
            likeliest = likeliest.masked_fill(~own.to(likeliest.device), TARGET_PADDING)
        return likeliest.cpu()

    def joined(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return what was kept of several batches as one tensor.

        Parameters
        ----------
        parts : sequence of torch.Tensor, shape (batch, …)
            What ``kept`` returned.

        Returns
        -------
        torch.Tensor, shape (rows, …)
            All rows. Those of tokens are padded to the longest with -100.

        Raises
        ------
        HeadError
            If batches have different shapes.
        """
        if self.kind == "token":
            longest = max(part.shape[1] for part in parts)
            parts = [pad(part, (0, longest - part.shape[1]), value=TARGET_PADDING) for part in parts]
        if len({part.shape[1:] for part in parts}) > 1:
            raise HeadError(
                "the network's output has another shape in another batch, so it cannot be had for all rows at once: run "
                "head.layers on batches of the features, or head.model on inputs."
            )
        return torch.cat([*parts])

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
            If the task is a regression, the network's own output, or has one class per pixel or token.
        """
        if self.kind in ("regression", "output"):
            raise UsageError(f"a {self.kind} task has no probabilities: use predict_values.")
        if self.places:
            raise UsageError(
                f"of {self.kind} outputs the likeliest classes are kept: use predict_values, or head.model itself."
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
            Class numbers, rows of 0 and 1, values, masks, or the classes of tokens, padded with -100.
        """
        if self.places:
            numbers: Array = outputs.numpy()
            return numbers
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


def find_task(features: Features, kind: str | None = None, ignore_index: int | None = None) -> Task:
    """Return the task that the targets are for; ``kind`` overrides what their type and shape suggest.

    Whole numbers are classes, rows of 0 and 1 several labels, other rows of whole numbers classes of tokens, other numbers
    values, whole-number maps dense targets. By default -100 is ignored of tokens, and 255 of maps. Unlabelled rows do not count.
    Raises ``DataError`` for targets of the wrong kind, ``UsageError`` for a kind that is not known.
    """
    dataset = features.dataset
    if kind is not None and kind not in TASKS:
        raise UsageError(f"unknown task {kind!r}.{near_names(kind, TASKS)} Known: {', '.join(TASKS)}.")
    features = labelled(features)
    targets = features.targets
    if not len(targets):
        raise DataError(f"{dataset!r} has no labelled rows to train on.")
    chosen = kind or suggested_kind(targets, dataset)
    check_targets(chosen, targets, dataset)
    scalar = chosen == "regression" and targets.ndim == 1
    size = (targets.shape[1], targets.shape[2]) if chosen == "dense" else None
    if ignore_index is None:
        ignore_index = TARGET_PADDING if chosen == "token" else IGNORE_INDEX
    task = Task(chosen, (), scalar, ignore_index, size)
    task = replace(task, classes=tuple(_names(features, task)))
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
    # A single number is the network's own loss, of which no scores can be had.
    first = next((each for each in values if isinstance(each, torch.Tensor) and each.dim()), None)
    if first is None:
        raise HeadError(
            f"the network's output is {type(output).__name__}, not a tensor of class scores, and holds none: wrap it so that "
            "it returns one, or use --head linear."
        )
    return first


def _names(features: Features, task: Task) -> list[str]:
    targets, kind = features.targets, task.kind
    if kind == "output":
        return []
    if kind == "regression":
        width = targets.shape[1] if targets.ndim == 2 else 1
        if features.classes and len(features.classes) == width:
            return features.classes
        return ["value"] if width == 1 else [f"value {number}" for number in range(width)]
    if features.classes:
        return features.classes
    if kind == "multi_label":
        return [str(number) for number in range(targets.shape[1])]
    counted = targets[task.counted(targets)] if task.places else targets
    if not len(counted):
        place = "pixel" if kind == "dense" else "token"
        raise DataError(
            f"every {place} of the targets of {features.dataset!r} is {task.ignore_index}, which is ignored."
        )
    return [str(number) for number in range(int(counted.max()) + 1)]


def _size(shape: torch.Size) -> str:
    return "×".join(str(each) for each in shape) or "one value"
