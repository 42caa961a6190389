"""Training and evaluation mode, as the model's own ``train`` and ``eval`` set them."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from ..errors import SplitError, one_line

__all__ = ["Modes", "may_change_weights", "overrides_modes", "set_mode"]

KNOWN = {"torch", "torchvision", "timm", "transformers"}  # their overrides set modes


class Modes:
    """The modules that a model's own ``train`` or ``eval`` leaves in another mode than the one it is asked for.

    A backbone may keep its BatchNorm in evaluation mode. A suffix is not an instance of that backbone's class, so it asks
    here.
    """

    def __init__(self, of: dict[bool, dict[str, bool]] | None = None) -> None:
        self.of = of or {True: {}, False: {}}

    def get(self, name: str, mode: bool) -> bool:
        """Return the mode of a module after the model's ``train(mode)``."""
        return self.of[mode].get(name, mode)

    def apply(self, suffix: nn.Module, mode: bool) -> None:
        """Correct the modes of a suffix, whose modules have the model's names, after its own ``train(mode)``."""
        if self.of[mode]:
            for name, module in suffix.named_modules(remove_duplicate=False):
                module.training = self.of[mode].get(name, module.training)

    def __deepcopy__(self, memo: Any) -> Modes:
        return Modes(copy.deepcopy(self.of))


def overrides_modes(model: nn.Module) -> bool:
    """Return whether some module does more than usual in ``train`` or ``eval``."""
    return any(
        kind.train is not nn.Module.train or kind.eval is not nn.Module.eval
        for kind in {type(module) for module in model.modules()}
    ) or any("train" in vars(module) or "eval" in vars(module) for module in model.modules())


def may_change_weights(model: nn.Module) -> bool:
    """Return whether ``train`` or ``eval`` may do more than to set modes: they are of neither torch nor a library of models."""
    kinds = {type(module) for module in model.modules()}
    own = any("train" in vars(module) or "eval" in vars(module) for module in model.modules())
    return own or any(_library(kind, name) not in KNOWN for kind in kinds for name in ("train", "eval"))


def _library(kind: type, method: str) -> str:
    defining = next(each for each in kind.__mro__ if method in vars(each))
    return defining.__module__.partition(".")[0]


def set_mode(model: nn.Module, training: bool) -> None:
    """Call the model's own ``train`` or ``eval``; parameters that it freezes stay as they are, for they are the caller's."""
    if not overrides_modes(model):  # what nn.Module.train does, in less time
        for module in model.modules():
            module.__dict__["training"] = training
        return
    trained = [(each, each.requires_grad) for each in model.parameters()]
    try:
        model.train(training) if training else model.eval()
    except NotImplementedError as error:
        raise SplitError(
            f"the model refuses {'train' if training else 'eval'}() ({one_line(error, 100)}), so that its mode cannot be set. A "
            "program of torch.export becomes a network with modes by torch.export.unflatten."
        ) from error
    for parameter, requires_grad in trained:
        parameter.requires_grad_(requires_grad)
