"""Head folders: written whole or not at all, read without running anything."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from ..errors import DataNotFoundError, HeadError, StorePermissionError
from ..recipe import Recipe
from ..split import Split
from .estimators import EstimatorLayer, as_layer, load_estimator, save_estimator
from .linear import HeadNetwork, Pool
from .metrics import EpochRecord, Metrics
from .network import new_network
from .options import TrainOptions

if TYPE_CHECKING:
    from .head import TrainedHead

__all__ = ["load_head", "read_head", "save_head"]

HEAD_FORMAT = 1
PACKAGES = ("featcache", "torch", "torchvision", "scikit-learn")


def save_head(head: TrainedHead, folder: Path, origin: Mapping[str, Any]) -> Path:
    """Write a head's files to a new folder beside ``folder``, which takes its place when it is whole."""
    files: dict[str, bytes] = {}
    tensors = {name: value.detach().cpu().contiguous() for name, value in _layers(head).state_dict().items()}
    files["head.safetensors"] = save({name: value.clone() for name, value in tensors.items()})
    if head.estimator is not None and isinstance(head.layers[1], EstimatorLayer):  # type: ignore[index]
        files["head.skops"] = save_estimator(head.estimator)
    files["head.json"] = (json.dumps(_description(head, origin), indent=1) + "\n").encode()
    files["history.csv"] = _history(head.history).encode()
    files.update(_plots(head))
    temporary = folder.parent / f".tmp~{secrets.token_hex(4)}~{folder.name}"
    try:
        temporary.mkdir(parents=True)
        for name, content in files.items():
            with (temporary / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        if folder.exists():
            replaced = folder.parent / f".tmp~{secrets.token_hex(4)}~{folder.name}"
            folder.rename(replaced)
            temporary.rename(folder)
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            temporary.rename(folder)
    except PermissionError as error:
        raise StorePermissionError(
            f"cannot write the head {folder}: permission denied. Choose another place."
        ) from error
    except OSError as error:
        raise HeadError(f"cannot write the head {folder}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def read_head(folder: Path) -> dict[str, Any]:
    """Return the description of a saved head; raises :class:`DataNotFoundError` or :class:`HeadError`."""
    path = folder / "head.json"
    if not path.is_file():
        raise DataNotFoundError(f"{folder} holds no head (no head.json). `featcache train-head` makes one.")
    try:
        described: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if described["format"] > HEAD_FORMAT:
            raise HeadError(
                f"{folder} has head format {described['format']}; this featcache reads {HEAD_FORMAT}. Upgrade it."
            )
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, HeadError):
            raise
        raise HeadError(f"{path} is damaged ({error!r}). Train the head again.") from error
    return described


def load_head(folder: str | Path, split: Split) -> TrainedHead:
    """Return a saved head put behind the prefix of ``split``, which must be the one that it was trained on.

    Nothing but tensors is read, by safetensors (skops for estimators that are not linear). Raises :class:`HeadError` where
    the backbone differs, and says in what.
    """
    from .head import TrainedHead

    folder = Path(folder)
    described = read_head(folder)
    recipe = Recipe.from_dict(described["recipe"])
    _check_backbone(folder, recipe, split)
    options = TrainOptions(
        **{
            **described["options"],
            "trainable": None
            if described["options"]["trainable"] is None
            else tuple(described["options"]["trainable"]),
        }
    )
    classes = [str(name) for name in described["classes"]]
    estimator = None
    if options.head == "suffix":
        network = new_network(split, len(classes), options.seed)
        model: torch.nn.Module = network.model
        layers: torch.nn.Module = network.suffix
        stored: torch.nn.Module = layers
    else:
        if (folder / "head.skops").is_file():
            estimator = load_estimator((folder / "head.skops").read_bytes())
            layer: torch.nn.Module = as_layer(estimator, len(classes))
        else:
            layer = torch.nn.Linear(int(described["width"]), len(classes))
        network, model, stored = split, HeadNetwork(split, layer), layer
        layers = torch.nn.Sequential(Pool(), layer)
    try:
        stored.load_state_dict(load_file(folder / "head.safetensors"))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise HeadError(f"{folder}/head.safetensors does not fit the network: {str(error).splitlines()[0]}") from error
    model.eval()
    layers.eval()
    metrics = described.get("metrics")
    return TrainedHead(
        model,
        layers,
        network,
        classes,
        options,
        recipe,
        str(described["dataset"]),
        str(described["snapshot"]),
        [EpochRecord(**each) for each in described["history"]],
        None if metrics is None else Metrics(**metrics),
        estimator=estimator,
    )


def _layers(head: TrainedHead) -> torch.nn.Module:
    return head.layers if head.head == "suffix" else head.layers[1]  # type: ignore[index]


def _check_backbone(folder: Path, recipe: Recipe, split: Split) -> None:
    now = dict(split.weights)
    differing = [name for name in {*now, *recipe.weights} if now.get(name) != recipe.weights.get(name)]
    if split.cut != recipe.cut:
        found = f"it is cut at {split.cut!r}, the head at {recipe.cut!r}"
    elif split.structure != recipe.structure:
        found = f"its structure up to {recipe.cut!r} differs"
    elif differing:
        found = f"{len(differing)} weights up to {recipe.cut!r} differ ({', '.join(sorted(differing)[:3])}, …)"
    else:
        return
    raise HeadError(
        f"the head {folder} belongs to another backbone: {found}. Load the backbone that it was trained on."
    )


def _description(head: TrainedHead, origin: Mapping[str, Any]) -> dict[str, Any]:
    layers = _layers(head)
    return {
        "format": HEAD_FORMAT,
        "head": head.head,
        "classes": head.classes,
        "cut": head.recipe.cut,
        "width": layers.in_features if isinstance(layers, torch.nn.Linear) else None,
        "dataset": head.dataset,
        "snapshot": head.snapshot,
        "metrics": _fields(head.metrics),
        "validation_metrics": _fields(head.validation_metrics),
        "options": _fields(head.options),
        "origin": dict(origin),
        "elapsed_s": head.elapsed_s,
        "versions": {name: version(name) for name in PACKAGES},
        "history": [_fields(each) for each in head.history],
        "recipe_fingerprint": head.recipe.fingerprint,
        "recipe": head.recipe.to_dict(),
    }


def _fields(value: Any) -> Any:
    return None if value is None else dataclasses.asdict(value)


def _history(history: list[EpochRecord]) -> str:
    out = io.StringIO()
    names = [each.name for each in dataclasses.fields(EpochRecord)]
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(dataclasses.asdict(each) for each in history)
    return out.getvalue()


def _plots(head: TrainedHead) -> dict[str, bytes]:
    try:
        from .plots import confusion_plot, curves_plot
    except ImportError:  # matplotlib is an extra; the numbers are in history.csv and head.json
        return {}
    made = {}
    if head.history:
        made["curves.svg"] = curves_plot(head.history)
    if head.metrics is not None:
        made["confusion_matrix.svg"] = confusion_plot(head.metrics, head.classes)
    return made
