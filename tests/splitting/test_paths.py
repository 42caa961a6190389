"""A set's name covers the paths of the example; a real batch that takes another one is refused."""

from __future__ import annotations

import operator
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import featcache
from featcache.errors import SplitError

OTHER_PATH = "takes a path for these samples that it does not take for the example"


class Adapters(nn.Module):
    """Leads each row through the adapter of its domain."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.fc = nn.Linear(4, 4), nn.Linear(4, 2)
        self.adapters, self.norm = nn.ModuleList(nn.Linear(4, 4) for _ in range(3)), nn.LayerNorm(4)

    def forward(self, x: torch.Tensor, domain: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for number, adapter in enumerate(self.adapters):
            rows = (domain == number).nonzero()[:, 0]
            if len(rows):
                x = x.index_copy(0, rows, adapter(x[rows]))
        return self.fc(self.norm(x))


def rows(domains: list[int]) -> list[Any]:
    x = torch.randn(len(domains), 4, generator=torch.Generator().manual_seed(0))
    return [((value, torch.tensor(domain)), 0) for value, domain in zip(x, domains, strict=True)]


def test_weights_of_a_path_that_the_example_does_not_take_are_not_left_out_of_the_name(tmp_path: Path) -> None:
    model = Adapters().eval()
    with pytest.raises(SplitError, match=OTHER_PATH):
        featcache.extract(model, rows([2] * 8), str(tmp_path), cut="norm", batch_size=4)
    assert not list(tmp_path.rglob("*.h5"))
    first = featcache.extract(model, rows([0] * 8), str(tmp_path), cut="norm", batch_size=4)
    with torch.no_grad():
        model.adapters[0].weight += 1
    again = featcache.extract(model, rows([0] * 8), str(tmp_path), cut="norm", batch_size=4)
    assert again.report.computed == 8
    assert again.report.recipe != first.report.recipe


class Filled(nn.Module):
    """Writes its features into a tensor that it made itself, in one way or another."""

    def __init__(self, fill: Callable[[torch.Tensor, torch.Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm, self.fc, self.fill = nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2), fill

    def forward(self, x: torch.Tensor, domain: torch.Tensor) -> torch.Tensor:
        filled = torch.zeros(len(x), 4)
        self.fill(filled, self.stem(x))
        if (domain == 2).any():
            filled = filled.exp()
        return self.fc(self.norm(filled))


@pytest.mark.parametrize(
    "fill", [lambda to, x: operator.setitem(to, slice(None), x), operator.iadd, torch.Tensor.copy_, torch.Tensor.add_]
)
def test_a_path_is_followed_through_what_is_written_in_place(fill: Callable[..., Any], tmp_path: Path) -> None:
    model = Filled(fill).eval()
    with pytest.raises(SplitError, match=OTHER_PATH):
        featcache.extract(model, rows([2] * 8), str(tmp_path), cut="norm", batch_size=4)
    assert featcache.extract(model, rows([0] * 8), str(tmp_path), cut="norm", batch_size=4).report.computed == 8


class Long(nn.Module):
    """Scales what is long, as rotary embeddings do beyond the length that they were trained on."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.norm, self.fc = nn.Embedding(9, 4), nn.LayerNorm(4), nn.Linear(4, 2)
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("factor", torch.ones(4), persistent=False)

    def forward(self, ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        if ids.shape[1] > 100:
            self.register_buffer("factor", self.scale.detach() * torch.ones(4), persistent=False)
        x = self.norm(self.embed(ids) * self.factor)
        keep = attention_mask[..., None]
        return self.fc((x * keep).sum(1) / keep.sum(1))


def test_a_path_of_longer_samples_is_refused_and_changes_nothing_of_the_callers(tmp_path: Path) -> None:
    model = Long().eval()
    data = [
        ({"ids": torch.randint(9, (length,)), "attention_mask": torch.ones(length, dtype=torch.long)}, 0)
        for length in (20, 30, 120, 25)
    ]
    with pytest.raises(SplitError, match=OTHER_PATH):
        featcache.extract(model, data, str(tmp_path), cut="norm", batch_size=2)
    assert torch.equal(model.factor, torch.ones(4))


class Global:
    SCALE = 2.0


@torch.library.custom_op("featcache_tests::scaled", mutates_args=())
def scaled(x: torch.Tensor) -> torch.Tensor:
    return torch.tanh(x * Global.SCALE)


class Scaled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return scaled(x)


def test_what_the_python_function_of_a_custom_operator_uses_is_in_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(4, 4), Scaled(), nn.Linear(4, 2)).eval()
    before = featcache.split(model, "1", (torch.randn(2, 4),)).structure
    monkeypatch.setattr(Global, "SCALE", 4.0)
    assert featcache.split(model, "1", (torch.randn(2, 4),)).structure != before


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
def test_a_compiled_function_that_works_in_place_is_refused() -> None:
    hidden = torch.jit.script(in_place)

    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.bias = nn.Linear(4, 4), nn.Parameter(torch.ones(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return hidden(self.linear(x), self.bias)

    with pytest.raises(SplitError, match="code that torch does not show"):
        featcache.split(nn.Sequential(Hidden(), nn.Linear(4, 4), nn.Linear(4, 2)), "1", (torch.randn(2, 4),))


def in_place(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return x.add_(bias).relu_()


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        if self.training:
            x = x + random.random() + float(np.random.rand())
        return self.b(x)


def test_the_generators_of_python_and_numpy_are_left_as_they_were() -> None:
    state, numpy_state = random.getstate(), np.random.get_state()[1].copy()
    featcache.split(Noisy(), "a", (torch.randn(2, 4),))
    assert random.getstate() == state
    assert np.array_equal(np.random.get_state()[1], numpy_state)


TABLES: dict[int, torch.Tensor] = {}


class Rotary(nn.Module):
    """Keeps its tables by length in a global dictionary."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.norm, self.fc = nn.Embedding(9, 4), nn.LayerNorm(4), nn.Linear(4, 2)

    def forward(self, ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        if ids.shape[1] not in TABLES:
            TABLES[ids.shape[1]] = x.new_ones(ids.shape[1]).cumsum(0) / 10
        x = self.norm(x + TABLES[ids.shape[1]][:, None])
        keep = attention_mask[..., None]
        return self.fc((x * keep).sum(1) / keep.sum(1))


def test_a_replayed_suffix_leaves_no_empty_table_behind(tmp_path: Path) -> None:
    TABLES.clear()
    model = Rotary().eval()
    data = [
        ({"ids": torch.randint(9, (length,)), "attention_mask": torch.ones(length, dtype=torch.long)}, 0)
        for length in (5, 9, 7, 5)
    ]
    features = featcache.extract(model, data, str(tmp_path), cut="norm", batch_size=2)
    split = featcache.split(
        model, "norm", *({name: each[None].repeat(2, 1) for name, each in data[place][0].items()} for place in (1, 0))
    )
    TABLES.clear()
    frontier, _ = next(iter(features.loader(4, shuffle=False)))
    split.suffix(frontier)
    assert not any(table.is_meta for table in TABLES.values())


def test_complex_features_are_refused_before_anything_is_stored(tmp_path: Path) -> None:
    class Spectrum(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.fft.rfft(x)

    class Size(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.abs()

    model = nn.Sequential(nn.Linear(4, 8), Spectrum(), Size(), nn.Linear(5, 2))
    with pytest.raises(SplitError, match="complex64 numbers"):
        featcache.extract(model, [(torch.randn(4), 0)] * 4, str(tmp_path), cut="1")
    assert not list(tmp_path.rglob("*.h5"))


class Shifted(nn.Module):
    """Shifts the rows of one domain, and looks first whether there are any."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm, self.fc = nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor, domain: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        if (domain == 1).any():
            x = x + 2 * (domain == 1)[:, None]
        return self.fc(self.norm(x))


def test_storing_one_cut_is_no_step_of_the_path_to_the_next(tmp_path: Path) -> None:
    model, data = Shifted().eval(), rows([number % 3 for number in range(8)])
    made = featcache.extract(model, data, str(tmp_path / "both"), cut=["stem", "norm"], batch_size=4)["norm"]
    alone = featcache.extract(model, data, str(tmp_path / "alone"), cut="norm", batch_size=4)
    assert made.report.recipe == alone.report.recipe
    for number in range(8):
        assert torch.equal(made[number][0]["norm"], alone[number][0]["norm"])


class InPieces(nn.Module):
    """Takes long samples in two pieces, and all samples off their own mean."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.fc = nn.Embedding(12, 8), nn.Linear(8, 3)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.stem(ids)
        x = torch.cat([torch.tanh(x[:, :6]), torch.tanh(x[:, 6:])], 1) if x.shape[1] > 6 else torch.tanh(x)
        x = x - (x * mask[..., None]).sum(1, keepdim=True) / mask.sum(1)[:, None, None]
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.fc((x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))


def test_a_path_whose_sizes_do_not_fit_the_recorded_ones_is_refused_in_words() -> None:
    def batch(lengths: list[int]) -> dict[str, torch.Tensor]:
        mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        return {
            "ids": torch.randint(1, 12, mask.shape, generator=torch.Generator().manual_seed(1)) * mask,
            "mask": mask,
        }

    model = InPieces().eval()
    split = featcache.split(model, "layers.1", batch([7, 7]), batch([2, 3]))

    def outcome(lengths: list[int]) -> str:
        try:
            found = split.suffix.eval()(split.prefix(**batch(lengths)))
        except SplitError as error:
            return str(error)
        return "right" if torch.allclose(found, model(**batch(lengths)), atol=1e-5) else "wrong"

    told = [outcome(lengths) for lengths in ([7, 3], [3, 5], [2, 6, 4], [5, 5], [7, 7, 7])]
    assert "right" in told
    assert all(each == "right" or "another path" in each for each in told)


class Sine(nn.Module):
    """Takes a sample that is alone in its batch out of the batch, and back."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(x[0])[None] if len(x) == 1 else torch.sin(x)


class SineTwice(nn.Module):
    """Attention between two sines, which are one module."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.qkv, self.fc, self.sine = nn.Linear(4, 8), nn.Linear(8, 24), nn.Linear(8, 3), Sine()

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.sine(self.stem(x))
        q, k, v = self.qkv(x).chunk(3, -1)
        x = x + nn.functional.scaled_dot_product_attention(q, k, v)
        x = self.sine(x)
        x = x.mean(1) if mask.all() else (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return self.fc(x)


def test_a_path_that_needs_a_tensor_that_was_not_recorded_is_refused_in_words() -> None:
    generator = torch.Generator().manual_seed(1)

    def batch(rows: int) -> dict[str, torch.Tensor]:
        mask = torch.ones(rows, 5, dtype=torch.bool)
        mask[-1, 3:] = False
        return {"x": torch.randn(rows, 5, 4, generator=generator), "mask": mask}

    model = SineTwice().eval()
    split = featcache.split(model, "qkv", batch(2))
    for rows in (2, 3):
        given = batch(rows)
        assert torch.allclose(split.suffix.eval()(split.prefix(**given)), model(**given), atol=1e-5)
    alone = split.prefix(**batch(1))
    with pytest.raises(SplitError, match="another path"):
        split.suffix(alone)
