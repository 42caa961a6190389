"""What a flat suffix consists of, what comes out of it, and what it leaves to the replay."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import nn

import featcache


class Returns(nn.Module):
    """Returns what a function makes of the logits and of the features."""

    def __init__(self, made: Callable[[torch.Tensor, torch.Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head, self.made = nn.Linear(4, 4), nn.Linear(4, 2), made

    def forward(self, x: torch.Tensor) -> Any:
        x = self.body(x)
        return self.made(self.head(x), x)


def both(model: nn.Module, x: torch.Tensor, cut: str = "body") -> tuple[featcache.Split, Any, Any]:
    """Return the split, what its suffix gives and what the model gives."""
    made = featcache.split(model.eval(), cut, (torch.randn(2, 4),))
    made.suffix.eval()
    with torch.no_grad():
        return made, made.suffix(made.prefix(x)), model(x)


def test_a_flat_suffix_of_layers_in_a_row_holds_these_and_nothing_else() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    made = both(model, torch.randn(5, 4), "0")[0]
    assert [(node.op, node.target) for node in made.suffix.graph.nodes] == [
        ("placeholder", "frontier"),
        ("call_module", "1"),
        ("call_module", "2"),
        ("output", "output"),
    ]


class Halves(nn.Module):
    """Makes two rows of each sample after the cut, and one more of all of them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(4, 4), nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = 2 * len(x)
        x = self.body(x).view(rows, 2)
        return self.head(torch.cat([x, x.mean(0, keepdim=True)]).narrow(0, 0, rows + 1)[:-1]).view(len(x) // 2, 4)


def test_sizes_in_a_flat_suffix_are_those_of_each_batch() -> None:
    for rows in (1, 2, 5, 7):
        made, found, expected = both(Halves(), torch.randn(rows, 4))
        assert made.flat
        assert torch.equal(found, expected)


class Averages(nn.Module):
    """Does something else after the cut where samples are long."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x)
        return self.head(x.amax(1) if x.shape[1] > 100 else x.mean(1))


def test_where_samples_vary_in_length_a_suffix_does_what_the_network_does_at_each_length() -> None:
    model = Averages().eval()
    assert featcache.split(model, "body", (torch.randn(2, 8, 4),)).flat
    made = featcache.split(model, "body", (torch.randn(2, 8, 4),), (torch.randn(2, 5, 4),))
    assert not made.flat
    made.suffix.eval()
    with torch.no_grad():
        for length in (1, 5, 8, 120):
            x = torch.randn(3, length, 4)
            assert torch.equal(made.suffix(made.prefix(x)), model(x))


Pair = namedtuple("Pair", "logits features")
CLASSES: dict[str, Callable[[torch.Tensor, torch.Tensor], Any]] = {
    "tuple": lambda logits, features: (logits, features),
    "list": lambda logits, features: [logits, features],
    "dict": lambda logits, features: {"z": logits, "a": features},
    "named tuple": Pair,
    "ordered dict": lambda logits, features: OrderedDict(z=logits, a=features),
    "output class": lambda logits, features: transformers.modeling_outputs.SequenceClassifierOutput(
        logits=logits, hidden_states=(features,)
    ),
}


@pytest.mark.parametrize("name", CLASSES)
def test_what_comes_out_of_a_flat_suffix_is_of_the_class_that_the_network_returns(name: str) -> None:
    made, found, expected = both(Returns(CLASSES[name]), torch.randn(5, 4))
    assert made.flat
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
    pairs = zip(torch.utils._pytree.tree_leaves(found), torch.utils._pytree.tree_leaves(expected), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


@dataclasses.dataclass
class Sizes(OrderedDict):
    """An output class that is not known to torch."""

    rows: int

    def __post_init__(self) -> None:
        self["rows"] = self.rows


OTHERS: dict[str, Callable[[torch.Tensor, torch.Tensor], Any]] = {
    "number of numpy": lambda logits, features: (logits, np.float32(0.5)),
    "range": lambda logits, features: (logits, range(len(logits))),
    "class of its own": lambda logits, features: (logits, Sizes(len(logits))),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_network_that_returns_what_no_graph_holds_is_replayed(name: str) -> None:
    made, found, expected = both(Returns(OTHERS[name]), torch.randn(5, 4))
    assert not made.flat
    assert torch.equal(found[0], expected[0])
    assert found[1] == expected[1]


class Looks(nn.Module):
    """Returns, beside its features, what it saw in them."""

    def __init__(self, seen: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.linear, self.seen = nn.Linear(4, 2), seen

    def forward(self, x: torch.Tensor) -> Any:
        return self.linear(x), self.seen(x)


@pytest.mark.parametrize(
    "seen",
    [
        lambda x: bool((x > 100).any()),
        lambda x: x[0] if (x > 100).any() else None,
        lambda x: [x] if (x > 100).any() else [x, x],
    ],
    ids=["value", "tensor or none", "number of tensors"],
)
def test_what_a_layer_says_of_the_content_beside_its_tensors_is_that_of_each_batch(seen: Callable[..., Any]) -> None:
    model = nn.Sequential(nn.Linear(4, 4), Looks(seen))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(4))
    for x in (torch.ones(5, 4), torch.full((5, 4), 1000.0)):
        made, found, expected = both(model, x, "0")
        assert not made.flat
        assert type(found[1]) is type(expected[1])
        pairs = zip(torch.utils._pytree.tree_leaves(found), torch.utils._pytree.tree_leaves(expected), strict=True)
        assert all(torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other for one, other in pairs)


class Keeps(nn.Module):
    """Keeps what it saw in its features as an attribute, at which the network looks."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.large = nn.Linear(4, 2), False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.large = bool((x > 100).any())
        return self.linear(x)


class LooksLater(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.keeps = nn.Linear(4, 4), Keeps()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.keeps(self.body(x))
        return x * 2 if self.keeps.large else x


def test_what_a_layer_keeps_of_the_content_is_that_of_each_batch() -> None:
    model = LooksLater()
    with torch.no_grad():
        model.body.weight.copy_(torch.eye(4))
    for x in (torch.ones(5, 4), torch.full((5, 4), 1000.0)):
        _, found, expected = both(model, x)
        assert torch.equal(found, expected)


class Scales(nn.Module):
    """Returns, beside its features, what it saw in its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> Any:
        return x * self.scale, bool(self.scale > 2)


def test_what_a_layer_says_of_its_weights_is_true_of_them_as_they_are() -> None:
    made, found, _ = both(nn.Sequential(nn.Linear(4, 4), Scales()), torch.ones(5, 4), "0")
    assert not found[1]
    with torch.no_grad():
        made.model[1].scale.fill_(3)
        assert made.suffix(made.prefix(torch.ones(5, 4)))[1]


class Causal(nn.Module):
    """Holds a mask, at which torch's encoder looks, whatever the input is."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.body, self.encoder = nn.Linear(4, 8), nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.encoder(self.body(x), mask=self.mask)


def test_a_layer_that_looks_at_a_buffer_alone_is_called_whole() -> None:
    assert featcache.split(Causal().eval(), "body", (torch.randn(2, 5, 4),)).flat
