"""What a head learns besides single labels, and how well scikit-learn's scorers say it does."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import featcache
from featcache.errors import DataError, HeadError, UnknownNameError, UsageError
from featcache.heads.network import new_network

from ..conftest import Items, SmallNet

ROWS = 48


class Segmenter(nn.Module):
    """As torchvision's segmentation networks: a dict with ``out`` at the input's size, and an auxiliary classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.classifier = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 21, 1))
        self.aux_classifier = nn.Conv2d(8, 21, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        low = self.stem(x)
        scores = self.classifier(self.body(low))
        size = x.shape[-2:]
        return {
            "out": functional.interpolate(scores, size=size, mode="bilinear", align_corners=False),
            "aux": functional.interpolate(self.aux_classifier(low), size=size, mode="bilinear", align_corners=False),
        }


@pytest.fixture
def inputs() -> torch.Tensor:
    """Images whose channels are brighter or darker, each by itself."""
    generator = torch.Generator().manual_seed(2)
    bright = torch.randint(0, 2, (ROWS, 3, 1, 1), generator=generator) * 2 - 1.0
    return bright + 0.3 * torch.randn(ROWS, 3, 12, 12, generator=generator)


@pytest.fixture
def labels(inputs) -> np.ndarray:
    return (inputs.mean((2, 3)) > 0).long().numpy()


@pytest.fixture
def values(inputs) -> np.ndarray:
    return inputs.mean((2, 3)).numpy()[:, :2]


def cached(inputs, targets, tmp_path, cut: str = "block", model: nn.Module | None = None, classes=None):
    torch.manual_seed(0)
    model = (model or SmallNet()).train()
    with torch.no_grad():
        for _ in range(30):  # BatchNorm statistics of this data, as a pretrained network would have some
            model(inputs)
    split = featcache.split(model.eval(), cut, (inputs[:2],))
    return split, featcache.extract(split, Items(inputs, targets, classes), str(tmp_path / "store"), batch_size=12)


def usual(split, features, inputs, targets, outputs: int, loss_of, frozen: tuple[str, ...], epochs: int) -> nn.Module:
    model = new_network(split, outputs, 5).model
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen))
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], 3e-3, weight_decay=0.01)
    loader = features.loader(12, seed=5)
    torch.manual_seed(5)
    for epoch in range(epochs):
        model.train()
        for name, module in model.named_modules():
            if name.startswith(frozen):
                module.eval()
        for rows in torch.from_numpy(loader.order(epoch)).split(12):
            loss = loss_of(model(inputs[rows]), torch.from_numpy(targets)[rows], rows)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


EQUAL = {"batch_size": 12, "learning_rate": 3e-3, "validation": 0, "seed": 5, "epochs": 6, "lr_schedule": "constant"}


def assert_same(trained: featcache.TrainedHead, expected: nn.Module) -> None:
    mine, theirs = trained.model.state_dict(), expected.state_dict()
    assert [name for name in theirs if not torch.equal(mine[name], theirs[name])] == []


def test_several_labels_train_as_the_usual_loop_with_bce_does(inputs, labels, tmp_path) -> None:
    split, features = cached(inputs, labels, tmp_path)
    loss = nn.BCEWithLogitsLoss()
    expected = usual(
        split, features, inputs, labels, 3, lambda out, true, _: loss(out, true.float()), ("stem", "block"), 6
    )
    trained = featcache.train_head(split, features, **EQUAL)
    assert trained.task.kind == "multi_label"
    assert_same(trained, expected)


@pytest.mark.parametrize("scalar", [True, False])
def test_values_train_as_the_usual_loop_with_mse_does(inputs, values, tmp_path, scalar: bool) -> None:
    targets = values[:, 0] if scalar else values
    split, features = cached(inputs, targets, tmp_path)
    loss = nn.MSELoss()
    expected = usual(
        split, features, inputs, targets, 1 if scalar else 2,
        lambda out, true, _: loss(out[:, 0] if scalar else out, true), ("stem", "block"), 6,
    )  # fmt: skip
    trained = featcache.train_head(split, features, **EQUAL)
    assert trained.task.kind == "regression"
    assert_same(trained, expected)


