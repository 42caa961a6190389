"""The comparison of two outputs: equal bit for bit, within rounding, or refused."""

from __future__ import annotations

from typing import Any

import torch

from ..errors import SplitError
from .trees import ordered, tensors_in

__all__ = ["TOLERANCE", "compare", "difference", "rounding"]

TOLERANCE = 1e-5
COARSE = 8  # times the precision of a short floating type: one rounding more or less in each layer


def compare(
    expected: Any, found: Any, what: str, refuse: bool = True, tolerance: float = TOLERANCE, floor: float = 0.0
) -> float:
    """Return the largest difference between two outputs, relative to the scale of the first.

    Values that are not finite in ``expected`` prove nothing and are left out; they must be as little finite in
    ``found``. A scale below ``floor`` counts as that. Raises ``SplitError`` above the tolerance, or where no value
    is finite, if ``refuse``.
    """
    left, right = tensors_in(ordered(expected)), tensors_in(ordered(found))
    if len(left) != len(right) or any(a.shape != b.shape for a, b in zip(left, right, strict=False)):
        raise SplitError(f"{what} gives tensors of other number or shape than the whole model.")
    if any(tensor.is_meta for tensor in right):
        raise SplitError(f"{what} depends on a tensor that was not recorded.")
    largest, proven = 0.0, not left
    for mine, theirs in zip(left, right, strict=True):
        if torch.equal(mine, theirs) and bool(torch.isfinite(_float(mine)).all()):
            proven = proven or mine.numel() > 0
            continue
        mine, theirs = _float(mine), _float(theirs)
        finite = torch.isfinite(mine)
        if not torch.equal(finite, torch.isfinite(theirs)):
            largest = float("inf")
        elif finite.any():
            proven = True
            scale = mine[finite].abs().max().clamp_min(max(floor, 1e-30))
            largest = max(largest, float((mine[finite] - theirs[finite]).abs().max() / scale))
    if refuse and (largest > tolerance or not proven):
        reason = (
            f"differs from the whole model by {largest:.1e} of its scale"
            if proven
            else "has no finite value to compare"
        )
        raise SplitError(f"{what} {reason}: caching there would be unsound.")
    return largest


def difference(one: torch.Tensor, other: torch.Tensor, least_scale: float = 0.0) -> float:
    """Return the largest difference between two tensors, relative to the scale of the first; infinite for other shapes."""
    if one.shape != other.shape:
        return float("inf")
    if torch.equal(one, other):
        return 0.0
    mine, theirs = _float(one), _float(other)
    finite = torch.isfinite(mine)
    if not torch.equal(finite, torch.isfinite(theirs)):
        return float("inf")
    if not finite.any():
        return 0.0
    scale = mine[finite].abs().max().clamp_min(max(least_scale, 1e-30))
    return float((mine[finite] - theirs[finite]).abs().max() / scale)


def rounding(dtype: torch.dtype) -> float:
    """Return the difference, relative to the scale, up to which two tensors count as equal within rounding."""
    if not dtype.is_floating_point and not dtype.is_complex:
        return 0.0
    return max(TOLERANCE, COARSE * torch.finfo(dtype).eps)


def _float(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach()
    return torch.view_as_real(tensor).double() if tensor.is_complex() else tensor.double()
