"""Networks whose last layer is a convolution of any kind: made anew for the data's classes, trained, merged."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import featcache
from featcache.errors import HeadError
from featcache.heads import new_network

from ..conftest import Items

ROWS, SIZE = 20, 12


class SmallUNet(nn.Module):
    """Two resolutions and a skip, as U-Nets have them; the last layer is given."""

    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.down = nn.Sequential(nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.up = nn.Sequential(nn.Conv2d(16, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.last = last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        fine = self.first(x)
        coarse = functional.interpolate(self.down(fine), scale_factor=2)
        return self.last(self.up(torch.cat([fine, coarse], 1)))


LAST = {
    "3x3": lambda: nn.Conv2d(4, 3, 3, padding=1),
    "right already": lambda: nn.Conv2d(4, 2, 3, padding=1),
    "dilated, reflecting": lambda: nn.Conv2d(
        4, 6, (3, 5), padding=(2, 4), dilation=2, padding_mode="reflect", bias=False
    ),
    "in groups": lambda: nn.Conv2d(4, 4, 3, padding="same", groups=2),
    "strided": lambda: nn.Conv2d(4, 5, 4, stride=2, padding=1),
    "transposed": lambda: nn.ConvTranspose2d(4, 7, 3, stride=2, padding=1, output_padding=1),
    "transposed in groups": lambda: nn.ConvTranspose2d(4, 8, 3, padding=1, groups=2),
}


def cached(last: nn.Module, tmp_path, cut: str = "down"):
    torch.manual_seed(0)
    model = SmallUNet(last).eval()
    inputs = torch.randn(ROWS, 3, SIZE, SIZE)
    with torch.no_grad():
        size = model(inputs).shape[-2:]
    masks = (functional.interpolate(inputs.mean(1, keepdim=True), size=size)[:, 0] > 0).long()
    masks[:, 0] = 255
    split = featcache.split(model, cut, (inputs[:2],))
    features = featcache.extract(split, Items(inputs, masks.numpy()), str(tmp_path / "store"), batch_size=5)
    return inputs, masks, split, features


def settings(layer: nn.Module) -> dict[str, object]:
    names = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode", "output_padding", "in_channels")
    return {"type": type(layer), "bias": layer.bias is not None, **{name: getattr(layer, name) for name in names}}


@pytest.mark.parametrize("name", LAST)
def test_the_new_last_layer_is_a_convolution_like_the_old_one_and_trains_as_the_usual_loop_does(tmp_path, name) -> None:
    last = LAST[name]()
    inputs, masks, split, features = cached(last, tmp_path)
    model = new_network(split, 2, 5).model
    assert settings(model.last) == settings(last)
    assert model.last.out_channels == 2
    assert not (last.weight.shape == model.last.weight.shape and torch.equal(last.weight, model.last.weight))
    trained = featcache.train_head(
        split, features, epochs=3, batch_size=5, learning_rate=3e-3, lr_schedule="constant", validation=0, seed=5
    )
    own = [*model.up.parameters(), *model.last.parameters()]
    optimizer = torch.optim.AdamW(own, 3e-3, weight_decay=0.01)
    loader = features.loader(5, seed=5)
    for epoch in range(3):
        model.eval()
        model.up.train()
        for rows in torch.from_numpy(loader.order(epoch)).split(5):
            loss = functional.cross_entropy(model(inputs[rows]), masks[rows], ignore_index=255)
            optimizer.zero_grad()
            for parameter in model.parameters():
                parameter.grad = None
            loss.backward()
            optimizer.step()
    mine = trained.model.state_dict()
    assert [each for each, value in model.state_dict().items() if not torch.equal(mine[each], value)] == []


@pytest.mark.parametrize("name", LAST)
def test_a_head_that_ends_in_a_convolution_is_saved_loaded_and_merged(tmp_path, name: str) -> None:
    inputs, _, split, features = cached(LAST[name](), tmp_path)
    trained = featcache.train_head(split, features, epochs=1, batch_size=5)
    folder = trained.save(tmp_path / "head")
    expected = trained.model(inputs)
    assert expected.shape[1] == 2
    assert torch.equal(featcache.load_head(folder, split).model(inputs), expected)
    assert torch.equal(featcache.merge(folder, split.model)(inputs), expected)
    assert np.array_equal(featcache.predict(trained, list(inputs)).values, trained.predict_values(features))


class Averaged(nn.Module):
    """Reads a class off the mean of what a convolution gives, as networks for sounds and videos do; `forward` is the output's."""

    def __init__(self, last: nn.Module, stem: nn.Module, read=lambda scores: scores.flatten(2).mean(2)) -> None:
        super().__init__()
        self.stem, self.last, self.read = stem, last, read

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.read(self.last(self.stem(x).relu()))


AVERAGED = {
    "1d": lambda: (Averaged(nn.Conv1d(4, 5, 1), nn.Conv1d(2, 4, 3)), (2, 9)),
    "1d of size 3": lambda: (Averaged(nn.Conv1d(4, 5, 3), nn.Conv1d(2, 4, 3)), (2, 9)),
    "1d transposed": lambda: (Averaged(nn.ConvTranspose1d(4, 5, 3), nn.Conv1d(2, 4, 3)), (2, 9)),
    "3d": lambda: (Averaged(nn.Conv3d(4, 5, 1), nn.Conv3d(2, 4, 3)), (2, 5, 5, 5)),
    "3d transposed": lambda: (Averaged(nn.ConvTranspose3d(4, 5, 2), nn.Conv3d(2, 4, 3)), (2, 5, 5, 5)),
}


