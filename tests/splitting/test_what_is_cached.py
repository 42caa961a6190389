"""What is cached is what was asked for: everything before the cut that depends on the sample, as a plain hook sees it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import featcache


class Tokens(nn.Module):
    """Takes its inputs as forward(**batch)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.mix, self.fc = nn.Embedding(20, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, **batch: torch.Tensor) -> torch.Tensor:
        keep = batch["attention_mask"][..., None]
        x = self.mix(self.embed(batch["input_ids"]))
        return self.fc((x * keep).sum(1) / keep.sum(1))


def hooked(model: nn.Module, cut: str, *args: Any, **kwargs: Any) -> torch.Tensor:
    found: list[torch.Tensor] = []
    handle = model.get_submodule(cut).register_forward_hook(lambda module, args, output: found.append(output))
    with torch.no_grad():
        model(*args, **kwargs)
    handle.remove()
    return found[0]


@pytest.mark.parametrize("cut", ["embed", "mix"])
def test_the_tokens_are_cached_of_a_network_that_takes_any_keywords(cut: str, tmp_path: Path) -> None:
    model, ids = Tokens().eval(), torch.randint(0, 20, (6, 5))
    mask = torch.ones(6, 5, dtype=torch.long)
    mask[3:, 2:] = 0
    data = [({"input_ids": ids[row], "attention_mask": mask[row]}, row % 2) for row in range(6)]
    features = featcache.extract(model, data, str(tmp_path), cut=cut, batch_size=4)
    assert [spec.name for spec in features.recipe.frontier] == [cut, "attention_mask"]
    assert torch.equal(
        torch.from_numpy(features.numpy()[0][cut]), hooked(model, cut, input_ids=ids, attention_mask=mask)
    )


class Towers(nn.Module):
    """An image and a text tower; the cut lies in one of them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.text = nn.Sequential(nn.Embedding(20, 6), nn.Linear(6, 6), nn.ReLU())
        self.image, self.middle, self.fc = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(12, 2)

    def forward(self, image: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        words = self.text(ids).mean(1)
        return self.fc(torch.cat([self.middle(self.image(image)), words], 1))


def test_the_other_tower_is_cached_and_not_computed_in_every_step() -> None:
    model, image, ids = Towers().eval(), torch.randn(5, 4), torch.randint(0, 20, (5, 3))
    made = featcache.split(model, "image", (image[:2], ids[:2]))
    frontier = made.prefix(image, ids)
    assert len(frontier) == 2
    assert made.side_inputs == ()
    with torch.no_grad():
        assert torch.allclose(made.suffix(frontier), model(image, ids), atol=1e-6)
    assert not any(name.startswith("text") for name, _ in made.suffix.named_parameters())


class ByTask(nn.Module):
    """Embeds a side input before the cut, and looks at it again after it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.task, self.fc = nn.Embedding(3, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor, task: torch.Tensor) -> torch.Tensor:
        return self.fc(x * self.task(task) + (task == 1)[:, None])


def test_the_cuts_own_output_is_cached_also_where_it_comes_of_a_side_input(tmp_path: Path) -> None:
    model, x, task = ByTask().eval(), torch.randn(6, 4), torch.tensor([0, 1, 2, 2, 1, 0])
    data = [((x[row], task[row]), row % 2) for row in range(6)]
    features = featcache.extract(model, data, str(tmp_path), cut="task", batch_size=4)
    assert torch.equal(torch.from_numpy(features.numpy()[0]["task"]), hooked(model, "task", x, task))


class Attention(nn.Module):
    """A skip around the last block, so that what crosses the cut is not only a module's output."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.embed, self.encoder = nn.Linear(4, 16), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.block, self.fc = nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.encoder(self.embed(x)) * 2
        return self.fc(x + self.block(x))


def test_the_prefix_equals_a_hook_bit_for_bit_behind_torchs_fast_attention() -> None:
    model, x = Attention().eval(), torch.randn(5, 7, 4)
    made = featcache.split(model, "block", (x[:2],))
    assert len(made.frontier) == 2
    assert torch.equal(made.prefix(x)["block"], hooked(model, "block", x))
    with torch.no_grad():
        assert torch.equal(made.suffix(made.prefix(x)), model(x))


class Cut(nn.Module):
    """Crops to the longest sample before the cut."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x[:, : int(lengths.max())])).sum(1)


def test_rows_whose_size_depends_on_the_batch_are_refused(tmp_path: Path) -> None:
    x, lengths = torch.randn(6, 5, 4), torch.tensor([5, 5, 1, 2, 1, 1])
    data = [((x[row], lengths[row]), row % 2) for row in range(6)]
    with pytest.raises(featcache.errors.SplitError, match="another size where a sample is alone than in a batch"):
        featcache.extract(Cut().eval(), data, str(tmp_path), cut="a", batch_size=2)
    assert not list(tmp_path.rglob("*.h5"))


@dataclasses.dataclass
class State:
    x: torch.Tensor


class Handing(nn.Module):
    """Hands an object that is no container from block to block."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = Step(), Step(), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(self.first(State(x))).x
        return self.head(x * 2 if float(x.detach().sum()) > 1e9 else x)


class Step(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, state: State) -> State:
        return State(self.linear(state.x).tanh())


@pytest.mark.parametrize("cut", ["first", "second"])
def test_a_cut_that_gives_an_object_is_answered_with_the_rows_at_hand(cut: str) -> None:
    model, x = Handing().eval(), torch.randn(5, 4)
    split = featcache.split(model, cut, (x[:2],))
    for rows in (x[2:4], x):
        assert torch.allclose(split.suffix(split.prefix(rows)), model(rows), atol=1e-6)
