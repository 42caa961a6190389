"""``hf:NAME``: models of the transformers library, from the Hugging Face hub or a local folder, with their preprocessing."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import DataNotFoundError, UnknownNameError, UsageError, one_line
from ..extras import need
from ..identity import is_weights_file, package_folder, states, versions
from .source import Backbone

__all__ = ["HuggingFaceSource", "source"]

SEED = 0
WANTED = ("*.json", "*.safetensors", "*.txt", "*.model")
UNWANTED = ("onnx/*", "openvino/*", "*.fp16.*", "*.fp32.*", "*consolidated*", "coreml/*", "original/*")
MODALITIES = {"image": "IMAGE", "audio": "AUDIO", "text": "SEQUENCE"}
MAIN_INPUTS = {"pixel_values": "image", "input_values": "audio", "input_features": "audio"}
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
FRESH_SHARE = 0.5


class HuggingFaceSource:
    """Models by hub id or folder, safetensors only and without remote code; ``weights`` is a file, or ``none``.

    A checkpoint that is not a classifier gets the classification head that transformers has for its kind, with seeded random
    weights, so that there is a last layer to replace.
    """

    def load(self, name: str, weights: str | None) -> Backbone:
        """Return the model in float32; what is not in the hub's cache is downloaded."""
        transformers = need("transformers", "hf", f"hf:{name}")
        spec = f"hf:{name}"
        if weights not in (None, "DEFAULT", "none") and not is_weights_file(str(weights)):
            raise UnknownNameError(f"{spec} has no weights {weights!r}. Known: DEFAULT, none, or a file.")
        folder = _model_folder(_local_folder(name) or _hub_folder(name), spec)
        try:
            config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        except Exception as error:
            raise _refused(spec, error) from error
        config.use_cache = False  # key-value caches of decoders are not features
        if hasattr(config, "apply_spec_augment"):
            config.apply_spec_augment = (
                False  # random masks early in the network: what comes after them cannot be cached
            )
        kind, modality = _kind_of_model(transformers, config, folder)
        model = _load(kind, config, folder, spec, weights)
        modality = modality or MAIN_INPUTS.get(str(model.main_input_name), "text")
        make = _make_transform(transformers, modality, model, folder, spec)
        return Backbone(spec, weights or "DEFAULT", model, make)

    def identity(self, name: str, weights: str | None) -> dict[str, Any] | None:
        """Return the states of a local folder's files and of transformers' code for them; None for models of the hub."""
        folder, package = _local_folder(name), package_folder("transformers")
        if folder is None or package is None:
            return None
        files = [path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".bin", ".onnx")]
        for config in [path for path in files if path.name == "config.json"]:
            with contextlib.suppress(ValueError, AttributeError, OSError):
                kind = str(json.loads(config.read_bytes()).get("model_type")).replace("-", "_")
                files += (package / "models" / kind).glob("*.py")
        files += package.glob("*.py")
        if weights is not None and is_weights_file(weights):
            files.append(Path(weights).expanduser().resolve())
        return {
            "versions": versions("torch", "torchvision", "transformers", "tokenizers", "scipy"),
            "files": states(files),
        }


def _local_folder(name: str) -> Path | None:
    path = Path(name).expanduser()
    return path.resolve() if path.is_dir() else None


def _hub_folder(name: str) -> Path:
    """Return the folder of the hub's cache that holds a model; raises an error that says what to do without a network."""
    if not HUB_ID.fullmatch(name) or name.startswith("."):
        raise DataNotFoundError(
            f"there is no folder {name}, and it is not an id of the Hugging Face hub such as owner/model."
        )
    hub = need("huggingface_hub", "hf", f"hf:{name}")
    try:
        found = hub.snapshot_download(name, allow_patterns=list(WANTED), ignore_patterns=list(UNWANTED))
    except Exception as error:  # of the hub, of the network below it, or of the disk
        said = (str(error).splitlines() or [""])[0].rstrip(".")
        if type(error).__name__ == "RepositoryNotFoundError":
            raise UnknownNameError(
                f"the Hugging Face hub has no model {name!r} that you may see ({said}). Check its name, or log in."
            ) from error
        raise DataNotFoundError(
            f"hf:{name} is not in the hub's cache and could not be downloaded ({type(error).__name__}: {said}). Fetch it "
            "where there is a network, and give its folder as hf:PATH."
        ) from error
    return Path(found)


def _model_folder(folder: Path, spec: str) -> Path:
    """Return the folder that holds config.json; sentence-transformers may keep the model in one below."""
    for place in (folder, folder / "0_Transformer"):
        if (place / "config.json").is_file():
            return place
    there = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    raise DataNotFoundError(f"{spec} holds no config.json, so it is not a model of transformers. It holds: {there}.")


