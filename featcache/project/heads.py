"""Heads in a store: where each lies, and how it gets its backbone and transform back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..catalog import FeatureStore
from ..errors import DataNotFoundError, HeadError, UnknownNameError, near_names
from ..identity import Recipe
from ..samples import Samples, load_transform
from .project import Project
from .settings import Settings

if TYPE_CHECKING:
    from ..heads import TrainedHead

__all__ = ["find_head", "load_saved_head"]


def load_saved_head(store: str, head: str | None) -> tuple[TrainedHead, Any, Project]:
    """Return a saved head, the transform of its inputs, and the project that rebuilds its backbone.

    ``head`` is a name in the store or a folder; None is the head that was trained last. Raises ``DataNotFoundError``
    where there is none, ``HeadError`` where the backbone is not the one that it was trained on.
    """
    from ..heads import load_head, read_head

    folder = find_head(store, head)
    described = read_head(folder)
    origin = described["origin"]
    if not origin.get("backbone"):
        raise HeadError(
            f"{folder} does not say how its backbone is built (it was saved from Python): use featcache.load_head with a split."
        )
    for name in ("backbone", "transform", "weights"):
        _refuse_code_of_store(store, folder, str(origin.get(name) or ""))
    project = Project(Settings(**{**origin, "store": store}))
    cut = str(described["cut"])
    recipe = Recipe.from_dict(described["recipe"])
    project._recipes[cut] = recipe
    transform = load_transform(project.settings.transform, project.settings.image_size, project.backbone)
    trained = load_head(folder, project.split(cut))
    if Samples([], transform).transform_identity != recipe.transform:
        raise HeadError(f"the transform of {origin['backbone']} differs from the one that {folder} was trained with.")
    return trained, transform, project


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


def find_head(store: str, head: str | None) -> Path:
    """Return the folder of a head that is named in the store or by its own path; None names the one that was trained last."""
    files = FeatureStore(store)
    if head is not None and ("/" in head or (Path(head) / "head.json").is_file()):
        return Path(head)
    entries = [entry for entry in files.storage.list("heads") if entry.is_folder]
    names = [entry.name for entry in entries]
    if head is None:
        if not entries:
            raise DataNotFoundError(f"{store} holds no head yet: run `featcache train-head` first.")
        return files.storage.fetch(f"heads/{max(entries, key=lambda entry: entry.modified_s).name}")
    if head not in names:
        raise UnknownNameError(
            f"{store} holds no head {head!r}.{near_names(head, names)} It holds: {', '.join(names) or 'none'}."
        )
    return files.storage.fetch(f"heads/{head}")