def test_dense_targets_train_as_the_usual_loop_does_and_ignored_pixels_do_not_count(inputs, tmp_path) -> None:
    masks = (inputs.mean(1) > 0).long()
    masks[:, :2] = 255
    split, features = cached(inputs, masks.numpy(), tmp_path, "stem", Segmenter(), ["dark", "bright"])
    loss = nn.CrossEntropyLoss(ignore_index=255)
    expected = usual(
        split, features, inputs, masks.numpy(), 2, lambda out, true, _: loss(out["out"], true), ("stem",), 6
    )
    trained = featcache.train_head(split, features, **EQUAL)
    assert_same(trained, expected)
    assert trained.model.aux_classifier.out_channels == 21


def test_sample_weights_weigh_each_samples_loss_and_ones_change_nothing(inputs, labels, tmp_path) -> None:
    targets = labels[:, 0]
    split, features = cached(inputs, targets, tmp_path)
    weights = np.linspace(0, 2, ROWS)
    scaled = torch.from_numpy(weights / weights.mean()).float()

    def weighted(output: torch.Tensor, true: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return (functional.cross_entropy(output, true, reduction="none") * scaled[rows]).sum() / len(rows)

    expected = usual(split, features, inputs, targets, 2, weighted, ("stem", "block"), 6)
    trained = featcache.train_head(split, features, sample_weights=weights, **EQUAL)
    assert_same(trained, expected)
    plain = featcache.train_head(split, features, **EQUAL).model.state_dict()
    ones = featcache.train_head(split, features, sample_weights=np.ones(ROWS), **EQUAL).model.state_dict()
    assert all(torch.allclose(value, plain[name], atol=1e-5) for name, value in ones.items())
    for wrong in (np.ones(3), -np.ones(ROWS), ["a"] * ROWS, np.zeros(ROWS)):
        with pytest.raises(UsageError, match="sample_weights"):
            featcache.train_head(split, features, sample_weights=wrong)


@pytest.mark.slow
@pytest.mark.parametrize(
    "head", ["suffix", "linear", "sklearn:LogisticRegression", "sklearn:RandomForestClassifier", "sklearn:LinearSVC"]
)
def test_every_head_learns_several_labels_and_saves_them(inputs, labels, tmp_path, head: str) -> None:
    rare = np.concatenate([labels, np.zeros((ROWS, 1), dtype=np.int64)], axis=1)
    split, features = cached(inputs, rare, tmp_path, "tail", classes=["red", "green", "blue", "never"])
    trained = featcache.train_head(split, features, head=head, epochs=60, learning_rate=0.03)
    assert trained.metrics.micro_f1 > 0.6
    again = featcache.load_head(trained.save(tmp_path / "head"), split)
    assert again.metrics == trained.metrics
    assert np.array_equal(again.predict_values(features), trained.predict_values(features))
    found = featcache.predict(again, Items(inputs, rare))
    assert found.values.shape == found.probabilities.shape == (ROWS, 4)
    assert np.allclose(found.probabilities, trained.predict_proba(features), atol=1e-5)
    assert np.array_equal(found.values, trained.predict_values(features))
    assert found.to_csv().splitlines()[0] == "name,labels,red,green,blue,never"
    first = json.loads(found.to_json())[0]
    assert first["labels"] == [name for name, there in zip(again.classes, found.values[0], strict=True) if there]
    if trained.estimator is not None:
        vectors = features.numpy()[0].mean(axis=(2, 3))
        assert np.array_equal(trained.estimator.predict(vectors), trained.predict_values(features))


@pytest.mark.slow
@pytest.mark.parametrize("head", ["suffix", "linear", "sklearn:Ridge", "sklearn:SVR", "sklearn:KNeighborsRegressor"])
@pytest.mark.parametrize("scalar", [True, False])
def test_every_head_learns_values_and_saves_them(inputs, values, tmp_path, head: str, scalar: bool) -> None:
    targets = values[:, 0] if scalar else values
    split, features = cached(inputs, targets, tmp_path, "tail")
    trained = featcache.train_head(split, features, head=head, epochs=80, learning_rate=0.03)
    assert trained.metrics.r2 > 0.3
    folder = trained.save(tmp_path / "head")
    assert json.loads((folder / "head.json").read_text())["format"] == 2
    again = featcache.load_head(folder, split)
    found = featcache.predict(again, Items(inputs, targets))
    assert found.values.shape == targets.shape
    assert np.allclose(found.values, trained.predict_values(features), atol=1e-4)
    assert found.to_csv().splitlines()[0] == ("name,value" if scalar else "name,value 0,value 1")
    assert list(json.loads(found.to_json())[0]) == ["name", "values"]
    with pytest.raises(UsageError, match="predict_values"):
        trained.predict_proba(features)


def test_dense_predictions_are_masks_and_their_metrics_are_scikit_learns(inputs, tmp_path) -> None:
    from sklearn.metrics import jaccard_score

    masks = (inputs.mean(1) > 0).long().numpy().astype(np.uint8)
    split, features = cached(inputs, masks, tmp_path, "stem", Segmenter(), ["dark", "bright"])
    trained = featcache.train_head(split, features, epochs=8, learning_rate=0.01, metric="f1_macro")
    assert trained.metrics.pixel_accuracy > 0.6
    assert trained.metrics.scores["f1_macro"] > 0.6
    again = featcache.load_head(trained.save(tmp_path / "head"), split)
    found = featcache.predict(again, Items(inputs, masks))
    assert found.values.shape == masks.shape
    assert found.to_csv().splitlines()[0] == "name,label,dark,bright"
    everything = featcache.train_head(split, features.subset(np.arange(40)), epochs=1, validation=0)
    judged = featcache.train_head(split, features, epochs=1).validation_metrics
    assert judged.samples == 10
    assert everything.metrics is None
    iou = jaccard_score(masks.ravel(), found.values.ravel(), average="macro")
    assert iou == pytest.approx(trained.metrics.mean_iou, abs=0.15)
    with pytest.raises(UsageError, match="use suffix or linear"):
        featcache.train_head(split, features, head="sklearn:LogisticRegression")


def test_a_mask_of_another_size_than_the_output_is_refused_with_both_sizes(inputs, tmp_path) -> None:
    masks = (inputs.mean(1) > 0).long().numpy()[:, ::2, ::2]
    split, features = cached(inputs, masks, tmp_path, "stem", Segmenter())
    with pytest.raises(HeadError, match=r"12×12.*6×6"):
        featcache.train_head(split, features)
    split, features = cached(inputs, masks, tmp_path / "other")
    with pytest.raises(HeadError, match=r"shape \[\d+, 2\], but dense targets need"):
        featcache.train_head(split, features)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "metric"),
    [
        ("single", "f1_macro"), ("single", "roc_auc"), ("single", "neg_log_loss"), ("single", "balanced_accuracy"),
        ("labels", "f1_micro"), ("labels", "average_precision"), ("labels", "roc_auc"), ("labels", "accuracy"),
        ("values", "r2"), ("values", "neg_mean_absolute_error"),
    ],
)  # fmt: skip
def test_any_scorer_chooses_the_best_epoch_and_is_reported(inputs, labels, values, tmp_path, kind, metric) -> None:
    targets = {"single": labels[:, 0], "labels": labels, "values": values}[kind]
    split, features = cached(inputs, targets, tmp_path)
    trained = featcache.train_head(split, features, epochs=6, metric=metric, learning_rate=0.02)
    followed = [record.validation_score for record in trained.history]
    assert trained.validation_metrics.scores[metric] == pytest.approx(max(followed), abs=1e-6)
    if kind == "single" and metric == "roc_auc":
        rows = featcache.training.rows.divide(features, trained.options, trained.task).validation
        from sklearn.metrics import roc_auc_score

        expected = roc_auc_score(rows.targets, trained.predict_proba(rows)[:, 1])
        assert trained.validation_metrics.scores[metric] == pytest.approx(expected)


