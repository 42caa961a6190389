"""What a store remembers: the cut that was extracted last, and the recipe that a configuration led to.

Recording a backbone needs torch and the weights, which takes longer than anything else when there is nothing to
compute. So the store remembers the recipe under a key of all that it can depend on: versions, the size, times and inode of
every file that the backbone is loaded from, and the settings. A backbone that cannot name its files (a factory in a Python
file, say) is loaded and recorded every time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ..backbones import backbone_identity
from ..catalog import FeatureStore
from ..errors import CorruptError, DataNotFoundError
from ..identity import Recipe, digest_json, versions
from ..store import StoreFiles
from .settings import Settings

__all__ = ["read_last_cut", "read_recipe", "write_last_cut", "write_recipe"]

LAST_CUT = "cache/last_cut.json"
VERSIONS = ("featcache", "torch", "torchvision", "pillow", "numpy")
# The settings that a recipe depends on besides those of what is stored.
NAMED = ("data", "image_size", "decoding", "exif", "background")


def read_recipe(store: StoreFiles, settings: Settings, cut: str, decoding: Callable[[], Any]) -> Recipe | None:
    """Return the recipe that the store remembers of a configuration, None where it does not.

    ``decoding`` says how samples become items now: the same data specification may open other data by now.
    """
    path = _path(settings, cut)
    if path is None:
        return None
    with suppress(FileNotFoundError, CorruptError):
        recipe = Recipe.from_json(store.storage.read_bytes(path))
        with suppress(DataNotFoundError):  # what is not at hand cannot have changed the recipe
            return recipe if digest_json(decoding()) == digest_json(recipe.decoding) else None
        return recipe
    return None


def write_recipe(store: StoreFiles, settings: Settings, cut: str, recipe: Recipe) -> None:
    """Have the store remember the recipe of a configuration, if that names all that it depends on."""
    path = _path(settings, cut)
    if path is not None and store.storage.exists("store.json"):
        store.storage.write_bytes(path, recipe.to_json().encode())


def read_last_cut(store: FeatureStore) -> str | None:
    """Return the cut that was extracted last into a store, or its only one; None where there is none."""
    with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
        return str(json.loads(store.storage.read_bytes(LAST_CUT))["cut"])
    cuts = {info.cut for info in store.sets()}
    return cuts.pop() if len(cuts) == 1 else None


def write_last_cut(store: FeatureStore, cut: str) -> None:
    """Have a store remember the cut that was extracted last."""
    if read_last_cut(store) != cut:
        store.storage.write_bytes(LAST_CUT, json.dumps({"cut": cut}).encode())


def _path(settings: Settings, cut: str) -> str | None:
    backbone = backbone_identity(settings.backbone, settings.weights)
    if backbone is None or settings.transform not in (None, "default"):
        return None
    key = {
        "backbone": backbone,
        "cut": cut,
        "versions": versions(*VERSIONS),
        **{name: getattr(settings, name) for name in NAMED},
        **settings.options(),
    }
    return f"cache/recipes/{digest_json(key)[:32]}.json"
