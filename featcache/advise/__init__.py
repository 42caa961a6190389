"""Where to cut: what it costs (plan), how well features transfer (probe), which boundary is best when trained (sweep)."""

from __future__ import annotations

from .plan import PlanResult, PlanRow, plan
from .probe import ProbeResult, ProbeRow, probe
from .sweep import SweepResult, SweepRow, sweep

__all__ = ["PlanResult", "PlanRow", "ProbeResult", "ProbeRow", "SweepResult", "SweepRow", "plan", "probe", "sweep"]