def test_unknown_or_unfitting_scorers_and_tasks_are_refused_in_one_line(inputs, labels, values, tmp_path) -> None:
    split, features = cached(inputs, values, tmp_path)
    for error, words, options in (
        (UnknownNameError, "'accuracy'", {"metric": "acuracy"}),
        (UsageError, "another --metric", {"metric": "roc_auc"}),
        (UsageError, "validation rows", {"metric": "r2", "validation": 0}),
        (UsageError, "'regression'", {"task": "regresion"}),
        (DataError, "not class numbers", {"task": "single_label"}),
        (DataError, "a row of 0 and 1", {"task": "multi_label"}),
        (DataError, r"\(height, width\)", {"task": "dense"}),
        (UsageError, "class_weights", {"class_weights": "balanced"}),
        (UsageError, "label_smoothing", {"label_smoothing": 0.1}),
        (UnknownNameError, "no regressor 'LogisticRegression'", {"head": "sklearn:LogisticRegression"}),
    ):
        with pytest.raises(error, match=words) as caught:
            featcache.train_head(split, features, epochs=2, **options)
        assert "\n" not in str(caught.value)
    bad = values.copy()
    bad[7, 1] = np.nan
    with pytest.raises(DataError, match="target 7"):
        featcache.train_head(split, cached(inputs, bad, tmp_path)[1])
    three = cached(inputs, labels, tmp_path, classes=["a", "b"])[1]
    with pytest.raises(DataError, match="3 values a sample, but there are 2 names"):
        featcache.train_head(split, three)
    odd = cached(inputs, labels * 3, tmp_path)[1]
    with pytest.raises(HeadError, match="token targets need"):
        featcache.train_head(split, odd)
    assert featcache.train_head(split, odd, task="regression", epochs=1).task.kind == "regression"


