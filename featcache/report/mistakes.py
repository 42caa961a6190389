"""The rows that a head is judged by, and those that it gets most confidently wrong, with thumbnails."""

from __future__ import annotations

import base64
import io
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DataError
from ..training import divide

if TYPE_CHECKING:
    from ..features import Features
    from ..heads import TrainedHead
    from ..project import Project

__all__ = ["Mistake", "judged_rows", "thumbnail", "worst_mistakes"]

SHOWN = 24
SIDE = 96  # pixels of a thumbnail


@dataclass(frozen=True)
class Mistake:
    """A sample that the head gets wrong; ``picture`` is a data URL, None where the sample is not at hand or no image."""

    name: str
    true: str
    predicted: str
    confidence: float
    picture: str | None


def judged_rows(trained: TrainedHead, features: Features) -> Features:
    """Return the rows that the head's metrics are on: the test split, else the validation rows, else those trained on."""
    division = divide(features, trained.options, trained.task)
    return division.test or division.validation or division.train


def worst_mistakes(project: Project, trained: TrainedHead, judged: Features, most: int = SHOWN) -> list[Mistake]:
    """Return the rows that the head gets wrong, the most confident ones first."""
    probabilities = trained.predict_proba(judged)
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != judged.targets)
    wrong = wrong[np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")][:most]
    names = judged.names
    pictures = _pictures(project, [names[row] for row in wrong.tolist()])
    return [
        Mistake(
            names[row],
            trained.classes[int(judged.targets[row])],
            trained.classes[int(predicted[row])],
            float(probabilities[row, predicted[row]]),
            pictures.get(names[row]),
        )
        for row in wrong.tolist()
    ]


def _pictures(project: Project, names: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    with suppress(DataError):  # the data are not here: the page goes without
        samples = project.raw_samples
        places = {name: place for place, name in enumerate(samples.snapshot().names)}
        positions = samples.positions()
        for name in names:
            if name in places:
                picture = thumbnail(samples.raw(int(positions[places[name]]))[0])
                if picture is not None:
                    found[name] = picture
    return found


def thumbnail(value: Any) -> str | None:
    """Return an image (PIL, or an array or tensor of one or three channels) as a small PNG's data URL, None for others."""
    from PIL import Image

    image = value if isinstance(value, Image.Image) else _as_image(value)
    if image is None:
        return None
    image = image.convert("RGB")
    scale = SIDE / max(image.size)
    # Few pixels are shown as such; many are averaged.
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), method)
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def _as_image(value: Any) -> Any:
    from PIL import Image

    if not hasattr(value, "shape") or len(value.shape) not in (2, 3):
        return None
    array = np.nan_to_num(np.asarray(value, dtype=np.float32))
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[-1] not in (1, 3):
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if (array.ndim == 3 and array.shape[-1] != 3) or 0 in array.shape:
        return None
    low, high = float(array.min()), float(array.max())
    pixels = (array - low) / max(high - low, 1e-12) * 255
    return Image.fromarray(pixels.astype(np.uint8))
