"""What a replayed suffix owns: the modules, parameters and buffers that are the network's after the cut."""

from __future__ import annotations

from typing import Any

from torch import nn

from .analysis import CutAnalysis

__all__ = ["attach", "behind_only", "never_run"]


def behind_only(analysis: CutAnalysis) -> list[str]:
    """Return the topmost modules that run after the cut."""
    names = {
        call.name
        for call in analysis.run.modules[analysis.cut_call + 1 :]
        if call.name not in analysis.open and call.name not in analysis.before
    }
    names |= analysis.training_only
    return sorted(name for name in names if not any(name.startswith(f"{other}.") for other in names))


def never_run(model: nn.Module, analysis: CutAnalysis) -> list[str]:
    """Return the topmost modules that the example did not run: after the cut, other rows may be led through them.

    Not before it: there, a path that was not recorded is refused.
    """
    runs = (analysis.run, *analysis.runs.alone)
    run = {call.name for each in runs for call in each.modules} | analysis.training_only
    idle: list[str] = []
    for name, module in model.named_modules():
        used = any(each == name or each.startswith(f"{name}.") for each in run) if name else True
        frozen = any(f"{name}.{each}" in analysis.state_before for each, _ in module.named_parameters())
        if not used and not frozen and not any(name.startswith(f"{other}.") for other in idle):
            idle.append(name)
    return idle


def attach(root: nn.Module, path: str, value: Any) -> None:
    """Give a module a part, under the path that it has in the model."""
    *owners, name = path.split(".")
    for owner in owners:
        if owner not in root._modules:
            between = nn.Module()
            between.training = root.training
            root.add_module(owner, between)
        root = root._modules[owner]  # type: ignore[assignment]
    if isinstance(value, nn.Module):
        root.add_module(name, value)
    elif isinstance(value, nn.Parameter):
        root.register_parameter(name, value)
    else:
        root.register_buffer(name, value)