@pytest.mark.parametrize("name", AVERAGED)
def test_convolutions_of_one_and_three_dimensions_are_replaced_trained_and_merged(tmp_path, name: str) -> None:
    torch.manual_seed(0)
    model, shape = AVERAGED[name]()
    data = [(torch.randn(shape), number % 3) for number in range(20)]
    split = featcache.split(model.eval(), "stem", (torch.zeros(2, *shape),))
    features = featcache.extract(split, data, str(tmp_path / "store"))
    trained = featcache.train_head(split, features, epochs=2, batch_size=5, validation=0.0)
    assert trained.options.learning_rate == (1e-2 if name in ("1d", "3d") else 1e-3)
    inputs = torch.stack([each for each, _ in data])
    expected = trained.model(inputs)
    assert expected.shape == (20, 3)
    folder = trained.save(tmp_path / "head")
    assert torch.equal(featcache.load_head(folder, split).model(inputs), expected)
    assert torch.equal(featcache.merge(folder, split.model)(inputs), expected)


NORMED = [
    nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm, nn.utils.weight_norm,
    nn.utils.spectral_norm,
]  # fmt: skip


@pytest.mark.parametrize("made", NORMED)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:.*weight_norm.*deprecated")
def test_a_parametrized_last_layer_is_merged_into_as_well(tmp_path, made) -> None:
    for last in (nn.Linear(4, 5), nn.Conv1d(4, 5, 1)):
        linear = isinstance(last, nn.Linear)
        read = (lambda scores: scores) if linear else (lambda scores: scores.mean(2))
        stem = nn.Linear(3, 4) if linear else nn.Conv1d(3, 4, 1)
        shape = (3,) if linear else (3, 6)
        model = Averaged(made(last), stem, read).eval()
        data = [(torch.randn(shape), number % 3) for number in range(20)]
        split = featcache.split(model, "stem", (torch.zeros(2, *shape),))
        features = featcache.extract(split, data, str(tmp_path / type(last).__name__))
        trained = featcache.train_head(split, features, epochs=1)
        inputs = torch.stack([each for each, _ in data])
        assert torch.equal(featcache.merge(trained, model)(inputs), trained.model(inputs))


def test_tokens_are_read_off_a_convolution_whose_channels_come_last(tmp_path) -> None:
    network = Averaged(nn.Conv1d(4, 5, 3, padding=1), nn.Conv1d(2, 4, 3), read=lambda scores: scores.transpose(1, 2))
    data = [(torch.randn(2, 9), [number % 3] * 7) for number in range(20)]
    split = featcache.split(network.eval(), "stem", (torch.zeros(2, 2, 9),))
    trained = featcache.train_head(split, featcache.extract(split, data, str(tmp_path)), task="token", epochs=1)
    assert trained.model(torch.zeros(4, 2, 9)).shape == (4, 7, 3)


def test_tokens_as_many_as_classes_do_not_tell_which_are_the_channels(tmp_path) -> None:
    network = Averaged(nn.Conv1d(4, 5, 3, padding=1), nn.Conv1d(2, 4, 3), read=lambda scores: scores.transpose(1, 2))
    split = featcache.split(network.eval(), "stem", (torch.zeros(2, 2, 9),))
    with pytest.raises(
        HeadError, match=r"gives 7 × 7 scores for 7 classes.*'last' come last: use --head linear, or samples"
    ):
        new_network(split, 7)


@pytest.mark.parametrize("classes", [5, 3])
def test_channels_that_do_not_come_last_are_not_taken_for_places(tmp_path, classes: int) -> None:
    network = Averaged(nn.Conv1d(4, 5, 3), nn.Conv1d(2, 4, 3), read=lambda scores: scores)  # (rows, 5, 5)
    split = featcache.split(network.eval(), "stem", (torch.zeros(2, 2, 9),))
    with pytest.raises(HeadError, match="--head linear"):
        new_network(split, classes)


def test_a_convolution_in_groups_that_do_not_divide_the_classes_is_refused(tmp_path) -> None:
    *_, split, _ = cached(LAST["in groups"](), tmp_path)
    with pytest.raises(HeadError, match="in 2 groups, which cannot have 3 outputs"):
        new_network(split, 3)


def test_a_convolution_whose_code_is_its_own_is_not_replaced_by_a_plain_one(tmp_path) -> None:
    class Doubled(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    *_, split, _ = cached(Doubled(4, 3, 3, padding=1), tmp_path)
    with pytest.raises(HeadError, match=r"'last', is Doubled.*--head linear"):
        new_network(split, 2)


def test_a_last_convolution_that_only_refines_the_output_is_refused(tmp_path) -> None:
    class Refining(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scores, self.refine = nn.Conv2d(4, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scores = self.scores(x)
            return scores + self.refine(scores)

    *_, split, _ = cached(Refining(), tmp_path)
    with pytest.raises(HeadError, match="does not make the network's output alone"):
        new_network(split, 2)
