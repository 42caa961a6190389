"""The models of the coverage survey: with random weights, offline, on the smallest inputs that they take."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from coverage_setups import setups
from torch import nn

Inputs = Callable[[int, int], Any]  # (batch, seed) to a tuple or a dict of inputs
SIZES = (64, 96, 128, 224, 256, 299)
VIDEO = [(3, 4, 32, 32), (3, 4, 64, 64), (3, 4, 224, 224), (3, 16, 224, 224)]


@dataclass(frozen=True)
class Case:
    """A model: ``build`` returns it with what makes inputs for it; ``make`` returns the model alone, for counting."""

    family: str
    name: str
    build: Callable[[], tuple[nn.Module, Inputs]]
    make: Callable[[], nn.Module]

    def parameters(self) -> float:
        """Return the number of parameters, from a model without memory; infinite where that cannot be made."""
        try:
            with torch.device("meta"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return float(sum(each.numel() for each in self.make().parameters()))
        except Exception:
            return float("inf")


def images(*shape: int) -> Inputs:
    """Return what makes random images of this shape."""
    return lambda batch, seed: (torch.randn(batch, *shape, generator=torch.Generator().manual_seed(seed)),)


def smallest(model: nn.Module, shapes: list[tuple[int, ...]]) -> Inputs:
    """Return what makes images of the first shape that the model takes, in training mode too."""
    failure: Exception | None = None
    for shape in shapes:
        try:
            with torch.no_grad():
                for mode in (True, False):  # training may need more: an auxiliary head pools further
                    model.train(mode)(*images(*shape)(2, 0))
            return images(*shape)
        except Exception as error:
            failure = error
    raise ValueError(f"takes none of the shapes {shapes}: {failure}")


def squares(*channels: int) -> list[tuple[int, ...]]:
    """Return image shapes of growing size."""
    return [(*channels, size, size) for size in SIZES]


# torchvision -------------------------------------------------------------------------------------------------------


def _torchvision_model(name: str) -> nn.Module:
    import torchvision

    options: dict[str, Any] = {"weights": None}
    if name.startswith("vit"):
        options["image_size"] = 56 if name == "vit_h_14" else 64
    if name in ("googlenet", "inception_v3"):
        options |= {"init_weights": False, "aux_logits": name == "inception_v3"}
    if name in ("deeplabv3_mobilenet_v3_large", "deeplabv3_resnet50", "deeplabv3_resnet101", "fcn_resnet50"):
        options["weights_backbone"] = None
    if name in ("fcn_resnet101", "lraspp_mobilenet_v3_large"):
        options["weights_backbone"] = None
    model: nn.Module = torchvision.models.get_model(name, **options)
    return model


def _torchvision(name: str, video: bool) -> tuple[nn.Module, Inputs]:
    model = _torchvision_model(name)
    return model, smallest(model, VIDEO if video else squares(3))


def torchvision_cases() -> Iterator[Case]:
    """Every classification, segmentation and video model of torchvision."""
    import torchvision

    modules = (torchvision.models, torchvision.models.segmentation, torchvision.models.video)
    for module in modules:
        for name in torchvision.models.list_models(module):
            make = functools.partial(_torchvision_model, name)
            video = module is torchvision.models.video
            yield Case("torchvision", name, functools.partial(_torchvision, name, video), make)


# timm --------------------------------------------------------------------------------------------------------------

# One small architecture of each of timm's families, two where a family has very different members.
TIMM = """
beit_base_patch16_224 halonet_h1 eca_botnext26ts_256 mobileone_s1 repvgg_a0 cait_xxs24_224 coat_tiny coat_lite_tiny
convit_tiny convmixer_768_32 convnext_atto convnextv2_atto cpubone_nano crossvit_tiny_240 csatv2 cs3darknet_s
cspresnet50 cspnext_tiny davit_tiny deit_tiny_patch16_224 deit3_small_patch16_224 densenet121 dla46x_c dpn48b
edgenext_xx_small efficientformer_l1 efficientformerv2_s0 efficientnet_b0 efficientnet_b0_gn tf_efficientnetv2_b0
mnasnet_small mixnet_s efficientvim_m1 efficientvit_b0 efficientvit_m0 eva02_tiny_patch14_224 fasternet_t0 fastvit_t8
focalnet_tiny_srf gcvit_xxtiny ghostnet_050 ghostnetv2_100 ghostnetv3_050 hardcorenas_b hgnetv2_b0 hiera_tiny_224
sam2_hiera_tiny hrnet_w18_small iformer_t inception_next_atto inception_resnet_v2 inception_v3 inception_v4
lcnetv2_small levit_128s levit_conv_128s lowformer_b0 test_mambaout coatnet_pico_rw_224 maxvit_pico_rw_256
poolformer_s12 caformer_s18 gmlp_ti16_224 mixer_s32_224 resmlp_12_224 mobilenetv3_small_050 lcnet_035 mobilenetv5_base
mobilevit_xxs mobilevitv2_050 mvitv2_tiny naflexvit_base_patch16_gap nasnetalarge nest_tiny nextvit_small nf_ecaresnet26
dm_nfnet_f0 pit_ti_224 pit_ti_distilled_224 pnasnet5large pvt_v2_b0 qwen3_vit_88m rdnet_tiny regnetx_002 regnety_002
repghostnet_050 repvit_m0_9 res2net50_14w_8s resnest14d resnet10t resnet18 seresnext26d_32x4d resnetv2_18 rexnet_100
selecsls42 legacy_seresnet18 sequencer2d_s shvit_s1 skresnet18 starnet_s050 swiftformer_xs swin_tiny_patch4_window7_224
swinv2_tiny_window8_256 swinv2_cr_tiny_224 tiny_vit_5m_224 tnt_s_patch16_224 tresnet_m twins_svt_small twins_pcpvt_small
vgg11 visformer_tiny vit_tiny_patch16_224 vit_tiny_r_s16_p8_224 test_vit_relpos samvit_base_patch16_224
vitamin_small_224 volo_d1_224 ese_vovnet19b_slim_dw legacy_xception xception41p xcit_nano_12_p16_224
""".split()  # noqa: SIM905


def _timm_model(name: str, size: int | None = None) -> nn.Module:
    import timm

    model: nn.Module = timm.create_model(name, pretrained=False, **({} if size is None else {"img_size": size}))
    return model


def _timm(name: str) -> tuple[nn.Module, Inputs]:
    for size in (64, 112, 128, None):  # many transformers are made for one size
        try:
            model = _timm_model(name, size)
            return model, smallest(model, squares(3) if size is None else [(3, size, size)])
        except Exception:
            if size is None:
                raise
    raise AssertionError


def timm_cases() -> Iterator[Case]:
    """At least one architecture of each of timm's families."""
    for name in TIMM:
        yield Case("timm", name, functools.partial(_timm, name), functools.partial(_timm_model, name))


