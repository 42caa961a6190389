"""Samples that vary in length: stored without padding, handed out padded with their mask."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch
from torch import nn

import featcache
from featcache import FeatureStore
from featcache.errors import DataError, HeadError, SplitError


class Encoder(nn.Module):
    """A small masked transformer over token ids."""

    def __init__(self, classes: int = 3, width: int = 16) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, width)
        self.positions = nn.Parameter(torch.randn(64, width) * 0.1)
        self.layers = nn.ModuleList(Block(width) for _ in range(3))
        self.classifier = nn.Linear(width, classes)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden = self.embedding(input_ids) + self.positions[: input_ids.shape[1]]
        for layer in self.layers:
            hidden = layer(hidden, attention_mask)
        weights = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return self.classifier((hidden * weights).sum(1) / weights.sum(1))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(0.1)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        mixed, _ = self.attention(hidden, hidden, hidden, key_padding_mask=mask == 0, need_weights=False)
        return self.norm(hidden + self.dropout(mixed))


class Texts(torch.utils.data.Dataset):
    """Token ids of random length, as a dictionary with their mask."""

    def __init__(self, count: int = 40, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        self.lengths = generator.integers(3, 12, count)
        self.tokens = [torch.from_numpy(generator.integers(0, 40, length)) for length in self.lengths]

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int):
        tokens = self.tokens[index]
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}, index % 3


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder().eval()


def hidden(encoder: Encoder, texts: Texts, index: int, layer: int = 1) -> torch.Tensor:
    found: list[torch.Tensor] = []
    hook = encoder.layers[layer].register_forward_hook(lambda *args: found.append(args[2]))
    inputs, _ = texts[index]
    with torch.no_grad():
        encoder(**{name: value[None] for name, value in inputs.items()})
    hook.remove()
    return found[0][0]


def test_each_row_is_the_unpadded_sample_and_a_batch_comes_back_padded_with_its_mask(encoder, tmp_path) -> None:
    texts = Texts()
    features = featcache.extract(encoder, texts, str(tmp_path / "s"), cut="layers.1", batch_size=8)
    assert features.ragged
    assert {spec.name: spec.shape for spec in features.frontier} == {"layers.1": (None, 16), "attention_mask": (None,)}
    rows = np.array([5, 0, 17, 5])
    frontier, targets = features.batch(rows)
    assert targets.tolist() == [5 % 3, 0, 17 % 3, 5 % 3]
    assert frontier["layers.1"].shape == (4, texts.lengths[rows].max(), 16)
    assert frontier["mask"].sum(1).tolist() == texts.lengths[rows].tolist()
    assert torch.equal(frontier["mask"], frontier["attention_mask"] == 1)
    for place, row in enumerate(rows.tolist()):
        length = texts.lengths[row]
        assert torch.allclose(frontier["layers.1"][place, :length], hidden(encoder, texts, row), atol=1e-6)
        assert not frontier["layers.1"][place, length:].any()


def test_nothing_is_stored_for_padding(encoder, tmp_path) -> None:
    texts = Texts()
    features = featcache.extract(encoder, texts, str(tmp_path / "s"), cut="layers.1")
    steps = int(texts.lengths.sum())
    assert features.report.size_bytes == steps * (16 * 4 + 8)
    (shard,) = (tmp_path / "s").glob("sets/*/*.h5")
    with h5py.File(shard) as file:
        assert file["features/layers.1"].shape == (steps, 16)
        assert file["ends/layers.1"][-1] == steps
    assert FeatureStore(str(tmp_path / "s")).verify().damaged == []


def test_in_memory_and_over_many_shards_the_same_batches_come_back(encoder, tmp_path) -> None:
    texts = Texts()
    one = featcache.extract(encoder, texts, str(tmp_path / "one"), cut="layers.1", batch_size=4)
    many = featcache.extract(encoder, texts, str(tmp_path / "many"), cut="layers.1", batch_size=4, shard_bytes=1)
    assert FeatureStore(str(tmp_path / "many")).sets()[0].shards == 10
    rows = np.random.default_rng(1).permutation(40)[:13]
    expected = one.batch(rows)[0]
    for other in (many, one.load(), many.load(), one.load().subset(rows)):
        found = other.batch(rows if len(other) == 40 else np.arange(13))[0]
        assert list(found) == list(expected)
        for name, values in expected.items():
            assert torch.allclose(found[name].float(), values.float(), atol=1e-6)
    assert one.size_bytes == one.load().size_bytes


def test_the_suffix_trained_from_the_cache_follows_the_padded_loop(encoder, tmp_path) -> None:
    texts = Texts()
    features = featcache.extract(encoder, texts, str(tmp_path / "s"), cut="layers.1")
    split = featcache.split(encoder, "layers.1", padded(texts, [0, 1]), padded(texts, [2, 3]))
    head = featcache.train_head(
        split, features, epochs=3, batch_size=8, validation=0.0, optimizer="sgd", learning_rate=0.05
    )
    network = featcache.heads.new_network(split, 3, 0).model
    for name, module in network.named_modules():
        module.train(not name.startswith(("embedding", "layers.0", "layers.1")))
    parameters = [value for name, value in network.named_parameters() if name.startswith(("layers.2", "classifier"))]
    optimizer = torch.optim.SGD(parameters, lr=0.05, weight_decay=0.01, momentum=0.9)
    loader = features.loader(8, seed=0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 * (1 + np.cos(np.pi * step / 15)))
    torch.manual_seed(0)
    for epoch in range(3):
        order = loader.order(epoch)
        for start in range(0, 40, 8):
            rows = order[start : start + 8].tolist()
            loss = nn.functional.cross_entropy(network(**padded(texts, rows)), torch.tensor([row % 3 for row in rows]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    trained = dict(head.model.named_parameters())
    for name, value in network.named_parameters():
        assert torch.allclose(trained[name], value, atol=1e-5), name


def padded(texts: Texts, rows: list[int]) -> dict[str, torch.Tensor]:
    return {
        name: nn.utils.rnn.pad_sequence([texts[row][0][name] for row in rows], batch_first=True)
        for name in ("input_ids", "attention_mask")
    }


def test_pooled_and_linear_heads_count_own_steps_only(encoder, tmp_path) -> None:
    texts, store = Texts(), str(tmp_path / "s")
    tokens = featcache.extract(encoder, texts, store, cut="layers.1")
    pooled = featcache.extract(encoder, texts, store, cut="layers.1", pool="auto")
    assert pooled.report.derived == 40
    assert not pooled.ragged
    for row in (0, 7, 39):
        mean = hidden(encoder, texts, row).mean(0)
        assert torch.allclose(pooled.batch(np.array([row]))[0][0], mean, atol=1e-6)
    split = featcache.split(encoder, "layers.1", padded(texts, [0, 1]), padded(texts, [2, 3]))
    weights = []
    for features in (tokens, pooled):
        head = featcache.train_head(split, features, head="linear", epochs=2, validation=0.0)
        weights.append(head.layers[-1].weight.detach())
    assert torch.allclose(weights[0], weights[1], atol=1e-4)


def test_a_deeper_layer_is_derived_without_padding(encoder, tmp_path) -> None:
    texts, store = Texts(), str(tmp_path / "s")
    featcache.extract(encoder, texts, store, cut="layers.0")
    deeper = featcache.extract(encoder, texts, store, cut="layers.1")
    direct = featcache.extract(encoder, texts, str(tmp_path / "direct"), cut="layers.1")
    assert deeper.report.derived == 40
    rows = np.arange(40)
    assert torch.allclose(deeper.batch(rows)[0]["layers.1"], direct.batch(rows)[0]["layers.1"], atol=1e-6)


def test_only_new_texts_are_computed_and_other_first_texts_are_the_same_recipe(encoder, tmp_path) -> None:
    store = str(tmp_path / "s")
    first = featcache.extract(encoder, Texts(20), store, cut="layers.1")
    reversed_order = torch.utils.data.Subset(Texts(20), list(range(19, -1, -1)))
    again = featcache.extract(encoder, reversed_order, store, cut="layers.1")
    assert again.recipe == first.recipe
    assert again.report.computed == 0


class NoMask(nn.Module):
    """Takes sequences of any length, and knows of no mask."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.second = nn.Linear(8, 8)
        self.classifier = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.relu(self.second(torch.relu(self.first(x)))).mean(1))


