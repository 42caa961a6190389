"""What is in a store and how it stands against the present configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ..extraction import Request, make_request, samples_of, stored_from, views_recipe
from ..identity import Recipe
from ..quantity import parse_size
from ..store import StoreFiles
from .explain import Explanation, explain
from .gc import GcReport, gc
from .ls import SetInfo, list_sets
from .pins import Pin, list_pins, pin, unpin
from .status import SetStatus, set_status
from .verify import VerifyReport, verify

if TYPE_CHECKING:
    import torch
    from typing_extensions import Unpack

    from ..codecs import StoredOptions
    from ..splitting import Split
    from .recompute import Recomputed

__all__ = ["FeatureStore"]


class FeatureStore(StoreFiles):
    """A store at a path or URL: what it holds, whether that is fresh, why, and whether every byte is whole.

    It is created by the first thing that is written to it. Raises :class:`NotAStoreError` for a folder that holds
    something else, :class:`StoreFormatError` for the store of a newer featcache.
    """

    def sets(self) -> list[SetInfo]:
        """Return every feature set of the store with its rows, bytes and recipe."""
        return list_sets(self)

    def status(self, model: torch.nn.Module | Split, dataset: Any, **options: Any) -> SetStatus:
        """Return how the set that :func:`featcache.extract` would make stands: fresh, partial, missing or stale.

        ``options`` are those of extract that say what is asked for: ``cut``, ``transform``, ``dtype``, ``pool``, ``views``,
        ``augment``, ``seed`` and ``name``.
        """
        request = self._request(model, dataset, **options)
        augmented = views_recipe(request.recipe, request.samples) if request.views else None
        return set_status(self, request.recipe, request.snapshot, augmented, request.views)

    def explain(self, model: torch.nn.Module | Split, dataset: Any, **options: Any) -> Explanation:
        """Return in words why that set is fresh or not: the recipe fields, tensors and samples that differ.

        ``options`` are those of :meth:`status`.
        """
        request = self._request(model, dataset, **options)
        return explain(self, request.recipe, request.snapshot)

    def verify(self, repair: bool = False) -> VerifyReport:
        """Return what is damaged, after having read every byte of every set, snapshot and head.

        ``repair`` drops damaged rows and files, so that the next extract makes just those anew.
        """
        return verify(self, repair)

    def recompute(
        self,
        model: torch.nn.Module | Split,
        dataset: Any,
        rows: int = 64,
        *,
        batch_size: int = 64,
        device: str | None = None,
        **options: Any,
    ) -> list[Recomputed]:
        """Return for each cut how some cached rows compare with a fresh forward pass, and what differs in provenance.

        ``options`` are those of :meth:`status`.
        """
        from ..machine import pick_device
        from .recompute import recompute

        request = self._request(model, dataset, **options)
        return recompute(request, self, rows, batch_size, pick_device(device))

    def _request(
        self,
        model: torch.nn.Module | Split,
        dataset: Any,
        *,
        cut: str | None = None,
        transform: Callable[[Any], Any] | None = None,
        name: str | None = None,
        seed: int | None = None,
        **stored: Unpack[StoredOptions],
    ) -> Request:
        chosen = stored_from(stored, seed)
        return make_request(model, samples_of(dataset, transform, name, chosen), self, chosen, cut=cut)

    def gc(
        self, keep: Iterable[Recipe | str] = (), *, delete: bool = False, max_size: str | int | None = None
    ) -> GcReport:
        """Return the sets and snapshots that nothing refers to, having deleted them if ``delete`` says so.

        Heads, pins, processes that work with a set, and ``keep`` (recipes or fingerprints) refer to sets. With
        ``max_size``, such as ``"50 GB"``, only the least recently used are garbage, until the rest fits.
        """
        return gc(self, keep, delete=delete, max_size_bytes=None if max_size is None else parse_size(max_size))

    def pin(self, recipe: Recipe | str, reason: str = "") -> Pin:
        """Return the pin by which gc keeps a set, which is named by its recipe or the beginning of its fingerprint."""
        return pin(self, recipe if isinstance(recipe, str) else recipe.fingerprint, reason)

    def unpin(self, recipe: Recipe | str) -> str:
        """Return the fingerprint of the set that is no longer pinned."""
        return unpin(self, recipe if isinstance(recipe, str) else recipe.fingerprint)

    def pins(self) -> list[Pin]:
        """Return every pin of the store."""
        return list_pins(self)
