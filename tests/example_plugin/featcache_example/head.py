"""``--head centroid``: the class whose mean is nearest, as the linear layer that this is."""

from __future__ import annotations

from typing import Any

import torch

from featcache.errors import UsageError
from featcache.heads import BuiltHead, LinearHead


class CentroidHead(LinearHead):
    """The network, its pooling and its layer are those of the linear head; the layer is computed, not trained."""

    def build(self, split: Any, task: Any, options: Any, device: torch.device) -> BuiltHead:
        if task.kind != "single_label":
            raise UsageError("the head centroid takes one class a sample.")
        return super().build(split, task, options, device)

    def train(self, built: BuiltHead, rows: Any, options: Any, task: Any, progress: Any) -> list[Any]:
        vectors, targets = (torch.from_numpy(each) for each in rows.train.map(built.model.pool).numpy())
        means = torch.stack([vectors[targets == number].mean(0) for number in range(task.outputs)])
        with torch.no_grad():  # |x - m|² = |x|² - 2 (x·m - |m|²/2), and |x|² is the same for all classes
            built.stored.weight.copy_(means)
            built.stored.bias.copy_(-means.square().sum(1) / 2)
        return []


centroid = CentroidHead()
