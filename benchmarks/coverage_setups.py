"""Set-ups that people bring: small networks of every kind that asks for something special, for the coverage survey."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

Inputs = Callable[[int, int], Any]


def ids(batch: int, seed: int, length: int = 6, padded: bool = False) -> torch.Tensor:
    """Return random token ids from 2 on, in every second row padded with 1 at the end."""
    found = torch.randint(2, 30, (batch, length), generator=torch.Generator().manual_seed(seed))
    if padded:
        found[1::2, length // 2 :] = 1
    return found


def floats(*shape: int) -> Inputs:
    """Return what makes random rows of this shape."""
    return lambda batch, seed: (torch.randn(batch, *shape, generator=torch.Generator().manual_seed(seed)),)


def tokens(padded: bool = False) -> Inputs:
    """Return what makes token ids."""
    return lambda batch, seed: (ids(batch, seed, padded=padded),)


def text(batch: int, seed: int) -> dict[str, torch.Tensor]:
    """Return token ids with their mask, as transformers names them."""
    mask = torch.ones(batch, 6, dtype=torch.long)
    mask[1::2, 4:] = 0
    return {"input_ids": ids(batch, seed), "attention_mask": mask}


class Text(nn.Module):
    """Embeds token ids, runs an encoder, and reads a class off the mean."""

    def __init__(self, run: Callable[..., torch.Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.emb, self.fc, self.run = nn.Embedding(30, 16), nn.Linear(16, 3), run
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, tokens: torch.Tensor, *more: torch.Tensor) -> torch.Tensor:
        return self.fc(self.run(self, self.emb(tokens), tokens, *more))


def _encoder(layers: int = 3, **options: Any) -> nn.TransformerEncoder:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, **options), layers, enable_nested_tensor=False)


def _packed(self: Any, x: torch.Tensor, _: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    packed = nn.utils.rnn.pack_padded_sequence(self.proj(x), lengths.cpu(), batch_first=True, enforce_sorted=False)
    found: torch.Tensor = self.rnn(packed)[1][0][-1]
    return found


def _masked(self: Any, x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    mask: torch.Tensor | None = tokens.eq(1)
    if not mask.any():
        mask = None
    for layer in self.layers:
        x = x + layer(x, x, x, key_padding_mask=mask, need_weights=False)[0]
    return x.mean(1)


def _seq2seq(self: Any, x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    steps = x.transpose(0, 1)
    found: torch.Tensor = self.whole(steps, steps).mean(0)
    return found


def _lstm(self: Any, x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    steps, (hidden, _) = self.rnn(x.transpose(0, 1))
    return steps.mean(0) + torch.cat([hidden[-2], hidden[-1]], -1)


class OneDict(nn.Module):
    """Takes one dict and writes into it, as networks of sentence-transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.inner, self.out = nn.Embedding(30, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        mask = features["attention_mask"].unsqueeze(-1)
        features["tokens"] = self.inner(self.emb(features["input_ids"])).relu()
        features["sentence"] = self.out((features["tokens"] * mask).sum(1) / mask.sum(1))
        return {"sentence": features["sentence"]}


class Towers(nn.Module):
    """An image and a text tower that meet at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
        self.text, self.head = nn.Sequential(nn.Embedding(30, 8), nn.Linear(8, 8)), nn.Linear(8, 4)

    def forward(self, pixels: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return self.image(pixels) * self.head(self.text(tokens).mean(1))


class Views(nn.Module):
    """Views of each sample through one encoder: joined one behind the other, or a sample's views beside each other."""

    def __init__(self, joined: bool) -> None:
        super().__init__()
        self.joined = joined
        self.enc, self.fc = nn.Sequential(nn.Linear(6, 8), nn.ReLU()), nn.Linear(8, 4)

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        rows = torch.cat(list(views.unbind(1))) if self.joined else views.flatten(0, 1)
        found = self.fc(self.enc(rows))
        if self.joined:
            return torch.stack(found.chunk(views.shape[1])).prod(0)
        return found.unflatten(0, (len(views), -1)).mean(1)


class UNet(nn.Module):
    """Down, up and across, with a convolution of 3 × 3 at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.up, self.last = nn.ConvTranspose2d(8, 8, 2, stride=2), nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.down(x).relu()
        return self.last(torch.cat([x, self.up(self.deep(x).relu())], 1))


def _convolutions(wrap: Callable[[nn.Module], nn.Module]) -> nn.Module:
    layers = [nn.Sequential(wrap(nn.Conv1d(width, 8, 3, padding=1)), nn.ReLU()) for width in (3, 8, 8)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 3))


def _pruned(module: nn.Module) -> nn.Module:
    from torch.nn.utils import prune

    return prune.l1_unstructured(module, "weight", 0.3)  # type: ignore[no-any-return, no-untyped-call]


def _resnet() -> nn.Module:
    import torchvision

    model: nn.Module = torchvision.models.resnet18(num_classes=5)
    return model.eval()


def _extractor() -> nn.Module:
    from torchvision.models.feature_extraction import create_feature_extractor

    found: nn.Module = create_feature_extractor(_resnet(), {"layer3": "maps", "fc": "logits"})
    return found


def _exported() -> nn.Module:
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    program = torch.export.export(network, floats(6)(4, 0), dynamic_shapes=({0: torch.export.Dim("batch")},))
    return torch.export.unflatten(program)


def _suffix() -> nn.Module:
    import featcache

    return featcache.split(_resnet(), "layer1", floats(3, 32, 32)(2, 0)).suffix.eval()


def _decoder(name: str, **options: Any) -> nn.Module:
    import transformers

    config = getattr(transformers, f"{name.removesuffix('ForCausalLM').removesuffix('Model')}Config")
    sizes = {
        "vocab_size": 64,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "intermediate_size": 48,
        "num_attention_heads": 2,
    }
    model: nn.Module = getattr(transformers, name)(config(**{**sizes, **options}))
    return model


class Random(nn.Module):
    """Drops units in evaluation mode, too, as networks that tell how sure they are do."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.mid, self.fc = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(nn.functional.dropout(self.mid(self.body(x).relu()).relu(), 0.2, training=True))


def _detector(name: str, **options: Any) -> nn.Module:
    """Return the backbone of a detector of torchvision, as ``FrozenDetector`` cuts it."""
    from torchvision.models import detection

    import featcache

    model = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=3, **options)
    found: nn.Module = featcache.FrozenDetector(model.eval(), "backbone", [torch.rand(3, 64, 64)] * 2).split.model
    return found