def _kind_of_model(transformers: Any, config: Any, folder: Path) -> tuple[Any, str | None]:
    """Return the class to load, and whether it is for texts, images or sounds; None if only the model can tell.

    The checkpoint's own class where it classifies, else the classifier of its kind, else the bare model.
    """
    modeling_auto = importlib.import_module("transformers.models.auto.modeling_auto")
    known = {
        modality: dict(getattr(modeling_auto, f"MODEL_FOR_{middle}_CLASSIFICATION_MAPPING_NAMES"))
        for modality, middle in MODALITIES.items()
    }
    own = (getattr(config, "architectures", None) or [""])[0]
    if "Classification" in own and getattr(transformers, own, None) is not None:
        return getattr(transformers, own), next((each for each in known if own in _classes(known[each])), None)
    fitting = [modality for modality in known if config.model_type in known[modality]]
    if len(fitting) > 1:  # such as Perceiver: its preprocessing tells
        described = folder / "preprocessor_config.json"
        text = described.read_text(encoding="utf-8") if described.is_file() else ""
        told = "audio" if "sampling_rate" in text else "image" if "image" in text else "text"
        fitting = [told] if told in fitting else fitting
    if not fitting:
        return transformers.AutoModel, None
    middle = MODALITIES[fitting[0]].capitalize()
    return getattr(transformers, f"AutoModelFor{middle}Classification"), fitting[0]


def _classes(mapping: dict[str, Any]) -> set[str]:
    return {each for value in mapping.values() for each in ((value,) if isinstance(value, str) else value)}


def _load(kind: Any, config: Any, folder: Path, spec: str, weights: str | None) -> Any:
    import torch

    from ..machine import seeded
    from .weights import read_weights

    auto = kind.__name__.startswith("AutoModel")
    options: dict[str, Any] = {"config": config, "output_loading_info": True, _dtype_option(): torch.float32}
    if auto:
        options["trust_remote_code"] = False
    try:
        with seeded(SEED), _quiet():
            if weights == "none":
                made = kind.from_config(config, trust_remote_code=False) if auto else kind(config)
                return made.float()
            if weights in (None, "DEFAULT"):
                _check_safetensors(folder, spec)
                model, info = kind.from_pretrained(folder, use_safetensors=True, **options)
            else:
                # Built first: from_pretrained needs the class, and an auto class finds it only by a folder.
                real = type(kind.from_config(config, trust_remote_code=False)) if auto else kind
                options.pop("trust_remote_code", None)
                model, info = real.from_pretrained(None, state_dict=read_weights(str(weights)), **options)
    except (UsageError, DataNotFoundError):
        raise
    except Exception as error:
        raise _refused(spec, error) from error
    missing, count = list(info["missing_keys"]), len(model.state_dict())
    if len(missing) > FRESH_SHARE * count:
        raise UsageError(
            f"the weights of {spec} do not fit {type(model).__name__}: {len(missing)} of its {count} tensors are missing, "
            f"such as {', '.join(sorted(missing)[:3])}."
        )
    return model.float()


def _check_safetensors(folder: Path, spec: str) -> None:
    if any(folder.glob("*.safetensors")):
        return
    pickled = sorted(path.name for path in [*folder.glob("*.bin"), *folder.glob("*.h5"), *folder.glob("*.msgpack")])
    if pickled:
        raise UsageError(
            f"{spec} has its weights in {pickled[0]} only, which is not loaded, because such files can run code. Convert "
            "them to model.safetensors, or give a file of tensors as --weights FILE."
        )
    raise DataNotFoundError(f"{spec} holds no model.safetensors. Give a file as --weights FILE, or use --weights none.")


def _make_transform(transformers: Any, modality: str, model: Any, folder: Path, spec: str) -> Any:
    """Return what makes the transform, None where the folder has no preprocessing."""
    from . import hf_inputs

    names = list(inspect.signature(model.forward).parameters)
    if modality == "text":
        if not any((folder / name).is_file() for name in hf_inputs.TOKENIZER_FILES):
            return None
        tokenizer = _processor(transformers.AutoTokenizer, folder, spec)
        if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
            tokenizer.pad_token = tokenizer.eos_token  # masked anyway; decoders have none of their own
        if getattr(model.config, "pad_token_id", None) is None:
            model.config.pad_token_id = tokenizer.pad_token_id  # by which classifiers of decoders find the last token
        texts = hf_inputs.text_inputs(tokenizer, model, folder, names)
        return lambda size: _unsized(texts, size, spec)
    if not any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        return None
    if modality == "audio":
        sounds = hf_inputs.sound_inputs(_processor(transformers.AutoFeatureExtractor, folder, spec), names)
        return lambda size: _unsized(sounds, size, spec)

    def images(size: int | None) -> Any:
        processor = _processor(transformers.AutoImageProcessor, folder, spec)
        if size is not None:
            hf_inputs.resize(processor, size, spec)
        return hf_inputs.ImageInputs(processor, "pixel_values" if names[0] == "pixel_values" else None)

    return images


def _processor(kind: Any, folder: Path, spec: str) -> Any:
    try:
        with _quiet():
            return kind.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        raise _refused(spec, error) from error


def _unsized(transform: Any, size: int | None, spec: str) -> Any:
    if size is not None:
        raise UsageError(f"{spec} takes no images, so --image-size {size} has no effect: leave it out.")
    return transform


def _refused(spec: str, error: Exception) -> UsageError:
    return UsageError(f"transformers cannot load {spec}: {type(error).__name__}: {one_line(error)}")


def _dtype_option() -> str:
    release = (versions("transformers")["transformers"] or "0.0").split(".")
    return "dtype" if (int(release[0]), int(release[1])) >= (4, 56) else "torch_dtype"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the remarks and progress bars of transformers to themselves: what is wrong is raised."""
    logging: Any = importlib.import_module("transformers.utils.logging")
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


source = HuggingFaceSource()
