"""Modules before the cut whose results are known: not even their Python code runs."""

from __future__ import annotations

from collections import Counter
from typing import Any, Protocol

import torch
from torch import nn

from .analysis import CutAnalysis
from .crossings import refs_in

__all__ = ["stub"]


class Answers(Protocol):
    """What is known of a run: its place among the recorded calls, and their results."""

    position: int

    def results(self, outputs: Any) -> Any:
        """Return recorded results with the tensors of this run in them."""


def stub(running: nn.Module, analysis: CutAnalysis, answers: Answers) -> None:
    """Replace the topmost modules before the cut, so that not even their Python code runs."""
    run = analysis.run
    above = {position for position, call in enumerate(run.modules) if call.name in analysis.open}
    calls: dict[str, dict[int, Any]] = {}
    for position, call in enumerate(run.modules):
        if (
            position == analysis.cut_call
            or call.end > analysis.end
            or call.parent not in above
            or call.begin == call.end
        ):
            continue
        if call.name in analysis.before and position < analysis.cut_call:
            results = refs_in(call.outputs)
            if results and analysis.answered.issuperset(results):
                calls.setdefault(call.name, {})[call.nth] = call
    for name, recorded in calls.items():
        module = running.get_submodule(name)
        if len(recorded) == sum(call.name == name for call in run.modules):
            _stub_one(module, recorded, answers)
    cut = run.modules[analysis.cut_call]
    once = sum(call.name == cut.name for call in run.modules) == 1
    given = refs_in(
        cut.outputs
    )  # none, where the cut gives an object that holds its tensors: then its code makes it again
    if once and cut.end > cut.begin and given and analysis.answered.issuperset(given):
        _stub_one(running.get_submodule(cut.name), {0: cut}, answers, keep_last_hook=True)


def _stub_one(module: nn.Module, recorded: dict[int, Any], answers: Answers, keep_last_hook: bool = False) -> None:
    seen = Counter[str]()

    def answer(*args: Any, **kwargs: Any) -> Any:
        call = recorded[seen["calls"]]
        seen["calls"] += 1
        answers.position = call.end
        with torch._C.DisableTorchFunction():
            return answers.results(call.outputs)

    module.forward = answer
    module._forward_pre_hooks.clear()
    if keep_last_hook:
        for key in list(module._forward_hooks)[:-1]:
            del module._forward_hooks[key]
    else:
        module._forward_hooks.clear()