# transformers ------------------------------------------------------------------------------------------------------

TINY = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}
TEXT = {**TINY, "vocab_size": 100, "max_position_embeddings": 40, "num_labels": 3}
DISTIL = {"dim": 32, "n_layers": 4, "n_heads": 4, "hidden_dim": 64, "vocab_size": 100, "num_labels": 3}
VISION = {**TINY, "image_size": 32, "patch_size": 8}
SPEECH = {
    **TINY, "conv_dim": (16, 16), "conv_kernel": (5, 3), "conv_stride": (4, 2), "num_feat_extract_layers": 2, "vocab_size": 20,
    "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "num_labels": 3, "classifier_proj_size": 16,
    "mask_time_prob": 0.0,  # its random masks are drawn by numpy
}  # fmt: skip
GPT = {
    "vocab_size": 100,
    "n_embd": 32,
    "n_layer": 4,
    "n_head": 4,
    "n_positions": 40,
    "use_cache": False,
    "pad_token_id": 0,
}
LLAMA = {**TEXT, "num_key_value_heads": 2, "use_cache": False, "pad_token_id": 0}
WHISPER = {
    "d_model": 32, "encoder_layers": 4, "encoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_layers": 1,
    "decoder_attention_heads": 4, "decoder_ffn_dim": 64, "num_mel_bins": 16, "max_source_positions": 20, "vocab_size": 60,
    "decoder_start_token_id": 1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
SWIN = {
    "image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2, 2], "num_heads": [2, 4, 8], "window_size": 4,
    "num_labels": 3,
}  # fmt: skip
# name: (its configuration's class, options, kind of input)
TRANSFORMERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "BertModel": ("BertConfig", TEXT, "text"),
    "BertForSequenceClassification": ("BertConfig", TEXT, "text"),
    "BertForMaskedLM": ("BertConfig", TEXT, "text"),
    "RobertaModel": ("RobertaConfig", TEXT, "text"),
    "RobertaForSequenceClassification": ("RobertaConfig", TEXT, "text"),
    "DistilBertModel": ("DistilBertConfig", DISTIL, "text"),
    "DistilBertForSequenceClassification": ("DistilBertConfig", DISTIL, "text"),
    "ViTModel": ("ViTConfig", VISION, "image"),
    "ViTForImageClassification": ("ViTConfig", {**VISION, "num_labels": 3}, "image"),
    "Dinov2Model": ("Dinov2Config", {**VISION, "drop_path_rate": 0.2}, "image"),
    "Dinov2ForImageClassification": ("Dinov2Config", {**VISION, "num_labels": 3}, "image"),
    "SwinModel": ("SwinConfig", SWIN, "image"),
    "SwinForImageClassification": ("SwinConfig", SWIN, "image"),
    "CLIPTextModel": ("CLIPTextConfig", {**TEXT, "eos_token_id": 2}, "text"),
    "CLIPVisionModel": ("CLIPVisionConfig", VISION, "image"),
    "CLIPTextModelWithProjection": ("CLIPTextConfig", {**TEXT, "projection_dim": 16}, "text"),
    "CLIPVisionModelWithProjection": ("CLIPVisionConfig", {**VISION, "projection_dim": 16}, "image"),
    "SiglipTextModel": ("SiglipTextConfig", TEXT, "text"),
    "SiglipVisionModel": ("SiglipVisionConfig", VISION, "image"),
    "Wav2Vec2Model": ("Wav2Vec2Config", SPEECH, "audio"),
    "Wav2Vec2ForSequenceClassification": ("Wav2Vec2Config", SPEECH, "audio"),
    "WhisperEncoder": ("WhisperConfig", WHISPER, "mel"),
    "WhisperForAudioClassification": ("WhisperConfig", {**WHISPER, "num_labels": 3, "classifier_proj_size": 16}, "mel"),
    "GPT2Model": ("GPT2Config", GPT, "text"),
    "GPT2ForSequenceClassification": ("GPT2Config", {**GPT, "num_labels": 3}, "text"),
    "GPT2LMHeadModel": ("GPT2Config", GPT, "text"),
    "LlamaModel": ("LlamaConfig", LLAMA, "text"),
    "LlamaForSequenceClassification": ("LlamaConfig", LLAMA, "text"),
    "LlamaForCausalLM": ("LlamaConfig", LLAMA, "text"),
}  # fmt: skip


