from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import nn

import featcache
from featcache.errors import SplitError

from ..conftest import SmallNet

IMAGES = torch.randn(5, 3, 12, 12, generator=torch.Generator().manual_seed(5))


def equals_the_model(model: nn.Module, cut: str, x: torch.Tensor = IMAGES) -> featcache.Split:
    """Split, and see that the output is the model's bit for bit and that the cached tensors are left alone."""
    made = featcache.split(model, cut, (x[:2],))
    frontier = made.prefix(x)
    tensors = list(frontier.values()) if isinstance(frontier, dict) else [frontier]
    kept = [tensor.clone() for tensor in tensors]
    for training in (False, True):
        made.suffix.train(training)
        torch.manual_seed(2)
        output = made.suffix(frontier)
        assert all(map(torch.equal, tensors, kept))
        if not training:
            assert torch.equal(output, model.eval()(x))
    made.suffix.eval()
    return made


class Writes(SmallNet):
    """Changes what crosses the cut in place after it, in a way that is given."""

    def __init__(self, how: Callable[[torch.Tensor], object], training_only: bool = False) -> None:
        super().__init__()
        self.how, self.training_only = how, training_only

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.block(self.stem(x))
        if self.training or not self.training_only:
            self.how(x)
        return self.fc(torch.flatten(self.pool(self.tail(x)), 1))


@pytest.mark.slow
@pytest.mark.parametrize("training_only", [False, True])
@pytest.mark.parametrize(
    "how",
    [
        lambda x: x.mul_(2),
        lambda x: x[:, 1:].add_(1),
        lambda x: x.view(len(x), -1).clamp_(max=0.5),
        lambda x: x.transpose(1, 2).narrow(1, 0, 2).zero_(),
        lambda x: x.__setitem__((slice(None), 0), 3.0),
        lambda x: torch.relu_(x.detach()[:, :2].neg_()),
    ],
    ids=["in place", "a slice", "a view", "a part of a transposed view", "an item", "a detached slice"],
)
def test_what_is_written_behind_the_cut_into_a_view_of_a_cached_tensor_leaves_it_as_it_was(
    how: Callable[[torch.Tensor], object], training_only: bool
) -> None:
    torch.manual_seed(0)
    equals_the_model(Writes(how, training_only).eval(), "block")


class Switches(SmallNet):
    """Runs a part after the cut without gradients."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        with torch.no_grad():
            x = self.block(x)
        return self.fc(torch.flatten(self.pool(self.tail(x)), 1))


def test_a_part_that_runs_without_gradients_behind_the_cut_gets_none() -> None:
    torch.manual_seed(0)
    model = Switches().eval()
    made = equals_the_model(model, "stem")
    made.suffix(made.prefix(IMAGES)).sum().backward()
    assert all(parameter.grad is None for parameter in model.block.parameters())
    assert all(parameter.grad is not None for parameter in model.tail[0].parameters())


class Mixes(SmallNet):
    """Lets the rows of a batch see each other before the cut."""

    def __init__(self, how: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.flatten(self.pool(self.tail(self.block(self.how(self.stem(x))))), 1))


@pytest.mark.parametrize(
    "how",
    [
        lambda x: x - x.mean(0, keepdim=True),
        lambda x: x / x.amax(),
        lambda x: torch.softmax(x, 0),
        lambda x: nn.functional.batch_norm(x, None, None, training=True),
        lambda x: x.flip(0),
    ],
    ids=["mean", "largest", "softmax", "normalised", "flipped"],
)
def test_rows_that_depend_on_the_others_of_their_batch_are_refused(how: Callable[[torch.Tensor], torch.Tensor]) -> None:
    torch.manual_seed(0)
    model = Mixes(how).eval()
    featcache.split(model, "stem", (IMAGES[:2],))
    with pytest.raises(SplitError, match="other rows of their batch"):
        featcache.split(model, "block", (IMAGES[:2],))


class Autocasts(SmallNet):
    """Runs its middle in bfloat16 by itself."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = self.tail(self.block(x))
        return self.fc(torch.flatten(self.pool(x.float()), 1))


@pytest.mark.parametrize("cut", ["stem", "block", "tail"])
def test_autocast_inside_of_the_model_is_kept_on_both_sides_of_the_cut(cut: str) -> None:
    torch.manual_seed(0)
    made = equals_the_model(Autocasts().eval(), cut)
    assert made.frontier[0].dtype == ("float32" if cut == "stem" else "bfloat16")


