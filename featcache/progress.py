"""Progress by callback: who calls the library decides whether and how it is shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["ProgressCallback", "ProgressEvent", "silent"]


@dataclass(frozen=True)
class ProgressEvent:
    """How far a stage has come: ``done`` of ``total`` units (samples, epochs, files); ``message`` is one plain sentence."""

    stage: str
    done: int
    total: int
    unit: str
    message: str = ""


ProgressCallback = Callable[[ProgressEvent], None]


def silent(event: ProgressEvent) -> None:
    """Show nothing."""
