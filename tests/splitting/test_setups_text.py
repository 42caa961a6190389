"""Networks over texts and other sequences that people bring: each is cut and gives the network's own values."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn
from torch.nn.attention.flex_attention import flex_attention

import featcache
from featcache.errors import DataError, SplitError, UsageError

from .comparing import check, rows_of, texts

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
        self.score = relative

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.emb(ids)).view(*ids.shape, 3, 2, 8).permute(2, 0, 3, 1, 4)
        attended = flex_attention(q, k, v, score_mod=self.score)
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


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flexible_attention_can_be_listed_and_what_has_no_identity_in_it_is_named() -> None:
    torch.manual_seed(0)
    model, refused = Flex().eval(), Flex().eval()
    lock = threading.Lock()
    refused.score = lambda score, batch, head, i, j: score + (i - j) * (0.1 if lock else 0.2)
    with torch.no_grad():  # on a CPU it has no backward pass
        found = featcache.cuts(model, (texts(2, 0),))
        assert [cut.name for cut in found] == ["emb", "qkv", "o", "fc"]
        assert found[1].flops_share < found[2].flops_share
        with pytest.raises(SplitError, match=r"flex_attention is given a value that cannot be identified: .*lock is"):
            featcache.split(refused, "o", (texts(2, 0),))


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


@pytest.mark.filterwarnings("ignore")
def test_a_sentence_transformer_is_cut_inside_its_network(tmp_path: Path) -> None:
    sentences = pytest.importorskip("sentence_transformers")
    kinds = pytest.importorskip("sentence_transformers.models")
    torch.manual_seed(0)
    sizes = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    transformers.BertModel(transformers.BertConfig(**sizes, intermediate_size=32)).save_pretrained(tmp_path / "bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdef"]
    (tmp_path / "vocab.txt").write_text("\n".join(words), "utf-8")
    transformers.BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "bert")
    parts = [kinds.Transformer(str(tmp_path / "bert")), kinds.Pooling(16)]
    model = sentences.SentenceTransformer(modules=parts, device="cpu").eval()
    batch = {"input_ids": texts(4, 0) % 11, "attention_mask": torch.ones(4, 6, dtype=torch.long)}
    batch["attention_mask"][1, 3:] = 0
    made = check(model, "0.model.encoder.layer.0", batch, {name: each.flip(0) for name, each in batch.items()})
    found = made.suffix.eval()(made.prefix(**batch))["sentence_embedding"]
    assert torch.equal(found, model(dict(batch))["sentence_embedding"])


def test_a_classifier_that_looks_up_padding_among_its_ids_is_extracted_with_full_masks(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "n_positions": 16, "n_embd": 16, "n_layer": 3, "n_head": 2, "num_labels": 3}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    model = transformers.GPT2ForSequenceClassification(transformers.GPT2Config(**sizes, **special)).eval()
    ids = texts(8, 0)
    data = [({"input_ids": row, "attention_mask": torch.ones_like(row)}, n % 3) for n, row in enumerate(ids)]
    for batch_size in (2, 8):
        store = tmp_path / str(batch_size)
        features = featcache.extract(model, data, store, cut="transformer.h.0", batch_size=batch_size)
        assert features.report.computed == 8
    made = check(model, "transformer.h.0", {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    featcache.train_head(made, features, epochs=1, device="cpu")


@pytest.mark.parametrize("nest", [lambda row: {"features": row}, lambda row: (row,)])
def test_nested_samples_are_refused_with_the_form_that_works(nest: Callable[[object], object], tmp_path: Path) -> None:
    row = {"input_ids": texts(1, 0)[0], "attention_mask": torch.ones(6, dtype=torch.long)}
    with pytest.raises(DataError, match="is nested: give a tensor, a tuple or a flat dict"):
        featcache.extract(TakesADict().eval(), [(nest(row), 0)] * 4, tmp_path, cut="inner")


class Overwrites(nn.Module):
    """Takes away, replaces or changes what it is given."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.inner, self.fc = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, given: dict[str, torch.Tensor]) -> torch.Tensor:
        if self.how == "takes away":
            more = given.pop("y")
            return self.fc(self.inner(given["x"]) + more)
        if self.how == "replaces":
            given["x"] = self.inner(given["x"])
            return self.fc(given["x"].relu())
        return self.fc(self.inner(given["x"].mul_(2)))


