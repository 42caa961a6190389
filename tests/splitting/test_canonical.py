"""What a set is called does not depend on which samples come first, nor on what the network has run before."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
import transformers
from torch import nn

import featcache
from featcache.errors import SplitError, UsageError
from featcache.splitting.canonical import canonical


def bert() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=32,
    )  # fmt: skip
    return transformers.BertModel(config).eval()


def squeezenet() -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.squeezenet1_1(weights=None).eval()


def gpt() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_positions=40, bos_token_id=0, eos_token_id=0, use_cache=False
    )
    return transformers.GPT2Model(config).eval()


class Encoder(nn.Module):
    """torch's own encoder, with a padding mask, or with the lengths that it is made of."""

    def __init__(self, by: str = "padding_mask") -> None:
        super().__init__()
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.embed, self.encoder, self.fc, self.by = (
            nn.Linear(4, 8),
            nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
            nn.Linear(8, 2),
            by,
        )

    def forward(self, x: torch.Tensor, side: torch.Tensor) -> torch.Tensor:
        pad = side if self.by == "padding_mask" else torch.arange(x.shape[1]) >= side[:, None]
        if pad.any():
            return self.fc(self.encoder(self.embed(x), src_key_padding_mask=pad)[:, 0])
        return self.fc(self.encoder(self.embed(x))[:, 0])


class Tables(nn.Module):
    """Makes a table when it is first needed."""

    def __init__(self, keyed: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.table, self.tables, self.keyed = nn.Linear(4, 4), nn.Linear(4, 2), None, {}, keyed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.keyed and x.shape[1] not in self.tables:
            self.tables[x.shape[1]] = torch.linspace(0, 1, x.shape[1])
        if not self.keyed and self.table is None:
            self.table = torch.linspace(0, 1, x.shape[1])
        return self.b(self.a(x + (self.tables[x.shape[1]] if self.keyed else self.table)))


def texts(lengths: list[int], padded: int | None) -> list[Any]:
    """Return samples of these lengths, padded to one length or not."""
    made = []
    for row, length in enumerate(lengths):
        ids = torch.randint(3, 60, (length,), generator=torch.Generator().manual_seed(row))
        mask = torch.ones(length, dtype=torch.long)
        if padded is not None:
            ids, mask = (nn.functional.pad(each, (0, padded - length)) for each in (ids, mask))
        made.append(({"input_ids": ids, "attention_mask": mask}, row % 2))
    return made


def sequences(lengths: list[int], by: str) -> list[Any]:
    made = []
    for row, length in enumerate(lengths):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(row))
        side = torch.arange(8) >= length if by == "padding_mask" else torch.tensor(length)
        made.append(((x, side), row % 2))
    return made


def images(size: int) -> list[Any]:
    return [(torch.randn(3, size, size, generator=torch.Generator().manual_seed(row)), row % 2) for row in range(6)]


def vectors() -> list[Any]:
    return [(torch.randn(4, generator=torch.Generator().manual_seed(row)), row % 2) for row in range(6)]


LENGTHS = [8, 8, 3, 5, 2, 8]
KINDS: dict[str, Any] = {
    "image": (squeezenet, "features.3", lambda: images(64)),
    "text of one length": (bert, "encoder.layer.0", lambda: texts(LENGTHS, 8)),
    "text of many lengths": (bert, "encoder.layer.0", lambda: texts([8, 20, 3, 5, 11, 30], None)),
    "decoder": (gpt, "h.0", lambda: texts(LENGTHS, 8)),
    "padding mask": (Encoder, "encoder.layers.0", lambda: sequences(LENGTHS, "padding_mask")),
    "lengths": (lambda: Encoder("lengths"), "encoder.layers.0", lambda: sequences(LENGTHS, "lengths")),
    "table": (Tables, "a", vectors),
    "tables by size": (lambda: Tables(keyed=True), "a", vectors),
}


def name_of(model: nn.Module, data: list[Any], cut: str, store: Path) -> str:
    return str(featcache.extract(model, data, str(store), cut=cut, batch_size=4).report.recipe)


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_the_samples_does_not_change_the_name_of_the_set(kind: str, tmp_path: Path) -> None:
    make, cut, samples = KINDS[kind]
    model, data = make(), samples()
    first = name_of(model, data, cut, tmp_path)
    for order in ([5, 4, 3, 2, 1, 0], [2, 4, 0, 1, 3, 5], [0, 1, 5, 2, 3, 4]):
        features = featcache.extract(make(), [data[row] for row in order], str(tmp_path), cut=cut, batch_size=4)
        assert (str(features.report.recipe), features.report.computed) == (first, 0), order


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_network_has_run_before_does_not_change_the_name_of_the_set(kind: str, tmp_path: Path) -> None:
    make, cut, samples = KINDS[kind]
    model, data = make(), samples()
    first = name_of(model, data, cut, tmp_path)
    value = data[0][0]
    with torch.no_grad():
        if isinstance(value, dict):
            model(**{name: each[None] for name, each in value.items()})
        else:
            model(*(each[None] for each in (value if isinstance(value, tuple) else (value,))))
    assert name_of(model, data, cut, tmp_path) == first
    assert name_of(copy.deepcopy(model), data, cut, tmp_path) == first