def test_whole_numbers_are_values_where_the_task_says_so(inputs, labels, tmp_path) -> None:
    split, features = cached(inputs, labels.sum(1), tmp_path)
    assert featcache.train_head(split, features, epochs=1).task.kind == "single_label"
    trained = featcache.train_head(split, features, epochs=40, task="regression", learning_rate=0.02)
    assert trained.predict_values(features).shape == (ROWS,)
    assert trained.metrics.mae < 1.5


def test_balanced_weights_of_labels_raise_the_rare_ones(inputs, labels, tmp_path) -> None:
    split, features = cached(inputs, labels, tmp_path)
    plain = featcache.train_head(split, features, epochs=10, validation=0)
    weighted = featcache.train_head(split, features, epochs=10, validation=0, class_weights=[9.0, 1.0, 1.0])
    shares = [trained.predict_proba(features)[:, 0].mean() for trained in (plain, weighted)]
    assert shares[1] > shares[0]
    balanced = featcache.train_head(split, features, epochs=1, validation=0, class_weights="balanced")
    assert np.isfinite(balanced.predict_proba(features)).all()


def test_a_head_of_single_labels_that_was_saved_before_there_were_tasks_still_loads(inputs, labels, tmp_path) -> None:
    split, features = cached(inputs, labels[:, 0], tmp_path)
    trained = featcache.train_head(split, features, epochs=1, lr_schedule="constant")
    folder = trained.save(tmp_path / "head")
    described = json.loads((folder / "head.json").read_text())
    assert described["format"] == 1
    for name in ("task", "metric", "ignore_index"):
        described["options"].pop(name)
    del described["task"], described["metrics"]["scores"], described["validation_metrics"]["scores"]
    described["options"]["schedule"] = described["options"].pop("lr_schedule")
    for record in described["history"]:
        del record["validation_score"], record["stage"]
    (folder / "head.json").write_text(json.dumps(described))
    (folder / "seal.json").unlink()  # there were no seals then
    again = featcache.load_head(folder, split)
    assert again.options.lr_schedule == "constant"
    assert np.array_equal(again.predict_proba(features), trained.predict_proba(features))


@pytest.mark.slow
def test_other_classes_than_the_heads_are_refused_by_name(inputs, labels, tmp_path) -> None:
    split, features = cached(inputs, labels[:, 0], tmp_path, classes=["dark", "bright"])
    trained = featcache.train_head(split, features, epochs=1)
    assert trained.evaluate(features).samples == ROWS
    for classes, words in (
        (["dark", "red"], "number 1 is 'red' there and 'bright' here"),
        (["bright", "dark"], "number 0 is 'bright' there"),
        (["dark", "bright", "red"], "number 2 is 'red' there and 'nothing' here"),
    ):
        with pytest.raises(DataError, match=words) as caught:
            featcache.predict(trained, Items(inputs, labels[:, 0], classes))
        assert "\n" not in str(caught.value)
        with pytest.raises(DataError, match=words):
            trained.evaluate(cached(inputs, labels[:, 0], tmp_path, classes=classes)[1])
    with pytest.raises(DataError, match="not class numbers"):
        trained.evaluate(cached(inputs, labels, tmp_path)[1])
    assert len(featcache.predict(trained, Items(inputs, labels[:, 0], ["dark", "bright"])).labels) == ROWS


