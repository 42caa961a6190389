"""One head on the features of several cuts: what they are pooled to, side by side in one vector for each sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import nn

from ..codecs import Pool, pooled_spec
from ..errors import UsageError
from ..features import Features, side_by_side
from ..identity import Recipe, digest_json
from ..splitting import Split, as_now, deep_copy, prefixes, split_at
from ..tensorspec import TensorSpec

__all__ = ["ALL_LAYERS", "JoinedSplit", "checked_splits", "joined_features"]

ALL_LAYERS = "all-layers"
ALIKE = ("transform", "decoding", "dtype", "numerics", "views")  # what the recipes of all cuts must say alike
BETWEEN = "+"  # the names of cuts


class JoinedSplit(Split):
    """A network cut after several modules at once. What crosses is what each returns, pooled, side by side in one vector.

    It has no suffix: heads on pooled features alone go with it.
    """

    def __init__(self, splits: Sequence[Split], pool: str) -> None:
        self.splits = tuple(splits)
        self.pool = pool
        self.model = splits[0].model
        self.cut = BETWEEN.join(self.cuts)
        self.frontier = (joined_spec([(each.cut, each.frontier) for each in splits], pool),)
        self.structure = joined_structure([(each.cut, each.structure) for each in splits])
        self.example_inputs = splits[0].example_inputs
        self.other_length = splits[0].other_length

    @property
    def cuts(self) -> list[str]:
        """The names of the modules that the network is cut after."""
        return [each.cut for each in self.splits]

    @property
    def suffix(self) -> NoReturn:  # type: ignore[override]
        """Raise ``UsageError``: there is none."""
        raise UsageError("a network that is cut after several modules at once has no suffix.")

    @property
    def flat(self) -> bool:
        """Whether the suffix is a graph: there is none."""
        return False

    @property
    def side_inputs(self) -> tuple[str, ...]:
        """The names of inputs that cross as they are: none."""
        return ()

    @property
    def weights(self) -> dict[str, str]:
        """The digests of every parameter and buffer used up to one of the cuts, as they are now, by name."""
        return {name: digest for each in self.splits for name, digest in each.weights.items()}

    def prefix(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the vectors (batch, width), from one run of the network."""
        found = prefixes(self.splits, kwargs or args)
        pools = _pools(self.cuts, self.pool)
        return torch.cat([pool(each) for pool, each in zip(pools, found, strict=True)], dim=1)

    def rebind(self, model: nn.Module) -> JoinedSplit:
        """Return the same of another instance of the network."""
        return JoinedSplit([each.rebind(model) for each in self.splits], self.pool)

    def __deepcopy__(self, memo: dict[int, Any]) -> JoinedSplit:
        return self.rebind(memo.setdefault(id(self.model), deep_copy(self.model)))

    def __reduce__(self) -> tuple[Any, ...]:
        return _joined_again, (self.model, self.cuts, self.example_inputs, self.other_length, self.pool)

    def __repr__(self) -> str:
        return f"JoinedSplit({type(self.model).__name__} at {', '.join(self.cuts)}: {list(self.frontier[0].shape)})"


def _joined_again(model: nn.Module, cuts: list[str], example: Any, other: Any, pool: str) -> JoinedSplit:
    return JoinedSplit(split_at(model, cuts, example, other), pool)


def checked_splits(splits: Any) -> list[Split]:
    """Return splits that were made together, of the network as it is now; raises ``UsageError`` for anything else."""
    if not isinstance(splits, Sequence) or len({each.cut for each in splits if isinstance(each, Split)}) < 2:
        raise UsageError(
            "head='all-layers' reads the features of two cuts or more: give the splits that "
            "featcache.split(model, [cut, other_cut], …) returns, and the features of each cut, as featcache.extract does."
        )
    names = [each.cut for each in splits]
    if len(set(names)) < len(names):
        raise UsageError(f"each cut is given once, not {', '.join(names)}.")
    return as_now(splits)


def joined_features(features: Any, cuts: Sequence[str], pool: str) -> Features:
    """Return the features of several cuts as one, in memory, in the order of ``cuts``.

    Sets that were stored pooled must have been pooled alike; those that are whole are pooled so, by ``pool`` if there are
    no others. Raises ``UsageError`` where the features are not those of these cuts, of the same samples and made alike.
    """
    if not isinstance(features, Mapping) or sorted(features) != sorted(cuts):
        found = f"those at {', '.join(features)}" if isinstance(features, Mapping) else type(features).__name__
        raise UsageError(f"the features at each of {', '.join(cuts)} are needed, in a dict by cut, not {found}.")
    parts = [features[cut] for cut in cuts]
    recipes = [part.recipe for part in parts]
    for recipe in recipes:
        for name in ALIKE:
            if getattr(recipe, name) != getattr(recipes[0], name):
                raise UsageError(
                    f"the features at {recipes[0].cut!r} and at {recipe.cut!r} differ in {name}: extract both alike."
                )
    kind = pool_of_all(parts, pool)
    spec = joined_spec([(recipe.cut, recipe.frontier) for recipe in recipes], kind)
    first = recipes[0]
    joined = Recipe(
        BETWEEN.join(cuts),
        joined_structure([(recipe.cut, recipe.structure) for recipe in recipes]),
        {name: digest for recipe in recipes for name, digest in recipe.weights.items()},
        (spec,),
        first.transform,
        first.decoding,
        first.dtype,
        first.numerics,
        kind,
        first.views,
        {"recipes": [recipe.fingerprint for recipe in recipes]},
    )
    return side_by_side(parts, _pools(cuts, kind), joined)


def pool_of_all(parts: Sequence[Features], pool: str) -> str:
    """Return how the features of all cuts are pooled: as those that were stored so."""
    stored = {part.recipe.pool: part.recipe.cut for part in parts if part.recipe.pool is not None}
    if len(stored) > 1:
        said = " and ".join(f"at {cut!r} by {kind!r}" for kind, cut in stored.items())
        raise UsageError(f"the features were pooled in several ways, {said}: extract them with one --pool.")
    kind = next(iter(stored), pool)
    if pool not in ("auto", kind):
        raise UsageError(f"pool {pool!r} was asked for, but the stored features were pooled by {kind!r}.")
    return str(kind)


def joined_spec(frontiers: Sequence[tuple[str, tuple[TensorSpec, ...]]], pool: str) -> TensorSpec:
    """Return what the vectors of all cuts look like, side by side."""
    widths = [pooled_spec(pool, cut, frontier).value_shape[0] for cut, frontier in frontiers]
    return TensorSpec(BETWEEN.join(cut for cut, _ in frontiers), (sum(widths),), "float32")


def joined_structure(structures: Sequence[tuple[str, str]]) -> str:
    """Return the digest of the computation up to each of several cuts."""
    return digest_json([list(each) for each in structures])


def _pools(cuts: Sequence[str], kind: str) -> list[Pool]:
    return [Pool(kind, cut) for cut in cuts]
