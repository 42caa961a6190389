"""Head folders read again, without running anything that is in them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..codecs import Pool
from ..errors import CorruptError, DataNotFoundError, FeatCacheError, HeadError
from ..identity import Recipe
from ..machine import pick_device
from ..splitting import Split, as_now
from ..store import check_seal
from ..tables import Records
from ..training import AnyMetrics, EpochRecord, Task, TrainOptions, UsedRows, metrics_from
from .all_layers import JoinedSplit, checked_splits
from .estimators import load_estimator
from .kinds import BuiltHead, find_kind
from .linear import pooled_width
from .save import ESTIMATOR, HEAD_FORMAT, TENSORS
from .trained import TrainedHead

__all__ = ["check_backbone", "head_task", "load_onto", "read_head", "split_for"]

NAMED = 3  # tensors that an error names


def read_head(folder: Path) -> dict[str, Any]:
    """Return the description of a saved head; raises ``DataNotFoundError`` or ``HeadError``."""
    path = folder / "head.json"
    if not path.is_file():
        raise DataNotFoundError(f"{folder} holds no head (no head.json). `featcache train-head` makes one.")
    try:
        check_seal(folder)
        described: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if described["format"] > HEAD_FORMAT:
            raise HeadError(
                f"{folder} has head format {described['format']}; this featcache reads {HEAD_FORMAT}. Upgrade it."
            )
    except CorruptError as error:
        raise HeadError(str(error)) from error
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, HeadError):
            raise
        raise HeadError(f"{path} is damaged ({error!r}). Train the head again.") from error
    return described


def load_onto(folder: Path, split: Split | Sequence[Split], device: str | None = "cpu") -> TrainedHead:
    """Return a saved head behind the prefix of a split: what ``featcache.load_head`` does once it has the split."""
    described = read_head(folder)
    try:
        recipe = Recipe.from_dict(described["recipe"])
        options = _options(described["options"])
        task = head_task(described)
        history = Records(EpochRecord(**each) for each in described["history"])
        metrics, validation_metrics = (
            _metrics(task, described.get(name)) for name in ("metrics", "validation_metrics")
        )
        dataset, snapshot = str(described["dataset"]), str(described["snapshot"])
        elapsed_s = float(described["elapsed_s"])
        rows = UsedRows(**described["rows"]) if described.get("rows") else None
        kind = find_kind(options.head)
    except (KeyError, TypeError, ValueError, AttributeError, FeatCacheError) as error:
        raise HeadError(f"{folder}/head.json is damaged ({error!r}). Train the head again.") from error
    split = split_for(f"the head {folder}", split, described.get("cuts") or [recipe.cut], options.pool)
    check_backbone(f"the head {folder}", recipe, split.cut, split.structure, split.weights)
    built = kind.build(split, task, options, pick_device(device))
    if (folder / ESTIMATOR).is_file():
        width = pooled_width(split, Pool(options.pool, split.cut))
        name = options.head.partition(":")[2]
        kind.restore(built, load_estimator((folder / ESTIMATOR).read_bytes(), name, width), task)
    _load_tensors(folder / TENSORS, built)
    built.model.eval()
    built.layers.eval()
    return TrainedHead(
        built, task, options, recipe, dataset, snapshot, history, metrics, validation_metrics, elapsed_s, rows
    )


def split_for(head: str, given: Split | Sequence[Split], cuts: Sequence[str], pool: str) -> Split:
    """Return the split for a head as the network is now, or those of an all-layers head as one."""
    if len(cuts) == 1:
        (split,) = as_now([given])  # type: ignore[list-item]
        return split
    splits = {each.cut: each for each in checked_splits(given)}
    if sorted(splits) != sorted(cuts):
        raise HeadError(f"{head} reads the cuts {', '.join(cuts)}: give a split at each, not at {', '.join(splits)}.")
    return JoinedSplit([splits[cut] for cut in cuts], pool)


def _options(described: dict[str, Any]) -> TrainOptions:
    # A newer minor version may know more options; what it trained still loads.
    known = {each.name for each in dataclasses.fields(TrainOptions)}
    given = {name: value for name, value in described.items() if name in known}
    if "schedule" in described:  # the name of lr_schedule in heads of 0.1.0 before unfreezing schedules
        given.setdefault("lr_schedule", described["schedule"])
    if given.get("trainable") is not None:
        given["trainable"] = tuple(given["trainable"])
    return TrainOptions(**{**given, "head": str(given["head"])})


def head_task(described: dict[str, Any]) -> Task:
    """Return what a saved head learned, from its description."""
    if "task" in described:
        return Task.from_dict(described["task"], described["classes"])
    return Task("single_label", tuple(str(name) for name in described["classes"]))  # as all heads were once


def _metrics(task: Task, described: dict[str, Any] | None) -> AnyMetrics | None:
    return None if described is None else metrics_from(task, described)


def _load_tensors(path: Path, built: BuiltHead) -> None:
    """Copy the saved tensors into the head; names and shapes are compared before any value is read."""
    wanted = {built.stored_at + name: value for name, value in built.stored.state_dict().items()}
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            differing = sorted(
                name
                for name in {*found, *wanted}
                if name not in found or name not in wanted or found[name] != tuple(wanted[name].shape)
            )
            if differing:
                more = ", …" if len(differing) > NAMED else ""
                raise HeadError(
                    f"{path} does not fit the network: {', '.join(differing[:NAMED])}{more} differ in name or shape. "
                    "Load the backbone that the head was trained on, or train it again."
                )
            with torch.no_grad():
                for name, value in wanted.items():
                    value.copy_(file.get_tensor(name))
    except (SafetensorError, OSError) as error:
        raise HeadError(
            f"{path} does not fit the network, since it cannot be read ({str(error).splitlines()[0]}). Train the head again."
        ) from error


def check_backbone(head: str, recipe: Recipe, cut: str, structure: str, weights: Mapping[str, str]) -> None:
    """Raise ``HeadError`` unless cut, structure and the digests of weights are those that a head was trained on."""
    differing = sorted(name for name in {*weights, *recipe.weights} if weights.get(name) != recipe.weights.get(name))
    if cut != recipe.cut:
        found = f"it is cut at {cut!r}, the head at {recipe.cut!r}"
    elif structure != recipe.structure:
        found = f"its structure up to {recipe.cut!r} differs"
    elif differing:
        more = ", …" if len(differing) > NAMED else ""
        found = f"{len(differing)} weights up to {recipe.cut!r} differ ({', '.join(differing[:NAMED])}{more})"
    else:
        return
    raise HeadError(f"{head} belongs to another backbone: {found}. Load the backbone that it was trained on.")
