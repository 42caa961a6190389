"""The recipe of a feature set: everything that a stored value is a function of, the sample aside."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..errors import CorruptError
from ..tensorspec import TensorSpec
from .content import digest_json

__all__ = ["Difference", "Recipe"]

RECIPE_VERSION = 1


@dataclass(frozen=True)
class Difference:
    """One field in which two recipes differ.

    Attributes
    ----------
    field : str
        The name of the field. Nested fields have dotted names.
    old : Any
        The value in the one recipe. None if it has no such field.
    new : Any
        The value in the other recipe. None if it has no such field.
    """

    field: str
    old: Any
    new: Any


@dataclass(frozen=True)
class Recipe:
    """What the rows of a feature set are computed from, the sample aside.

    Two recipes are equal if, and only if, their fingerprints are. Only sets that have them name ``pool``, ``views`` and
    ``derived_from``.

    Attributes
    ----------
    cut : str
        The module after which the network is cut.
    structure : str
        The digest of the torch calls up to the cut.
    weights : mapping of str to str
        The digests of the parameters and buffers that these calls consume, by name.
    frontier : tuple of TensorSpec
        The tensors of a row.
    transform : Any
        How an item of the dataset becomes the backbone's input, as JSON-able values. None if there is no transform.
    decoding : Any
        How a sample's bytes become the item, as JSON-able values.
    dtype : str, default "float32"
        The stored precision.
    numerics : str, default "exact"
        The way of computing.
    pool : str, optional
        The pooling that made vectors of the features before they were stored.
    views : Any, optional
        The random augmentation and its seed, as JSON-able values.
    derived_from : Any, optional
        The rounded set that the values were computed from, as JSON-able values.
    """

    cut: str
    structure: str
    weights: Mapping[str, str]
    frontier: tuple[TensorSpec, ...]
    transform: Any
    decoding: Any
    dtype: str = "float32"
    numerics: str = "exact"
    pool: str | None = None
    views: Any = None
    derived_from: Any = None

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as JSON-able values.

        Returns
        -------
        dict of str to Any
            The fields, with the version of the recipe.
        """
        special = {"pool": self.pool, "views": self.views, "derived_from": self.derived_from}
        return {
            **{name: value for name, value in special.items() if value is not None},
            "recipe_version": RECIPE_VERSION,
            "cut": self.cut,
            "structure": self.structure,
            "weights": dict(sorted(self.weights.items())),
            "frontier": [spec.to_dict() for spec in self.frontier],
            "transform": self.transform,
            "decoding": self.decoding,
            "dtype": self.dtype,
            "numerics": self.numerics,
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Recipe:
        """Return the recipe that ``to_dict`` wrote.

        Parameters
        ----------
        value : mapping of str to Any
            The result of ``to_dict``.

        Returns
        -------
        Recipe
            The recipe.

        Raises
        ------
        CorruptError
            If ``value`` is anything else, or has another version.
        """
        try:
            if value["recipe_version"] != RECIPE_VERSION:
                raise CorruptError(
                    f"a recipe of version {value['recipe_version']} was found, this featcache reads version "
                    f"{RECIPE_VERSION}. Upgrade featcache to use it."
                )
            return cls(
                cut=str(value["cut"]),
                structure=str(value["structure"]),
                weights={str(name): str(digest) for name, digest in value["weights"].items()},
                frontier=tuple(TensorSpec.from_dict(spec) for spec in value["frontier"]),
                transform=value["transform"],
                decoding=value["decoding"],
                dtype=str(value["dtype"]),
                numerics=str(value["numerics"]),
                pool=value.get("pool"),
                views=value.get("views"),
                derived_from=value.get("derived_from"),
            )
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            if isinstance(error, CorruptError):
                raise
            raise CorruptError(f"a recipe is damaged: {error!r}. Run `featcache verify`.") from error

    def to_json(self) -> str:
        """Return the recipe as readable JSON text.

        Returns
        -------
        str
            The JSON text.
        """
        return json.dumps(self.to_dict(), indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Recipe:
        """Return the recipe that ``to_json`` wrote.

        Parameters
        ----------
        text : str or bytes
            The result of ``to_json``.

        Returns
        -------
        Recipe
            The recipe.

        Raises
        ------
        CorruptError
            If ``text`` is anything else, or has another version.
        """
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CorruptError(f"a recipe is not JSON: {error}. Run `featcache verify`.") from error
        return cls.from_dict(value)

    @cached_property
    def fingerprint(self) -> str:
        """The name of the set: 32 hexadecimal characters."""
        return digest_json(self.to_dict())[:32]

    def differences(self, new: Recipe) -> list[Difference]:
        """Return the fields in which another recipe differs from this one.

        Parameters
        ----------
        new : Recipe
            The other recipe.

        Returns
        -------
        list of Difference
            The fields. Nested ones have dotted names.
        """
        return list(_differences("", self.to_dict(), new.to_dict()))


def _differences(name: str, old: Any, new: Any) -> Iterator[Difference]:
    if old == new:
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from _differences(f"{name}.{key}" if name else str(key), old.get(key), new.get(key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for position, (left, right) in enumerate(zip(old, new, strict=True)):
            yield from _differences(f"{name}[{position}]", left, right)
    else:
        yield Difference(name, old, new)