@pytest.mark.parametrize("how", ["takes away", "replaces", "changes"])
def test_a_network_that_overwrites_its_input_is_given_a_copy_in_every_run(how: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, given = Overwrites(how).eval(), {"x": torch.randn(8, 4), "y": torch.randn(8, 4)}
    made = featcache.split(model, "inner", ({name: each[:2] for name, each in given.items()},))
    kept = {name: each.clone() for name, each in given.items()}
    assert made.check(**given) <= 1e-6
    frontier = made.prefix(**given)
    assert all(torch.equal(given[name], kept[name]) for name in kept)
    data = [({name: each[row] for name, each in kept.items()}, row % 3) for row in range(8)]
    features = featcache.extract(model, data, tmp_path, cut="inner", batch_size=4)
    stored, expected = features.numpy()[0], frontier["inner"] if isinstance(frontier, dict) else frontier
    found = stored["inner"] if isinstance(stored, dict) else stored
    assert torch.allclose(torch.as_tensor(found), expected, atol=1e-6)


def test_an_encoder_with_relative_positions_is_extracted_with_masks(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 30, "d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 2, "num_heads": 2, "pad_token_id": 0}
    model, ids = transformers.T5EncoderModel(transformers.T5Config(**sizes)).eval(), texts(8, 0)
    mask = torch.ones_like(ids)
    mask[::3, 4:] = 0
    data = [({"input_ids": row, "attention_mask": each}, 0) for row, each in zip(ids, mask, strict=True)]
    features = featcache.extract(model, data, tmp_path, cut="encoder.block.0", batch_size=4)
    assert features.report.computed == 8


def test_a_path_that_depends_on_ids_otherwise_than_by_a_comparison_is_refused() -> None:
    class Chosen(MaskOfIds):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            x = self.emb(ids)
            for number in ids[:, 0].unique().tolist():
                x = x + number
            return self.fc((x + self.layers[0](x, x, x, need_weights=False)[0]).mean(1))

    with pytest.raises(SplitError, match=r"Python value is taken from a tensor.*that work: emb"):
        featcache.split(Chosen().eval(), "layers.0", (torch.tensor([[3, 4, 5], [3, 7, 8]]),))


def test_the_order_of_samples_does_not_name_a_set_where_a_batch_of_any_keywords_holds_a_task(tmp_path: Path) -> None:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers, self.fc = nn.ModuleList(nn.Linear(8, 8) for _ in range(3)), nn.Linear(8, 3)
            self.inner = nn.Linear(8, 8)

        def forward(self, **batch: torch.Tensor) -> torch.Tensor:
            x = batch["x"]
            found = torch.zeros_like(x)
            for number in batch["task"].unique().tolist():
                chosen = batch["task"] == number
                found[chosen] = self.layers[number](x[chosen])
            return self.fc(self.inner(found))

    torch.manual_seed(0)
    model, rows = Experts().eval(), torch.randn(4, 8)
    names = {
        featcache.split(model, "inner", {"x": rows[:2], "task": torch.tensor(tasks)}).structure
        for tasks in ([0, 1], [1, 0])
    }
    assert len(names) == 1


def test_samples_whose_keys_are_in_another_order_are_told_by_name(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.fc = nn.Linear(4, 5), nn.Linear(3, 5), nn.Linear(5, 3)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.fc(self.a(x) + self.b(y))

    torch.manual_seed(0)
    model, x, y = Two().eval(), torch.randn(6, 4), torch.randn(6, 3)
    data = [({"x": x[n], "y": y[n]} if n % 2 else {"y": y[n], "x": x[n]}, n % 3) for n in range(6)]
    features = featcache.extract(model, data, tmp_path, cut="b", batch_size=3)
    stored, expected = features.numpy()[0], featcache.split(model, "b", {"x": x, "y": y}).prefix(x=x, y=y)
    assert isinstance(expected, dict)
    assert all(torch.allclose(torch.as_tensor(stored[name]), expected[name], atol=1e-6) for name in expected)


def test_features_that_vary_in_length_ask_for_a_split_that_knows_another_length(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, ids = MaskOfIds().eval(), texts(8, 0)
    rows = [row[: 6 - number % 3] for number, row in enumerate(ids)]
    masked = [({"ids": row, "mask": torch.ones_like(row)}, number % 3) for number, row in enumerate(rows)]

    class Masked(MaskOfIds):
        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            x = self.emb(ids)
            x = x + self.layers[0](x, x, x, key_padding_mask=mask == 0, need_weights=False)[0]
            return self.fc((x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))

    model = Masked().eval()
    features = featcache.extract(model, masked, tmp_path, cut="layers.0", batch_size=4)
    example = {"ids": ids[:2], "mask": torch.ones_like(ids[:2])}
    with pytest.raises(UsageError, match=r"vary in length.*other_length"):
        featcache.train_head(featcache.split(model, "layers.0", example), features, epochs=1)
    shorter = {name: value[:, :4] for name, value in example.items()}
    featcache.train_head(featcache.split(model, "layers.0", example, shorter), features, epochs=1, device="cpu")
