"""Which parameters are trained and how steps are taken: patterns, rates of their own, clipping, averages of the weights."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import featcache
from featcache.errors import HeadError, UsageError
from featcache.heads import new_network

from ..conftest import Items, SmallNet

ROWS, EPOCHS = 40, 4
EQUAL = {"batch_size": 8, "learning_rate": 3e-3, "seed": 5, "epochs": EPOCHS, "validation": 0}
STEPS = EPOCHS * ROWS // 8


@pytest.fixture
def inputs() -> torch.Tensor:
    return torch.randn(ROWS, 3, 12, 12, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def targets(inputs) -> np.ndarray:
    return (inputs.mean((1, 2, 3)) > 0).long().numpy()


@pytest.fixture
def made(inputs, targets, tmp_path):
    torch.manual_seed(0)
    model = SmallNet().train()
    with torch.no_grad():
        model(inputs)
    split = featcache.split(model.eval(), "stem", (inputs[:2],))
    return split, featcache.extract(split, Items(inputs, targets), str(tmp_path / "store"), batch_size=8)


class Loop:
    """The usual loop over the whole network, with the cosine schedule."""

    def __init__(self, made, inputs, targets, trained: Callable[[str], bool] = lambda name: True) -> None:
        split, self.features = made
        self.inputs, self.targets = inputs, torch.from_numpy(targets)
        self.model = new_network(split, 2, 5).model
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(not name.startswith("stem") and trained(name))
        self.named = {name: each for name, each in self.model.named_parameters() if each.requires_grad}

    def run(
        self,
        groups: list[dict] | None = None,
        before: Callable[[], object] = lambda: None,
        after: Callable[[int, bool], object] = lambda epoch, is_last: None,
    ) -> None:
        optimizer = torch.optim.AdamW(groups or [*self.named.values()], 3e-3, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 * (1 + np.cos(np.pi * step / STEPS)))
        loader = self.features.loader(8, seed=5)
        torch.manual_seed(5)
        for epoch in range(EPOCHS):
            self.model.train()
            for module_name, module in self.model.named_modules():
                own = [f"{module_name}.{name}" for name, _ in module.named_parameters()]
                if module_name.startswith("stem") or (module_name and own and not self.named.keys() & set(own)):
                    module.eval()
            batches = torch.from_numpy(loader.order(epoch)).split(8)
            for number, rows in enumerate(batches):
                loss = functional.cross_entropy(self.model(self.inputs[rows]), self.targets[rows])
                optimizer.zero_grad()
                loss.backward()
                before()
                optimizer.step()
                schedule.step()
                after(epoch, number == len(batches) - 1)


def differing(trained: featcache.TrainedHead, expected: nn.Module, tolerance: float = 1e-6) -> list[str]:
    mine = trained.model.state_dict()
    return [
        name
        for name, value in expected.state_dict().items()
        if not name.endswith("num_batches_tracked")  # a count, of which there is no average
        and not torch.allclose(mine[name], value, rtol=1e-5, atol=tolerance)
    ]


@pytest.mark.parametrize(
    ("patterns", "chooses"),
    [
        (["tail.*"], lambda name: name.startswith("tail")),
        (["*.bias"], lambda name: name.endswith(".bias")),
        (["block.0.weight", "f?"], lambda name: name == "block.0.weight" or name.startswith("fc")),
        (["[!t]*.0", "fc"], lambda name: name.startswith(("block.0", "fc"))),
    ],
)
def test_patterns_choose_modules_and_parameters_to_train(made, inputs, targets, patterns, chooses) -> None:
    trained = featcache.train_head(*made, trainable=patterns, **EQUAL)
    loop = Loop(made, inputs, targets, chooses)
    loop.run()
    assert differing(trained, loop.model) == []
    start = new_network(made[0], 2, 5).model.state_dict()
    changed = {name for name, value in trained.model.named_parameters() if not torch.equal(value, start[name])}
    assert changed == set(loop.named)


def test_layers_have_learning_rates_of_their_own_and_the_first_pattern_counts(made, inputs, targets) -> None:
    rates = {"block": 1e-4, "tail.0.weight": 5e-3, "tail.*": 1e-3}
    trained = featcache.train_head(*made, learning_rates=rates, **EQUAL)
    loop = Loop(made, inputs, targets)

    def rate_of(name: str) -> float:
        if name.startswith("block"):
            return 1e-4
        return 5e-3 if name == "tail.0.weight" else 1e-3 if name.startswith("tail") else 3e-3

    loop.run([{"params": [each], "lr": rate_of(name)} for name, each in loop.named.items()])
    assert differing(trained, loop.model, 0.0) == []
    plain = featcache.train_head(*made, **EQUAL)
    assert differing(plain, loop.model) != []
    assert trained.history[0].learning_rate == pytest.approx(plain.history[0].learning_rate)


def test_gradients_are_clipped_to_a_norm(made, inputs, targets) -> None:
    loop = Loop(made, inputs, targets)
    optimizer_sees: list[float] = []

    def clip() -> None:
        optimizer_sees.append(float(nn.utils.clip_grad_norm_([*loop.named.values()], 0.05)))

    loop.run(before=clip)
    assert max(optimizer_sees) > 0.05
    trained = featcache.train_head(*made, clip_norm=0.05, **EQUAL)
    assert differing(trained, loop.model, 1e-5) == []


@pytest.mark.parametrize("decay", [None, 0.8])
def test_a_moving_average_is_torchs_own_taken_after_every_step(made, inputs, targets, decay) -> None:
    loop = Loop(made, inputs, targets)
    averaged = AveragedModel(loop.model, multi_avg_fn=get_ema_multi_avg_fn(decay or 0.999), use_buffers=True)
    loop.run(after=lambda epoch, is_last: averaged.update_parameters(loop.model))
    trained = featcache.train_head(*made, average="ema" if decay is None else f"ema:{decay}", **EQUAL)
    assert differing(trained, averaged.module) == []
    assert differing(trained, loop.model) != []


def test_the_mean_of_the_last_epochs_is_torchs_own(made, inputs, targets) -> None:
    loop = Loop(made, inputs, targets)
    averaged = AveragedModel(loop.model, use_buffers=True)

    def after(epoch: int, is_last: bool) -> None:
        if is_last and epoch >= EPOCHS // 2:
            averaged.update_parameters(loop.model)

    loop.run(after=after)
    trained = featcache.train_head(*made, average="swa", **EQUAL)
    assert differing(trained, averaged.module) == []


@pytest.mark.parametrize("average", ["ema:0.9", "swa"])
def test_the_average_is_what_is_judged_and_training_goes_on_from_the_weights(made, average: str) -> None:
    split, features = made
    features = features.with_splits(["train"] * 28 + ["val"] * 12)
    trained = featcache.train_head(split, features, epochs=6, batch_size=8, average=average)
    plain = featcache.train_head(split, features, epochs=6, batch_size=8)
    assert [each.train_loss for each in trained.history] == [each.train_loss for each in plain.history]
    kept = range(6) if average != "swa" else range(3, 6)
    least = min(trained.history[epoch].validation_loss for epoch in kept)
    assert trained.validation_metrics.log_loss == pytest.approx(least, rel=1e-4)
    assert trained.validation_metrics.log_loss != plain.validation_metrics.log_loss


def test_a_linear_head_is_clipped_and_averaged_too(made, targets) -> None:
    split, features = made
    trained = featcache.train_head(split, features, head="linear", average="ema:0.5", clip_norm=0.1, **EQUAL)
    vectors, layer = features.numpy()[0].mean(axis=(2, 3)), new_layer(split)
    optimizer = torch.optim.AdamW(layer.parameters(), 3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 * (1 + np.cos(np.pi * step / STEPS)))
    averaged = AveragedModel(layer, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    for epoch in range(EPOCHS):
        for rows in torch.from_numpy(features.loader(8, seed=5).order(epoch)).split(8):
            optimizer.zero_grad()
            functional.cross_entropy(layer(torch.from_numpy(vectors)[rows]), torch.from_numpy(targets)[rows]).backward()
            nn.utils.clip_grad_norm_(layer.parameters(), 0.1)
            optimizer.step()
            schedule.step()
            averaged.update_parameters(layer)
    assert torch.allclose(trained.model.head.weight, averaged.module.weight, atol=1e-6)


def new_layer(split) -> nn.Linear:
    torch.manual_seed(5)
    return nn.Linear(split.frontier[0].shape[0], 2)


def test_a_head_that_was_trained_so_is_saved_and_loads(made, tmp_path) -> None:
    split, features = made
    options = {"trainable": ["tail.*", "fc"], "learning_rates": {"fc": 0.01}, "clip_norm": 1.0, "average": "swa"}
    trained = featcache.train_head(split, features, epochs=2, **options)
    again = featcache.load_head(trained.save(tmp_path / "head"), split)
    assert again.options == trained.options
    assert np.array_equal(again.predict_proba(features), trained.predict_proba(features))


def test_options_of_steps_that_fit_nothing_are_refused_in_one_line(made) -> None:
    split, features = made
    for error, words, options in (
        (UsageError, r"trainable 'tial\.\*' is not.*'tail\.", {"trainable": ["tial.*"]}),
        (HeadError, "no parameter", {"trainable": ["po*"]}),
        (UsageError, "learning_rates 'stem' is not", {"learning_rates": {"stem": 0.1}}),
        (UsageError, "fits no parameter that is trained", {"learning_rates": {"block": 0.1}, "trainable": ["fc"]}),
        (UsageError, "above 0, not 0.0 for 'fc': to freeze it, use trainable", {"learning_rates": {"fc": 0}}),
        (UsageError, "finite numbers above 0, not inf for 'fc'.$", {"learning_rates": {"fc": float("inf")}}),
        (UsageError, "a finite number above 0, not inf", {"learning_rate": float("inf")}),
        (UsageError, "a number for each", {"learning_rates": ["fc"]}),
        (UsageError, "clip_norm", {"clip_norm": 0.0}),
        (UsageError, "ema:DECAY", {"average": "mean"}),
        (UsageError, "ema:DECAY", {"average": "ema:1.5"}),
        (UsageError, "ema:DECAY", {"average": "swa:0.5"}),
        (UsageError, "one layer", {"learning_rates": {"*": 0.1}, "head": "linear"}),
        (UsageError, "scikit-learn", {"average": "ema", "head": "sklearn:LogisticRegression"}),
    ):
        with pytest.raises(error, match=words) as caught:
            featcache.train_head(split, features, epochs=1, **options)
        assert "\n" not in str(caught.value)
    for option in ({"clip_norm": 1.0}, {"average": "ema"}, {"learning_rates": {"*": 0.1}}):
        with pytest.raises(UsageError, match=r"use featcache\.train_head"):
            featcache.train_heads(split, features, [{}], **option)
    with pytest.raises(UsageError, match="no option 'learning_rates'"):
        featcache.train_unfreezing(split, {"stem": features}, "stem:1", learning_rates={"fc": 0.1})


@pytest.mark.slow
def test_patterns_clipping_and_averages_are_options_of_the_command_line(featcache_command, image_folder) -> None:
    (featcache_command.folder / "featcache.toml").write_text(
        'backbone = "bundled:resnet-mini"\ndata = "folder:images"\n'
    )
    featcache_command("extract", "--cut", "layer3")
    options = ("--epochs", "1", "--clip-norm", "1", "--average", "ema:0.9")
    featcache_command("train-head", "--trainable", "layer4.*", "--trainable", "fc", *options, "--name", "head")
    described = json.loads((featcache_command.folder / "features" / "heads" / "head" / "head.json").read_text())[
        "options"
    ]
    assert described["trainable"] == ["layer4.*", "fc"]
    assert (described["clip_norm"], described["average"]) == (1.0, "ema:0.9")
    refused = featcache_command("train-head", "--average", "mean", expect=2)
    assert "ema:DECAY" in refused.stderr


def test_mixed_precision_takes_the_steps_of_the_usual_loop_under_autocast(made, inputs, targets) -> None:
    loop = Loop(made, inputs, targets)
    stem, network = loop.model.stem.forward, loop.model.forward

    def stem_in_full(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):  # features are stored in float32
            return stem(x)

    def under_autocast(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return network(x).float()  # in which autocast has the loss

    loop.model.stem.forward, loop.model.forward = stem_in_full, under_autocast
    loop.run()
    head = featcache.train_head(*made, mixed_precision=True, **EQUAL)
    plain = featcache.train_head(*made, **EQUAL)
    state, other = head.model.state_dict(), plain.model.state_dict()
    for name, value in loop.named.items():
        assert torch.allclose(state[name], value, atol=1e-5), name
    assert max(float((state[name] - other[name]).abs().max()) for name in loop.named) > 1e-4
    assert all(value.dtype == torch.float32 for value in state.values() if value.is_floating_point())
    with pytest.raises(UsageError, match="mixed_precision"):
        featcache.train_head(*made, head="sklearn:LogisticRegression", mixed_precision=True)