class Sounds(torch.utils.data.Dataset):
    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.sounds = [torch.randn(5 + number % 4, 4, generator=generator) for number in range(24)]

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int):
        return self.sounds[index], index % 3


def test_where_no_mask_crosses_the_cut_the_suffix_is_refused_and_a_linear_head_works(tmp_path) -> None:
    model, sounds = NoMask().eval(), Sounds()
    features = featcache.extract(model, sounds, str(tmp_path / "s"), cut="first")
    assert features.frontier[0].shape == (None, 8)
    example = (torch.stack([sounds.sounds[0], sounds.sounds[4]]),)
    split = featcache.split(model, "first", example, (torch.stack([sounds.sounds[1], sounds.sounds[5]]),))
    assert split.structure == features.recipe.structure
    with pytest.raises(HeadError, match="mask"):
        featcache.train_head(split, features, epochs=1)
    head = featcache.train_head(split, features, head="linear", epochs=1, validation=0.0)
    assert head.predict_proba(features).shape == (24, 3)


def test_the_order_of_keyword_inputs_does_not_matter(encoder) -> None:
    texts = Texts()
    examples = [padded(texts, [0, 1]), padded(texts, [2, 3])]
    backwards = [dict(reversed(each.items())) for each in examples]
    one = featcache.split(encoder, "layers.1", *examples)
    other = featcache.split(encoder, "layers.1", *backwards)
    assert one.structure == other.structure
    assert one.side_inputs == other.side_inputs == ("attention_mask",)
    earliest = featcache.split(encoder, "embedding", *backwards)
    assert [spec.name for spec in earliest.frontier] == ["embedding", "attention_mask"]
    frontier = one.prefix(**backwards[0])
    assert torch.equal(frontier["attention_mask"], examples[0]["attention_mask"])
    with torch.no_grad():
        assert torch.equal(one.suffix.eval()(frontier), encoder(**examples[0]))


