"""The usual frozen loop, which training from the cache must equal step by step."""

from __future__ import annotations

import math

import torch
from torch import nn

import featcache
from featcache.heads.network import new_network

from ..conftest import TensorPairs


def usual_loop(
    split: featcache.Split,
    data: TensorPairs,
    features: featcache.Features,
    frozen: tuple[str, ...],
    *,
    classes: int,
    epochs: int,
    batch_size: int,
    seed: int,
    loss_of: nn.Module,
    optimizer_of: type[torch.optim.Optimizer] = torch.optim.AdamW,
    **settings: float,
) -> nn.Module:
    """The loop that the docstring of train_head describes, written without the package but for the initial weights.

    The whole network runs in every step, its frozen modules in evaluation mode and without gradients.
    """
    model = new_network(split, classes, seed).model
    stage(
        model, data, features, frozen, epochs=epochs, batch_size=batch_size, seed=seed, loss_of=loss_of,
        optimizer_of=optimizer_of, **settings,
    )  # fmt: skip
    return model.eval()


def stage(
    model: nn.Module,
    data: TensorPairs,
    features: featcache.Features,
    frozen: tuple[str, ...],
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    loss_of: nn.Module,
    optimizer_of: type[torch.optim.Optimizer] = torch.optim.AdamW,
    least: int = 30,
    **settings: float,
) -> None:
    """Train a whole network in place, with a fresh optimizer and schedule; of ``features`` only the order is used."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = optimizer_of(trained, **settings)
    loader = features.loader(batch_size, seed=seed)
    total = epochs * len(loader)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / total)))
    torch.manual_seed(seed)
    steps = 0
    for epoch in range(epochs):
        model.train()
        for name, module in model.named_modules():
            if name.startswith(frozen):
                module.eval()
        for rows in torch.from_numpy(loader.order(epoch)).split(batch_size):
            loss = loss_of(model(data.inputs[rows]), data.targets_of[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            steps += 1
    assert steps >= least
