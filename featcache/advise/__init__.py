"""Where to cut: what it costs (plan), how well features transfer (probe), which boundary is best when trained (sweep)."""

from __future__ import annotations

from .plan import PlanResult, PlanRow, plan

__all__ = ["PlanResult", "PlanRow", "plan"]
