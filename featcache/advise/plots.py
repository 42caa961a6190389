"""The picture of a sweep: validation score and cost against the boundary, as SVG."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from ..figures import FIRST, INK, SECOND, plain_axes, svg
from .choice import SweepRow

__all__ = ["sweep_plot"]


def sweep_plot(rows: Sequence[SweepRow], recommended: str, score: str) -> bytes:
    """Return the score with its interval and the seconds of each cut, from the shallowest to the deepest, as SVG."""
    ordered = sorted(rows, key=lambda row: row.flops_share)
    names = [row.cut for row in ordered]
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    scores, costs = figure.subplots(1, 2)
    places = list(range(len(ordered)))
    scores.errorbar(
        places,
        [100 * row.score for row in ordered],
        [100 * row.score_half_width for row in ordered],
        color=FIRST,
        capsize=4,
        marker="o",
    )
    place = names.index(recommended)
    scores.plot([place], [100 * ordered[place].score], marker="o", markersize=14, fillstyle="none", color=SECOND)
    scores.set(xlabel="frozen up to (ringed: recommended)", ylabel=f"{score} of validation rows (%)")
    costs.bar(places, [row.extract_s for row in ordered], color=SECOND, label="extract")
    costs.bar(
        places, [row.train_s for row in ordered], bottom=[row.extract_s for row in ordered], color=FIRST, label="train"
    )
    costs.set(xlabel="frozen up to", ylabel="seconds")
    costs.legend(frameon=False, labelcolor=INK)
    for axes in (scores, costs):
        axes.set_xticks(places, names, rotation=30 if max(map(len, names)) > 6 else 0, parse_math=False)
        plain_axes(axes)
    return svg(figure)
