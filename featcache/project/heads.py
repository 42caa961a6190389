"""Heads in a store: where each lies, and how it gets its backbone and transform back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..catalog import FeatureStore
from ..errors import DataNotFoundError, FeatCacheError, HeadError, UnknownNameError, near_names
from ..identity import Recipe
from ..samples import Samples, load_transform
from ..store import check_name
from .project import Project
from .settings import Settings

if TYPE_CHECKING:
    from ..heads import TrainedHead
    from ..splitting import Split

__all__ = ["SavedHead", "find_head", "has_head", "load_head", "load_saved_head", "remove_heads", "saved_heads"]


@dataclass(frozen=True)
class SavedHead:
    """What a store says of one of its heads.

    Attributes
    ----------
    name : str
        The name of the head in the store.
    kind : str
        The kind of the head, such as ``"suffix"``.
    cut : str
        The cut after which it was trained, or the schedule of cuts.
    dataset : str
        The name of the dataset.
    task : str
        What it learned, such as ``"single_label"``.
    classes : int
        The number of classes, labels or values.
    recipe : str
        The fingerprint of the recipe of its features.
    snapshot : str
        The digest of the snapshot of the data.
    modified_s : float
        When it was written, in seconds since 1970.
    split : str, optional
        The rows that it was judged by: ``"test"`` or ``"validation"``. None if it was not judged.
    samples : int, default 0
        The number of these rows.
    figures : dict of str to str
        The figures on these rows, in words.
    """

    name: str
    kind: str
    cut: str
    dataset: str
    task: str
    classes: int
    recipe: str
    snapshot: str
    modified_s: float
    split: str | None = None
    samples: int = 0
    figures: dict[str, str] = field(default_factory=dict)


def load_head(
    folder: str | Path, split: Split | Sequence[Split] | None = None, device: str | None = "cpu"
) -> TrainedHead:
    """Load a saved head and put it behind the prefix of its backbone.

    The network is copied. Only tensors are read, by safetensors, or by skops for estimators that are not linear. Nothing
    in the folder is run as code. A backbone that the head names as a Python factory is: check the ``origin`` in the
    ``head.json`` of a head that is not yours.

    Parameters
    ----------
    folder : str or pathlib.Path
        The folder that ``TrainedHead.save`` wrote.
    split : Split or sequence of Split, optional
        The network, cut where the head was trained, at each of the cuts of an all-layers head. Its prefix must be the one
        that the head was trained on. By default the backbone is loaded as the head's ``origin`` says, which the command
        line records.
    device : str or None, default "cpu"
        The device of the loaded network. None is the best one there is.

    Returns
    -------
    TrainedHead
        The head, in evaluation mode.

    Raises
    ------
    DataNotFoundError
        If the folder holds no head, or no split is given and neither the head's store nor its data is there.
    HeadError
        If the backbone differs (the message says in what), no split is given and the head does not say how its backbone
        is built, or the folder is damaged or was written by a newer featcache.
    MissingDependencyError
        If the head needs skops and it is not installed.

    Notes
    -----
    To record the cut without a split, the backbone runs once on inputs that the head's store keeps, or else on samples
    of its data.

    Examples
    --------
    >>> import torch
    >>> import featcache
    >>> network = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    >>> samples = [(torch.randn(8), number % 3) for number in range(30)]
    >>> cut = featcache.split(network, "1", (torch.zeros(2, 8),))
    >>> features = featcache.extract(cut, samples, "features")
    >>> folder = featcache.train_head(cut, features, epochs=1, device="cpu").save("head")
    >>> featcache.load_head(folder, cut).predict_proba(features).shape
    (30, 3)
    """
    from ..heads import load_onto

    folder = Path(folder)
    if split is None:
        project, cuts, _ = _origin_of(folder)
        split = project.splits(cuts)
    return load_onto(folder, split, device)


def load_saved_head(store: str, head: str | None) -> tuple[TrainedHead, Any, Project]:
    """Return a saved head, the transform of its inputs, and the project that rebuilds its backbone.

    ``head`` is a name in the store or a folder; None is the head that was trained last. Raises ``DataNotFoundError``
    where there is none, ``HeadError`` where the backbone is not the one that it was trained on.
    """
    from ..heads import load_onto

    folder = find_head(store, head)
    project, cuts, recipe = _origin_of(folder, store)
    transform = load_transform(project.settings.transform, project.settings.image_size, project.backbone)
    trained = load_onto(folder, project.splits(cuts))
    if Samples([], transform).transform_identity != recipe.transform:
        raise HeadError(
            f"the transform of {project.settings.backbone} differs from the one that {folder} was trained with."
        )
    return trained, transform, project


def _origin_of(folder: Path, store: str | None = None) -> tuple[Project, list[str], Recipe]:
    """Return the project that rebuilds the backbone of a saved head, its cuts, and the recipe of its features.

    The store is the one that the folder lies in, or else the one in which the head says that its features are.
    """
    from ..heads import read_head

    described = read_head(folder)
    try:
        origin, cut, recipe = dict(described["origin"]), str(described["cut"]), Recipe.from_dict(described["recipe"])
    except (KeyError, TypeError, ValueError, AttributeError, FeatCacheError) as error:
        raise HeadError(f"{folder}/head.json is damaged ({error!r}). Train the head again.") from error
    if not origin.get("backbone") or not origin.get("data"):
        raise HeadError(
            f"{folder} does not say how its backbone is built (it was saved from Python): pass the model, as "
            "load_head(folder, featcache.split(model, cut, inputs))."
        )
    if store is None:
        around = folder.resolve().parent.parent
        store = str(around) if (around / "store.json").is_file() else str(origin.get("store", "features"))
    for name in ("backbone", "transform", "weights"):
        _refuse_code_of_store(store, folder, str(origin.get(name) or ""))
    known = {name: value for name, value in origin.items() if name in Settings.__dataclass_fields__}
    project = Project(Settings(**{**known, "store": store}))
    cuts = [str(each) for each in described.get("cuts") or [cut]]
    if len(cuts) == 1:
        project._recipes[cut] = recipe
    return project, cuts, recipe


def _refuse_code_of_store(store: str, folder: Path, named: str) -> None:
    """Raise ``HeadError`` where a head would have Python code run that lies in the store, or beside the head."""
    path = Path(named.partition(":")[0])
    if path.suffix != ".py":
        return
    inside = (Path(store.removeprefix("file://")).expanduser().resolve(), folder.resolve())
    if any(path.resolve().is_relative_to(each) for each in inside):
        raise HeadError(
            f"{folder} asks to run {path}, which lies in the store: nothing in a store is run. "
            "Move the file elsewhere if it is yours, and train the head again."
        )


def saved_heads(store: str) -> tuple[list[SavedHead], list[str]]:
    """Return what a store says of its heads, by dataset and then by age, and what is wrong with those that are damaged."""
    storage = FeatureStore(store).storage
    found, damaged = list[SavedHead](), list[str]()
    for entry in storage.list("heads"):
        if entry.is_folder:
            try:
                found.append(_saved_head(entry.name, storage.fetch(f"heads/{entry.name}"), entry.modified_s))
            except (HeadError, DataNotFoundError) as error:
                damaged.append(str(error))
    return sorted(found, key=lambda head: (head.dataset, head.modified_s)), damaged


def _saved_head(name: str, folder: Path, modified_s: float) -> SavedHead:
    from ..heads import head_task, read_head
    from ..training import metrics_from

    described = read_head(folder)
    try:
        task = head_task(described)
        options, metrics = described["options"], described.get("metrics")
        judged = None if metrics is None else metrics_from(task, metrics)
        return SavedHead(
            name, str(options["head"]), str(options.get("schedule") or options.get("freeze_schedule") or described["cut"]),
            str(described["dataset"]), task.kind, task.outputs, Recipe.from_dict(described["recipe"]).fingerprint,
            str(described["snapshot"]), modified_s, judged.split if judged else None, judged.samples if judged else 0,
            judged.figures if judged else {},
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise HeadError(f"{folder}/head.json is damaged ({error!r}). Train the head again.") from error


def remove_heads(store: str, names: Sequence[str]) -> None:
    """Remove heads from a store by their names; raises ``UnknownNameError``, and removes none, where one is not there."""
    files = FeatureStore(store)
    for name in names:
        _check_known(files, store, name)
    for name in dict.fromkeys(names):
        files.storage.remove(f"heads/{name}")


def has_head(store: str, name: str) -> bool:
    """Return whether a store holds a head of this name; raises ``UsageError`` for what cannot be one."""
    return FeatureStore(store).storage.exists(f"heads/{check_name(name, 'head')}/head.json")


def find_head(store: str, head: str | None) -> Path:
    """Return the folder of a head that is named in the store or by its own path; None names the one that was trained last."""
    files = FeatureStore(store)
    if head is not None and ("/" in head or (Path(head) / "head.json").is_file()):
        return Path(head)
    if head is None:
        entries = [entry for entry in files.storage.list("heads") if entry.is_folder]
        if not entries:
            raise DataNotFoundError(f"{store} holds no head yet: run `featcache train-head` first.")
        return files.storage.fetch(f"heads/{max(entries, key=lambda entry: entry.modified_s).name}")
    _check_known(files, store, head)
    return files.storage.fetch(f"heads/{head}")


def _check_known(files: FeatureStore, store: str, head: str) -> None:
    names = [entry.name for entry in files.storage.list("heads") if entry.is_folder]
    if head not in names:
        raise UnknownNameError(
            f"{store} holds no head {head!r}.{near_names(head, names)} It holds: {', '.join(names) or 'none'}."
        )