class FewOdd(torch.utils.data.Dataset):
    """Token ids of one length but for a few, in a given order; without their mask, which a transform may add."""

    def __init__(self, order: list[int], odd: tuple[int, ...], masked: bool = True) -> None:
        self.order, self.odd, self.masked = order, odd, masked

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int):
        number = self.order[index]
        length = 9 if number in self.odd else 6
        tokens = torch.from_numpy(np.random.default_rng(number).integers(0, 40, length))
        return with_mask(tokens) if self.masked else tokens, number % 3


def with_mask(tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def test_one_sample_of_another_length_makes_samples_vary_wherever_it_stands(encoder, tmp_path) -> None:
    order, store = list(range(60)), str(tmp_path / "s")
    for turned in (order, order[::-1], order[37:] + order[:37]):
        features = featcache.extract(encoder, FewOdd(turned, (37,)), store, cut="layers.1", batch_size=16)
        assert features.ragged
        lengths = {features[row][0]["attention_mask"].sum().item(): row for row in range(60)}
        assert turned[lengths[9]] == 37
    assert (features.report.computed, features.report.reused) == (0, 60)
    alike = featcache.extract(encoder, FewOdd(order, ()), str(tmp_path / "alike"), cut="layers.1")
    assert not alike.ragged


@pytest.mark.parametrize("odd", [(3,), (2, 3)])
def test_lengths_that_a_transform_makes_and_no_sample_that_is_looked_at_has_are_refused(encoder, tmp_path, odd) -> None:
    for number, turned in enumerate((list(range(60)), list(range(60))[::-1])):
        texts, store = FewOdd(turned, odd, masked=False), str(tmp_path / str(number))
        with pytest.raises((DataError, SplitError), match=r"vary in length.*`ragged = True`|rows of shape \[9, 16\]"):
            featcache.extract(encoder, texts, store, cut="layers.1", batch_size=2, transform=with_mask)
