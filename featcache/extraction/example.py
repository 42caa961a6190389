"""The example input on which a model is recorded: a few real samples, kept beside the shards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import CorruptError, DataError
from ..samples import Samples, length_of
from ..store import FeatureSet

__all__ = ["EXAMPLE_FILE", "Example", "check_example", "example_of", "save_example", "stored_example"]

EXAMPLE_FILE = "example.safetensors"
LOOKED_AT = 16  # samples, of which the longest is taken where they vary in length


@dataclass(frozen=True)
class Example:
    """A small batch of real inputs: a tuple of positional inputs, or a dict of keyword inputs.

    ``ragged`` names those that vary in length, by keyword or position; then the second sample is half as long as the
    first, so that the batch is padded.
    """

    inputs: Any
    ragged: tuple[str, ...] = ()

    @property
    def other_length(self) -> Any:
        """Return the same inputs, shorter, None where samples do not vary in length."""
        if not self.ragged:
            return None
        if isinstance(self.inputs, dict):
            return {name: self._cut(name, value) for name, value in self.inputs.items()}
        return tuple(self._cut(str(number), value) for number, value in enumerate(self.inputs))

    def _cut(self, name: str, value: Any) -> Any:
        return value[:, : -(-3 * value.shape[1] // 4)] if name in self.ragged else value


def example_of(samples: Samples) -> Example:
    """Return an example of what the backbone gets to see.

    Raises ``DataError`` where no sample can be read, or the samples have different shapes.
    """
    count = LOOKED_AT if samples.ragged else 2
    found: list[Any] = []
    failure: Exception | None = None
    for position in range(min(len(samples.dataset), 100)):
        if len(found) == count:
            break
        try:
            found.append(samples.input(position))
        except OSError as error:
            failure = error
    if not found:
        raise DataError(f"no sample of {samples.name!r} can be read: {failure}. Check the data.") from failure
    if not samples.ragged:
        return Example(samples.batch([found[0], found[-1]]))
    longest = max(found, key=lambda each: max(length_of(each) or (0,)))
    return _padded_example(samples, longest)


def _padded_example(samples: Samples, longest: Any) -> Example:
    shorter = _half(longest)
    half = samples.batch([shorter, shorter])
    try:
        inputs = samples.batch([longest, shorter])
    except DataError:  # nothing says how to pad them
        inputs = samples.batch([longest, longest])
    named = inputs.items() if isinstance(inputs, dict) else ((str(n), value) for n, value in enumerate(inputs))
    halves = half if isinstance(half, dict) else {str(n): value for n, value in enumerate(half)}
    ragged = tuple(name for name, value in named if value.dim() > 1 and value.shape[1] != halves[name].shape[1])
    return Example(inputs, ragged)


def _half(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _half(part) for name, part in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(_half(part) for part in value)
    return value[: max(1, len(value) // 2)] if hasattr(value, "shape") and len(value.shape) else value


def save_example(feature_set: FeatureSet, example: Example) -> None:
    """Keep an example beside the shards, so that a head can be trained where the samples are not at hand."""
    from safetensors.torch import save

    path = f"{feature_set.path}/{EXAMPLE_FILE}"
    if feature_set.storage.exists(path):
        return
    inputs = example.inputs
    named = inputs.items() if isinstance(inputs, dict) else ((str(n), value) for n, value in enumerate(inputs))
    tensors = {name: value.detach().cpu().contiguous() for name, value in named if hasattr(value, "detach")}
    layout = {"inputs": "keyword" if isinstance(inputs, dict) else "positional", "ragged": json.dumps(example.ragged)}
    layout["order"] = json.dumps(list(tensors))  # safetensors sorts by name, but the first input is the main one
    layout["digest"] = _digest(save(tensors, layout))[0]
    feature_set.storage.write_bytes(path, save(tensors, layout))


def check_example(feature_set: FeatureSet) -> None:
    """Raise ``CorruptError`` where the example is not what was written, ``FileNotFoundError`` where there is none."""
    path = f"{feature_set.path}/{EXAMPLE_FILE}"
    content = feature_set.storage.read_bytes(path)
    try:
        found, written = _digest(content)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        found, written = "", "unreadable"
    if written not in (None, found):  # None: written by the first featcache, which kept no digest
        raise CorruptError(
            f"{path} in {feature_set.storage.url} is damaged. Run `featcache verify --repair`; the next new rows bring a new one."
        )


def _digest(content: bytes) -> tuple[str, str | None]:
    """Return the digest of a safetensors file without the one that stands in it, and that one."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    written = header["__metadata__"].pop("digest", None)
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode() + content[end:]).hexdigest(), written


def stored_example(feature_set: FeatureSet) -> Example | None:
    """Return the example that ``save_example`` kept, None where there is none that can be read."""
    from safetensors import SafetensorError, safe_open

    try:
        check_example(feature_set)
        with safe_open(feature_set.storage.fetch(f"{feature_set.path}/{EXAMPLE_FILE}"), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            layout = file.metadata() or {}
            ragged = tuple(str(name) for name in json.loads(layout.get("ragged", "[]")))
            tensors = {name: tensors[name] for name in json.loads(layout.get("order", json.dumps(list(tensors))))}
    except (CorruptError, SafetensorError, OSError, ValueError, KeyError):
        return None
    if layout.get("inputs") == "keyword":
        return Example(tensors, ragged)
    return Example(tuple(tensors[name] for name in sorted(tensors, key=int)), ragged)
