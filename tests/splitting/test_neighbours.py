"""Rows are independent of their neighbours, or they are not cached."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import featcache
from featcache.errors import SplitError

Operation = Callable[[torch.Tensor], torch.Tensor]


class Through(nn.Module):
    def __init__(self, operation: Operation) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.c, self.b, self.operation = nn.Linear(6, 6), nn.Identity(), nn.Linear(6, 2), operation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.c(self.operation(self.a(x))))


MIXING: dict[str, Operation] = {
    "mean of the batch": lambda y: y - y.mean(0),
    "maximum of the batch": lambda y: y / y.abs().max(),
    "dynamic quantisation": lambda y: torch.round(y / (y.abs().max() / 15)) * (y.abs().max() / 15),
    "clip by the largest norm": lambda y: y * (1 / y.norm(dim=1).max()).clamp(max=1),
    "sign of the sum": lambda y: torch.where(y.sum() > 0, y, -y),
    "rank in the batch": lambda y: y + y.sum(1).argsort().view(-1, 1),
    "place in the batch": lambda y: y + torch.arange(len(y)).view(-1, 1),
    "size of the batch": lambda y: y / y.shape[0],
    "relative to the first row": lambda y: y - y[:1],
    "sum of earlier rows": lambda y: y + y.cumsum(0),
    "the next row": lambda y: y + y.roll(1, 0),
    "sorted over the batch": lambda y: y.sort(0).values,
    "turned round": lambda y: y.flip(0),
    "softmax over the batch": lambda y: y.softmax(0),
    "normalised by the batch": lambda y: nn.functional.batch_norm(y, None, None, training=True),
    "difference of neighbours": lambda y: torch.cat([y[:1], y[1:] - y[:-1]]),
    "attention over the batch": lambda y: (y @ y.T).softmax(-1) @ y,
}
ALIKE: dict[str, Operation] = {
    "sorted within a row": lambda y: y.sort(1).values,
    "largest of a row": lambda y: y * (y >= y.topk(2, 1).values[:, -1:]),
    "norm of a layer": lambda y: nn.functional.layer_norm(y, (6,)),
    "quantised by the row": lambda y: torch.round(y / (y.abs().amax(1, keepdim=True) / 15)),
    "clip by the row's norm": lambda y: y * (1 / y.norm(dim=1, keepdim=True)).clamp(max=1),
    "sum along a row": lambda y: y.cumsum(1),
    "rolled within a row": lambda y: y.roll(1, 1),
    "softmax of a row": lambda y: y.softmax(1),
    "rank in a row": lambda y: y + y.argsort(1),
    "expert of a row": lambda y: torch.stack([y, -y, 2 * y])[y[:, :3].argmax(1), torch.arange(len(y))],
}


def samples(count: int = 12) -> list[tuple[torch.Tensor, int]]:
    values = torch.randn(count, 6, generator=torch.Generator().manual_seed(1))
    return [(value * (3 if row == 0 else 1), row % 2) for row, value in enumerate(values)]


@pytest.mark.parametrize("name", MIXING)
def test_an_operation_that_mixes_rows_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(SplitError, match=r"depend on the other (rows|samples)"):
        featcache.extract(Through(MIXING[name]), samples(), str(tmp_path), cut="c", batch_size=4)
    assert not list(tmp_path.rglob("*.h5"))


@pytest.mark.parametrize("name", ALIKE)
def test_an_operation_within_rows_is_accepted(name: str, tmp_path: Path) -> None:
    model, data = Through(ALIKE[name]), samples()
    features = featcache.extract(model, data, str(tmp_path), cut="c", batch_size=4)
    with torch.no_grad():
        expected = model.operation(model.a(torch.stack([value for value, _ in data])))
    assert np.allclose(features.numpy()[0], expected, atol=1e-5)


class Capacity(nn.Module):
    """A mixture of experts that drops what is beyond the capacity of an expert, counted over the batch."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gate, self.w, self.factor = nn.Linear(6, 2), nn.Parameter(torch.randn(2, 6, 6)), factor
        nn.init.constant_(self.gate.bias, 3)
        self.gate.bias.data[1] = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        chosen = nn.functional.one_hot(self.gate(x).argmax(-1), 2).float()
        place = (chosen.cumsum(0) - 1) * chosen
        chosen = chosen * (place < self.factor * len(x) / 2).float()
        return x + torch.einsum("te,td,edf->tf", chosen, x, self.w)


