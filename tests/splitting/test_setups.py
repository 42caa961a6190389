"""Networks that people bring and that ask for something special: each is cut and gives the network's own values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
import transformers
from torch import nn
from torch.nn.attention.flex_attention import flex_attention
from torchvision.models.feature_extraction import create_feature_extractor

import featcache
from featcache.errors import SplitError


def check(model: nn.Module, cut: str, given: object, other: object = None) -> featcache.Split:
    """Cut a network, and compare suffix(prefix(x)) with it on the example and, if there is one, on another batch."""
    made = featcache.split(model, cut, given)
    for each in (given, given if other is None else other):
        assert (made.check(**each) if isinstance(each, dict) else made.check(*each)) <= 1e-6
    return made


@pytest.fixture
def pictures() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def resnet() -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.resnet18(num_classes=5).eval()


def test_a_graph_of_torchvisions_feature_extraction_is_cut_like_its_network(pictures: torch.Tensor) -> None:
    model = create_feature_extractor(resnet(), {"layer3": "maps", "fc": "logits"})
    made = check(model, "layer2.1.bn2", (pictures,))
    plain = featcache.split(resnet(), "layer2.1.bn2", (pictures,))
    pairs = zip(made.prefix(pictures).values(), plain.prefix(pictures).values(), strict=True)
    assert all(torch.equal(found, expected) for found, expected in pairs)


def test_a_traced_network_and_an_unflattened_exported_one_are_cut(pictures: torch.Tensor) -> None:
    check(torch.fx.symbolic_trace(resnet()), "layer2.1.bn2", (pictures,))
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    rows = torch.randn(4, 6)
    exported = torch.export.export(network, (rows,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    check(torch.export.unflatten(exported), "1", (rows,), (torch.randn(7, 6),))


def test_a_flat_suffix_is_cut_again(pictures: torch.Tensor) -> None:
    first = featcache.split(resnet(), "layer1", (pictures,))
    maps = first.prefix(pictures)
    again = check(first.suffix, "layer3", (maps,))
    assert torch.equal(again.prefix(maps), featcache.split(resnet(), "layer3", (pictures,)).prefix(pictures))


def test_an_exported_program_that_cannot_change_its_mode_is_refused_with_the_way_that_works() -> None:
    rows = torch.randn(4, 6)
    exported = torch.export.export(nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3)), (rows,))
    with pytest.raises(SplitError, match=r"eval\(\).*torch\.export\.unflatten"):
        featcache.split(exported.module(), "0", (rows,))


TINY = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}


@pytest.mark.parametrize("cut", ["model.layers.0", "model.layers.2"])
def test_a_decoder_with_its_default_key_value_cache_is_cut_and_keeps_its_configuration(cut: str) -> None:
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(num_key_value_heads=1, **TINY)).eval()
    batch = {"input_ids": torch.randint(3, 60, (2, 8)), "attention_mask": torch.ones(2, 8, dtype=torch.long)}
    made = featcache.split(model, cut, batch)
    made.suffix.eval()
    assert torch.allclose(made.suffix(made.prefix(**batch)).logits, model(**batch).logits, atol=1e-5)
    assert model.config.use_cache
    with pytest.raises(SplitError, match="leave use_cache out"):
        featcache.split(model, cut, {**batch, "use_cache": True})


def test_a_state_space_model_with_its_default_cache_is_cut() -> None:
    torch.manual_seed(0)
    config = transformers.MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=2, state_size=4)
    with pytest.warns(UserWarning, match="tied"):
        check(
            transformers.MambaForCausalLM(config).eval(),
            "backbone.layers.0",
            {"input_ids": torch.randint(3, 60, (2, 8))},
        )


class SequenceFirst(nn.Module):
    """What nn.Transformer and nn.LSTM do by default: inside, the batch is the second dimension."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.emb, self.fc = nn.Embedding(30, 16), nn.Linear(16, 3)
        self.enc = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32), 3, enable_nested_tensor=False)
        self.rnn = nn.LSTM(16, 8, 2, bidirectional=True)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        steps = self.emb(ids).transpose(0, 1)
        if self.kind == "encoder":
            return self.fc(self.enc(steps).mean(0))
        steps, (hidden, _) = self.rnn(steps)
        return self.fc(steps.mean(0) + torch.cat([hidden[-2], hidden[-1]], -1))


