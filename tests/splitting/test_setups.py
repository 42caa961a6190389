"""Networks that people bring and that ask for something special: each is cut and gives the network's own values."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

import featcache
from featcache.errors import SplitError

from .comparing import check, rows_of


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


def test_a_function_that_is_mapped_over_rows_is_refused_with_the_reason() -> None:
    class Mapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.fc = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.inner(torch.vmap(lambda row: row * 2 / row.norm())(x)))

    with pytest.raises(SplitError, match=r"torch\.vmap.*write it for a batch"):
        featcache.split(Mapped().eval(), "inner", (torch.randn(2, 4),))


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


class DrawsFromItsOwn(nn.Module):
    """Draws from a generator of its own, as diffusion models and samplers do."""

    def __init__(self, where: str, generator: object) -> None:
        super().__init__()
        self.where, self.held = where, [generator]
        self.body, self.mid, self.fc = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def noise(self, x: torch.Tensor) -> torch.Tensor:
        (generator,) = self.held
        if isinstance(generator, torch.Generator):
            return torch.randn(x.shape, generator=generator)
        return torch.full_like(x, generator.random())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x).relu()
        if self.where == "before":
            x = x + self.noise(x)
        if self.where == "unused":
            self.noise(x)
        x = self.mid(x)
        if self.where == "behind" or (self.where == "training" and self.training):
            x = x + self.noise(x)
        return self.fc(x)


@pytest.mark.parametrize("where", ["behind", "training", "unused"])
def test_a_generator_that_a_network_holds_is_drawn_from_in_every_pass_and_left_alone_by_trials(
    where: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(3)
    model, rows = DrawsFromItsOwn(where, generator).eval(), torch.randn(12, 6)
    state = generator.get_state()
    made = check(model, "mid", (rows[:2],), (rows,))
    features = featcache.extract(model, [(row, n % 3) for n, row in enumerate(rows)], tmp_path, cut="mid", batch_size=4)
    assert torch.equal(generator.get_state(), state)
    stored = torch.as_tensor(features.numpy()[0])
    assert torch.allclose(stored, model.mid(model.body(rows).relu()), atol=1e-6)
    made.suffix.train(where == "training")
    model.train(where == "training")
    found = [made.suffix(made.prefix(rows)) for _ in range(2)]
    assert torch.equal(*found) == (where == "unused")
    generator.set_state(state)
    if where != "unused":  # there the network draws, and the suffix does not
        assert all(torch.allclose(each, model(rows), atol=1e-6) for each in found)
    featcache.train_head(made, features, epochs=1, device="cpu")


IN_A_GLOBAL_VARIABLE = torch.Generator()


class DrawsTheSame(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.mid, self.fc = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        IN_A_GLOBAL_VARIABLE.manual_seed(3)  # what it is seeded with is in no recorded call
        return self.fc(self.mid(self.body(x).relu() + torch.randn(8, generator=IN_A_GLOBAL_VARIABLE)))


def test_what_is_drawn_from_any_generator_before_the_cut_is_refused() -> None:
    torch.manual_seed(0)
    for model in (DrawsFromItsOwn("before", torch.Generator()), DrawsTheSame()):
        with pytest.raises(SplitError, match=r"draws random numbers in evaluation mode \(torch\.randn\).*work: body"):
            featcache.split(model.eval(), "mid", (torch.randn(2, 6),))
        check(model, "body", (torch.randn(2, 6),))


@pytest.mark.parametrize("generator", [np.random.default_rng(0), random.Random(0)], ids=["numpy", "Python"])
def test_a_generator_that_cannot_be_seeded_is_refused_with_those_that_can(generator: object) -> None:
    torch.manual_seed(0)
    model = DrawsFromItsOwn("behind", generator).eval()
    with pytest.raises(SplitError, match=r"a generator that cannot be seeded.*a torch\.Generator that is an attribute"):
        featcache.split(model, "mid", (torch.randn(2, 6),))
    model.held = [torch.Generator()]
    check(model, "mid", (torch.randn(2, 6),))


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
