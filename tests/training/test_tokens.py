"""One class a token: trained as the usual loop does, ignored tokens not counted, padding left out."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from torch import nn
from torch.nn import functional

import featcache
from featcache.errors import DataError, HeadError, UsageError
from featcache.heads import new_network

ROWS, WIDTH, CLASSES = 32, 8, 3
EQUAL = {"batch_size": 8, "learning_rate": 3e-3, "validation": 0, "seed": 5, "epochs": 4, "lr_schedule": "constant"}


class Tagger(nn.Module):
    """A small masked transformer with scores of each token."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, WIDTH)
        self.layers = nn.ModuleList(Block() for _ in range(2))
        self.dropout = nn.Dropout(0.1)
        self.classifier = nn.Linear(WIDTH, 5)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden = self.embedding(input_ids)
        for layer in self.layers:
            hidden = layer(hidden, attention_mask)
        return self.classifier(self.dropout(hidden))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True, bias=False)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        mixed, _ = self.attention(hidden, hidden, hidden, key_padding_mask=mask == 0, need_weights=False)
        return self.norm(hidden + mixed)


class Tagged(torch.utils.data.Dataset):
    """Token ids with a class for each: that of the id, but for the first token, which does not count."""

    def __init__(self, lengths: list[int], classes: list[str] | None = None) -> None:
        generator = np.random.default_rng(0)
        self.tokens = [torch.from_numpy(generator.integers(0, 40, length)) for length in lengths]
        self.tags = [(tokens % CLASSES).numpy() for tokens in self.tokens]
        for tags in self.tags:
            tags[0] = -100
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int):
        tokens = self.tokens[index]
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}, self.tags[index]

    def batch(self, rows: list[int]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        def padded(values: list[torch.Tensor], value: int) -> torch.Tensor:
            return nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=value)

        tokens = [self.tokens[row] for row in rows]
        inputs = {
            "input_ids": padded(tokens, 0),
            "attention_mask": padded([torch.ones_like(each) for each in tokens], 0),
        }
        return inputs, padded([torch.from_numpy(self.tags[row]) for row in rows], -100)


VARYING = [3 + number % 7 for number in range(ROWS)]


def cached(samples: Tagged, tmp_path, cut: str = "layers.0"):
    torch.manual_seed(0)
    model = Tagger().eval()
    varies = len({*map(len, samples.tokens)}) > 1
    split = featcache.split(model, cut, samples.batch([0, 1])[0], samples.batch([2, 3])[0] if varies else None)
    return split, featcache.extract(split, samples, str(tmp_path / "store"), batch_size=8)


def usual(split, features, samples: Tagged, loss_of: Callable[..., torch.Tensor], trained=("layers.1", "classifier")):
    """Return the network that the usual loop trains: cross entropy over all tokens of padded batches."""
    model = new_network(split, CLASSES, 5).model
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(trained))
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], 3e-3, weight_decay=0.01)
    loader = features.loader(8, seed=5)
    torch.manual_seed(5)
    for epoch in range(4):
        model.eval()
        for name in trained:
            model.get_submodule(name).train()
        model.dropout.train()
        order = loader.order(epoch)
        for start in range(0, len(order), 8):
            rows = order[start : start + 8].tolist()
            inputs, tags = samples.batch(rows)
            loss = loss_of(model(**inputs).reshape(-1, CLASSES), tags.reshape(-1), rows)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def plain(output: torch.Tensor, tags: torch.Tensor, _: list[int]) -> torch.Tensor:
    return functional.cross_entropy(output, tags, ignore_index=-100)


def differing(trained: featcache.TrainedHead, expected: nn.Module, tolerance: float = 0.0) -> list[str]:
    mine = trained.model.state_dict()
    return [
        name
        for name, value in expected.state_dict().items()
        if not torch.allclose(mine[name], value, rtol=0, atol=tolerance)
    ]


def test_tokens_of_samples_of_one_length_train_as_the_usual_loop_does_bit_for_bit(tmp_path) -> None:
    samples = Tagged([6] * ROWS)
    split, features = cached(samples, tmp_path)
    trained = featcache.train_head(split, features, **EQUAL)
    assert (trained.task.kind, trained.classes) == ("token", ["0", "1", "2"])
    assert differing(trained, usual(split, features, samples, plain)) == []


def test_tokens_of_samples_that_vary_in_length_train_as_padded_batches_do(tmp_path) -> None:
    samples = Tagged(VARYING)
    split, features = cached(samples, tmp_path)
    assert features.targets.shape == (ROWS, 9)
    assert features.targets[0].tolist() == [*samples.tags[0].tolist(), *[-100] * 6]
    trained = featcache.train_head(split, features, **EQUAL)
    assert differing(trained, usual(split, features, samples, plain), 1e-5) == []