def test_a_full_expert_is_found_in_the_first_real_batch(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 6), Capacity(1.25), nn.Linear(6, 2))
    with pytest.raises(SplitError, match="depend on the other"):
        featcache.extract(model, samples(32), str(tmp_path), cut="1", batch_size=16)


class Rare(nn.Module):
    """Mixes rows where some value of the batch is large only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where((x > 50).any(), x + x.clamp(max=1).sum(0), x)


@pytest.mark.parametrize(("first_large", "batch"), [(1, "first"), (9, "second"), (25, "fourth")])
def test_mixing_that_begins_in_a_later_batch_is_refused_and_nothing_stays(
    first_large: int, batch: str, tmp_path: Path
) -> None:
    data = [(torch.full((6,), 100.0) if row >= first_large else value, 0) for row, (value, _) in enumerate(samples(40))]
    data = [
        (value + torch.randn(6, generator=torch.Generator().manual_seed(row)), 0) for row, (value, _) in enumerate(data)
    ]
    model = nn.Sequential(nn.Identity(), Rare(), nn.Linear(6, 2))
    with pytest.raises(SplitError, match=r"depend on the other (rows|samples) of their batch"):
        featcache.extract(model, data, str(tmp_path), cut="1", batch_size=8, shard_bytes=8 * 6 * 4)
    assert not list(tmp_path.rglob("*.h5"))


def test_the_refusal_names_the_sample_the_operation_and_the_size_of_the_difference(tmp_path: Path) -> None:
    data = [(torch.full((6,), 100.0) + row, 0) for row in range(8)]
    model = nn.Sequential(nn.Identity(), Rare(), nn.Linear(6, 2))
    # The example's rows are large, too; so the network looks sound only on small ones.
    small = featcache.split(model, "1", (torch.randn(2, 6),))
    with pytest.raises(SplitError) as caught:
        featcache.extract(small, data, str(tmp_path), batch_size=8)
    words = str(caught.value)
    assert "the features of 6 at '1'" in words or "the features of 7 at '1'" in words
    assert "first in 1: Tensor.add" in words
    assert "of its scale" in words


class FirstRowsTask(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor, task: torch.Tensor) -> torch.Tensor:
        if int(task[0]) == 1:
            x = x * 2
        return self.b(self.a(x))


def test_a_branch_on_the_first_rows_task_is_refused(tmp_path: Path) -> None:
    data = [((torch.full((4,), float(row)), torch.tensor(1 - row // 2)), 0) for row in range(4)]
    with pytest.raises(SplitError, match=r"depend on the other|takes a path for these samples|takes another path"):
        featcache.extract(FirstRowsTask().eval(), data, str(tmp_path), cut="a", batch_size=4)


class MaskSum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.b(self.a((x * mask[..., None]).sum(1) / mask.sum() * 3))


def test_a_mean_over_the_mask_of_the_whole_batch_is_refused() -> None:
    with pytest.raises(SplitError, match="depend on the other rows"):
        featcache.split(MaskSum().eval(), "a", {"x": torch.randn(2, 3, 4), "mask": torch.ones(2, 3, dtype=torch.long)})


class NeedsTwo(nn.Module):
    def __init__(self, operation: Operation) -> None:
        super().__init__()
        self.a, self.b, self.operation = nn.Linear(6, 6), nn.Linear(6, 2), operation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) < 2:
            raise ValueError("a batch of one")
        return self.b(self.a(self.operation(x)))


def test_a_network_that_cannot_run_on_one_row_is_asked_with_other_companions(tmp_path: Path) -> None:
    features = featcache.extract(NeedsTwo(torch.tanh), samples(), str(tmp_path / "a"), cut="a", batch_size=4)
    assert features.report.computed == 12
    with pytest.raises(SplitError, match="depend on the other"):
        featcache.extract(NeedsTwo(lambda x: x - x.amax(0)), samples(), str(tmp_path / "b"), cut="a", batch_size=4)
