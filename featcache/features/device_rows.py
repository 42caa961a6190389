"""Rows held in the memory of a device, where batches are gathered without the host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

__all__ = ["DeviceRows"]

HALF = (torch.float16, torch.bfloat16)

Array = np.ndarray[Any, Any]
Batch = tuple[Any, torch.Tensor]


class DeviceRows:
    """The rows of each view, by tensor name, and their targets, copied to a device.

    Half precisions are held as such, and given out as float32.
    """

    def __init__(
        self, views: Sequence[Mapping[str, torch.Tensor]], targets: torch.Tensor, device: torch.device
    ) -> None:
        self._targets = targets.to(device)
        self._values: dict[str, torch.Tensor] = {}
        for name, plain in views[0].items():
            held = torch.empty((len(views), *plain.shape), dtype=plain.dtype, device=device)
            for place, view in zip(held, views, strict=True):
                place.copy_(view[name])
            self._values[name] = held.flatten(0, 1)

    def batches(self, order: Array, views: Array | None, batch_size: int) -> Iterator[Batch]:
        """Yield batches of the rows in ``order``, each in the view that ``views`` names for it: (frontier, targets)."""
        places = order if views is None else views[order].astype(np.int64) * len(self._targets) + order
        rows, chosen = (torch.from_numpy(each).to(self._targets.device) for each in (order, places))
        for own, each in zip(rows.split(batch_size), chosen.split(batch_size), strict=True):  # type: ignore[no-untyped-call]
            gathered = {name: _given_out(values.index_select(0, each)) for name, values in self._values.items()}
            frontier = gathered if len(gathered) > 1 else next(iter(gathered.values()))
            yield frontier, self._targets.index_select(0, own)


def _given_out(values: torch.Tensor) -> torch.Tensor:
    return values.float() if values.dtype in HALF else values
