"""Adapters of peft after the cut: trained from the cache as in the usual loop, and saved by peft's own means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import featcache
from featcache.heads import new_network

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
pytestmark = pytest.mark.slow

ROWS, BATCH, EPOCHS, SEED, LENGTH = 24, 8, 3, 5, 7
CUT = {"bert": "base_model.model.bert.encoder.layer.0", "gpt2": "base_model.model.transformer.h.0"}
BEFORE = {
    "bert": ("base_model.model.bert.embeddings", CUT["bert"]),
    "gpt2": tuple(f"base_model.model.transformer.{name}" for name in ("wte", "wpe", "drop", "h.0")),
}


def base(kind: str) -> nn.Module:
    torch.manual_seed(0)
    if kind == "bert":
        sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
        config = transformers.BertConfig(vocab_size=40, num_labels=3, **sizes)
        return transformers.BertForSequenceClassification(config).eval()
    sizes = {"n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 16}
    tokens = {"vocab_size": 40, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    return transformers.GPT2ForSequenceClassification(transformers.GPT2Config(num_labels=3, **tokens, **sizes)).eval()


def adapted(kind: str, config: Any) -> nn.Module:
    torch.manual_seed(1)
    return peft.get_peft_model(base(kind), config).eval()


def lora(kind: str = "bert", layers: str = "12", **options: Any) -> nn.Module:
    """Return a network with LoRA in some of its layers, and its classifier as a module to save."""
    where = rf".*\.[{layers}]\..*(query|value|c_attn)"
    config = {"task_type": "SEQ_CLS", "target_modules": where, "r": 4, "lora_dropout": 0.1, **options}
    return adapted(kind, peft.LoraConfig(fan_in_fan_out=kind == "gpt2", **config))


def ia3() -> nn.Module:
    where = r".*\.[12]\..*(key|value)"
    return adapted("bert", peft.IA3Config(task_type="SEQ_CLS", target_modules=where, feedforward_modules=[]))


ADAPTED: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "LoRA in BERT": ("bert", lora),
    "LoRA in GPT-2": ("gpt2", lambda: lora("gpt2")),
    "DoRA in BERT": ("bert", lambda: lora(use_dora=True)),
    "IA3 in BERT": ("bert", ia3),
}


def texts() -> list[tuple[dict[str, torch.Tensor], int]]:
    ids = torch.randint(1, 40, (ROWS, LENGTH), generator=torch.Generator().manual_seed(2))
    return [({"input_ids": row}, int(row[0] % 3)) for row in ids]


def batch(rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    chosen = [texts()[row] for row in rows]
    return torch.stack([each["input_ids"] for each, _ in chosen]), torch.tensor([target for _, target in chosen])


def extracted(model: nn.Module, kind: str, folder: Path) -> tuple[featcache.Split, featcache.Features]:
    split = featcache.split(model, CUT[kind], {"input_ids": batch([0, 1])[0]})
    return split, featcache.extract(split, texts(), str(folder), batch_size=BATCH)


def trained(split: featcache.Split, features: featcache.Features) -> featcache.TrainedHead:
    options: dict[str, Any] = {"epochs": EPOCHS, "batch_size": BATCH, "learning_rate": 0.02, "lr_schedule": "constant"}
    return featcache.train_head(split, features, seed=SEED, device="cpu", validation=0, **options)


def usual_loop(split: featcache.Split, features: featcache.Features, before: tuple[str, ...]) -> nn.Module:
    """Train the whole network, with what runs up to the cut in evaluation mode, and what peft froze left frozen."""
    model = new_network(split, 3, SEED).model
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=0.02)
    loader = features.loader(BATCH, seed=SEED)
    torch.manual_seed(SEED)
    for epoch in range(EPOCHS):
        model.train()
        for name in before:
            model.get_submodule(name).eval()
        for rows in torch.from_numpy(loader.order(epoch)).split(BATCH):
            ids, targets = batch(rows.tolist())
            loss = nn.functional.cross_entropy(model(input_ids=ids).logits, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def changed(before: nn.Module, after: nn.Module) -> set[str]:
    was = before.state_dict()
    return {name for name, value in after.state_dict().items() if not torch.equal(value, was[name])}


@pytest.mark.parametrize("name", ADAPTED)
def test_adapters_behind_the_cut_learn_what_the_usual_loop_teaches_them_and_nothing_else_changes(
    name, tmp_path
) -> None:
    kind, make = ADAPTED[name]
    model = make()
    split, features = extracted(model, kind, tmp_path / "s")
    expected = usual_loop(split, features, BEFORE[kind])
    head = trained(split, features)
    torch.testing.assert_close(head.model.state_dict(), expected.state_dict())
    adapting = {name for name, each in model.named_parameters() if each.requires_grad}
    assert {"modules_to_save" in each for each in adapting} == {True, False}
    assert changed(new_network(split, 3, SEED).model, head.model) == adapting


@pytest.mark.parametrize("name", ADAPTED)
def test_a_trained_adapter_is_saved_and_loaded_by_peft(name, tmp_path) -> None:
    kind, make = ADAPTED[name]
    split, features = extracted(make(), kind, tmp_path / "s")
    head = trained(split, features)
    head.save(tmp_path / "head")
    ids, _ = batch(range(ROWS))
    with torch.no_grad():
        expected = head.model(input_ids=ids).logits
        for folder, model in (("trained", head.model), ("merged", featcache.merge(tmp_path / "head", make()))):
            model.save_pretrained(tmp_path / folder)
            again = peft.PeftModel.from_pretrained(base(kind), tmp_path / folder).eval()
            torch.testing.assert_close(again(input_ids=ids).logits, expected)
        assert not torch.allclose(make()(input_ids=ids).logits, expected, atol=1e-3)


def test_features_do_not_depend_on_the_adapters_behind_the_cut(tmp_path) -> None:
    _, features = extracted(lora(), "bert", tmp_path / "s")
    for model in (lora(r=2), lora(layers="2"), ia3()):
        _, again = extracted(model, "bert", tmp_path / "s")
        assert (again.report.computed, again.recipe.fingerprint) == (0, features.recipe.fingerprint)


def test_an_adapter_before_the_cut_is_frozen_and_part_of_the_recipe(tmp_path) -> None:
    _, bare = extracted(lora(), "bert", tmp_path / "s")
    model = lora(layers="02", init_lora_weights=False)
    split, features = extracted(model, "bert", tmp_path / "s")
    assert features.report.computed == ROWS
    head = trained(split, features)
    assert not {name for name in changed(new_network(split, 3, SEED).model, head.model) if "layer.0." in name}
    early = next(each for name, each in model.named_parameters() if "layer.0." in name and "lora_B" in name)
    with torch.no_grad():
        early += 0.1
    assert extracted(model, "bert", tmp_path / "s")[1].report.computed == ROWS
    with model.disable_adapter():
        _, disabled = extracted(model, "bert", tmp_path / "s")
    assert (disabled.numpy()[0] == bare.numpy()[0]).all()
