"""Linear heads that are solved: to the optimum that scikit-learn finds, with the strength that other rows choose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes, load_digits
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import featcache
from featcache.errors import UsageError


class Pairs(torch.utils.data.Dataset):
    def __init__(self, inputs: np.ndarray, targets: np.ndarray) -> None:
        self.inputs, self.targets = torch.from_numpy(np.asarray(inputs, np.float32)), targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, object]:
        target = self.targets[index]
        return self.inputs[index], target.tolist() if isinstance(target, np.ndarray) else target.item()


class Solved:
    """Features that are the inputs themselves, and a head on some of them."""

    def __init__(self, inputs: np.ndarray, targets: np.ndarray, store: Path) -> None:
        data = Pairs(inputs, targets)
        width = data.inputs.shape[1]
        network = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Linear(width, 3))
        self.split = featcache.split(network, "0", (data.inputs[:2],))
        self.features = featcache.extract(self.split, data, str(store))

    def head(self, **options) -> featcache.TrainedHead:
        return featcache.train_head(self.split, self.features, head="linear", device="cpu", **options)

    def outputs(self, head: featcache.TrainedHead, inputs: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return head.layers(torch.from_numpy(np.asarray(inputs, np.float32))).numpy()


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> tuple[Solved, np.ndarray, np.ndarray]:
    inputs, targets = load_digits(return_X_y=True)
    # Scales and offsets as features have them, and a dimension that never varies.
    inputs = inputs * np.linspace(0.01, 30, inputs.shape[1]) + np.linspace(-50, 50, inputs.shape[1])
    return Solved(inputs[:1200], targets[:1200], tmp_path_factory.mktemp("store")), inputs, targets


def test_a_solved_head_has_the_probabilities_of_scikit_learns_optimum(digits) -> None:
    solved, inputs, targets = digits
    head = solved.head(validation=0.0, weight_decay=0.01)
    known = make_pipeline(StandardScaler(), LogisticRegression(C=1 / (0.01 * 1200), tol=1e-8, max_iter=5000))
    expected = known.fit(inputs[:1200], targets[:1200]).predict_proba(inputs[1200:])
    found = torch.from_numpy(solved.outputs(head, inputs[1200:])).softmax(1).numpy()
    assert np.abs(found - expected).max() < 0.005
    assert (head.history, head.options.optimizer, head.options.weight_decay) == ([], "lbfgs", 0.01)


@pytest.mark.parametrize(("validation", "points"), [(0.0, 0.3), (0.2, 2.0)])  # a fifth of the rows is not fitted to
def test_new_rows_are_told_apart_as_by_cross_validated_regression(digits, validation: float, points: float) -> None:
    solved, inputs, targets = digits
    head = solved.head(validation=validation)
    known = make_pipeline(
        StandardScaler(), GridSearchCV(LogisticRegression(max_iter=2000), {"C": np.logspace(-3, 2, 6)})
    )
    expected = known.fit(inputs[:1200], targets[:1200]).score(inputs[1200:], targets[1200:])
    accuracy = (solved.outputs(head, inputs[1200:]).argmax(1) == targets[1200:]).mean()
    assert 100 * accuracy > 100 * expected - points


def test_weights_of_classes_and_samples_count_as_in_scikit_learn(digits) -> None:
    solved, inputs, targets = digits
    weights = np.random.default_rng(0).uniform(0.1, 2.0, 1200)
    head = solved.head(validation=0.0, weight_decay=0.01, class_weights="balanced", sample_weights=weights)
    each = weights / weights.mean() * (1200 / 10 / np.bincount(targets[:1200]))[targets[:1200]]
    scaler = StandardScaler().fit(inputs[:1200], sample_weight=weights)
    total = (1200 / 10 / np.bincount(targets[:1200]))[targets[:1200]].sum()
    known = LogisticRegression(C=1 / (0.01 * total), tol=1e-8, max_iter=5000)
    known.fit(scaler.transform(inputs[:1200]), targets[:1200], sample_weight=each)
    expected = known.predict_proba(scaler.transform(inputs[1200:]))
    found = torch.from_numpy(solved.outputs(head, inputs[1200:])).softmax(1).numpy()
    assert np.abs(found - expected).max() < 0.005


def test_a_solved_regression_is_ridge_regression(tmp_path: Path) -> None:
    inputs, targets = load_diabetes(return_X_y=True)
    head = Solved(inputs, targets, tmp_path).head(validation=0.0, weight_decay=0.1)
    known = Ridge(alpha=0.1 * len(targets) / 2)  # the loss is the mean square, the penalty half the strength's
    scaler = StandardScaler().fit(inputs)
    expected = known.fit(scaler.transform(inputs), targets).predict(scaler.transform(inputs))
    with torch.no_grad():
        found = head.layers(torch.from_numpy(inputs.astype(np.float32))).numpy()[:, 0]
    assert np.abs(found - expected).max() < 0.001 * targets.std()


def test_several_labels_are_solved_as_each_would_be_alone(tmp_path: Path) -> None:
    inputs, targets = load_digits(return_X_y=True)
    labels = np.stack([targets % 2, targets > 4], axis=1).astype(np.int64)
    solved = Solved(inputs, labels, tmp_path)
    head = solved.head(validation=0.0, weight_decay=0.01)
    scaler = StandardScaler().fit(inputs)
    # The loss is the mean over both labels.
    known = LogisticRegression(C=1 / (0.01 * 2 * len(inputs)), tol=1e-8, max_iter=5000)
    for number in range(2):
        expected = known.fit(scaler.transform(inputs), labels[:, number]).predict_proba(scaler.transform(inputs))[:, 1]
        found = torch.from_numpy(solved.outputs(head, inputs)).sigmoid().numpy()[:, number]
        assert np.abs(found - expected).max() < 0.005


def test_rows_are_solved_in_pieces_as_in_one(digits, monkeypatch: pytest.MonkeyPatch) -> None:
    solved, inputs, _ = digits
    whole = solved.outputs(solved.head(validation=0.0, weight_decay=0.01), inputs)
    monkeypatch.setattr("featcache.training.solver.PIECE_ROWS", 100)
    pieces = solved.outputs(solved.head(validation=0.0, weight_decay=0.01), inputs)
    probabilities = [torch.from_numpy(each).softmax(1).numpy() for each in (whole, pieces)]
    assert np.abs(probabilities[0] - probabilities[1]).max() < 0.005


def test_the_strength_is_chosen_by_the_metric_that_is_asked_for(digits) -> None:
    solved, _, _ = digits
    head = solved.head(metric="balanced_accuracy")
    assert head.validation_metrics.scores["balanced_accuracy"] > 0.9


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "adamw"}, {"learning_rate": 0.01}, {"clip_norm": 1.0}, {"average": "ema"}, {"patience": 20},
        {"loss": torch.nn.functional.cross_entropy}, {"epochs": 20}, {"batch_size": 64}, {"lr_schedule": "cosine"},
        {"warmup_epochs": 0},
    ],
    ids=lambda given: next(iter(given)),
)  # fmt: skip
def test_what_belongs_to_steps_has_steps_taken(digits, options: dict) -> None:
    solved, _, _ = digits
    head = solved.head(**options)
    assert (len(head.history), head.options.optimizer, head.options.weight_decay) == (20, "adamw", 0.01)


@pytest.mark.parametrize(
    ("options", "word"),
    [({"learning_rate": 0.01}, "learning_rate"), ({"patience": 3}, "patience"), ({"epochs": 3}, "epochs")],
)
def test_a_solver_that_is_asked_for_refuses_options_of_steps(digits, options: dict, word: str) -> None:
    solved, _, _ = digits
    with pytest.raises(UsageError, match=word):
        solved.head(optimizer="lbfgs", **options)


def test_a_suffix_of_one_linear_layer_is_solved_like_a_linear_head(digits) -> None:
    solved, inputs, _ = digits
    options = {"validation": 0.0, "weight_decay": 0.01, "device": "cpu"}
    suffix = featcache.train_head(solved.split, solved.features, **options)
    assert suffix.options.optimizer == "lbfgs"
    linear = solved.outputs(solved.head(validation=0.0, weight_decay=0.01), inputs)
    assert np.abs(solved.outputs(suffix, inputs) - linear).max() < 1e-3


def test_a_suffix_with_more_than_one_linear_layer_is_not_solved(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    data = [(torch.randn(8), number % 3) for number in range(30)]
    split = featcache.split(network, "0", (torch.zeros(2, 8),))
    features = featcache.extract(split, data, str(tmp_path))
    assert featcache.train_head(split, features, head="suffix").history
    with pytest.raises(UsageError, match=r"more to train than one linear layer.*--head linear"):
        featcache.train_head(split, features, optimizer="lbfgs")


def test_a_layer_with_dropout_before_it_takes_steps(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 3)).eval()
    data = [(torch.randn(8), number % 3) for number in range(30)]
    split = featcache.split(network, "0", (torch.zeros(2, 8),))
    assert featcache.train_head(split, featcache.extract(split, data, str(tmp_path))).history


def test_views_are_all_solved_for(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Linear(4, 2)).eval()
    data = [(torch.randn(4), number % 2) for number in range(40)]
    features = featcache.extract(network, data, str(tmp_path), cut="0", augment=_turned, views=2)
    split = featcache.split(network, "0", (torch.zeros(2, 4),))
    head = featcache.train_head(split, features, head="linear", validation=0.0)
    assert (head.history, head.options.optimizer) == ([], "lbfgs")


def test_rows_are_judged_as_they_are_and_not_by_their_views(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Linear(4, 2)).eval()
    generator = torch.Generator().manual_seed(0)
    data = [(torch.randn(4, generator=generator), number % 2) for number in range(60)]
    seen: list[int] = []

    def score(name, task, targets, outputs):
        seen.append(len(targets))
        return 0.5

    features = featcache.extract(network, data, str(tmp_path), cut="0", augment=_turned, views=2)
    split = featcache.split(network, "0", (torch.zeros(2, 4),))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("featcache.training.solver.score", score)
        for validation in (0.0, 0.25):
            featcache.train_head(split, features, head="linear", validation=validation, metric="accuracy")
    assert {*seen} == {60, 15}


def test_a_rare_class_leaves_the_folds_stratified_and_the_scorer_whole(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    targets = np.array([0] * 60 + [1] * 6 + [2])  # no fold of five has all three
    inputs = generator.standard_normal((67, 4)) + targets[:, None]
    head = Solved(inputs, targets, tmp_path).head(validation=0.0, metric="roc_auc_ovr")
    assert head.options.optimizer == "lbfgs"


def test_a_schedule_refuses_a_solver_before_its_first_stage(digits) -> None:
    solved, _, _ = digits
    with pytest.raises(UsageError, match="lbfgs takes none"):
        featcache.train_unfreezing(solved.split, {"0": solved.features}, "head:1,0:1", optimizer="lbfgs", device="cpu")


@pytest.mark.parametrize("decay", [float("inf"), float("nan"), -1.0])
def test_a_penalty_that_is_not_a_number_is_refused(digits, decay: float) -> None:
    solved, _, _ = digits
    with pytest.raises(UsageError, match="weight_decay must be a number from 0 on"):
        solved.head(weight_decay=decay)


def test_features_that_do_not_fit_into_memory_take_steps(digits, monkeypatch: pytest.MonkeyPatch) -> None:
    solved, _, _ = digits
    monkeypatch.setattr("featcache.training.solver.available_memory_bytes", lambda: 1200 * 64 * 4)
    assert len(solved.head(validation=0.0).history) == 20


def _turned(values: torch.Tensor) -> torch.Tensor:
    return values + torch.rand(1)


@pytest.mark.parametrize("rows", [3, 4])
def test_few_rows_are_solved_with_the_usual_strength(tmp_path: Path, rows: int) -> None:
    generator = np.random.default_rng(0)
    solved = Solved(generator.standard_normal((rows, 5)), np.arange(rows) % 2, tmp_path)
    assert solved.head(validation=0.0).options.weight_decay == 0.01


def test_a_solved_head_is_the_same_after_a_folder(digits, tmp_path: Path) -> None:
    solved, inputs, _ = digits
    head = solved.head()
    head.save(tmp_path / "head")
    again = featcache.load_head(tmp_path / "head", solved.split)
    assert again.options == head.options
    assert np.array_equal(solved.outputs(again, inputs), solved.outputs(head, inputs))


def test_a_large_problem_takes_steps_unless_a_solver_is_asked_for(digits, monkeypatch: pytest.MonkeyPatch) -> None:
    solved, _, _ = digits
    monkeypatch.setattr("featcache.training.solver.QUICKLY_SOLVED", 1200 * 64 * 10 - 1)
    assert solved.head(validation=0.0).history
    assert not solved.head(optimizer="lbfgs", validation=0.0, weight_decay=0.1).history


def test_features_that_are_not_held_are_solved_as_those_that_are(digits, monkeypatch: pytest.MonkeyPatch) -> None:
    solved, inputs, _ = digits
    held = solved.outputs(solved.head(validation=0.0, weight_decay=0.01), inputs)
    monkeypatch.setattr("featcache.training.solver.HELD_VALUES", 0)
    assert np.array_equal(solved.outputs(solved.head(validation=0.0, weight_decay=0.01), inputs), held)


def test_a_layer_on_several_vectors_of_a_sample_is_not_solved(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 3)).eval()
    data = [(torch.randn(5, 8), [number % 3] * 5) for number in range(30)]
    split = featcache.split(network, "0", (torch.zeros(2, 5, 8),))
    features = featcache.extract(split, data, str(tmp_path))
    assert featcache.train_head(split, features, task="token", epochs=1).history
    with pytest.raises(UsageError, match=r"a token task|one vector"):
        featcache.train_head(split, features, task="token", optimizer="lbfgs")


class OnTheSphere(torch.nn.Linear):
    """Looks at the direction of a vector alone."""

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return super().forward(torch.nn.functional.normalize(vectors, dim=1))


@pytest.mark.parametrize(
    "layer",
    [
        lambda: OnTheSphere(64, 10),
        lambda: torch.nn.Linear(64, 10, bias=False),
        lambda: torch.nn.Sequential(torch.nn.LayerNorm(64), torch.nn.Linear(64, 10)),
    ],
    ids=["subclass", "no bias", "more than a layer"],
)
def test_a_head_of_ones_own_with_another_layer_takes_steps(digits, layer) -> None:
    class Own(featcache.heads.LinearHead):
        def build(self, *given):
            built = super().build(*given)
            built.model.head = built.stored = layer()
            built.layers = torch.nn.Sequential(built.model.pool, built.stored)
            return built

    solved, _, _ = digits
    featcache.heads.head_kinds.register("own", Own())
    head = featcache.train_head(solved.split, solved.features, head="own", device="cpu")
    assert len(head.history) == 20
    with pytest.raises(UsageError, match="lbfgs"):
        featcache.train_head(solved.split, solved.features, head="own", optimizer="lbfgs", device="cpu")


def test_many_heads_and_schedules_take_the_defaults_of_one_head(digits) -> None:
    solved, _, _ = digits
    heads = featcache.train_heads(
        solved.split, solved.features, [{"weight_decay": None}], optimizer=None, epochs=1, device="cpu"
    )
    assert (heads[0].options.optimizer, heads[0].options.weight_decay) == ("adamw", 0.01)
    staged = featcache.train_unfreezing(solved.split, {"0": solved.features}, "0:1", device="cpu")
    assert (staged.options.optimizer, staged.options.weight_decay) == ("adamw", 0.01)


def test_rows_of_weight_zero_are_as_if_they_were_not_there(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    inputs, targets = generator.standard_normal((60, 4)), np.arange(60) % 2
    inputs[:, 0] += targets
    broken = inputs.copy()
    broken[:30], weights = 1e6, np.ones(60)
    weights[:30] = 0.0
    kept = np.flatnonzero(weights)
    expected = Solved(inputs[kept], targets[kept], tmp_path / "a")
    found = Solved(broken, targets, tmp_path / "b")
    one = found.outputs(found.head(validation=0.0, weight_decay=0.01, sample_weights=weights), inputs)
    other = expected.outputs(expected.head(validation=0.0, weight_decay=0.01), inputs)
    assert np.abs(one - other).max() < 0.005
    strengths = [found.head(validation=0.0, sample_weights=weights), expected.head(validation=0.0)]
    assert strengths[0].options.weight_decay == strengths[1].options.weight_decay


@pytest.mark.parametrize("kind", ["class", "value"])
def test_weights_are_as_if_rows_were_repeated(tmp_path: Path, kind: str) -> None:
    generator = np.random.default_rng(0)
    inputs = generator.standard_normal((40, 3)) * [1, 5, 0.1] + 2
    values = inputs @ [1.0, -0.3, 4.0] + generator.standard_normal(40)
    targets = values if kind == "value" else (values > np.median(values)).astype(np.int64)
    times = generator.integers(1, 5, 40)
    weighed = Solved(inputs, targets, tmp_path / "a")
    repeated = Solved(inputs.repeat(times, 0), targets.repeat(times), tmp_path / "b")
    options = {"validation": 0.0, "weight_decay": 0.01}
    one = weighed.outputs(weighed.head(sample_weights=times, **options), inputs)
    other = repeated.outputs(repeated.head(**options), inputs)
    assert np.abs(one - other).max() < 0.005


def test_a_weak_penalty_is_found_though_stronger_ones_are_alike(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    common, difference = generator.standard_normal((2, 2000))
    inputs = np.stack([common, common + 0.003 * difference], 1)
    values = difference + 0.5 * generator.standard_normal(2000)
    head = Solved(inputs, values, tmp_path).head()
    assert head.options.weight_decay <= 1e-5
    assert head.validation_metrics.r2 > 0.5


@pytest.mark.parametrize("options", [{}, {"optimizer": "adamw"}, {"mixed_precision": True}], ids=str)
def test_training_inside_autocast_is_as_outside(digits, options: dict) -> None:
    solved, inputs, _ = digits
    expected = solved.outputs(solved.head(validation=0.0, **options), inputs)
    for enabled in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            head = solved.head(validation=0.0, **options)
        assert np.array_equal(solved.outputs(head, inputs), expected)


def test_no_learning_rates_are_no_option_of_steps(digits) -> None:
    solved, _, _ = digits
    assert solved.head(learning_rates={}).options.optimizer == "lbfgs"
