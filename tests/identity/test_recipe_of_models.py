"""Models of every make have a recipe that says what they compute, or are refused."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import featcache
from featcache import FeatCacheError

from ..conftest import SmallNet

ROOT = Path(__file__).parents[2]


class Dense(nn.Module):
    """Two layers to cache and one to train."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.second(torch.relu(self.first(x)))))


class LowRank(nn.Module):
    """A frozen layer with a trained addition of low rank, as LoRA wraps it."""

    def __init__(self, base: nn.Linear, rank: int = 2) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Parameter(torch.randn(rank, base.in_features))
        self.up = nn.Parameter(torch.randn(base.out_features, rank) * 0.1)
        self.scaling = 0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + (x @ self.down.T @ self.up.T) * self.scaling


@pytest.fixture
def dense() -> Dense:
    torch.manual_seed(0)
    return Dense().eval()


def structure_and_weights(model: nn.Module, cut: str = "second") -> tuple[str, tuple[tuple[str, str], ...]]:
    split = featcache.split(model, cut, (torch.ones(2, 6),))
    return split.structure, tuple(sorted(split.weights.items()))


def low_rank(model: Dense) -> None:
    torch.manual_seed(1)
    model.second = LowRank(model.second)


def scaled_low_rank(model: Dense) -> None:
    low_rank(model)
    model.second.scaling = 0.25


def low_rank_by_a_little(model: Dense) -> None:
    low_rank(model)
    model.second.up.data.view(-1)[0] += 1e-6


def weight_norm(model: Dense) -> None:
    parametrizations.weight_norm(model.second)


def weight_norm_by_a_little(model: Dense) -> None:
    weight_norm(model)
    model.second.parametrizations.weight.original0.data.view(-1)[0] += 1e-6


def orthogonal(model: Dense) -> None:
    parametrizations.orthogonal(model.second)


def hook_after(model: Dense) -> None:
    model.second.register_forward_hook(lambda module, inputs, output: output * 2)


def another_hook_after(model: Dense) -> None:
    model.second.register_forward_hook(lambda module, inputs, output: output * 3)


def hook_before(model: Dense) -> None:
    model.second.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,))


def hook_early(model: Dense) -> None:
    model.first.register_forward_hook(lambda module, inputs, output: output.clamp(max=1))


def tied(model: Dense) -> None:
    torch.manual_seed(2)
    model.second = nn.Linear(8, 8)
    model.second.weight = model.first.weight = nn.Parameter(torch.ones(8, 8))
    model.first = nn.Sequential(nn.ZeroPad1d((0, 2)), model.first)
    model.first[1].in_features = 8


def half(model: Dense) -> None:
    model.second.weight.data = model.second.weight.data.bfloat16().float()


CHANGES = [
    low_rank,
    scaled_low_rank,
    low_rank_by_a_little,
    weight_norm,
    weight_norm_by_a_little,
    orthogonal,
    hook_after,
    another_hook_after,
    hook_before,
    hook_early,
    tied,
    half,
]


def test_each_way_to_change_what_a_model_computes_is_another_recipe(dense: Dense) -> None:
    found = {"unchanged": structure_and_weights(dense)}
    for change in CHANGES:
        changed = copy.deepcopy(dense)
        change(changed)
        found[change.__name__] = structure_and_weights(changed.eval())
        again = copy.deepcopy(dense)
        change(again)
        assert structure_and_weights(again.eval()) == found[change.__name__], change.__name__
    assert len(set(found.values())) == len(found), found.keys()


SEEN: list[torch.Size] = []


def look(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
    SEEN.append(output.shape)


def test_hooks_that_only_look_and_names_of_classes_are_no_change(dense: Dense) -> None:
    before = structure_and_weights(dense)
    SEEN.clear()
    handle = dense.second.register_forward_hook(look)
    assert structure_and_weights(dense) == before
    assert SEEN
    handle.remove()
    assert structure_and_weights(type("Renamed", (Dense,), {})().eval()) != before  # other weights
    renamed = type("Renamed", (Dense,), {})()
    renamed.load_state_dict(dense.state_dict())
    assert structure_and_weights(renamed.eval()) == before


def test_a_model_that_was_saved_and_loaded_is_the_same(dense: Dense, tmp_path: Path) -> None:
    torch.save(dense.state_dict(), tmp_path / "weights.pt")
    loaded = Dense()
    loaded.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert structure_and_weights(loaded.eval()) == structure_and_weights(dense)


def outcome(model: nn.Module) -> object:
    try:
        return structure_and_weights(model)
    except FeatCacheError:
        return "refused"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("change", ["weight", "scale"])
def test_quantised_layers_are_told_apart_or_refused(dense: Dense, change: str) -> None:
    def quantised(model: Dense) -> nn.Module:
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)

    changed = copy.deepcopy(dense)
    if change == "weight":
        changed.second.weight.data.view(-1)[0] += 0.5
    else:
        changed.second.weight.data *= 2
    one, other = outcome(quantised(dense)), outcome(quantised(changed))
    assert one == "refused" or one != other
    assert one == outcome(quantised(copy.deepcopy(dense)))


ASK = """
import torch, sys
from tests.conftest import SmallNet
from tests.identity.test_recipe_of_models import Dense, structure_and_weights
import featcache
torch.manual_seed(0)
print(structure_and_weights(Dense().eval()))
torch.manual_seed(0)
split = featcache.split(SmallNet().eval(), "block", (torch.ones(2, 3, 12, 12),))
print(split.structure, sorted(split.weights.items()))
"""


@pytest.mark.slow
def test_every_process_and_hash_seed_gives_a_model_the_same_recipe(dense: Dense) -> None:
    torch.manual_seed(0)
    split = featcache.split(SmallNet().eval(), "block", (torch.ones(2, 3, 12, 12),))
    here = f"{structure_and_weights(dense)}\n{split.structure} {sorted(split.weights.items())}\n"
    for seed in ("1", "77"):
        done = subprocess.run(
            [sys.executable, "-c", ASK],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == here
