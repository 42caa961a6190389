"""Shares, intervals, options and recipes in words, as the page shows them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..identity import Recipe

if TYPE_CHECKING:
    from ..training import TrainOptions

__all__ = ["interval_words", "option_rows", "percent", "points", "recipe_rows"]

MOST_LETTERS = 600


def percent(share: float) -> str:
    """Return a share as percent: 96.2 %."""
    return f"{100 * share:.1f} %"


def points(share: float) -> str:
    """Return a difference of shares in points, signed: +2.1."""
    return f"{100 * share:+.1f}"


def interval_words(figure: str, interval: tuple[float, float]) -> str:
    """Return an interval in the unit of a figure: percent where it is in percent."""
    low, high = interval
    return f"{100 * low:.1f} to {100 * high:.1f} %" if figure.endswith("%") else f"{low:.3g} to {high:.3g}"


def option_rows(options: TrainOptions) -> list[tuple[str, str, bool]]:
    """Return each option of a training that is set: its name, its value, and whether it is not the default one."""
    rows = []
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value is not None and value != {}:
            is_function = callable(value)
            words = getattr(value, "__qualname__", type(value).__name__) if is_function else plain_words(value)
            rows.append((field.name, words, is_function or value != field.default))
    return rows


def recipe_rows(recipe: Recipe, backbone: str) -> list[tuple[str, str]]:
    """Return what the cached values are a function of, as names and values."""
    rows = [
        ("backbone", backbone),
        ("cut", recipe.cut),
        ("cached for each sample", " and ".join(f"{spec.name} {list(spec.shape)}" for spec in recipe.frontier)),
        ("weights and buffers", f"{len(recipe.weights)} tensors, each known by a digest of its values"),
        ("calls up to the cut", f"digest {recipe.structure}"),
        ("decoding", plain_words(recipe.decoding)),
        ("transform", "none" if recipe.transform is None else plain_words(recipe.transform)),
        ("stored precision", recipe.dtype),
        ("numerics", recipe.numerics),
        ("pooling", recipe.pool or "none"),
        ("fingerprint of the recipe", recipe.fingerprint),
    ]
    if recipe.derived_from is not None:
        rows.append(("derived from", plain_words(recipe.derived_from)))
    return rows


def plain_words(value: Any) -> str:
    """Return nested values as readable text: names with their values, without the brackets and quotes of JSON."""
    text = _words(value)
    return text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]}…"


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        if {*value} == {"class", "state"}:  # an object
            name, state = str(value["class"]).rpartition(":")[2], _words(value["state"])
            return f"{name}({state})"
        return ", ".join(f"{name}: {_words(part)}" for name, part in value.items())
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_words, value))}]"
    return str(value)
