"""The page's pictures: inline SVG whose identifiers are their own, because a page holds several."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from ..advise import SweepRow, sweep_plot
from ..codecs import Pool
from ..errors import printable
from ..figures import FIRST, INK, SECOND, plain_axes, svg
from ..heads import confusion_plot, curves_plot
from ..samples import UNLABELLED, split_role

if TYPE_CHECKING:
    from ..features import Features
    from ..samples import Snapshot
    from ..training import EpochRecord, Metrics

__all__ = [
    "Plane",
    "balance_picture",
    "class_labels",
    "confusion_picture",
    "curves_picture",
    "feature_plane",
    "inline",
    "plan_picture",
    "sweep_picture",
]

Array = np.ndarray[Any, Any]

MOST_BARS = 40
MOST_POINTS = 3000
PLANE, MARGIN = (720, 460), 8
_numbers = itertools.count()


def inline(drawn: bytes, label: str) -> Any:
    """Return an SVG file as markup for a page: without its prologue, with a label, and with identifiers of its own."""
    from markupsafe import Markup, escape

    text = drawn.decode("utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    prefix = f"p{next(_numbers)}-"
    text = re.sub(r'( id="| xlink:href="#|url\(#)', lambda found: found.group(1) + prefix, text)
    return Markup(text.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1))


def class_labels(snapshot: Snapshot) -> tuple[Array | None, list[str]]:
    """Return the class number of each sample, -1 without a label, and the classes' names; None where targets are none."""
    known = np.array([split_role(split) != UNLABELLED for split in snapshot.splits], dtype=bool)
    targets = np.asarray(snapshot.targets)
    if targets.ndim != 1 or targets.dtype.kind not in "iu" or not known.any() or targets[known].min() < 0:
        return None, []
    count = int(targets[known].max()) + 1
    if count > len(snapshot.classes or targets):  # whole numbers that are values, such as years
        return None, []
    return np.where(known, targets.astype(np.int64), -1), list(snapshot.classes or map(str, range(count)))


def balance_picture(snapshot: Snapshot) -> Any:
    """Return a bar for each class of the labelled samples, divided by split; None where targets are not class numbers."""
    labels, classes = class_labels(snapshot)
    if labels is None or len(classes) > MOST_BARS:
        return None
    known, names = labels >= 0, [printable(name) for name in classes]
    targets = labels[known]
    figure = Figure(figsize=(8, 0.8 + 0.24 * len(names)), layout="constrained")
    axes = figure.subplots()
    splits = np.asarray(snapshot.splits, dtype=object).astype(str)[known]
    left = np.zeros(len(names))
    for split, color in zip(sorted(set(splits.tolist())), itertools.cycle([FIRST, SECOND, "#4caf7a", INK])):
        counts = np.bincount(targets[splits == split], minlength=len(names))
        axes.barh(range(len(names)), counts, left=left, color=color, label=printable(split) or "samples")
        left += counts
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.invert_yaxis()
    axes.set(xlabel="samples")
    figure.legend(frameon=False, labelcolor=INK, loc="outside right upper")
    plain_axes(axes)
    return inline(svg(figure), "samples of each class")


def sweep_picture(sweep: dict[str, Any]) -> Any:
    """Return score and cost against the boundary."""
    rows = [SweepRow(**row) for row in sweep["rows"]]
    return inline(sweep_plot(rows, sweep["recommended"], sweep["score"]), f"{sweep['score']} and seconds of each cut")


def plan_picture(plan: dict[str, Any]) -> Any:
    """Return the seconds of training with a cache and without one, against the number of epochs, for each cut."""
    rows = plan["rows"]
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    epochs = np.arange(0, plan["epochs"] + 1)
    colors = [colormaps["tab10"](number % 10) for number in range(len(rows))]
    for row, color in zip(rows, colors, strict=True):
        start_s = row["cached_total_s"] - plan["epochs"] * row["cached_epoch_s"]
        name = row["cut"] if len({each["dtype"] for each in rows}) == 1 else f"{row['cut']} {row['dtype']}"
        axes.plot(epochs, start_s + epochs * row["cached_epoch_s"], color=color, label=name)
        axes.plot(epochs, epochs * row["plain_epoch_s"], color=color, linestyle=":")
    axes.set(xlabel="epochs", ylabel="seconds in all (dotted: without cache)")
    axes.legend(frameon=False, labelcolor=INK)
    plain_axes(axes)
    return inline(svg(figure), "seconds against epochs with and without cache")


def curves_picture(history: Sequence[EpochRecord]) -> Any:
    """Return losses and validation accuracy over the epochs."""
    return inline(curves_plot(list(history)), "learning curves")


def confusion_picture(metrics: Metrics, classes: list[str]) -> Any:
    """Return the confusion matrix."""
    return inline(confusion_plot(metrics, classes), "confusion matrix")


@dataclass(frozen=True)
class Plane:
    """Rows in a plane of ``size``: ``points`` are (x, y, colour, name of the row, class); ``legend`` names colours."""

    size: tuple[int, int]
    points: list[tuple[float, float, str, str, str]]
    legend: list[tuple[str, str]]
    explained: tuple[float, float]


def feature_plane(features: Features, classes: list[str]) -> Plane | None:
    """Return the pooled features in the plane of their two principal components, coloured by class; None for too few."""
    from sklearn.decomposition import PCA

    if len(features) < 3:
        return None
    rows = np.unique(np.linspace(0, len(features) - 1, min(MOST_POINTS, len(features))).astype(int))
    chosen = features.subset(rows)
    values, targets = chosen.map(Pool("auto", features.recipe.cut)).numpy()
    if values.shape[1] < 2:
        return None
    pca = PCA(2, random_state=0).fit(values)
    places = pca.transform(values)
    low, high = places.min(axis=0), places.max(axis=0)
    size = np.array(PLANE)
    inside = (places - low) / np.maximum(high - low, 1e-12) * (size - 2 * MARGIN) + MARGIN
    inside[:, 1] = size[1] - inside[:, 1]  # upwards
    palette = colormaps["tab10" if len(classes) <= 10 else "tab20"]
    colors = [to_hex(palette(number % palette.N)) for number in range(len(classes))]
    targets = targets.astype(int).tolist()
    return Plane(
        PLANE,
        [
            (round(x, 1), round(y, 1), colors[number], name, classes[number])
            for (x, y), number, name in zip(inside.tolist(), targets, chosen.names, strict=True)
        ],
        [(classes[number], colors[number]) for number in sorted(set(targets))] if len(classes) <= palette.N else [],
        (float(pca.explained_variance_ratio_[0]), float(pca.explained_variance_ratio_[1])),
    )
