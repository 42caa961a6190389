"""Running a whole trained network on new inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from ..codecs import Pool
from ..errors import DataError, NonFiniteError, UnreadableSampleError, UsageError
from ..machine import exact_numerics, on_device, to_device
from ..progress import ProgressCallback, ProgressEvent, silent
from ..samples import Unreadable, apply, length_of, stack_inputs
from ..splitting import as_call
from ..training import Task, evaluating, output_tensor
from .linear import HeadNetwork
from .predictions import Predictions, predictions_of

__all__ = ["run_network"]

DECODED_BY = {"scale": "decoding", "exif": "exif", "background": "background"}


def run_network(
    model: nn.Module,
    task: Task,
    decoding: Any,
    inputs: Any,
    device: torch.device,
    *,
    transform: Callable[[Any], Any] | None = None,
    batch_size: int = 64,
    on_error: str = "raise",
    progress: ProgressCallback = silent,
) -> Predictions:
    """Return what a network that learned a task predicts for inputs, as ``TrainedHead.predict`` says.

    ``decoding`` says how the images were decoded that it was trained on.
    """
    if on_error not in ("raise", "skip"):
        raise UsageError(f"on_error must be 'raise' or 'skip', not {on_error!r}.")
    if batch_size < 1:
        raise UsageError(f"batch_size must be at least 1, not {batch_size}.")
    named = getattr(inputs, "classes", None)
    if named is not None and len(named) > 1:  # one folder of unsorted images is a class to some datasets
        task.check_classes([str(name) for name in named], str(getattr(inputs, "name", type(inputs).__name__)))
    _check_decoding(inputs, decoding)
    if transform is not None and hasattr(inputs, "scaled_for"):
        inputs = inputs.scaled_for(transform)
    names, skipped = list[str](), list[Unreadable]()
    parts: list[torch.Tensor] = []
    waiting: list[Any] = []
    total = len(inputs) if hasattr(inputs, "__len__") else 0
    done = 0
    with torch.no_grad(), exact_numerics(), evaluating(model), on_device(model, device):
        for position, name, fetch in _items(inputs):
            done = position + 1
            try:
                value = fetch()
                waiting.append(value if transform is None else apply(transform, value))
                names.append(name)
            except OSError as error:
                if on_error == "raise":
                    raise UnreadableSampleError(
                        f"{name} cannot be read: {error}. Remove it, or use --on-error skip."
                    ) from error
                skipped.append(Unreadable(position, name, str(error)))
            except DataError as error:  # a text or sound that the transform does not take
                if on_error == "raise":
                    raise DataError(f"{name}: {error}") from error
                skipped.append(Unreadable(position, name, str(error)))
            if len(waiting) == batch_size:
                parts.append(_scores(model, task, waiting, transform, device))
                waiting = []
                progress(ProgressEvent("predict", done, max(total, done), "samples"))
        if waiting:
            parts.append(_scores(model, task, waiting, transform, device))
            progress(ProgressEvent("predict", done, max(total, done), "samples"))
    if not parts:
        first = f"none of the {done} inputs can be read; the first: {skipped[0].reason}" if done else ""
        raise DataError(first or "there are no inputs to predict.")
    outputs = task.joined(parts)
    finite = torch.isfinite(outputs).reshape(len(outputs), -1).all(dim=1)
    if not finite.all():
        bad = names[int(torch.nonzero(~finite)[0])]
        raise NonFiniteError(f"the network's output for {bad} is NaN or infinite: check that input.")
    return predictions_of(task, outputs, names, skipped)


def _check_decoding(inputs: Any, decoding: Any) -> None:
    """Raise ``DataError`` where images are decoded in another way than those that the head was trained on."""
    ways = [each if isinstance(each, dict) else {} for each in (getattr(inputs, "decoding", None), decoding)]
    if not all(way.get("decoder") == "PIL" for way in ways):
        return
    for option in ("scale", "exif", "background"):
        found, trained = (way.get(option, "not given") for way in ways)
        if found != trained:
            raise DataError(
                f"the head was trained on images decoded with another {DECODED_BY[option]} ({trained}) than these "
                f"({found}): open them in the same way."
            )


def _items(inputs: Any) -> Iterator[tuple[int, str, Callable[[], Any]]]:
    """Yield position, name and a function that reads the input, so that one which fails does not end the rest."""
    if isinstance(inputs, str | bytes | Mapping):
        raise DataError(f"inputs are a dataset or an iterable of inputs; {type(inputs).__name__} is neither.")
    # The names of a tensor are those of its dimensions.
    names = None if isinstance(inputs, torch.Tensor) else getattr(inputs, "names", None)
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
    model: nn.Module, task: Task, waiting: list[Any], transform: Callable[[Any], Any] | None, device: torch.device
) -> torch.Tensor:
    if not isinstance(model, HeadNetwork) or not isinstance(model.pool, Pool):
        return _stacked(model, model, task, waiting, transform, device)
    # Padding would count in the mean over a sample's steps: those of one length run together, as they were extracted.
    groups: dict[Any, list[int]] = {}
    for number, value in enumerate(waiting):
        length = length_of(value)
        groups.setdefault(number if length is None and model.ragged else length, []).append(number)
    parts = [
        _stacked(model, model.of_one_length, task, [waiting[number] for number in numbers], transform, device)
        for numbers in groups.values()
    ]
    order = [number for numbers in groups.values() for number in numbers]
    return torch.cat(parts)[torch.tensor(order).argsort()]


def _stacked(
    model: nn.Module,
    run: Callable[..., Any],
    task: Task,
    inputs: list[Any],
    transform: Callable[[Any], Any] | None,
    device: torch.device,
) -> torch.Tensor:
    args, kwargs = as_call(to_device(stack_inputs(inputs, transform), device), model)
    scores = task.kept(output_tensor(run(*args, **kwargs)), _own_steps(inputs))
    return scores.float() if scores.is_floating_point() else scores


def _own_steps(waiting: list[Any]) -> torch.Tensor | None:
    """Return which steps are an input's own where inputs of different lengths were padded, None where they were not."""
    lengths = [length_of(value) for value in waiting]
    found = [each[0] for each in lengths if each is not None and len(set(each)) == 1]
    if len(found) < len(waiting) or len(set(found)) == 1:
        return None
    return torch.arange(max(found)) < torch.tensor(found)[:, None]
