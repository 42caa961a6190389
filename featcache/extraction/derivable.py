"""Which cached sets the rows of another set can be derived from."""

from __future__ import annotations

from dataclasses import replace

from ..codecs import load_codec
from ..errors import StaleError, UsageError
from ..identity import Recipe
from ..store import StoreFiles

__all__ = ["derivable_from", "lossy_recipe"]


def lossy_recipe(recipe: Recipe, store: StoreFiles) -> Recipe:
    """Return the recipe of the set that is derived from the deepest rounded set before its cut.

    Raises ``StaleError`` where the store holds none.
    """
    if recipe.numerics != "exact":
        raise UsageError(
            f"rows are derived with exact numerics only, not {recipe.numerics!r}: leave out one of the two."
        )
    found = [each for each in _comparable(recipe, store) if not _exact(each) and each.cut != recipe.cut]
    if not found:
        held = sorted({f"{each.cut} ({each.dtype})" for each in store.recipes()})
        raise StaleError(
            f"there is no rounded set before {recipe.cut!r} to derive from; the store holds {', '.join(held) or 'nothing'}. "
            "Extract a shallower cut first, or leave out --from-lossy."
        )
    source = found[0]
    origin = {"cut": source.cut, "dtype": source.dtype, "recipe": source.fingerprint}
    return replace(recipe, derived_from=origin)


def derivable_from(recipe: Recipe, store: StoreFiles) -> list[Recipe]:
    """Return the recipes of the sets in a store whose rows lead to those of a recipe, the most promising first."""
    if recipe.derived_from:
        return [each for each in store.recipes() if each.fingerprint == recipe.derived_from["recipe"]]
    # The section between two cuts is computed as the model does; at the same cut nothing is.
    exactly = recipe.numerics == "exact"
    return [each for each in _comparable(recipe, store) if _exact(each) and (exactly or each.cut == recipe.cut)]


def _comparable(recipe: Recipe, store: StoreFiles) -> list[Recipe]:
    """Return the recipes of sets before or at the cut that see the same inputs, the deepest first."""
    same = ("transform", "decoding", "numerics", "views")
    found = [
        each
        for each in store.recipes()
        if each.pool is None
        and each.derived_from is None
        and each.fingerprint != recipe.fingerprint
        and all(getattr(each, name) == getattr(recipe, name) for name in same)
        and each.weights.items() <= recipe.weights.items()
    ]
    return sorted(
        found, key=lambda each: (each.cut == recipe.cut, len(each.weights), each.cut, each.dtype), reverse=True
    )


def _exact(recipe: Recipe) -> bool:
    codec = load_codec(recipe.dtype)
    return all(codec.is_exact(spec.dtype) for spec in recipe.frontier)
