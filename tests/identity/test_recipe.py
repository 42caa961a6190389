"""The recipe: each field is in its fingerprint, it comes back from JSON, and differences are named."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from featcache import Recipe, TensorSpec
from featcache.errors import CorruptError
from featcache.identity.recipe import Difference

RECIPE = Recipe(
    "layer4",
    "abc",
    {"b": "2", "a": "1"},
    (TensorSpec("layer4", (3, None), "float32"),),
    {"size": [4, 5]},
    {"item": "x"},
)
CHANGES: dict[str, Any] = {
    "cut": "layer3",
    "structure": "abd",
    "weights": {"a": "1", "b": "3"},
    "frontier": (TensorSpec("layer4", (3, 4), "float32"),),
    "transform": None,
    "decoding": None,
    "dtype": "float16",
    "numerics": "fast",
    "pool": "mean",
    "views": {"seed": 0},
    "derived_from": {"recipe": "x"},
}


def test_the_fingerprint_of_a_recipe_stays_what_it_is() -> None:
    assert RECIPE.fingerprint == "04c89531d92a086aeea75695f3d49b2a"
    assert Recipe("a", "b", {}, (), None, None).fingerprint == "6729eb3eb7c199cf6ad4cfe5ceee22b1"


def test_every_field_is_in_the_fingerprint() -> None:
    assert set(CHANGES) == set(Recipe.__dataclass_fields__)
    found = {RECIPE.fingerprint, *(replace(RECIPE, **{name: value}).fingerprint for name, value in CHANGES.items())}
    assert len(found) == 1 + len(CHANGES)
    assert replace(RECIPE, weights={"a": "1", "b": "2"}).fingerprint == RECIPE.fingerprint
    assert not {"pool", "views", "derived_from"} & set(RECIPE.to_dict())


@pytest.mark.parametrize("field", [None, *CHANGES])
def test_a_recipe_comes_back_from_json(field: str | None) -> None:
    made = RECIPE if field is None else replace(RECIPE, **{field: CHANGES[field]})
    again = Recipe.from_json(made.to_json())
    assert again == made
    assert again.fingerprint == made.fingerprint


def test_a_recipe_is_written_down_readably_in_one_order() -> None:
    assert Recipe("a", "b", {"w": "1"}, (), None, "x", views=[1]).to_json() == (
        '{\n "cut": "a",\n "decoding": "x",\n "dtype": "float32",\n "frontier": [],\n "numerics": "exact",\n'
        ' "recipe_version": 1,\n "structure": "b",\n "transform": null,\n "views": [\n  1\n ],\n'
        ' "weights": {\n  "w": "1"\n }\n}\n'
    )


@pytest.mark.parametrize("missing", ["recipe_version", *sorted(set(CHANGES) - {"pool", "views", "derived_from"})])
def test_a_recipe_that_lacks_a_field_is_damaged(missing: str) -> None:
    value = RECIPE.to_dict()
    del value[missing]
    with pytest.raises(CorruptError, match="damaged"):
        Recipe.from_dict(value)


def test_a_recipe_of_another_version_or_that_is_something_else_is_refused() -> None:
    for version in (0, 2):
        with pytest.raises(CorruptError, match=f"version {version} was found, this featcache reads version 1"):
            Recipe.from_dict({**RECIPE.to_dict(), "recipe_version": version})
    for text in ("{", "", b"\xff", "[" * 100_000):
        with pytest.raises(CorruptError, match="not JSON"):
            Recipe.from_json(text)
    for value in ([], 5, None, {"recipe_version": 1, "cut": 1, "structure": 1, "weights": 5}):
        with pytest.raises(CorruptError, match="damaged"):
            Recipe.from_json(json.dumps(value))


def test_differences_are_named_with_the_way_to_them() -> None:
    assert RECIPE.differences(RECIPE) == []
    new = replace(
        RECIPE, cut="layer3", weights={"a": "5", "c": "3"}, transform={"size": [4, 6]}, pool="mean", dtype="int8"
    )
    assert RECIPE.differences(new) == [
        Difference("cut", "layer4", "layer3"),
        Difference("dtype", "float32", "int8"),
        Difference("pool", None, "mean"),
        Difference("transform.size[1]", 5, 6),
        Difference("weights.a", "1", "5"),
        Difference("weights.b", "2", None),
        Difference("weights.c", None, "3"),
    ]
    assert RECIPE.differences(replace(RECIPE, transform={"size": [4]})) == [Difference("transform.size", [4, 5], [4])]
    assert RECIPE.differences(replace(RECIPE, transform={"size": [4, 5, 6]})) == [
        Difference("transform.size", [4, 5], [4, 5, 6])
    ]
    assert RECIPE.differences(replace(RECIPE, transform=None)) == [Difference("transform", {"size": [4, 5]}, None)]