def _lengths(batch: int, seed: int) -> tuple[torch.Tensor, ...]:
    return ids(batch, seed), torch.tensor([6, 4, 5, 2] * batch)[:batch]


def _pair(batch: int, seed: int) -> tuple[torch.Tensor, ...]:
    return (*floats(6)(batch, seed), ids(batch, seed))


MAPS, ROWS, SOUNDS = floats(3, 32, 32), floats(6), floats(3, 16)
SETUPS: dict[str, tuple[Callable[[], nn.Module], Inputs]] = {
    "torchvision create_feature_extractor": (_extractor, MAPS),
    "torch.fx.symbolic_trace": (lambda: torch.fx.symbolic_trace(_resnet()), MAPS),
    "torch.export.unflatten": (_exported, ROWS),
    "a flat suffix of featcache": (_suffix, floats(64, 8, 8)),
    "weight_norm": (lambda: _convolutions(nn.utils.parametrizations.weight_norm), SOUNDS),
    "weight_norm by a hook": (lambda: _convolutions(nn.utils.weight_norm), SOUNDS),
    "spectral_norm": (lambda: _convolutions(nn.utils.parametrizations.spectral_norm), SOUNDS),
    "pruned": (lambda: _convolutions(_pruned), SOUNDS),
    "pack_padded_sequence": (lambda: Text(_packed, proj=nn.Linear(16, 16), rnn=nn.LSTM(16, 16, batch_first=True)), _lengths),
    "nn.TransformerEncoder with a padding mask": (
        lambda: Text(
            lambda self, x, tokens: self.enc(x, src_key_padding_mask=tokens == 1).mean(1), enc=_encoder(batch_first=True)
        ),
        tokens(padded=True),
    ),
    "nn.TransformerEncoder, sequence first": (
        lambda: Text(lambda self, x, tokens: self.enc(x.transpose(0, 1)).mean(0), enc=_encoder()), tokens(),
    ),
    "nn.Transformer, sequence first": (
        lambda: Text(_seq2seq, whole=nn.Transformer(16, 2, 2, 2, 32)), tokens(),
    ),
    "nn.LSTM, sequence first": (lambda: Text(_lstm, rnn=nn.LSTM(16, 8, 2, bidirectional=True)), tokens()),
    "a mask made of token ids": (
        lambda: Text(
            _masked, layers=nn.ModuleList(nn.MultiheadAttention(16, 2, batch_first=True) for _ in range(3))
        ),
        tokens(padded=True),
    ),
    "one dict, written into": (OneDict, lambda batch, seed: (text(batch, seed),)),
    "two towers": (Towers, _pair),
    "views joined by torch.cat": (lambda: Views(True), floats(2, 6)),
    "crops of a sample": (lambda: Views(False), floats(3, 6)),
    "Faster R-CNN": (lambda: _detector("fasterrcnn_mobilenet_v3_large_fpn", min_size=64, max_size=64), floats(3, 64, 64)),
    "Mask R-CNN": (lambda: _detector("maskrcnn_resnet50_fpn", min_size=64, max_size=64), floats(3, 64, 64)),
    "RetinaNet": (lambda: _detector("retinanet_resnet50_fpn", min_size=64, max_size=64), floats(3, 64, 64)),
    "SSDlite": (lambda: _detector("ssdlite320_mobilenet_v3_large"), floats(3, 320, 320)),
    "U-Net": (UNet, floats(3, 16, 16)),
    "random numbers after the cut": (Random, ROWS),
    "Llama with its key-value cache": (lambda: _decoder("LlamaForCausalLM", num_key_value_heads=1), text),
    "Qwen2 with its key-value cache": (lambda: _decoder("Qwen2Model", num_key_value_heads=1), text),
    "Mamba with its cache": (
        lambda: _decoder("MambaModel", state_size=4), lambda batch, seed: {"input_ids": ids(batch, seed)},
    ),
    "ESM": (lambda: _decoder("EsmModel", pad_token_id=1, mask_token_id=2, max_position_embeddings=40), text),
}  # fmt: skip


def setups() -> Iterator[tuple[str, Callable[[], tuple[nn.Module, Inputs]], Callable[[], nn.Module]]]:
    """Yield the name of each set-up, what makes it with its inputs, and what makes the network alone."""
    for name, (make, inputs) in SETUPS.items():
        yield name, functools.partial(_made, make, inputs), make


def _made(make: Callable[[], nn.Module], inputs: Inputs) -> tuple[nn.Module, Inputs]:
    return make(), inputs
