"""The sets whose stored inputs a network can be recorded on, so that no sample is read for it."""

from __future__ import annotations

from contextlib import suppress

from ..catalog import FeatureStore, set_status
from ..errors import CorruptError
from ..identity import Recipe
from ..samples import Samples, Snapshot

__all__ = ["sets_alike"]


def sets_alike(store: FeatureStore, cut: str, samples: Samples, snapshot: Snapshot) -> list[Recipe]:
    """Return the recipes of stored sets at a cut that hold these samples, prepared as they are now."""
    seen = (samples.transform_identity, samples.decoding)
    with suppress(CorruptError):  # of another set: these samples can be read instead
        return [
            each
            for each in store.recipes()
            if (each.cut, each.transform, each.decoding) == (cut, *seen) and set_status(store, each, snapshot).fresh
        ]
    return []
