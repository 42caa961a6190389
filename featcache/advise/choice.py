"""Which cut a sweep recommends, and why, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["SweepRow", "choose", "reason"]


@dataclass(frozen=True)
class SweepRow:
    """What training after one cut gave, and what it cost.

    Attributes
    ----------
    cut : str
        The cut.
    flops_share : float
        The share of the network's FLOPs that lies before the cut, from 0 to 1.
    parameters_share : float
        The share of the network's parameters that lies before the cut, from 0 to 1.
    score : float
        The mean score of the validation rows.
    score_half_width : float
        Half the width of the confidence interval of ``score``.
    difference : float or None
        The paired difference of the score to that of the recommended cut. None for that cut itself.
    difference_half_width : float or None
        Half the width of the confidence interval of ``difference``.
    learning_rate : float or None
        The best of the learning rates that were tried. None for the default one.
    extract_s : float
        The seconds to extract the features. The time of a pass that computed several cuts is shared out among them.
    train_s : float
        The seconds of all trainings.
    trainings : int
        The number of trainings.
    disk_bytes : int
        The bytes of the stored rows.
    """

    cut: str
    flops_share: float
    parameters_share: float
    score: float
    score_half_width: float
    difference: float | None
    difference_half_width: float | None
    learning_rate: float | None
    extract_s: float
    train_s: float
    trainings: int
    disk_bytes: int


def choose(means: Mapping[str, float], tolerance: float) -> str:
    """Return the deepest cut whose mean score is within the tolerance of the best; ``means`` begin with the deepest.

    The best mean is the best guess whether or not it lies beyond noise: to keep a deeper cut until another one is proven
    better would lose, on average, what few validation rows cannot prove. A deeper cut is faster to train, so it gets
    what is as good as a tie.
    """
    best = max(means.values())
    return next(cut for cut, mean in means.items() if mean >= best - tolerance)


def reason(rows: Sequence[SweepRow], recommended: str, tolerance: float) -> str:
    """Return in words why a cut is recommended: what it adds to the deeper one, what others would, and what of it is noise."""
    place = next(number for number, row in enumerate(rows) if row.cut == recommended)
    chosen = rows[place]
    parts = [f"{recommended}: {100 * chosen.score:.1f} % (± {100 * chosen.score_half_width:.1f})"]
    if place:
        deeper = rows[place - 1]
        gain, half_width = -(deeper.difference or 0.0), deeper.difference_half_width or 0.0
        times = chosen.train_s / max(deeper.train_s, 1e-9)
        parts[0] += (
            f", {_points(gain, half_width)} over {deeper.cut}{_noise(gain, half_width)} for {times:.1f} × the training time"
        )
    for row in rows[place + 1 :]:
        gain, half_width = row.difference or 0.0, row.difference_half_width or 0.0
        if gain > 0:
            within = f"within the tolerance of {100 * tolerance:g}"
            parts.append(f"{row.cut} adds {_points(gain, half_width)}{_noise(gain, half_width)}, {within}")
        elif gain + half_width < 0:
            parts.append(f"{row.cut} is worse ({_points(gain, half_width)})")
        elif gain + half_width <= tolerance:
            parts.append(f"{row.cut} adds nothing ({_points(gain, half_width)})")
        else:
            parts.append(f"what {row.cut} adds is not known ({_points(gain, half_width)})")
    others = [row for row in rows if row is not chosen]
    if others and all(abs(row.difference or 0.0) <= (row.difference_half_width or 0.0) for row in others):
        parts.append("no difference lies beyond noise: more --seeds and --epochs would tell more")
    return "; ".join(parts)


def _points(gain: float, half_width: float) -> str:
    return f"{100 * gain:+.1f} ± {100 * half_width:.1f} points"


def _noise(gain: float, half_width: float) -> str:
    return "" if abs(gain) > half_width else " (not beyond noise)"
