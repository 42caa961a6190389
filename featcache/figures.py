"""Figures as SVG that reads well on light and dark ground; the one place that sets their style."""

from __future__ import annotations

import io
import warnings
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

__all__ = ["FIRST", "INK", "SECOND", "plain_axes", "svg"]

INK, FIRST, SECOND = "#808080", "#3b7dd8", "#e08214"  # readable on white and on near-black


def plain_axes(axes: Any) -> None:
    """Give axes the colours of the style, and no ground of their own."""
    axes.tick_params(colors=INK)
    for spine in axes.spines.values():
        spine.set_color(INK)
    for label in (axes.xaxis.label, axes.yaxis.label, axes.title):
        label.set_color(INK)
    axes.set_facecolor("none")


def svg(figure: Figure) -> bytes:
    """Return a figure as SVG; text stays text, in the reader's font, and equal figures give equal files."""
    figure.patch.set_alpha(0)
    out = io.BytesIO()
    with (
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "featcache"}),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "Glyph .* missing")  # only the space for it is estimated
        FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None})  # type: ignore[no-untyped-call]
    return out.getvalue()