def _text(batch: int, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(batch, 10, dtype=torch.long)
    mask[1, 7:] = 0
    return {"input_ids": torch.randint(3, 100, (batch, 10), generator=generator), "attention_mask": mask}


def _one(name: str, *shape: int) -> Inputs:
    return lambda batch, seed: {name: torch.randn(batch, *shape, generator=torch.Generator().manual_seed(seed))}


KINDS: dict[str, Inputs] = {
    "text": _text,
    "image": _one("pixel_values", 3, 32, 32),
    "audio": _one("input_values", 400),
    "mel": _one("input_features", 16, 40),
}


def _transformers_model(name: str) -> nn.Module:
    import transformers

    config, options, _ = TRANSFORMERS[name]
    kind = getattr(transformers, name, None)
    if kind is None:  # Whisper's encoder is not exported
        kind = getattr(__import__("transformers.models.whisper.modeling_whisper", fromlist=[name]), name)
    model: nn.Module = kind(getattr(transformers, config)(**options))
    return model


def transformers_cases() -> Iterator[Case]:
    """Small random configurations of the usual transformers."""
    for name, (_, _, kind) in TRANSFORMERS.items():
        make = functools.partial(_transformers_model, name)
        yield Case("transformers", name, lambda make=make, kind=kind: (make(), KINDS[kind]), make)  # type: ignore[misc]


def setup_cases() -> Iterator[Case]:
    """Set-ups that ask for something special."""
    for name, build, make in setups():
        yield Case("set-ups", name, build, make)


FAMILIES: dict[str, Callable[[], Iterator[Case]]] = {
    "set-ups": setup_cases,
    "timm": timm_cases,
    "torchvision": torchvision_cases,
    "transformers": transformers_cases,
}
