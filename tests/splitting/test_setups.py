"""Networks that people bring and that ask for something special: each is cut and gives the network's own values."""

from __future__ import annotations

import pytest
import torch
import torchvision
import transformers
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

import featcache
from featcache.errors import SplitError


def check(model: nn.Module, cut: str, given: object, other: object = None) -> featcache.Split:
    """Cut a network, and compare suffix(prefix(x)) with it on the example and, if there is one, on another batch."""
    made = featcache.split(model, cut, given)
    for each in (given, given if other is None else other):
        assert (made.check(**each) if isinstance(each, dict) else made.check(*each)) <= 1e-6
    return made


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
