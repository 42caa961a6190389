"""One self-contained HTML page about a dataset, its features and the head that was trained on them.

It asks other rooms and the head, and draws pictures of what they say. It never extracts or trains."""

from __future__ import annotations

from .page import Report, html_report, make_report
from .suspects import Suspects

__all__ = ["Report", "Suspects", "html_report", "make_report"]
