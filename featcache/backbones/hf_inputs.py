"""What Hugging Face models take, made of texts, images and sounds by the preprocessing that comes with a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import DataError, UnreadableSampleError, UsageError
from ..identity import content_id

__all__ = ["ImageInputs", "RaggedSoundInputs", "SoundInputs", "TextInputs", "sound_inputs", "text_inputs"]

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.txt", "vocab.json", "merges.txt", "spiece.model",
    "sentencepiece.bpe.model", "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip
NOTES = ("name_or_path", "tokenizer_file", "special_tokens_map_file", "transformers_version", "processor_class")
UNBOUNDED = 1_000_000  # tokenizers that know no maximum say some huge number
PROBE_S = (1.0, 1.5)
LONGEST_SETTING = 64  # numbers; longer ones are in the identity by their digest

Inputs = dict[str, torch.Tensor]


class TextInputs:
    """Makes the token ids of a text, or of a pair of texts, and of several such results a padded batch."""

    ragged = True

    def __init__(self, tokenizer: Any, names: Sequence[str], longest: int | None, files: dict[str, str]) -> None:
        self.tokenizer = tokenizer
        self.names = [name for name in tokenizer.model_input_names if name in names]
        self.longest = longest
        self.files = files
        fill = {"input_ids": tokenizer.pad_token_id, "token_type_ids": getattr(tokenizer, "pad_token_type_id", 0)}
        self.fill = {name: fill.get(name) or 0 for name in self.names}

    @property
    def featcache_identity(self) -> dict[str, Any]:
        """Return the digests of the tokenizer's files, and what is asked of it."""
        kind = type(self.tokenizer).__name__
        return {"tokenizer": kind, "files": self.files, "longest": self.longest, "fill": self.fill}

    def __call__(self, text: Any) -> Inputs:
        """Return the ids and masks of a text, or of a tuple of two, each (tokens,)."""
        parts = text if isinstance(text, tuple) else (text,)
        if not all(isinstance(part, str) for part in parts) or len(parts) > 2:
            raise DataError(
                f"this backbone takes texts, or pairs of them, but the sample is {_kind(text)}: use data of texts, such as "
                "csv:FILE?text=COLUMN."
            )
        limit = {} if self.longest is None else {"truncation": True, "max_length": self.longest}
        made = self.tokenizer(*parts, **limit)
        if not len(made["input_ids"]):
            raise UnreadableSampleError("the text is empty: the tokenizer makes no tokens of it")
        return {name: torch.tensor(made[name], dtype=torch.long) for name in self.names}

    def collate(self, inputs: Sequence[Inputs]) -> Inputs:
        """Return a batch: ids padded at their ends with the tokenizer's pad id, masks with 0."""
        return _padded(inputs, self.fill)


class ImageInputs:
    """Makes the pixels that a model takes of an image, by its own image processor."""

    def __init__(self, processor: Any, name: str | None) -> None:
        self.processor = processor
        self.name = name

    @property
    def featcache_identity(self) -> dict[str, Any]:
        """Return the processor's settings, and which implementation carries them out."""
        fast = "torchvision" if getattr(self.processor, "is_fast", False) else "pil"
        settings = {name: value for name, value in self.processor.to_dict().items() if name not in NOTES}
        return {
            "processor": type(self.processor).__name__,
            "backend": str(getattr(self.processor, "backend", None) or fast),
            "settings": settings,
            "input": self.name,
        }

    def __call__(self, image: Any) -> Any:
        """Return the pixels (channels, height, width), or a dict of all that the processor makes."""
        if isinstance(image, (str, tuple)):
            raise DataError(f"this backbone takes images, but the sample is {_kind(image)}: use data of images.")
        if getattr(image, "mode", "RGB") != "RGB":
            image = image.convert("RGB")
        made = self.processor(images=image, return_tensors="pt")
        if self.name is not None:
            return made[self.name][0]
        return {name: value[0] for name, value in made.items() if isinstance(value, torch.Tensor)}


class SoundInputs:
    """Makes what a model takes of (waveform, sample rate): mono, resampled, by the model's own feature extractor."""

    def __init__(self, extractor: Any, names: Sequence[str]) -> None:
        self.extractor = extractor
        self.names = list(names)

    @property
    def featcache_identity(self) -> dict[str, Any]:
        """Return the extractor's settings, and how sounds are brought to its sample rate."""
        settings = {name: value for name, value in self.extractor.to_dict().items() if name not in NOTES}
        return {
            "extractor": type(self.extractor).__name__,
            "settings": {name: _short(value) for name, value in sorted(settings.items())},
            "resampler": "scipy.signal.resample_poly",
            "channels": "mean",
            "inputs": self.names,
        }

    def __call__(self, sound: Any) -> Inputs:
        """Return what the extractor makes of (waveform, sample rate)."""
        if not (isinstance(sound, (tuple, list)) and len(sound) == 2 and isinstance(sound[1], (int, np.integer))):
            raise DataError(
                f"this backbone takes sounds as (waveform, sample rate), but the sample is {_kind(sound)}: use data of "
                "sounds, such as a folder: of wav files."
            )
        rate = int(self.extractor.sampling_rate)
        made = self.extractor(_mono_at(sound[0], int(sound[1]), rate), sampling_rate=rate, return_tensors="pt")
        return {name: made[name][0] for name in self.names if name in made}


