"""``timm:NAME``: the networks of timm, with their pretrained weights and the transforms that timm says belong to them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import DataNotFoundError, UnknownNameError, near_names
from ..extras import need
from ..identity import is_weights_file, package_folder, states, versions
from .source import Backbone

__all__ = ["TimmSource", "source"]

SEED = 0
UNLISTED = ("hf-hub:", "hf_hub:", "local-dir:")  # places that timm itself looks into


class TimmSource:
    """timm's registered models, ``NAME`` or ``NAME.TAG``; ``weights`` is a tag such as a1_in1k, a file, or ``none``."""

    def load(self, name: str, weights: str | None) -> Backbone:
        """Return the network; weights that are not in the hub's cache are downloaded.

        The weights of a file are loaded the way timm loads its own, so that its own files give its own networks.
        """
        timm = need("timm", "timm", f"timm:{name}")
        spec = f"timm:{name}"
        if not name.startswith(UNLISTED):
            _check_name(timm, name)
        if weights == "none":
            model, used = _build(timm, name), "none"
        elif weights is not None and is_weights_file(weights):
            model, used = _from_file(timm, name, weights), weights
        else:
            model, used = _downloaded(timm, *_chosen(timm, name, weights))
        config = timm.data.resolve_model_data_config(model)
        return Backbone(spec, used, model, lambda size: _transform(timm, config, size))

    def identity(self, name: str, weights: str | None) -> dict[str, Any] | None:
        """Return the states of timm's model code and of the given file; None for weights that timm fetches itself."""
        folder = package_folder("timm")
        if folder is None or name.startswith(UNLISTED):
            return None
        files = [*folder.glob("models/*.py"), *folder.glob("layers/*.py"), *folder.glob("data/*.py")]
        if weights is not None and is_weights_file(weights):
            files.append(Path(weights).expanduser().resolve())
        elif weights != "none":
            return None  # the hub may hold newer ones
        return {"versions": versions("timm", "torch", "torchvision"), "files": states(files)}


def _check_name(timm: Any, name: str) -> None:
    known = timm.list_models()
    base, _, tag = name.partition(".")
    if base not in known:
        raise UnknownNameError(
            f"timm {timm.__version__} has no model {base!r}.{near_names(base, known)} `python -c 'import timm; "
            'print(timm.list_models("*resnet*"))\'` lists them by pattern.'
        )
    if tag and name not in timm.list_pretrained():
        raise _unknown_tag(timm, base, tag)


def _unknown_tag(timm: Any, name: str, tag: str) -> UnknownNameError:
    tags = _tags(timm, name)
    return UnknownNameError(
        f"timm:{name} has no weights {tag!r}.{near_names(tag, tags)} "
        f"Known: {', '.join([*tags, 'none'])}, or a file as --weights FILE."
    )


def _tags(timm: Any, name: str) -> list[str]:
    return [full.partition(".")[2] for full in timm.list_pretrained(f"{name}.*")]


def _chosen(timm: Any, name: str, weights: str | None) -> tuple[str, bool]:
    """Return the full name of what to load, and whether it has pretrained weights."""
    if name.startswith(UNLISTED):
        return name, True
    base, _, tag = name.partition(".")
    if weights not in (None, "DEFAULT"):
        if f"{base}.{weights}" not in timm.list_pretrained():
            raise _unknown_tag(timm, base, str(weights))
        return f"{base}.{weights}", True
    return name, bool(tag) or bool(timm.list_pretrained(base) or _tags(timm, base))


def _build(timm: Any, name: str, **options: Any) -> Any:
    from ..machine import seeded

    with seeded(SEED), _quiet():
        return timm.create_model(name, **options)


def _downloaded(timm: Any, name: str, pretrained: bool) -> tuple[Any, str]:
    if not pretrained:
        return _build(timm, name), "none"
    try:
        model = _build(timm, name, pretrained=True)
    except (OSError, RuntimeError, ValueError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataNotFoundError(
            f"the weights of timm:{name} could not be had from its hub ({said}). Fetch them where there is a network and "
            "give them as --weights FILE, or use --weights none."
        ) from error
    return model, str(getattr(model, "pretrained_cfg", {}).get("tag") or "DEFAULT")


def _from_file(timm: Any, name: str, path: str) -> Any:
    from .weights import fit, read_weights

    loaded = read_weights(path)
    with contextlib.suppress(RuntimeError, KeyError, TypeError, AttributeError):  # fit says what is wrong with the file
        given = {"state_dict": dict(loaded), "custom_load": False}
        return _build(timm, name, pretrained=True, pretrained_cfg_overlay=given)
    model = _build(timm, name)
    fit(model, loaded, path)
    return model


def _transform(timm: Any, config: dict[str, Any], size: int | None) -> Any:
    used = dict(config)
    if size is not None:
        used["input_size"] = (used["input_size"][0], size, size)
    return timm.data.create_transform(**used, is_training=False)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep timm's remarks on loading to itself: what is wrong is raised."""
    logger = logging.getLogger("timm")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


source = TimmSource()