@pytest.mark.slow
def test_a_linear_head_learns_masks_at_each_place_of_a_map(inputs, labels, tmp_path) -> None:
    masks = labels[:, :1, None].repeat(12, 1).repeat(12, 2)
    masks[:, :6] = 1 - masks[:, :6]
    inputs[:, 0, :6] *= -1
    split, features = cached(inputs, masks, tmp_path, "stem")  # a classifier, half the size of the masks there
    trained = featcache.train_head(split, features, head="linear", epochs=60, metric="jaccard_macro")
    assert trained.metrics.pixel_accuracy > 0.7
    folder = trained.save(tmp_path / "head")
    again = featcache.load_head(folder, split)
    found = featcache.predict(again, Items(inputs, masks))
    assert found.values.shape == masks.shape
    assert np.array_equal(found.values, trained.predict_values(features))
    with pytest.raises(HeadError, match="not a map"):
        featcache.train_head(*cached(inputs, masks, tmp_path, "fc"), head="linear")


def test_tokens_become_the_square_map_that_they_were_cut_from() -> None:
    from featcache.heads.dense import Maps

    maps = torch.randn(2, 5, 3, 3)
    tokens = torch.cat([torch.zeros(2, 2, 5), maps.flatten(2).transpose(1, 2)], dim=1)  # two in front
    assert torch.equal(Maps()(tokens), maps)
    wide = torch.randn(2, 4, 4, 6)
    assert torch.equal(Maps()(wide), wide.permute(0, 3, 1, 2))


def test_estimators_are_fitted_with_sample_weights_where_they_take_some(inputs, labels, values, tmp_path) -> None:
    from sklearn.linear_model import Ridge

    weights = np.linspace(0.1, 2, ROWS)
    split, features = cached(inputs, values, tmp_path)
    trained = featcache.train_head(split, features, head="sklearn:Ridge", sample_weights=weights, validation=0)
    vectors = features.numpy()[0].mean(axis=(2, 3))
    expected = Ridge().fit(vectors, values, sample_weight=weights / weights.mean())
    assert np.allclose(trained.predict_values(features), expected.predict(vectors), atol=1e-4)
    with pytest.raises(UsageError, match="takes no sample weights"):
        featcache.train_head(split, features, head="sklearn:KNeighborsRegressor", sample_weights=weights)


def test_yes_and_no_are_two_classes(inputs, labels, tmp_path) -> None:
    split, features = cached(inputs, labels[:, 0].astype(bool), tmp_path)
    trained = featcache.train_head(split, features, epochs=2, metric="roc_auc", class_weights="balanced")
    assert (trained.task.kind, trained.classes) == ("single_label", ["0", "1"])


