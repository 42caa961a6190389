"""A recorded path is used only where it holds: what a network decides by masks and lengths is decided again on real rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import nn

import featcache


def bert(layers: int = 3) -> nn.Module:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=16, num_labels=3,
        max_position_embeddings=32, initializer_range=0.3,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config).eval()


@pytest.fixture
def texts() -> dict[str, torch.Tensor]:
    """Return twelve texts of one length, of which the first two need no padding."""
    torch.manual_seed(1)
    mask = torch.ones(12, 8, dtype=torch.long)
    mask[2:, 4:] = 0
    return {"input_ids": torch.randint(3, 60, (12, 8)), "attention_mask": mask}


def pairs(texts: dict[str, torch.Tensor], order: Any = range(12)) -> list[Any]:
    return [({name: values[row] for name, values in texts.items()}, int(row) % 3) for row in order]


def hooked(model: nn.Module, cut: str, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    found: list[Any] = []
    handle = model.get_submodule(cut).register_forward_hook(
        lambda module, args, out: found.append(out[0] if isinstance(out, tuple) else out)
    )
    with torch.no_grad():
        model(**inputs)
    handle.remove()
    return found[0]


@pytest.mark.parametrize("first", [0, 4], ids=["full example", "padded example"])
def test_a_suffix_equals_the_model_on_padded_rows_whatever_the_example_held(
    first: int, texts: dict[str, torch.Tensor]
) -> None:
    model = bert()
    made = featcache.split(
        model, "bert.encoder.layer.0", {name: each[first : first + 2] for name, each in texts.items()}
    )
    made.suffix.eval()
    for rows in (slice(None), slice(0, 2), slice(4, 5)):
        inputs = {name: each[rows] for name, each in texts.items()}
        with torch.no_grad():
            expected, found = model(**inputs).logits, made.suffix(made.prefix(**inputs)).logits
        assert torch.equal(expected, found)


def test_features_are_derived_with_the_mask_of_each_row(texts: dict[str, torch.Tensor], tmp_path: Path) -> None:
    model, cut = bert(), "bert.encoder.layer.1"
    featcache.extract(model, pairs(texts), str(tmp_path / "a"), cut="bert.encoder.layer.0", batch_size=4)
    derived = featcache.extract(model, pairs(texts), str(tmp_path / "a"), cut=cut, batch_size=4)
    fresh = featcache.extract(model, pairs(texts), str(tmp_path / "b"), cut=cut, batch_size=4)
    assert (derived.report.derived, fresh.report.derived) == (12, 0)
    assert derived.report.recipe == fresh.report.recipe
    assert np.allclose(derived.numpy()[0][cut], fresh.numpy()[0][cut], atol=1e-6)
    expected = hooked(model, cut, texts).numpy()
    kept = texts["attention_mask"].bool().numpy()
    assert np.allclose(derived.numpy()[0][cut][kept], expected[kept], atol=1e-5)


def test_a_suffix_whose_path_depends_on_a_mask_says_so(texts: dict[str, torch.Tensor]) -> None:
    made = featcache.split(bert(), "bert.encoder.layer.0", texts)
    assert "flat suffix, guarded by attention_mask" in repr(made)
    assert "guards on attention_mask" in repr(made.suffix)


class Cropped(nn.Module):
    """Looks no further than the longest sample of the batch, after the cut."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.mix, self.fc = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        longest = self.longest(lengths)
        x = self.mix(x[:, :longest])
        keep = torch.arange(longest) < lengths[:, None]
        return self.fc((x * keep[..., None]).sum(1) / lengths[:, None])

    def longest(self, lengths: torch.Tensor) -> int | torch.Tensor:
        return int(lengths.max())


class CroppedByTensor(Cropped):
    """The same, with a tensor as the end of the slice: no Python value comes out of it."""

    def longest(self, lengths: torch.Tensor) -> torch.Tensor:
        return lengths.max()


class Selected(Cropped):
    """Computes the places that the mask keeps only, packed into one dimension."""

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        keep = torch.arange(x.shape[1]) < lengths[:, None]
        packed = self.mix(x[keep])
        count = packed.shape[0]
        owner = keep.nonzero()[:, 0]
        sums = torch.zeros(len(x), 8).index_add(0, owner, packed.view(count, 8))
        return self.fc(sums / lengths[:, None])


