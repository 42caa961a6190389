"""Progress by callback: who calls the library decides whether and how it is shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["ProgressCallback", "ProgressEvent", "silent"]


@dataclass(frozen=True)
class ProgressEvent:
    """How far a stage of the work has come.

    Attributes
    ----------
    stage : str
        What is done, such as ``"extract"`` or ``"train"``.
    done : int
        The units that are done.
    total : int
        All units.
    unit : str
        What is counted, such as ``"samples"`` or ``"epochs"``.
    message : str, default ""
        One plain sentence about the stage.
    """

    stage: str
    done: int
    total: int
    unit: str
    message: str = ""


ProgressCallback = Callable[[ProgressEvent], None]


def silent(event: ProgressEvent) -> None:
    """Show nothing."""