class RaggedSoundInputs(SoundInputs):
    """The same for models that take sounds of any length: with a mask, and batches padded at their ends."""

    ragged = True

    def __call__(self, sound: Any) -> Inputs:
        """Return what the extractor makes of (waveform, sample rate), with a mask where the model takes one."""
        made = super().__call__(sound)
        if "attention_mask" in self.names and "attention_mask" not in made:
            made["attention_mask"] = torch.ones(len(next(iter(made.values()))), dtype=torch.long)
        return made

    def collate(self, inputs: Sequence[Inputs]) -> Inputs:
        """Return a batch: sounds padded at their ends with the extractor's padding value, masks with 0."""
        value = float(self.extractor.padding_value)
        return _padded(inputs, {name: 0 if name == "attention_mask" else value for name in inputs[0]})


def text_inputs(tokenizer: Any, model: Any, folder: Path, names: Sequence[str]) -> TextInputs:
    """Return the transform of a tokenizer, which cuts texts at the model's maximum."""
    limits = [getattr(tokenizer, "model_max_length", None), getattr(model.config, "max_position_embeddings", None)]
    for name, module in model.named_modules():
        # RoBERTa and its like count positions from behind the padding's, so that they hold fewer than they have.
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            limits.append(module.num_embeddings - module.padding_idx - 1)
    with_limit = folder / "sentence_bert_config.json"
    if with_limit.is_file():
        limits.append(json.loads(with_limit.read_text(encoding="utf-8")).get("max_seq_length"))
    known = [limit for limit in limits if isinstance(limit, int) and 0 < limit < UNBOUNDED]
    files = {name: _file_digest(folder / name) for name in TOKENIZER_FILES if (folder / name).is_file()}
    return TextInputs(tokenizer, names, min(known, default=None), files)


def sound_inputs(extractor: Any, names: Sequence[str]) -> SoundInputs:
    """Return the transform of a feature extractor; whether its results vary in length is tried out."""
    rate = int(extractor.sampling_rate)
    waves = [np.sin(np.arange(int(rate * seconds)) / 10).astype(np.float32) for seconds in PROBE_S]
    tried = [extractor(wave, sampling_rate=rate, return_tensors="pt") for wave in waves]
    ragged = any(tried[0][name].shape != tried[1][name].shape for name in tried[0])
    used = [name for name in tried[0] if name in names]
    if not ragged:
        return SoundInputs(extractor, used)
    return RaggedSoundInputs(extractor, [*used, *({"attention_mask"} & set(names) - set(used))])


def resize(processor: Any, size: int, owner: str) -> None:
    """Set the side in pixels that an image processor brings images to, keeping its ratio of resize to crop."""
    crop, before = getattr(processor, "crop_size", None), getattr(processor, "size", None)
    crops = bool(getattr(processor, "do_center_crop", False)) and crop is not None
    if before is None or not getattr(processor, "do_resize", True):
        raise UsageError(f"{owner} has no image size that --image-size {size} could set: leave it out.")
    sides = {name: int(value) for name, value in dict(before).items() if value is not None}
    base = min(dict(crop).values()) if crops and crop is not None else min(sides.values())
    processor.size = type(before)(**{name: round(size * value / base) for name, value in sides.items()})
    if crops and crop is not None:
        processor.crop_size = type(crop)(**{name: size for name, value in dict(crop).items() if value is not None})


def _mono_at(waveform: Any, rate: int, wanted: int) -> np.ndarray[Any, Any]:
    wave = np.asarray(waveform, dtype=np.float32)
    if wave.ndim == 2:
        wave = wave.mean(axis=0)
    if rate != wanted:
        from math import gcd

        from scipy.signal import resample_poly

        common = gcd(rate, wanted)
        wave = resample_poly(wave, wanted // common, rate // common)
    return np.ascontiguousarray(wave, dtype=np.float32)


def _padded(inputs: Sequence[Inputs], fill: dict[str, Any]) -> Inputs:
    return {
        name: torch.nn.utils.rnn.pad_sequence([each[name] for each in inputs], batch_first=True, padding_value=value)
        for name, value in fill.items()
    }


def _file_digest(path: Path) -> str:
    content = path.read_bytes()
    if path.name == "tokenizer_config.json":  # it also notes where it came from
        settings = json.loads(content)
        content = json.dumps({k: v for k, v in settings.items() if k not in NOTES}, sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()[:32]


def _short(value: Any) -> Any:
    """Return a setting as it is; filter banks and windows by their digest."""
    if isinstance(value, (np.ndarray, torch.Tensor, list, tuple)) and np.size(value) > LONGEST_SETTING:
        return content_id(np.asarray(value)).hex()
    return value


def _kind(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"({', '.join(type(part).__name__ for part in value)})"
    return f"a {type(value).__name__}"