@pytest.mark.slow
def test_a_segmentation_network_of_torchvision_that_adds_up_two_maps_learns_masks(tmp_path) -> None:
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large

    torch.manual_seed(0)
    inputs = torch.randn(8, 3, 64, 64)
    inputs[:, :, :32] += 1
    masks = np.zeros((8, 64, 64), dtype=np.uint8)
    masks[:, :32] = 1
    masks[:, 60:] = 255
    model = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None).eval()
    split = featcache.split(model, "backbone.16", (inputs[:2],))
    features = featcache.extract(split, Items(inputs, masks, ["below", "above"]), str(tmp_path / "s"))
    assert features.targets.dtype == np.uint8
    trained = featcache.train_head(split, features, epochs=3, batch_size=4, validation=0.25)
    assert trained.model.classifier.low_classifier.out_channels == 2
    assert trained.model.classifier.high_classifier.out_channels == 2
    assert len(trained.metrics.iou) == 2
    merged = featcache.merge(trained.save(tmp_path / "head"), model)
    assert torch.equal(merged(inputs)["out"], trained.model(inputs)["out"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["single_label", "multi_label", "regression"])
def test_the_logits_of_a_transformer_of_hugging_face_learn_every_kind_of_target(tmp_path, kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32, num_labels=7
    )
    model = transformers.BertForSequenceClassification(config).eval()
    tokens = torch.randint(1, 30, (ROWS, 8))
    targets = {
        "single_label": np.arange(ROWS) % 3,
        "multi_label": np.stack([np.arange(ROWS) % 2, np.arange(ROWS) % 3 == 0], axis=1).astype(int),
        "regression": np.linspace(0, 1, ROWS),
    }[kind]

    class Texts(Items):
        def __getitem__(self, index: int):
            mask = (torch.arange(8) < 4 + index % 5).long()
            return {"input_ids": self.inputs[index], "attention_mask": mask}, self.all_targets[index]

    data = Texts(tokens, targets)
    example = torch.utils.data.default_collate([data[0][0], data[1][0]])
    split = featcache.split(model, "bert.encoder.layer.1", example)
    features = featcache.extract(split, data, str(tmp_path / "s"))
    trained = featcache.train_head(split, features, epochs=2, batch_size=12)
    assert trained.task.kind == kind
    found = featcache.predict(trained, data)
    assert found.values.shape == targets.shape
    assert np.allclose(found.values, trained.predict_values(features), atol=1e-5)
    whole = trained.model(**example)
    assert whole.logits.shape == (2, trained.task.outputs)


DATA_FILE = """
import numpy as np
import torch
from PIL import Image


class Squares(torch.utils.data.Dataset):
    def __init__(self, kind):
        self.kind = kind
        if kind == "labels":
            self.classes = ["left", "right"]

    def __len__(self):
        return 24

    def __getitem__(self, index):
        pixels = np.random.default_rng(index).integers(0, 60, (16, 16), dtype=np.uint8)
        there = np.array([index % 2, index // 2 % 2])
        pixels[:, :8] += np.uint8(150 * there[0])
        pixels[:, 8:] += np.uint8(150 * there[1])
        targets = {"labels": there, "values": there.sum() / 2.0, "masks": (pixels > 100).repeat(2, 0).repeat(2, 1).astype(int)}
        return Image.fromarray(pixels), targets[self.kind]


def labels():
    return Squares("labels")


def values():
    return Squares("values")


def masks():
    return Squares("masks")
"""


@pytest.mark.slow
def test_labels_values_and_masks_are_learned_from_the_command_line(featcache_command) -> None:
    folder = featcache_command.folder
    (folder / "squares.py").write_text(DATA_FILE)
    (folder / "images").mkdir()
    from PIL import Image

    for number in range(3):
        Image.new("L", (16, 16), 80 * number).save(folder / "images" / f"{number}.png")
    for kind, extra, header, words in (
        ("labels", (), "name,labels,left,right", "micro F1"),
        ("values", ("--metric", "r2"), "name,value", "mean absolute error"),
        ("masks", ("--head", "linear"), "name,label,0,1", "mean IoU"),
    ):
        data = ("--backbone", "bundled:resnet-mini", "--data", f"squares.py:{kind}", "--store", kind)
        featcache_command("extract", "--cut", "layer2", *data)
        trained = featcache_command("train-head", "--cut", "layer2", "--epochs", "3", *data, *extra)
        assert words in trained.stdout
        predicted = featcache_command("predict", "images", "--store", kind)
        assert predicted.stdout.splitlines()[0] == header
        assert len(predicted.stdout.splitlines()) == 4
    featcache_command("predict", "images", "--store", "masks", "--format", "npz", "--out", "masks.npz")
    with np.load(folder / "masks.npz", allow_pickle=False) as found:
        assert found["values"].shape == (3, 32, 32)
    assert "--out" in featcache_command("predict", "images", "--store", "masks", "--format", "npz", expect=2).stderr
    wrong = ("--cut", "layer2", "--backbone", "bundled:resnet-mini", "--data", "squares.py:masks", "--store", "masks")
    refused = featcache_command("train-head", *wrong, expect=1)
    assert "32×32" in refused.stderr or "need [batch, classes, height, width]" in refused.stderr
