"""Shares and recipes in words, as the page shows them."""

from __future__ import annotations

import json
from typing import Any

from ..identity import Recipe

__all__ = ["percent", "points", "recipe_words"]


def percent(share: float) -> str:
    """Return a share as percent: 96.2 %."""
    return f"{100 * share:.1f} %"


def points(share: float) -> str:
    """Return a difference of shares in points, signed: +2.1."""
    return f"{100 * share:+.1f}"


def recipe_words(recipe: Recipe, backbone: str) -> list[str]:
    """Return sentences that say what the cached values are a function of."""
    shapes = " and ".join(f"{spec.name} {list(spec.shape)}" for spec in recipe.frontier)
    found = [
        f"What the module {recipe.cut!r} of {backbone} returns is cached: {shapes} for each sample.",
        f"It is computed by {len(recipe.weights)} tensors of weights and buffers, each known by the digest of its values, and "
        f"by the calls up to the cut, known by the digest {recipe.structure[:12]}….",
        f"A sample is decoded by {_short(recipe.decoding)}"
        + (
            " and goes in as it is."
            if recipe.transform is None
            else f", then transformed by {_short(recipe.transform)}."
        ),
        f"Values are stored as {recipe.dtype}, computed in {recipe.numerics} numerics"
        + (f", pooled by {recipe.pool!r}." if recipe.pool else "."),
        f"The fingerprint of all that is {recipe.fingerprint}: another weight, transform or cut leads to another one.",
    ]
    if recipe.derived_from is not None:
        found.append(f"They were derived from another set, {_short(recipe.derived_from)}.")
    return found


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 300 else f"{text[:300]}…"