@pytest.mark.parametrize("kind", [Cropped, CroppedByTensor, Selected])
def test_a_crop_to_the_longest_sample_is_made_for_each_batch(kind: type[Cropped], tmp_path: Path) -> None:
    model = kind().eval()
    torch.manual_seed(2)
    x, lengths = torch.randn(10, 6, 4), torch.tensor([6, 6, 3, 2, 5, 4, 1, 6, 2, 3])
    made = featcache.split(model, "embed", (x[:2], lengths[:2]))
    for rows in (slice(None), slice(2, 4), slice(6, 7)):
        with torch.no_grad():
            expected = model(x[rows], lengths[rows])
        assert torch.allclose(made.suffix(made.prefix(x[rows], lengths[rows])), expected, atol=1e-6)
    data = [((x[row], lengths[row]), row % 3) for row in range(10)]
    features = featcache.extract(model, data, str(tmp_path), cut="embed", batch_size=4)
    assert np.allclose(features.numpy()[0]["embed"], model.embed(x).detach().numpy(), atol=1e-6)


class ByTask(nn.Module):
    """Adds what belongs to a task only where a row of that task is in the batch: another path, the same rows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.extra, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor, task: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        if (task == 1).any():
            x = x + (task == 1)[:, None] * x.tanh()
        return self.c(self.b(x).relu() + (task == 1)[:, None])


def test_a_path_that_differs_before_the_cut_but_not_in_its_rows_is_accepted(tmp_path: Path) -> None:
    model, x, task = ByTask().eval(), torch.randn(8, 4), torch.tensor([0, 0, 1, 1, 0, 1, 0, 0])
    data = [((x[row], task[row]), row % 2) for row in range(8)]
    features = featcache.extract(model, data, str(tmp_path), cut="b", batch_size=4)
    split = featcache.split(model, "b", (x[:2], task[:2]))
    assert split.structure == features.recipe.structure
    with torch.no_grad():
        expected = model(x, task)
    assert torch.allclose(split.suffix(split.prefix(x, task)), expected, atol=1e-6)
    assert torch.allclose(split.suffix(split.prefix(x[:2], task[:2])), expected[:2], atol=1e-6)


class ManyAtOnce(nn.Module):
    """Does something else after the cut in batches that are not tiny."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        half = x.shape[0] // 2
        x = torch.cat([x[:half], x[half:] * 2])
        return self.b(x * 1.5 if x.shape[0] > 4 else x)


def test_a_suffix_that_asks_for_the_size_of_the_batch_asks_for_that_of_each_batch() -> None:
    model, x = ManyAtOnce().eval(), torch.randn(10, 4)
    made = featcache.split(model, "a", (x[:2],))
    for count in (1, 3, 10):
        assert torch.equal(made.suffix(made.prefix(x[:count])), model(x[:count]))


class BranchInTraining(nn.Module):
    """Looks at the mask in training mode only."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        if self.training and bool(mask.all()):
            x = x * 3
        return self.b(x)


def test_a_branch_on_a_mask_in_training_mode_is_taken_by_each_batch() -> None:
    model = BranchInTraining().eval()
    x, mask = torch.randn(4, 4), torch.ones(4, 3, dtype=torch.long)
    made = featcache.split(model, "a", {"x": x[:2], "mask": mask[:2]})
    made.suffix.train()
    model.train()
    for masked in (mask, mask * torch.tensor([1, 1, 0])):
        assert torch.allclose(made.suffix(made.prefix(x=x, mask=masked)), model(x, masked), atol=1e-6)


class Twice(nn.Module):
    """Runs a block twice, with something between that depends on the tasks of the batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.block, self.head = nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor, task: torch.Tensor) -> torch.Tensor:
        x = self.block(x)
        if (task == 1).any():
            x = x + 2 * (task == 1)[:, None]
        return self.head(self.block(x))


@pytest.mark.filterwarnings("ignore:tied parameters")
def test_a_block_that_runs_twice_is_answered_on_each_path() -> None:
    model, x, task = Twice().eval(), torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 2, 0])
    split = featcache.split(model, "block", (x[:2], task[:2]))
    for rows in (slice(0, 2), slice(2, 6), slice(3, 4)):
        assert torch.allclose(split.suffix(split.prefix(x[rows], task[rows])), model(x[rows], task[rows]), atol=1e-6)