def test_behind_a_cut_that_no_mask_crosses_tokens_train_as_padded_batches_do(tmp_path) -> None:
    samples = Tagged(VARYING)
    split, features = cached(samples, tmp_path, "layers.1")
    assert split.side_inputs == ()
    trained = featcache.train_head(split, features, **EQUAL)
    assert differing(trained, usual(split, features, samples, plain, ("classifier",)), 1e-5) == []


class Neighbourly(Tagger):
    """Looks at the next token, which is padding behind a sample's last one."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden = self.embedding(input_ids)
        for layer in self.layers:
            hidden = layer(hidden, attention_mask)
        return self.classifier(self.dropout(self.last(hidden.mT).mT))


def test_tokens_that_padding_reaches_behind_the_cut_are_refused(tmp_path) -> None:
    samples = Tagged(VARYING)
    split = featcache.split(Neighbourly().eval(), "layers.1", samples.batch([0, 1])[0], samples.batch([2, 3])[0])
    features = featcache.extract(split, samples, str(tmp_path / "store"), batch_size=8)
    with pytest.raises(HeadError, match="looks at padded places"):
        featcache.train_head(split, features, **EQUAL)


def test_a_trained_last_layer_behind_frozen_ones_equals_the_usual_loop_too(tmp_path) -> None:
    samples = Tagged(VARYING)
    split, features = cached(samples, tmp_path)
    trained = featcache.train_head(split, features, trainable=["classifier"], **EQUAL)
    assert differing(trained, usual(split, features, samples, plain, ("classifier",)), 1e-5) == []


def test_weights_of_samples_and_classes_weigh_tokens(tmp_path) -> None:
    samples = Tagged(VARYING)
    split, features = cached(samples, tmp_path)
    given, of_classes = np.linspace(0, 2, ROWS), torch.tensor([1.0, 2.0, 0.5])
    scaled = torch.from_numpy(given / given.mean()).float()

    def weighted(output: torch.Tensor, tags: torch.Tensor, rows: list[int]) -> torch.Tensor:
        each = functional.cross_entropy(output, tags, of_classes, reduction="none").view(len(rows), -1)
        return (each * scaled[rows][:, None]).sum() / of_classes[tags[tags != -100]].sum()

    trained = featcache.train_head(split, features, sample_weights=given, class_weights=of_classes, **EQUAL)
    assert differing(trained, usual(split, features, samples, weighted), 1e-5) == []
    counts = np.bincount(np.concatenate([tags[1:] for tags in samples.tags]))
    balanced = torch.from_numpy(counts.sum() / counts / CLASSES).float()
    trained = featcache.train_head(split, features, class_weights="balanced", **EQUAL)
    expected = usual(split, features, samples, lambda out, tags, _: functional.cross_entropy(out, tags, balanced))
    assert differing(trained, expected, 1e-5) == []


@pytest.mark.parametrize("head", ["suffix", "linear"])
def test_heads_of_tokens_learn_are_saved_and_predict_each_samples_own_tokens(tmp_path, head: str) -> None:
    samples = Tagged(VARYING, ["zero", "one", "two"])
    split, features = cached(samples, tmp_path)
    trained = featcache.train_head(split, features, head=head, epochs=30, learning_rate=0.02, metric="f1_macro")
    assert trained.metrics.accuracy > 0.4
    again = featcache.load_head(trained.save(tmp_path / "head"), split)
    assert again.metrics == trained.metrics
    found = again.predict_values(features)
    assert found.shape == (ROWS, 9)
    assert [(row >= 0).sum() for row in found] == VARYING
    predicted = featcache.predict(again, samples, batch_size=5)
    assert np.array_equal(predicted.values, found)
    assert predicted.labels[0] == " ".join(again.classes[number] for number in found[0, :3])
    assert predicted.to_csv().splitlines()[:2] == ["name,labels", f"item 0,{predicted.labels[0]}"]
    assert json.loads(predicted.to_json())[1]["labels"] == predicted.labels[1].split()
    with pytest.raises(UsageError, match="predict_values"):
        trained.predict_proba(features)


def test_metrics_of_tokens_are_scikit_learns_over_the_tokens_that_count(tmp_path) -> None:
    samples = Tagged(VARYING)
    split, features = cached(samples, tmp_path)
    trained = featcache.train_head(split, features, epochs=3)
    measured, found = trained.evaluate(features), trained.predict_values(features)
    true = np.concatenate([tags[1:] for tags in samples.tags])
    said = np.concatenate([row[1:length] for row, length in zip(found, VARYING, strict=True)])
    assert (measured.samples, measured.tokens) == (ROWS, len(true))
    assert measured.accuracy == pytest.approx((true == said).mean())
    assert measured.macro_f1 == pytest.approx(f1_score(true, said, average="macro"))
    judged = trained.validation_metrics
    assert max(record.validation_accuracy for record in trained.history) >= judged.accuracy
    assert judged.accuracy in [pytest.approx(record.validation_accuracy) for record in trained.history]


def test_another_number_may_stand_for_tokens_that_do_not_count(tmp_path) -> None:
    samples, other = Tagged(VARYING), Tagged(VARYING)
    for tags in other.tags:
        tags[0] = 77
    split, features = cached(samples, tmp_path / "one")
    marked = cached(other, tmp_path / "two")[1]
    expected = featcache.train_head(split, features, **EQUAL)
    assert differing(featcache.train_head(split, marked, ignore_index=77, **EQUAL), expected.model) == []


def test_rows_of_zeros_and_ones_are_labels_unless_the_task_is_named(tmp_path) -> None:
    samples = Tagged([6] * ROWS)
    samples.tags = [tags.clip(0, 1) for tags in samples.tags]
    split, features = cached(samples, tmp_path)
    with pytest.raises(HeadError, match=r"shape \[\d+, 6, 6\], but multi_label targets need.*--task"):
        featcache.train_head(split, features, epochs=1)
    assert featcache.train_head(split, features, epochs=1, task="token").classes == ["0", "1"]


def test_targets_that_are_not_one_a_token_are_refused_in_one_line(tmp_path) -> None:
    few, many, pooled = Tagged([6] * ROWS), Tagged(VARYING), Tagged([6] * ROWS)
    few.tags = [tags[1:] for tags in few.tags]
    many.tags = [np.append(tags, 1) if number % 7 < 3 else tags for number, tags in enumerate(many.tags)]
    pooled.tags = [tags[:1] + 101 for tags in pooled.tags]
    for name, samples, error, words, options in (
        ("few", few, HeadError, "gives 6 tokens a sample, but there are targets for 5", {}),
        ("many", many, HeadError, "more tokens than it has", {"batch_size": 32}),
        ("pooled", pooled, DataError, "not dense", {"task": "dense"}),
        ("sklearn", Tagged(VARYING), UsageError, "use suffix or linear", {"head": "sklearn:LogisticRegression"}),
        ("label", Tagged(VARYING), DataError, "not class numbers", {"task": "single_label"}),
    ):
        split, features = cached(samples, tmp_path / name)
        with pytest.raises(error, match=words) as caught:
            featcache.train_head(split, features, epochs=1, **options)
        assert "\n" not in str(caught.value)


def test_labels_that_cross_the_cut_with_padding_are_no_loss_to_train_by(tmp_path) -> None:
    class WithLoss(Tagger):
        def forward(self, input_ids, attention_mask, labels) -> dict[str, torch.Tensor]:
            logits = super().forward(input_ids, attention_mask)
            return {"loss": functional.cross_entropy(logits.flatten(0, 1), labels.flatten()), "logits": logits}

    class Labelled(Tagged):
        def __getitem__(self, index: int):
            inputs, tags = super().__getitem__(index)
            return {**inputs, "labels": torch.from_numpy(tags)}, tags

    samples = Labelled(VARYING)
    examples = [{**inputs, "labels": tags} for inputs, tags in (samples.batch([0, 1]), samples.batch([2, 3]))]
    split = featcache.split(WithLoss().eval(), "layers.0", *examples)
    features = featcache.extract(split, samples, str(tmp_path / "store"))
    with pytest.raises(HeadError, match=r"'labels'.*padded with 0.*as targets"):
        featcache.train_head(split, features, loss=lambda output, _: output["loss"], epochs=1)
    assert featcache.train_head(split, features, epochs=1).task.kind == "token"


def test_a_network_in_half_precision_trains_on_tokens_of_samples_that_vary_in_length(tmp_path) -> None:
    samples = Tagged(VARYING)
    model = Tagger().to(torch.bfloat16).eval()
    split = featcache.split(model, "layers.0", samples.batch([0, 1])[0], samples.batch([2, 3])[0])
    features = featcache.extract(split, samples, str(tmp_path / "store"))
    trained = featcache.train_head(
        split, features, trainable=["class*"], learning_rates={"classifier.*": 0.1}, epochs=2
    )
    assert trained.model.classifier.weight.dtype == torch.bfloat16
    assert trained.predict_values(features).shape == (ROWS, 9)


def test_an_output_that_varies_in_length_is_had_batch_by_batch(tmp_path) -> None:
    samples = Tagged(VARYING)
    split, features = cached(samples, tmp_path)

    def loss(output: torch.Tensor, tags: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(output.flatten(0, 1), tags[:, : output.shape[1]].flatten())

    trained = featcache.train_head(split, features, task="output", loss=loss, epochs=1, batch_size=8)
    with pytest.raises(HeadError, match=r"head\.layers on batches"):
        featcache.predict(trained, samples, batch_size=4)