class Branches(SmallNet):
    """Does something before the cut in training mode only."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.extra = nn.Linear(6, 4)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, scale, more = self.stem(x), 1.0, None
        if self.training and self.what == "head":
            more = self.extra(x.mean((2, 3)))
        if self.training and self.what == "noise":
            x = x + torch.randn_like(x)
        if self.training and self.what == "count":
            self.seen.add_(1)
        if self.training and self.what == "number":
            scale = float(x.detach().mean())
        if self.training and self.what == "coin":
            scale = torch.rand([]).item()
        x = self.fc(torch.flatten(self.pool(self.tail(self.block(x))), 1)) * scale
        return x if more is None else x + more


@pytest.mark.slow
@pytest.mark.parametrize("what", ["head", "noise", "count", "number", "coin"])
def test_a_branch_before_the_cut_that_only_training_takes_is_refused(what: str) -> None:
    torch.manual_seed(0)
    model = Branches(what).eval()
    with pytest.raises(SplitError, match="in training mode the model runs other calls before the cut 'block'"):
        featcache.split(model, "block", (IMAGES[:2],))


class DropsLayers(nn.Module):
    """Tosses a coin for each layer, and leaves it out in training mode."""

    def __init__(self, p: float = 0.3) -> None:
        super().__init__()
        self.layers, self.head, self.p = nn.ModuleList(nn.Linear(6, 6) for _ in range(5)), nn.Linear(6, 3), p

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            if not self.training or float(torch.rand([])) > self.p:
                x = x + torch.tanh(layer(x))
        return self.head(x)


@pytest.mark.parametrize("cut", ["layers.0", "layers.2", "layers.4"])
def test_layers_that_training_drops_by_a_coin_are_dropped_behind_the_cut_only(cut: str) -> None:
    torch.manual_seed(0)
    model = DropsLayers().eval()
    x = torch.randn(4, 6)
    made = equals_the_model(model, cut, x)
    frontier, seen = made.prefix(x), set()
    made.suffix.train()
    for _ in range(40):
        seen.add(round(float(made.suffix(frontier).sum().detach()), 4))
    behind = 4 - int(cut[-1])
    assert (len(seen) > 1) == (behind > 0)


def test_functional_dropout_behind_the_cut_follows_the_mode_of_a_flat_suffix() -> None:
    class Drops(SmallNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.flatten(self.pool(self.tail(self.block(self.stem(x)))), 1)
            return self.fc(nn.functional.dropout(x, 0.5, training=self.training))

    torch.manual_seed(0)
    made = equals_the_model(Drops().eval(), "block")
    assert made.flat
    z = made.prefix(IMAGES)
    assert torch.equal(made.suffix(z), made.suffix(z))
    made.suffix.train()
    assert not torch.equal(made.suffix(z), made.suffix(z))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.body, self.head = nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.embed(ids)))


def test_tied_parameters_stay_frozen_behind_the_cut_as_in_the_usual_frozen_loop() -> None:
    torch.manual_seed(0)
    model = Tied().eval()
    ids = torch.randint(0, 9, (3, 5))
    with pytest.warns(UserWarning, match=r"embed\.weight.*stay frozen after it"):
        made = featcache.split(model, "embed", (ids,))
    assert set(dict(made.suffix.named_parameters())) == {"body.weight", "body.bias"}
    assert "head.weight" not in made.suffix.state_dict()

    frozen = copy.deepcopy(model)
    frozen.embed.weight.requires_grad_(False)
    usual = torch.optim.SGD([each for each in frozen.parameters() if each.requires_grad], 0.1)
    cached = torch.optim.SGD(made.suffix.parameters(), 0.1)
    features = made.prefix(ids)
    for _ in range(3):
        for optimizer, output in ((usual, lambda: frozen(ids)), (cached, lambda: made.suffix(features))):
            optimizer.zero_grad()
            output().square().mean().backward()
            optimizer.step()
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), frozen.parameters(), strict=True))
    assert torch.equal(made.suffix(made.prefix(ids)), model(ids))


def test_weights_that_are_loaded_later_are_seen_in_a_tied_layer_behind_the_cut() -> None:
    torch.manual_seed(0)
    model, other = Tied().eval(), Tied().eval()
    ids = torch.randint(0, 9, (3, 5))
    with pytest.warns(UserWarning, match="tied"):
        made = featcache.split(model, "embed", (ids,))
    model.load_state_dict(other.state_dict())
    assert torch.equal(made.suffix(made.prefix(ids)), other(ids))


def test_a_network_that_runs_one_block_twice_trains_only_what_is_behind_the_cut_alone() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.block, self.between, self.fc = (nn.Linear(4, 4) for _ in range(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.between(torch.relu(self.block(self.enter(x))))
            return self.fc(torch.relu(self.block(x)))

    torch.manual_seed(0)
    model, x = Twice().eval(), torch.randn(3, 4)
    with pytest.warns(UserWarning, match=r"block\.bias.*give each side modules of its own"):
        made = featcache.split(model, "between", (x,))
    assert set(dict(made.suffix.named_parameters())) == {"fc.weight", "fc.bias"}
    assert torch.equal(made.suffix(made.prefix(x)), model(x))


def test_the_warning_of_tied_parameters_says_how_to_untie_them() -> None:
    torch.manual_seed(0)
    model = Tied().eval()
    ids = torch.randint(0, 9, (3, 5))
    with pytest.warns(UserWarning, match=r"embed\.weight.*copy of its own") as warned:
        featcache.split(model, "body", (ids,))
    line = next(part for part in str(warned[0].message).split(": ") if part.startswith("model.head")).rstrip(".")
    exec(line, {"model": model, "torch": torch})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = featcache.split(model, "body", (ids,))
    assert torch.equal(made.suffix(made.prefix(ids)), model(ids))
    assert "head.weight" in dict(made.suffix.named_parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["swin_t", "swin_v2_t"])
def test_relative_position_tables_before_the_cut_are_among_the_digested_weights(name: str) -> None:
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    made = featcache.split(model, "features.1", (torch.randn(2, 3, 64, 64),))
    before = {each for each in model.state_dict() if each.startswith(("features.0", "features.1")) and "table" in each}
    used = {each for each in made.weights if "table" in each or "cpb_mlp" in each}
    assert used
    assert made.weights.keys() >= {each for each in before if "coords" not in each or name == "swin_v2_t"} - {
        each for each in before if "index" in each
    }
    base = made.weights
    with torch.no_grad():
        dict(model.named_parameters(), **dict(model.named_buffers()))[sorted(used)[0]].view(-1)[0] += 1e-3
    assert [each for each in base if made.weights[each] != base[each]] == [sorted(used)[0]]


class Windows(nn.Module):
    """Runs its middle on the windows of all samples, one sample after the other or one window after the other."""

    def __init__(self, samples_first: bool, writes: bool = False) -> None:
        super().__init__()
        self.inner, self.fc = nn.Linear(3, 3), nn.Linear(12, 2)
        self.samples_first, self.writes = samples_first, writes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = x.reshape(-1, 4, 3)
        parts = parts if self.samples_first else parts.transpose(0, 1)
        inner = self.inner(parts.reshape(-1, 3))
        if self.writes:
            inner[:, 0].mul_(2)
        if self.training:
            inner = nn.functional.dropout(inner, 0.3)
        inner = inner.view(-1, 4, 3) if self.samples_first else inner.view(4, -1, 3).transpose(0, 1)
        return self.fc(inner.reshape(-1, 12))


@pytest.mark.parametrize("samples_first", [True, False])
@pytest.mark.parametrize("writes", [False, True])
def test_the_windows_of_a_sample_are_stored_as_one_row(samples_first: bool, writes: bool) -> None:
    torch.manual_seed(0)
    model, x = Windows(samples_first, writes).eval(), torch.randn(5, 12)
    made = equals_the_model(model, "inner", x)
    assert made.frontier[0].shape == (4, 3)
    assert made.prefix(x).shape == (5, 4, 3)
    assert torch.equal(made.suffix(made.prefix(x)[3:]), model(x)[3:])


class ChannelNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class WritesIntoAView(nn.Module):
    """Writes into what is a view of its features or a copy, depending on how these lie in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(3, 8, 3), ChannelNorm(), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.block(self.stem(x)).clone()
        x.flatten(1).clamp_(max=0.1)
        return self.head(x.amax((2, 3)))


def test_a_suffix_gets_rows_that_lie_in_memory_as_the_models_did() -> None:
    torch.manual_seed(0)
    model, pictures = WritesIntoAView().eval(), torch.randn(4, 3, 8, 8)
    for cut in ("block", "block.norm"):
        made = equals_the_model(model, cut, pictures)
        rows = made.prefix(pictures)
        assert isinstance(rows, torch.Tensor)
        assert rows.is_contiguous()
        assert torch.equal(made.suffix.eval()(rows), model(pictures))


class Fails(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise ValueError("not for this input")


class Tries(nn.Module):
    """Does without a layer that fails."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.fails, self.last = nn.Linear(6, 6), Fails(), nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        with contextlib.suppress(ValueError):
            x = self.fails(x)
        return self.last(x)


@pytest.mark.parametrize(("cut", "layers"), [("0", 2), ("0.first", 1), ("0.last", 2), ("1", 3)])
def test_a_layer_whose_error_the_network_catches_changes_nothing_of_the_others(cut: str, layers: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Tries(), nn.Linear(6, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    assert len(equals_the_model(model, cut, torch.randn(4, 6)).weights) == 2 * layers
