"""What a caller asks to have cached: a dataset as it is now, and the recipe of each cut."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..codecs import Stored
from ..datasets import open_dataset
from ..errors import UsageError
from ..identity import Recipe
from ..progress import ProgressCallback, silent
from ..samples import Changed, FileMemo, Samples, Snapshot, load_augment, refuse_random
from ..store import StoreFiles
from .derivable import lossy_recipe
from .example import Example, example_of

if TYPE_CHECKING:
    import torch

    from ..codecs import StoredOptions
    from ..splitting import Split

__all__ = [
    "Request",
    "forget_changed",
    "make_recipe",
    "make_request",
    "remember_files",
    "remembered_snapshot",
    "samples_of",
    "stored_from",
    "views_recipe",
]


def remembered_snapshot(
    samples: Samples, store: StoreFiles, *, skip_unreadable: bool = False, progress: ProgressCallback = silent
) -> Snapshot:
    """Return what the dataset holds now; files that did not change since the store last saw them are not read."""
    memo = None
    if samples.memo is None and hasattr(samples.dataset, "sample_ids"):
        memo = FileMemo()
        with suppress(FileNotFoundError):
            memo = FileMemo.from_bytes(store.storage.read_bytes(_memo_path(samples)))
    snapshot = samples.snapshot(memo, skip_unreadable=skip_unreadable, progress=progress)
    remember_files(samples, store)
    return snapshot


def remember_files(samples: Samples, store: StoreFiles) -> None:
    """Keep in a store, if it exists yet, the ids of the files that were read."""
    _keep_memo(samples, samples.memo, store)


def _keep_memo(samples: Samples, memo: FileMemo | None, store: StoreFiles) -> None:
    if memo is not None and memo.hashed and store.storage.exists("store.json"):
        store.storage.write_bytes(_memo_path(samples), memo.to_bytes())
        memo.hashed = 0


def forget_changed(request: Request, store: StoreFiles, changed: Iterable[Changed]) -> None:
    """Have the samples listed again when they are next asked for, and files that changed read again."""
    memo, ids = request.samples.memo, request.snapshot.ids
    request.samples.forget({ids[each.position].tobytes() for each in changed})
    _keep_memo(request.samples, memo, store)


def _memo_path(samples: Samples) -> str:
    return f"cache/files/{samples.name}.memo"


@dataclass(frozen=True)
class Request:
    """What a caller asks to have cached: samples as they are now, and at each cut the split and the recipe.

    The random views, if there are any, have a recipe of their own: ``views_recipe``.
    """

    samples: Samples
    snapshot: Snapshot
    stored: Stored
    splits: tuple[Split, ...]
    recipes: tuple[Recipe, ...]

    @cached_property
    def example(self) -> Example:
        """Return the example of the samples; read once, and kept with every set that is filled."""
        return example_of(self.samples)

    @property
    def views(self) -> int:
        """Return how many random views of each sample are asked for beside the plain one."""
        return self.stored.views if self.samples.augment is not None else 0

    @property
    def recipe(self) -> Recipe:
        """Return the recipe of the first cut."""
        return self.recipes[0]


def samples_of(
    dataset: Any,
    transform: Callable[[Any], Any] | None = None,
    name: str | None = None,
    stored: Stored | None = None,
) -> Samples:
    """Return the samples of a dataset, which may be a specification, with the random views that are stored of them.

    Raises ``UsageError`` for several views without an augmentation: all would be equal.
    """
    if isinstance(dataset, Samples):
        samples = dataset
    else:
        samples = Samples(open_dataset(dataset) if isinstance(dataset, str) else dataset, transform, name)
    if stored is None:
        return samples
    if stored.augment is not None:
        refused = getattr(samples.transform, "no_views", None)
        if refused is not None:
            raise UsageError(f"there can be no random views of these samples: {refused}.")
        augment = load_augment(stored.augment) if isinstance(stored.augment, str) else stored.augment
        samples = samples.augmented(augment, stored.view_seed)
    if stored.views > 1 and samples.augment is None:
        raise UsageError(
            f"{stored.views} views need a random augmentation, such as --augment flip: without one all are equal."
        )
    return samples


def stored_from(options: StoredOptions, seed: int | None) -> Stored:
    """Return the options of what is stored; ``seed`` is a shorter name of ``view_seed``.

    Raises ``UsageError`` where both are given and differ.
    """
    if seed is not None and options.get("view_seed", seed) != seed:
        raise UsageError(f"seed is the same as view_seed, but they differ: {seed} and {options['view_seed']}.")
    return Stored.of(options if seed is None else {**options, "view_seed": seed})


def make_request(
    model: torch.nn.Module | Split | Sequence[Split],
    samples: Samples,
    store: StoreFiles,
    stored: Stored,
    *,
    cut: str | Sequence[str] | None = None,
    skip_unreadable: bool = False,
    progress: ProgressCallback = silent,
) -> Request:
    """Return the request for the features of some samples, which ``samples_of`` gave, at one or several cuts.

    Raises ``UsageError``, ``DataError``, ``SplitError``, ``StaleError`` or ``FingerprintError``
    before anything is written.
    """
    refuse_random(samples)
    splits, guess = _splits(model, cut, samples), samples.ragged
    snapshot = remembered_snapshot(samples, store, skip_unreadable=skip_unreadable, progress=progress)
    if samples.ragged != guess:
        splits = _splits(model, cut, samples)
    recipes = tuple(make_recipe(split, samples, stored) for split in splits)
    if stored.from_lossy:
        recipes = tuple(lossy_recipe(recipe, store) for recipe in recipes)
    return Request(samples, snapshot, stored, tuple(splits), recipes)


def _splits(
    model: torch.nn.Module | Split | Sequence[Split], cut: str | Sequence[str] | None, samples: Samples
) -> Sequence[Split]:
    from ..splitting import Split, as_now, split_at

    if isinstance(model, str):
        raise UsageError(f"{model!r} is text: load the network with featcache.load_backbone({model!r}).model.")
    if isinstance(model, Split):
        if cut not in (None, model.cut):
            raise UsageError(f"the split is cut at {model.cut!r}, but cut={cut!r} was asked for: give one of them.")
        return as_now([model])
    if isinstance(model, Sequence):
        if cut is not None:
            raise UsageError(f"the splits are cut already, but cut={cut!r} was asked for: leave it out.")
        return as_now(model)
    cuts = [cut] if isinstance(cut, str) else list(dict.fromkeys(cut or ()))
    if not cuts:
        raise UsageError("say where to cut, such as cut='layer4'; featcache.cuts(model, …) lists the candidates.")
    example = example_of(samples)
    return split_at(model, cuts, example.inputs, example.other_length)


def make_recipe(split: Split, samples: Samples, stored: Stored) -> Recipe:
    """Return the recipe of a split applied to a dataset's samples; ``views_recipe`` makes that of their views.

    Raises ``FingerprintError`` for a transform that has no identity, ``UsageError`` for features that cannot
    be pooled.
    """
    frontier = tuple(split.frontier)
    if stored.pool is not None:
        from ..codecs import pooled_spec

        frontier = (pooled_spec(stored.pool, split.cut, frontier),)
    return Recipe(
        cut=split.cut,
        structure=split.structure,
        weights=dict(split.weights),
        frontier=frontier,
        transform=samples.transform_identity,
        decoding=samples.decoding,
        dtype=stored.dtype,
        numerics=stored.numerics,
        pool=stored.pool,
    )


def views_recipe(recipe: Recipe, samples: Samples) -> Recipe:
    """Return the recipe of the random views of the samples whose plain features have the given one."""
    return replace(recipe, views=samples.views_identity)
