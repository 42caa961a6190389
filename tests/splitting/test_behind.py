"""What comes after the cut trains as the network does: all of it, at any size of batch, from step to step."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import featcache
from featcache.errors import HeadError, SplitError


class Experts(nn.Module):
    """Runs only the experts that some row chooses."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.router, self.fc = nn.Linear(6, 8), nn.Linear(8, 5), nn.Linear(8, 3)
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        weight, chosen = self.router(x).softmax(-1).max(-1)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows = torch.where(chosen == number)[0]
            if len(rows):
                out = out.index_add(0, rows, expert(x[rows]) * weight[rows, None])
        return self.fc(x + out)


def test_experts_that_no_row_of_the_example_chooses_are_trained() -> None:
    model, x = Experts().eval(), torch.randn(40, 6) * 4
    split = featcache.split(model, "stem", (x[:2],))
    names = {name for name, _ in split.suffix.named_parameters()}
    assert {name for name, _ in model.named_parameters() if not name.startswith("stem.")} <= names
    split.suffix.train()
    split.suffix(split.prefix(x)).square().mean().backward()
    found = {name: each.grad.clone() for name, each in split.suffix.named_parameters() if each.grad is not None}
    model.zero_grad()
    model(x).square().mean().backward()
    for name, parameter in model.named_parameters():
        if not name.startswith("stem.") and parameter.grad is not None:
            assert torch.allclose(found[name], parameter.grad, atol=1e-6), name


class Alone(nn.Module):
    """Normalises where there are several rows only."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.bn, self.b = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        if x.size(0) > 1:
            x = self.bn(x) * 2
        return self.b(x)


def test_a_batch_of_one_row_goes_the_way_of_one_row() -> None:
    model, x = Alone().eval(), torch.randn(5, 4)
    split = featcache.split(model, "a", (x[:2],))
    split.suffix.eval()
    for count in (1, 5):
        assert torch.allclose(split.suffix(split.prefix(x[:count])), model(x[:count]), atol=1e-6)


class Many(nn.Module):
    def __init__(self, most: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.most = nn.Linear(4, 4), nn.Linear(4, 3), most

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        return self.b(x * 2 if len(x) > self.most else x)


def test_train_head_refuses_a_size_of_batch_at_which_the_network_does_something_else(tmp_path: Path) -> None:
    model, data = Many(16).eval(), [(torch.randn(4), row % 3) for row in range(60)]
    features = featcache.extract(model, data, str(tmp_path), cut="a", batch_size=8)
    split = featcache.split(model, "a", (torch.randn(2, 4),))
    with pytest.raises(HeadError, match="in a batch of 20 rows"):
        featcache.train_head(split, features, epochs=1, batch_size=20, validation=0)
    featcache.train_head(split, features, epochs=1, batch_size=10, validation=0)


class Counting(nn.Module):
    """Counts its training steps, and scales by them."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.a, self.b, self.step, self.last, self.how = nn.Linear(4, 4), nn.Linear(4, 2), 0, None, how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        if self.training and self.how == "step":
            self.step += 1
            x = x / (1 + self.step)
        if self.training and self.how == "last":
            before, self.last = self.last, x.detach().mean(0)
            x = x if before is None else x + before
        return self.b(x)


@pytest.mark.parametrize("how", ["step", "last"])
def test_what_is_kept_from_step_to_step_outside_of_buffers_is_refused(how: str) -> None:
    with pytest.raises(SplitError, match="keeps something from one training step to the next"):
        featcache.split(Counting(how), "a", (torch.randn(2, 4),))


CAUGHT: dict[str, torch.Tensor] = {}