@pytest.mark.parametrize("rows", [(0, 1), (2, 4), (4, 0)])
def test_the_padding_of_the_example_does_not_change_the_name(rows: tuple[int, int], tmp_path: Path) -> None:
    model, data = bert(), texts(LENGTHS, 8)
    features = featcache.extract(model, data, str(tmp_path), cut="encoder.layer.0", batch_size=4)
    chosen = [data[row][0] for row in rows]
    example = {name: torch.stack([each[name] for each in chosen]) for name in chosen[0]}
    assert featcache.split(model, "encoder.layer.0", example).structure == features.recipe.structure


class ByKind(nn.Module):
    """Takes a number for each row, under a name that a mask could have."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.kinds, self.head = nn.Linear(4, 4), nn.Embedding(3, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor, mask_kind: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x) + self.kinds(mask_kind))


def test_a_number_for_each_row_is_no_mask_whatever_its_name() -> None:
    model, kinds = ByKind().eval(), torch.tensor([2, 1, 0])
    made, x = featcache.split(model, "body", {"x": torch.randn(3, 4), "mask_kind": kinds}), torch.randn(3, 4)
    with torch.no_grad():
        made.suffix.eval()
        assert torch.equal(made.suffix(made.prefix(x=x, mask_kind=kinds)), model(x, kinds))


class ByLength(nn.Module):
    """Calls another layer, or none at all, where samples are short."""

    def __init__(self, short: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.long, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.short = nn.Linear(4, 4) if short else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x)
        if x.shape[1] > 5:
            x = self.long(x)
        elif self.short is None:
            raise ValueError("too short")
        else:
            x = self.short(x)
        return self.head(x.mean(1))


def test_where_other_layers_run_at_another_length_the_example_stays_as_it_is() -> None:
    two, resized = (((torch.randn(2, length, 4),), {}) for length in (8, 4))
    assert all(
        mine is given for mine, given in zip(canonical(ByLength(True), two, resized), (two, resized), strict=True)
    )


def test_images_stay_as_they_are_and_what_varies_in_length_gets_lengths_from_the_list() -> None:
    two = ((torch.randn(2, 3, 8, 8),), {})
    assert canonical(nn.Conv2d(3, 4, 3), two, None)[0] is two
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    made = canonical(model, *(((torch.randn(2, length, 4),), {}) for length in (8, 5)))
    assert [each[0][0].shape[1] for each in made] == [64, 48]


class Padded(nn.Module):
    """Looks where its ids are those of padding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.body, self.head = nn.Embedding(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        padded = ids.eq(1)
        x = self.embed(ids)
        if padded.any():
            x = x.masked_fill(padded[..., None], 0)
        return self.head(self.body(x).sum(1))


def test_an_example_of_padding_alone_names_the_set_as_any_other_does() -> None:
    given = ([[1, 1, 1, 1], [1, 1, 1, 1]], [[0, 2, 2, 0], [2, 2, 0, 0]], [[0, 2, 1, 1], [2, 1, 1, 1]])
    found = [featcache.split(Padded().eval(), "body", (torch.tensor(ids),)) for ids in given]
    assert len({each.structure for each in found}) == 1


@pytest.mark.parametrize("lengths", [(8, 4), (4, 8)])
def test_a_network_that_does_not_run_at_one_of_the_lengths_is_refused_with_its_own_words(
    lengths: tuple[int, int],
) -> None:
    with pytest.raises(SplitError, match=r"cannot be run on the example input.*: ValueError: too short"):
        featcache.split(ByLength(False).eval(), "body", *((torch.randn(2, length, 4),) for length in lengths))


class Weighted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        return self.head(self.body(x).mean(1) if mask is None else (self.body(x) * mask[..., None]).mean(1))


X, MASK = torch.zeros(2, 8, 4), torch.ones(2, 8, dtype=torch.long)


@pytest.mark.parametrize(
    ("given", "other"),
    [
        ((X, MASK), (X[:, :5],)),
        ((X,), (X[:, :5], MASK[:, :5])),
        ((X,), (X[:, 0],)),
        ({"x": X, "mask": MASK}, {"x": X[:, :5]}),
        ({"x": X, "mask": MASK}, {"mask": MASK[:, :5], "x": X[:, :5]}),
    ],
    ids=["one less", "one more", "a dimension less", "a name less", "another order"],
)
def test_examples_of_two_lengths_must_hold_the_same_inputs(given: Any, other: Any) -> None:
    with pytest.raises(UsageError, match="other_length holds other inputs than example_inputs"):
        featcache.split(Weighted().eval(), "body", given, other)


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.splitting.test_canonical import KINDS, name_of
from pathlib import Path
import tempfile
make, cut, samples = KINDS[sys.argv[2]]
with tempfile.TemporaryDirectory() as folder:
    print(name_of(make(), samples()[::-1], cut, Path(folder)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["text of many lengths", "padding mask"])
def test_another_process_gives_the_same_name(kind: str, tmp_path: Path) -> None:
    make, cut, samples = KINDS[kind]
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", SCRIPT, root, kind], capture_output=True, text=True)
    assert done.stdout.split()[-1:] == [name_of(make(), samples(), cut, tmp_path)], done.stderr
