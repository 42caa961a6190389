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
    """A store at a path or URL: what it holds, whether that is fresh and why, and whether every byte is whole.

    The first thing that is written to a store creates it.

    Parameters
    ----------
    url : str
        A folder, or a URL such as ``"s3://bucket/features"``.

    Attributes
    ----------
    url : str
        The place of the store.
    storage : Storage
        The files of the store.

    Raises
    ------
    NotAStoreError
        If the folder holds something else.
    StoreFormatError
        If a newer featcache wrote the store.
    UnknownNameError
        If there is no storage for this kind of URL.

    Examples
    --------
    >>> import torch
    >>> import featcache
    >>> network = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    >>> samples = [(torch.randn(8), number % 3) for number in range(30)]
    >>> store = featcache.FeatureStore("features")
    >>> store.status(network, samples, cut="1").state
    'missing'
    >>> features = featcache.extract(network, samples, store, cut="1")
    >>> [(each.cut, each.rows) for each in store.sets()]
    [('1', 30)]
    >>> store.status(network, samples[:20], cut="1").state
    'fresh'
    >>> store.verify().damaged
    []
    """

    def sets(self) -> list[SetInfo]:
        """List every feature set of the store.

        Returns
        -------
        list of SetInfo
            The sets with their rows, bytes and recipes, sorted by cut and fingerprint.

        Raises
        ------
        CorruptError
            If the recipe of a set is damaged.
        """
        return list_sets(self)

    def status(self, model: torch.nn.Module | Split, dataset: Any, **options: Any) -> SetStatus:
        """Return whether the set that ``featcache.extract`` would make is fresh, partial, missing or stale.

        Parameters
        ----------
        model : torch.nn.Module or Split
            The network, or a split of it.
        dataset : Any
            The dataset or its specification, as for ``featcache.extract``.
        **options : Any
            The options of ``featcache.extract`` that say what is asked for: ``cut``, ``transform``, ``dtype``,
            ``numerics``, ``pool``, ``views``, ``augment`` (a callable), ``seed`` and ``name``.

        Returns
        -------
        SetStatus
            How the set stands.

        Raises
        ------
        UsageError
            If an option is not valid.
        DataError
            If the dataset cannot be used.
        SplitError
            If caching at the cut is unsound.
        FingerprintError
            If the transform has no deterministic identity.
        """
        request = self._request(model, dataset, **options)
        augmented = views_recipe(request.recipe, request.samples) if request.views else None
        return set_status(self, request.recipe, request.snapshot, augmented, request.views)

    def explain(self, model: torch.nn.Module | Split, dataset: Any, **options: Any) -> Explanation:
        """Return in words why a set is fresh or not: the recipe fields, tensors and samples that differ.

        Parameters
        ----------
        model : torch.nn.Module or Split
            The network, or a split of it.
        dataset : Any
            The dataset or its specification, as for ``featcache.extract``.
        **options : Any
            The options of ``status``.

        Returns
        -------
        Explanation
            The status with its reasons.

        Raises
        ------
        UsageError
            If an option is not valid.
        DataError
            If the dataset cannot be used.
        SplitError
            If caching at the cut is unsound.
        FingerprintError
            If the transform has no deterministic identity.
        """
        request = self._request(model, dataset, **options)
        return explain(self, request.recipe, request.snapshot)

    def verify(self, repair: bool = False) -> VerifyReport:
        """Read every byte of every set, snapshot and head, and report what is damaged.

        Parameters
        ----------
        repair : bool, default False
            Drop damaged rows and files, so that the next extract makes just those again. A damaged head stays.

        Returns
        -------
        VerifyReport
            How much was read, and what of it is damaged.
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
        """Compare some cached rows with a fresh forward pass.

        Parameters
        ----------
        model : torch.nn.Module or Split
            The network, or a split of it.
        dataset : Any
            The dataset or its specification, as for ``featcache.extract``.
        rows : int, default 64
            The number of rows to compare per set.
        batch_size : int, default 64
            The samples per forward pass.
        device : str, optional
            The device to run on. By default the best one there is.
        **options : Any
            The options of ``status``.

        Returns
        -------
        list of Recomputed
            One entry per cut, and another one per cut for its random views, if there are any.

        Raises
        ------
        StaleError
            If a set has no rows of these samples.
        UsageError
            If an option is not valid.
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
        """Report the sets and snapshots that nothing refers to, and delete them on request.

        Heads, pins, processes that work with a set, and ``keep`` refer to sets.

        Parameters
        ----------
        keep : iterable of Recipe or str, optional
            Recipes or fingerprints of sets to keep.
        delete : bool, default False
            Delete the garbage. Otherwise it is only reported.
        max_size : str or int, optional
            A size such as ``"50 GB"``, or a number of bytes. Only the least recently used garbage counts then, until
            the rest fits.

        Returns
        -------
        GcReport
            What nothing refers to, and what stays.

        Raises
        ------
        CorruptError
            If a head cannot be read: it is not known then what it refers to.
        UsageError
            If ``max_size`` is not a size.
        """
        return gc(self, keep, delete=delete, max_size_bytes=None if max_size is None else parse_size(max_size))

    def pin(self, recipe: Recipe | str, reason: str = "") -> Pin:
        """Pin a set, so that ``gc`` keeps it.

        Parameters
        ----------
        recipe : Recipe or str
            The recipe of the set, or the beginning of its fingerprint.
        reason : str, default ""
            Why the set is kept.

        Returns
        -------
        Pin
            The pin.

        Raises
        ------
        UnknownNameError
            If no set has this fingerprint, or several begin so.
        """
        return pin(self, recipe if isinstance(recipe, str) else recipe.fingerprint, reason)

    def unpin(self, recipe: Recipe | str) -> str:
        """Remove the pin of a set.

        Parameters
        ----------
        recipe : Recipe or str
            The recipe of the set, or the beginning of its fingerprint.

        Returns
        -------
        str
            The fingerprint of the set that is no longer pinned.

        Raises
        ------
        UnknownNameError
            If no pinned set has this fingerprint, or several begin so.
        """
        return unpin(self, recipe if isinstance(recipe, str) else recipe.fingerprint)

    def pins(self) -> list[Pin]:
        """List every pin of the store.

        Returns
        -------
        list of Pin
            The pins. A pin whose note is damaged still counts.
        """
        return list_pins(self)
