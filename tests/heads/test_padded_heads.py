"""Heads on pooled features of samples that vary in length: what is padded must not count in a mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

import featcache
from featcache.errors import DataError, HeadError, StaleError


class Encoder(nn.Module):
    """Two layers of attention with a mask of the samples' own tokens."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.fc = nn.Embedding(20, 8), nn.Linear(8, 3)
        self.one, self.two = (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(2))

    def forward(self, ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        own = attention_mask.bool()
        x = self.two(self.one(self.embed(ids), src_key_padding_mask=~own), src_key_padding_mask=~own)
        return self.fc((x * own[..., None]).sum(1) / own.sum(1, keepdim=True))


class PaddingMask(Encoder):
    """Takes a mask that is true at padding, by a name that says otherwise."""

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return super().forward(ids, ~mask)


class Texts(torch.utils.data.Dataset):
    """Forty texts of two to eight tokens."""

    ragged = True

    def __init__(self, name: str = "attention_mask", own: int | bool = 1) -> None:
        generator = torch.Generator().manual_seed(0)
        lengths = torch.randint(2, 9, (40,), generator=generator).tolist()
        ids = [torch.randint(1, 20, (length,), generator=generator) for length in lengths]
        self.inputs = [{"ids": each, name: torch.full_like(each, own, dtype=type_of(own))} for each in ids]
        self.by_length = sorted(range(40), key=lambda number: lengths[number])
        self.pad = not own if isinstance(own, bool) else 0

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[dict[str, torch.Tensor], int]:
        return self.inputs[index], index % 3

    def batch(self, numbers: list[int]) -> dict[str, torch.Tensor]:
        items = [self.inputs[number] for number in numbers]
        return {
            name: pad_sequence(
                [each[name] for each in items], batch_first=True, padding_value=0 if name == "ids" else self.pad
            )
            for name in items[0]
        }

    def examples(self) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        return self.batch([self.by_length[-1], self.by_length[0]]), self.batch(self.by_length[:2])


def type_of(own: int | bool) -> torch.dtype:
    return torch.bool if isinstance(own, bool) else torch.long


@pytest.mark.parametrize("pool", [None, "auto"])
@pytest.mark.parametrize("head", ["linear", "sklearn:LogisticRegression", "all-layers"])
def test_inputs_of_several_lengths_are_predicted_as_cached_rows_are(
    tmp_path: Path, head: str, pool: str | None
) -> None:
    texts, network = Texts(), Encoder().eval()
    features = featcache.extract(network, texts, str(tmp_path / "features"), cut=["one", "two"], pool=pool)
    splits = featcache.split(network, ["one", "two"], *texts.examples())
    together = head == "all-layers"
    trained = featcache.train_head(
        splits if together else splits[0], features if together else features["one"], head=head, device="cpu"
    )
    expected = trained.predict_proba(features if together else features["one"])
    found = trained.predict([values for values, _ in texts], batch_size=16)
    assert np.allclose(found.probabilities, expected, atol=1e-5)
    assert found.names[3] == "item 3"
    alone = trained.model(**texts.batch([5])).softmax(1).detach().numpy()
    assert np.allclose(alone[0], expected[5], atol=1e-5)


def test_a_padded_batch_that_the_network_itself_is_given_is_refused(tmp_path: Path) -> None:
    texts, network = Texts(), Encoder().eval()
    features = featcache.extract(network, texts, str(tmp_path / "features"), cut="one")
    trained = featcache.train_head(featcache.split(network, "one", *texts.examples()), features, head="linear")
    with pytest.raises(HeadError, match=r"attention_mask.*padded"):
        trained.model(**texts.batch([texts.by_length[0], texts.by_length[-1]]))
    report = featcache.export_head(trained, tmp_path / "head.pt2")
    assert any("not padded" in note for note in report.notes)


def test_a_mask_of_padding_is_not_taken_for_one_of_the_samples_own_steps(tmp_path: Path) -> None:
    texts, network = Texts("mask", own=False), PaddingMask().eval()
    with pytest.raises(DataError, match="another name"):
        featcache.extract(network, texts, str(tmp_path / "features"), cut="one", pool="auto")


def test_features_that_were_pooled_in_another_way_than_the_head_takes_are_refused(tmp_path: Path) -> None:
    texts, network = Texts(), Encoder().eval()
    first, mean = (
        featcache.extract(network, texts, str(tmp_path / "features"), cut="one", pool=pool)
        for pool in ("first", "auto")
    )
    trained = featcache.train_head(featcache.split(network, "one", *texts.examples()), first, head="linear")
    assert len(trained.predict_proba(first)) == 40
    with pytest.raises(StaleError, match="pooled by 'auto'"):
        trained.predict_proba(mean)
