"""One self-contained HTML page about a dataset, its features and the head that was trained on them.

It shows what other rooms found. It computes nothing of its own but pictures."""

from __future__ import annotations

from .page import html_report

__all__ = ["html_report"]
