"""One self-contained HTML page about a dataset, its features and the head that was trained on them."""

from __future__ import annotations

from .page import html_report

__all__ = ["html_report"]
