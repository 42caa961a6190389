"""Where to cut: what it costs (plan), how well features transfer (probe), which boundary is best when trained (sweep).

It extracts and trains through the rooms below. It recommends; it writes nothing but features and the advice itself."""

from __future__ import annotations

from .choice import SweepRow
from .plan import PlanResult, PlanRow, plan
from .plots import sweep_plot
from .probe import ProbeResult, ProbeRow, probe
from .saved import load_advice, save_advice
from .subject import boundaries
from .sweep import SweepResult, sweep

__all__ = [
    "PlanResult",
    "PlanRow",
    "ProbeResult",
    "ProbeRow",
    "SweepResult",
    "SweepRow",
    "boundaries",
    "load_advice",
    "plan",
    "probe",
    "save_advice",
    "sweep",
    "sweep_plot",
]