@pytest.mark.parametrize("varying", [False, True])
@pytest.mark.parametrize(("kind", "cut"), [("encoder", "enc.layers.1"), ("encoder", "enc"), ("rnn", "rnn")])
def test_a_network_that_is_sequence_first_inside_is_stored_batch_first(kind: str, cut: str, varying: bool) -> None:
    torch.manual_seed(0)
    model, ids = SequenceFirst(kind).eval(), torch.randint(0, 30, (2, 6))
    made = featcache.split(model, cut, (ids,), (torch.randint(0, 30, (2, 9)),) if varying else None)
    assert made.frontier[0].shape == (None if varying else 6, 16)
    for batch in (ids, torch.randint(0, 30, (5, 6)), *([torch.randint(0, 30, (3, 11))] if varying else [])):
        assert made.check(batch) == 0.0
        assert all(len(each) == len(batch) for each in rows_of(made, batch))


def test_sequence_first_features_are_extracted_trained_on_and_derived(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, ids = SequenceFirst("encoder").eval(), torch.randint(0, 30, (12, 6))
    data = [(row, number % 3) for number, row in enumerate(ids)]
    features = featcache.extract(model, data, tmp_path, cut="enc.layers.0", batch_size=4)
    deeper = featcache.extract(model, data, tmp_path, cut="enc.layers.1", batch_size=4)
    assert deeper.report.derived == 12
    for cut, found in (("enc.layers.0", features), ("enc.layers.1", deeper)):
        made = featcache.split(model, cut, (ids[:2],))
        assert torch.allclose(torch.as_tensor(found.numpy()[0]), made.prefix(ids), atol=1e-6)
        featcache.train_head(made, found, epochs=1, device="cpu")


def rows_of(made: featcache.Split, *inputs: torch.Tensor) -> list[torch.Tensor]:
    """Return the tensors that cross a cut."""
    found = made.prefix(*inputs)
    return list(found.values()) if isinstance(found, dict) else [found]


class Views(nn.Module):
    """Two views of each sample through one encoder, as contrastive networks take them."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.enc, self.fc = nn.Sequential(nn.Linear(6, 8), activation), nn.Linear(8, 4)

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        one, other = self.fc(self.enc(torch.cat([first, second]))).chunk(2)
        return (one * other).sum(1)


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Softplus(0.1)], ids=["far from each other", "near each other"])
def test_two_views_that_run_as_one_batch_are_one_row_per_sample(activation: nn.Module) -> None:
    torch.manual_seed(0)
    model, views = Views(activation).eval(), (torch.randn(5, 6), torch.randn(5, 6))
    made = check(model, "enc", views)
    (rows,) = rows_of(made, *views)
    assert rows.shape == (5, 2, 8)
    assert torch.allclose(rows[3], torch.cat([model.enc(each[3:4]) for each in views]))
    some = made.suffix.eval()(rows[[4, 0, 2]])
    assert torch.allclose(some, model(*(each[[4, 0, 2]] for each in views)))


class MaskOfIds(nn.Module):
    """Makes its padding mask of the token ids, and leaves it out where it masks nothing, as fairseq and ESM do."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.fc = nn.Embedding(30, 16), nn.Linear(16, 3)
        self.layers = nn.ModuleList(nn.MultiheadAttention(16, 2, batch_first=True) for _ in range(3))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        mask, x = ids.eq(1), self.emb(ids)
        if not mask.any():
            mask = None
        for layer in self.layers:
            x = x + layer(x, x, x, key_padding_mask=mask, need_weights=False)[0]
        return self.fc(x.mean(1))


def texts(count: int, padded: int) -> torch.Tensor:
    ids = torch.randint(2, 30, (count, 6), generator=torch.Generator().manual_seed(count))
    ids[:padded, 4:] = 1
    return ids


@pytest.mark.parametrize("cut", ["layers.0", "layers.1"])
def test_a_mask_that_is_made_of_token_ids_guards_the_suffix(cut: str) -> None:
    torch.manual_seed(0)
    model = MaskOfIds().eval()
    names = set()
    for padded in (0, 1, 2):
        made = featcache.split(model, cut, (texts(2, padded),))
        names.add(made.structure)
        assert made.guards == ("input",)
        for batch in (texts(5, 0), texts(5, 2), texts(5, 5)):
            assert made.check(batch) <= 1e-6
    assert len(names) == 1


def test_padded_texts_are_extracted_in_any_order_into_one_set(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, ids = MaskOfIds().eval(), texts(20, 7)
    data = [(row, number % 3) for number, row in enumerate(ids)]
    first = featcache.extract(model, data, tmp_path, cut="layers.1", batch_size=4)
    again = featcache.extract(model, data[::-1], tmp_path, cut="layers.1", batch_size=4)
    assert (first.report.computed, again.report.reused) == (20, 20)
    expected = featcache.split(model, "layers.1", (ids[:2],)).prefix(ids)
    assert torch.allclose(torch.as_tensor(first.numpy()[0]["layers.1"]), expected["layers.1"], atol=1e-6)


class FirstRowDecides(MaskOfIds):
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.emb(ids)
        x = x * 2 if ids[0, 0] > 14 else x
        return self.fc((x + self.layers[0](x, x, x, need_weights=False)[0]).mean(1))


class AnyRowDecides(MaskOfIds):
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.emb(ids)
        x = x * 2 if ids.eq(1).any() else x
        return self.fc((x + self.layers[0](x, x, x, need_weights=False)[0]).mean(1))


@pytest.mark.parametrize("kind", [FirstRowDecides, AnyRowDecides])
def test_ids_of_other_rows_that_change_a_rows_features_are_refused(kind: type[nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    for seed in range(6):
        ids = torch.randint(2, 30, (16, 6), generator=torch.Generator().manual_seed(seed))
        with pytest.raises(SplitError):
            featcache.extract(
                kind().eval(), [(row, 0) for row in ids], tmp_path / str(seed), cut="layers.0", batch_size=4
            )


class Encoder(nn.Module):
    def __init__(self, **options: bool) -> None:
        super().__init__()
        self.emb, self.fc = nn.Embedding(30, 16), nn.Linear(16, 4)
        self.enc = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 3, **options)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.fc(self.enc(self.emb(ids), src_key_padding_mask=ids == 1).mean(1))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_cut_inside_an_encoder_on_nested_tensors_is_refused_with_ways_that_work() -> None:
    torch.manual_seed(0)
    model, ids = Encoder().eval(), texts(2, 1)
    refused = {cut.name: cut.refused for cut in featcache.cuts(model, (ids,))}
    for cut in ("enc.layers.0", "enc.layers.1"):
        assert refused[cut] is not None
        with pytest.raises(SplitError, match=r"inside of 'enc'.*enable_nested_tensor=False.*that work: emb;"):
            featcache.split(model, cut, (ids,))
    with pytest.raises(SplitError, match=r"enable_nested_tensor=False.*that work: emb;"):
        featcache.split(model, "enc", (ids,))  # what is left out depends on the other rows
    check(model, "emb", (ids,), (texts(5, 3),))
    for cut in ("enc.layers.1", "enc"):
        check(Encoder(enable_nested_tensor=False).eval(), cut, (ids,), (texts(5, 3),))


class Quantised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = torch.ao.quantization.QuantStub(), torch.ao.quantization.DeQuantStub()
        self.conv, self.relu, self.fc = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.dequant(self.relu(self.conv(self.quant(x)))).mean((2, 3)))


def quantised(seed: int) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(seed)
    model, pictures = Quantised().eval(), torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    model.qconfig = torch.ao.quantization.get_default_qconfig("x86")
    model.fc.qconfig = None
    prepared = torch.ao.quantization.prepare(model)
    prepared(pictures)
    return torch.ao.quantization.convert(prepared), pictures


@pytest.mark.filterwarnings("ignore")
def test_quantised_layers_before_the_cut_are_known_by_their_weights_and_their_scale(tmp_path: Path) -> None:
    model, pictures = quantised(0)
    check(model, "dequant", (pictures,))
    data = [(picture, number % 2) for number, picture in enumerate(pictures)]
    assert [
        featcache.extract(quantised(seed)[0], data, tmp_path, cut="dequant").report.computed for seed in (0, 0, 1)
    ] == [4, 0, 4]
    with pytest.raises(SplitError, match=r"holds quint8 numbers.*that work: dequant"):
        featcache.split(model, "relu", (pictures,))


@pytest.mark.filterwarnings("ignore")
def test_dynamic_quantisation_before_the_cut_is_refused_since_its_scale_is_the_batchs() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    model = torch.ao.quantization.quantize_dynamic(model, {"0"}, dtype=torch.qint8)
    with pytest.raises(SplitError, match="Dynamic quantisation takes its scale from the whole batch"):
        featcache.split(model, "2", (torch.randn(2, 6),))


class TakesADict(nn.Module):
    """Takes one dict, and writes into it, as the networks of sentence-transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.inner, self.out = nn.Embedding(30, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, features: dict[str, torch.Tensor], **options: object) -> dict[str, torch.Tensor]:
        mask = features["attention_mask"].unsqueeze(-1)
        features.update({"tokens": self.inner(self.emb(features["input_ids"])).relu()})
        features["sentence"] = self.out((features["tokens"] * mask).sum(1) / mask.sum(1))
        return features


def test_a_network_that_takes_one_dict_and_writes_into_it_is_cut_extracted_and_trained(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, ids = TakesADict().eval(), texts(8, 0)
    mask = torch.ones_like(ids)
    mask[1::2, 4:] = 0
    data = [
        ({"input_ids": row, "attention_mask": each}, n % 3) for n, (row, each) in enumerate(zip(ids, mask, strict=True))
    ]
    features = featcache.extract(model, data, tmp_path, cut="inner", batch_size=4)
    batch = {"attention_mask": mask, "input_ids": ids}
    for given in (batch, ({"input_ids": ids, "attention_mask": mask},)):
        made = featcache.split(model, "inner", given)
        frontier = made.prefix(**batch)
        assert torch.equal(frontier["attention_mask"], mask)
        assert torch.allclose(frontier["inner"], model.inner(model.emb(ids)))
        output = made.suffix.eval()(frontier)
        assert torch.allclose(output["sentence"], model(dict(batch))["sentence"])
        assert torch.allclose(torch.as_tensor(features.numpy()[0]["inner"]), frontier["inner"], atol=1e-6)
    assert set(batch) == {"attention_mask", "input_ids"}
    featcache.train_head(made, features, head="linear", epochs=1, device="cpu")


def relative(score: torch.Tensor, batch: object, head: object, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
    return score + (i - j) * 0.1


class Flex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb, self.qkv, self.o, self.fc = (
            nn.Embedding(30, 16),
            nn.Linear(16, 48),
            nn.Linear(16, 16),
            nn.Linear(16, 3),
        )

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.emb(ids)).view(*ids.shape, 3, 2, 8).permute(2, 0, 3, 1, 4)
        attended = flex_attention(q, k, v, score_mod=relative)
        return self.fc(self.o(attended.transpose(1, 2).flatten(2)).mean(1))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("cut", ["emb", "o"])
def test_flexible_attention_that_is_not_compiled_is_one_call(cut: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    with torch.no_grad():  # on a CPU it has no backward pass
        model = Flex().eval()
        made = check(model, cut, (texts(2, 0),), (texts(5, 0),))
        monkeypatch.setattr(relative, "__code__", (lambda score, batch, head, i, j: score + (i - j) * 0.2).__code__)
        changed = featcache.split(model, cut, (texts(2, 0),))
    assert (changed.structure == made.structure) == (cut == "emb")


def test_a_function_that_is_mapped_over_rows_is_refused_with_the_reason() -> None:
    class Mapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.fc = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.inner(torch.vmap(lambda row: row * 2 / row.norm())(x)))

    with pytest.raises(SplitError, match=r"torch\.vmap.*write it for a batch"):
        featcache.split(Mapped().eval(), "inner", (torch.randn(2, 4),))


class Packed(nn.Module):
    """The usual recurrent network over texts: packed, run, and padded again or read at its last step."""

    def __init__(self, padded: bool) -> None:
        super().__init__()
        self.padded = padded
        self.emb, self.proj, self.fc = nn.Embedding(30, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.rnn = nn.LSTM(8, 8, batch_first=True)

    def forward(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        x = self.proj(self.emb(ids))
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        steps, (hidden, _) = self.rnn(packed)
        if self.padded:
            return self.fc(nn.utils.rnn.pad_packed_sequence(steps, batch_first=True)[0].sum(1))
        return self.fc(hidden[-1])


@pytest.mark.parametrize(("padded", "cut"), [(False, "proj"), (True, "proj"), (False, "rnn")])
def test_a_network_that_packs_its_sequences_is_cut_and_extracted(padded: bool, cut: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, ids, lengths = Packed(padded).eval(), texts(12, 0), torch.tensor([6, 4, 5, 2, 6, 1] * 2)
    made = check(model, cut, (ids[:4], lengths[:4]), (ids, lengths))
    data = [((row, length), number % 3) for number, (row, length) in enumerate(zip(ids, lengths, strict=True))]
    features = featcache.extract(model, data, tmp_path, cut=cut, batch_size=4)
    assert features.report.computed == 12
    featcache.train_head(made, features, epochs=1, device="cpu")


def test_packed_sequences_that_cross_a_cut_are_refused_with_cuts_that_work() -> None:
    torch.manual_seed(0)
    with pytest.raises(SplitError, match=r"no dimension of it is the batch.*that work: fc, proj, emb"):
        featcache.split(Packed(True).eval(), "rnn", (texts(4, 0), torch.tensor([6, 4, 5, 2])))


class Draws(nn.Module):
    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where
        self.body, self.mid, self.fc = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x).relu()
        if self.where == "between":
            x = x + torch.randn_like(x)
        x = self.mid(x)
        if self.where == "dropout":
            x = nn.functional.dropout(x, 0.5, training=True)
        if self.where == "latent":
            x = x + torch.randn(len(x), 8)
        return self.fc(x * float(np.random.rand()) if self.where == "numpy" else x)


@pytest.mark.parametrize("where", ["dropout", "latent", "numpy"])
def test_random_numbers_behind_the_cut_in_evaluation_mode_are_drawn_in_every_pass(where: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, rows = Draws(where).eval(), torch.randn(12, 6)
    for cut in ("body", "mid"):
        made = check(model, cut, (rows[:2],), (rows,))
        suffix, frontier = made.suffix.eval(), made.prefix(rows)
        assert not torch.equal(suffix(frontier), suffix(frontier))
    data = [(row, number % 3) for number, row in enumerate(rows)]
    features = featcache.extract(model, data, tmp_path, cut="mid", batch_size=4)
    assert torch.equal(torch.as_tensor(features.numpy()[0]), frontier)
    featcache.train_head(made, features, epochs=1, device="cpu")


def test_random_numbers_before_the_cut_are_refused_and_those_behind_it_are_not() -> None:
    torch.manual_seed(0)
    with pytest.raises(SplitError, match=r"draws random numbers in evaluation mode.*that work: body"):
        featcache.split(Draws("between").eval(), "mid", (torch.randn(2, 6),))
    check(Draws("between").eval(), "body", (torch.randn(2, 6),))


def test_a_network_of_keras_is_refused_with_the_reason() -> None:
    class Functional(nn.Module):
        __module__ = "keras.src.models.functional"

    model = nn.Sequential(Functional(), nn.Linear(6, 2))
    for refused in (
        lambda: featcache.split(model, "1", (torch.randn(2, 6),)),
        lambda: featcache.cuts(model, torch.randn(2, 6)),
    ):
        with pytest.raises(SplitError, match=r"'0' is a network of Keras"):
            refused()


def test_numbers_that_choose_a_path_are_guarded_where_they_are_the_main_input() -> None:
    class Tasks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.emb, self.inner, self.fc = nn.Embedding(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, task: torch.Tensor) -> torch.Tensor:
            x = self.emb(task)
            if (task == 2).any():
                x = torch.where((task == 2)[:, None], x * 2, x)
            return self.fc(self.inner(x).relu())

    torch.manual_seed(0)
    for rows in ([0, 1], [2, 1], [2, 2]):
        made = featcache.split(Tasks().eval(), "inner", (torch.tensor(rows),))
        for batch in ([0, 1, 3], [2, 0, 2], [2], [3]):
            assert made.check(torch.tensor(batch)) <= 1e-6