def catch(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
    CAUGHT["early"] = output


class Catching(nn.Module):
    """Takes an early feature from a global dictionary that a hook fills, behind a branch on values."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.early, self.late, self.fc = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(8, 2)
        self.early.register_forward_hook(catch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.late(self.early(x).relu())
        if float(x.detach().sum()) > 1e9:
            x = x * 2
        return self.fc(torch.cat([x, CAUGHT["early"]], 1))


def test_a_value_that_another_batch_left_in_a_global_variable_is_refused() -> None:
    with pytest.raises(SplitError, match="differs from the whole model"):
        featcache.split(Catching().eval(), "late", (torch.randn(2, 4),))


class Convolved(nn.Module):
    """Looks at the neighbours of each place, also at padded ones, unless it masks them."""

    def __init__(self, masks: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.conv, self.fc, self.masks = (
            nn.Embedding(9, 6),
            nn.Conv1d(6, 6, 3, padding=1),
            nn.Linear(6, 3),
            masks,
        )

    def forward(self, ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        x, keep = self.embed(ids), attention_mask[..., None].float()
        x = self.conv((x * keep if self.masks else x).transpose(1, 2)).transpose(1, 2)
        return self.fc((x * keep).sum(1) / keep.sum(1))


@pytest.mark.parametrize("masks", [True, False])
def test_train_head_refuses_a_network_that_looks_at_padded_places(masks: bool, tmp_path: Path) -> None:
    torch.manual_seed(1)
    data = [
        ({"ids": torch.randint(1, 9, (length,)), "attention_mask": torch.ones(length, dtype=torch.long)}, row % 3)
        for row, length in enumerate([5, 9, 7, 5, 8, 6] * 4)
    ]
    model = Convolved(masks).eval()
    features = featcache.extract(model, data, str(tmp_path), cut="embed", batch_size=4)
    example = [{name: each[None].repeat(2, 1) for name, each in data[place][0].items()} for place in (1, 0)]
    split = featcache.split(model, "embed", *example)
    if masks:
        featcache.train_head(split, features, epochs=1)
    else:
        with pytest.raises(HeadError, match="looks at padded places"):
            featcache.train_head(split, features, epochs=1)


class Hooked(nn.Module):
    """Drops out by a hook on a module that does nothing itself."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.point, self.fc = nn.Linear(6, 16), nn.Identity(), nn.Linear(16, 3)
        self.point.register_forward_hook(
            lambda module, args, output: nn.functional.dropout(output, 0.5, module.training)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.point(self.a(x)))


def test_dropout_by_a_hook_is_not_folded_away(tmp_path: Path) -> None:
    model, data = Hooked().eval(), [(torch.randn(6), row % 3) for row in range(30)]
    features = featcache.extract(model, data, str(tmp_path), cut="a")
    split = featcache.split(model, "a", (torch.randn(2, 6),))
    folded, whole = (featcache.train_head(split, features, epochs=2, seed=1, fold=fold) for fold in (True, False))
    for name, parameter in whole.model.named_parameters():
        assert torch.equal(dict(folded.model.named_parameters())[name], parameter)


class Windows(nn.Module):
    """Takes each sample apart into two rows before the cut, and together after it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.head = nn.Linear(4, 4), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.inner(x.reshape(-1, 4)).reshape(-1, 8))


def test_samples_that_are_several_rows_at_the_cut_are_trained_on_as_one(tmp_path: Path) -> None:
    model, data = Windows().eval(), [(torch.randn(8), row % 3) for row in range(12)]
    features = featcache.extract(model, data, str(tmp_path), cut="inner", batch_size=4)
    head = featcache.train_head(featcache.split(model, "inner", (torch.randn(2, 8),)), features, epochs=1, batch_size=4)
    assert len(head.history) == 1


class Averaging(nn.Module):
    """Puts another tensor in the place of a buffer at each training step."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)
        self.register_buffer("average", torch.zeros(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        if self.training:
            self.average = 0.5 * self.average + 0.5 * x.detach().mean(0)
        return self.b(x - self.average)


def test_a_buffer_that_is_put_in_the_place_of_another_is_kept_from_step_to_step() -> None:
    model, x = Averaging().eval(), torch.randn(6, 4)
    reference = copy.deepcopy(model).train()
    split = featcache.split(model, "a", (x[:2],))
    split.suffix.train()
    for _ in range(3):
        assert torch.allclose(split.suffix(split.prefix(x)), reference(x), atol=1e-6)
    assert torch.allclose(model.average, reference.average, atol=1e-6)
