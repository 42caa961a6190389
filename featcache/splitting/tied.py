"""Parameters that are used on both sides of a cut: what is frozen before it stays frozen after it, too."""

from __future__ import annotations

import warnings

from torch import nn

from .analysis import CutAnalysis, state_behind
from .clone import skeleton

__all__ = ["tied_parameters", "warn_of_tied", "with_tied_frozen"]


def tied_parameters(model: nn.Module, analysis: CutAnalysis) -> list[str]:
    """Return the names of the parameters that are used on both sides of the cut."""
    shared = {name for name, _ in model.named_parameters()} & analysis.state_before & state_behind(analysis)
    return sorted(shared)


def with_tied_frozen(model: nn.Module, analysis: CutAnalysis) -> nn.Module:
    """Return a skeleton of ``model`` in which parameters used before the cut are buffers; ``model`` itself if none is tied.

    They share their memory with the model's, so that weights that are loaded later are seen. A buffer is what no optimizer
    takes: trained after the cut, such a weight would no longer be the one that the cached features were made with.
    """
    if not tied_parameters(model, analysis):
        return model
    named = dict(model.named_parameters(remove_duplicate=False))
    frozen = {id(named[name]) for name in analysis.state_before if name in named}
    made = skeleton(model, None, lasting=True)
    for module in made.modules():
        tied = {name: each for name, each in module._parameters.items() if id(each) in frozen and each is not None}
        if not tied:
            continue
        # The dictionaries are the model's own, so they are replaced.
        module.__dict__["_parameters"] = {k: v for k, v in module._parameters.items() if k not in tied}
        module.__dict__["_buffers"] = {**module._buffers, **{name: each.detach() for name, each in tied.items()}}
        module.__dict__["_non_persistent_buffers_set"] = module._non_persistent_buffers_set | set(tied)
    return made


def warn_of_tied(model: nn.Module, analysis: CutAnalysis) -> None:
    """Warn of what will not be trained after the cut, and say how to have it trained."""
    tied = tied_parameters(model, analysis)
    if not tied:
        return
    behind = _names_behind(model, tied, analysis)
    untied = "; ".join(f"model.{name} = torch.nn.Parameter(model.{name}.detach().clone())" for name in behind)
    way = (
        f"give the far side a copy of its own: {untied}"
        if len(behind) == len(tied)
        else "give each side modules of its own"
    )
    warnings.warn(
        f"tied parameters are used on both sides of the cut {analysis.cut!r} ({', '.join(tied[:3])}); they stay frozen after "
        f"it, too. To have them trained there, {way}.",
        stacklevel=2,
    )


def _names_behind(model: nn.Module, tied: list[str], analysis: CutAnalysis) -> list[str]:
    """Return the other names of tied parameters: those in modules that run after the cut only."""
    named = dict(model.named_parameters(remove_duplicate=False))
    ran = {call.name for call in analysis.run.modules[analysis.cut_call + 1 :]}
    ran -= analysis.before | analysis.open
    shared, owners = {id(named[name]) for name in tied}, {name.rpartition(".")[0] for name in tied}
    return [name for name, each in named.items() if id(each) in shared and name.rpartition(".")[0] in ran - owners]
