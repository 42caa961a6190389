from __future__ import annotations

import importlib
import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import pytest
import torch

import featcache

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def coverage(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The coverage survey, which is a script."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("coverage")


@pytest.fixture
def ids() -> dict[str, torch.Tensor]:
    return {"input_ids": torch.randint(3, 50, (3, 7)), "attention_mask": torch.ones(3, 7, dtype=torch.long)}


def gpt2(kind: str, **options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_embd=16, n_layer=2, n_head=2, vocab_size=50, n_positions=20, bos_token_id=1, eos_token_id=2, **options
    )
    return getattr(transformers, kind)(config).eval()


SMALL = [
    ("torchvision", "squeezenet1_1"),
    ("torchvision", "lraspp_mobilenet_v3_large"),
    ("timm", "test_mambaout"),
    ("timm", "test_vit_relpos"),
    ("timm", "legacy_seresnet18"),
    ("transformers", "BertForSequenceClassification"),
    ("transformers", "SwinModel"),
    ("transformers", "Wav2Vec2Model"),
    ("transformers", "WhisperEncoder"),
    ("transformers", "LlamaModel"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "name"), SMALL)
def test_the_coverage_survey_finds_small_models_exact_in_both_modes(
    coverage: ModuleType, family: str, name: str
) -> None:
    case = next(each for each in coverage.FAMILIES[family]() if each.name == name)
    row = coverage.survey(case, boundaries=3)
    assert "failed" not in row
    assert row["results"]
    for found in row["results"]:
        assert (found["eval"], found["train"]) == ("exact", "exact"), found


@pytest.mark.slow
def test_the_survey_goes_on_where_it_stopped_and_writes_a_page(tmp_path: Path) -> None:
    results, page = tmp_path / "rows.jsonl", tmp_path / "models.md"
    command = [sys.executable, BENCHMARKS / "coverage.py", "--family", "transformers", "--boundaries", "2"]
    for pattern in ("GPT2LMHeadModel", "GPT2*Model"):
        done = subprocess.run(
            [*command, "--models", pattern, "--results", results, "--write", page], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    assert [row["model"] for row in rows] == ["GPT2LMHeadModel", "GPT2Model"]
    written = page.read_text()
    assert "| GPT2LMHeadModel |" in written
    assert "| GPT2LMHeadModel | 0.06 M | 2 of 6 | 2 | 2 | 2 |  |" in written


@pytest.mark.slow
def test_the_strict_check_sees_a_suffix_that_is_wrong(coverage: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    check = importlib.import_module("coverage_check")
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2)).eval()
    x = torch.randn(4, 3)
    assert check.check_boundary(model, "1", (x,), (x,))["train"] == "exact"
    honest = featcache.split(model, "1", (x,))

    class Forgets:
        flat, prefix = True, honest.prefix
        suffix = torch.nn.Sequential(torch.nn.Tanh(), torch.nn.Linear(3, 2))

    monkeypatch.setattr(featcache, "split", lambda *_: Forgets)
    assert check.check_boundary(model, "1", (x,), (x,))["eval"] == "wrong"
    Forgets.suffix = type("Remembers", (torch.nn.Module,), {"forward": lambda self, z: model(x)})()
    assert check.check_boundary(model, "1", (x,), (x,))["eval"] == "wrong"


def test_a_flat_suffix_gives_the_output_class_of_the_model(ids: dict[str, torch.Tensor]) -> None:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, vocab_size=50
    )
    model = transformers.BertForSequenceClassification(config).eval()
    made = featcache.split(model, "bert.encoder.layer.0", ids)
    assert made.flat
    made.suffix.eval()
    with torch.no_grad():
        whole, again = model(**ids), made.suffix(made.prefix(**ids))
    assert type(again) is type(whole)
    assert list(again) == list(whole)
    assert torch.equal(again.logits, whole.logits)


def test_a_language_model_splits_at_every_block_with_its_tied_head_or_an_untied_one(
    ids: dict[str, torch.Tensor],
) -> None:
    plain = gpt2("GPT2Model", use_cache=False)
    for cut in ("h.0", "h.1"):
        made = featcache.split(plain, cut, ids)
        made.suffix.eval()
        found = made.suffix(made.prefix(**ids)).last_hidden_state
        assert torch.equal(found, plain(**ids).last_hidden_state)
    tied = gpt2("GPT2LMHeadModel", use_cache=False)
    for trained in (False, True):
        if trained:
            tied.lm_head.weight = torch.nn.Parameter(tied.lm_head.weight.detach().clone())
        with nullcontext() if trained else pytest.warns(UserWarning, match=r"model\.lm_head\.weight = torch"):
            made = featcache.split(tied, "transformer.h.0", ids)
        made.suffix.eval()
        assert torch.equal(made.suffix(made.prefix(**ids)).logits, tied(**ids).logits)
        assert ("lm_head.weight" in dict(made.suffix.named_parameters())) == trained


def test_relative_position_tables_and_joined_biases_of_beit_are_among_the_digested_weights() -> None:
    torch.manual_seed(0)
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2, "num_classes": 4}
    model = timm.create_model("beit_base_patch16_224", **options).eval()
    made = featcache.split(model, "blocks.1", (torch.randn(2, 3, 32, 32),))
    assert made.weights.keys() >= {
        f"blocks.{block}.attn.{name}"
        for block in (0, 1)
        for name in ("relative_position_bias_table", "relative_position_index", "q_bias", "v_bias", "qkv.weight")
    }
    assert not any(name.startswith("blocks.2") for name in made.weights)


def test_a_class_token_that_a_module_is_given_does_not_stop_the_listing_of_cuts() -> None:
    model = timm.create_model("cait_xxs24_224", img_size=32, depth=2, embed_dim=24, num_heads=2).eval()
    assert [cut.name for cut in featcache.cuts(model, (torch.randn(2, 3, 32, 32),)) if cut.flops_share > 0]
