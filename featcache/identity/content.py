"""Digests of what things hold: files, tensors, images and samples, the same in every process and on every machine."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FingerprintError, UnreadableSampleError, one_line

__all__ = [
    "content_id",
    "digest_json",
    "encoded_id",
    "file_id",
    "is_image",
    "is_special",
    "is_tensor",
    "load_image",
    "tensor_digest",
]

FILE_PIECE_BYTES = 1 << 20
SEEN_BY_TRANSFORMS = ("exif", "gamma", "icc_profile", "transparency")  # of what PIL keeps beside the pixels

Update = Callable[[Any], Any]


def digest_json(value: Any) -> str:
    """Return the SHA-256 digest of JSON-able values: of their canonical text, with sorted keys and no spaces."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def is_special(path: Path | str) -> bool:
    """Return whether a path leads to a pipe, a socket or a device, which would be waited for without end."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def file_id(path: Path | str) -> bytes:
    """Return the 16-byte id of a file's content; raises ``OSError`` for what cannot be read to an end."""
    if is_special(path):
        raise OSError(f"{path} is a pipe, a socket or a device")
    hashed = hashlib.sha256()
    with Path(path).open("rb") as file:
        while piece := file.read(FILE_PIECE_BYTES):
            hashed.update(piece)
    return hashed.digest()[:16]


def encoded_id(content: bytes) -> bytes:
    """Return the 16-byte id that a file of this content has."""
    return hashlib.sha256(content).digest()[:16]


def load_image(image: Any) -> None:
    """Have an image decoded that may only have been opened; raises ``UnreadableSampleError`` for one that is damaged."""
    try:
        image.load()
    except OSError:
        raise
    except Exception as error:  # each decoder raises what the damage leads to
        said = one_line(error) or type(error).__name__
        raise UnreadableSampleError(f"the image is damaged or unreadable ({said})") from error


def tensor_digest(tensor: Any) -> str:
    """Return the SHA-256 digest over dtype, shape and values of a tensor or array, wherever it lies.

    Quantised tensors are digested with their scales and zero points, sparse ones with their indices, masked arrays with
    their masks. Raises ``FingerprintError`` for a tensor that holds no values, such as one on the meta device.
    """
    if isinstance(tensor, np.ndarray):
        return _array_digest(tensor)
    try:
        return _torch_digest(tensor.detach())
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        raise FingerprintError(
            f"the values of a {type(tensor).__name__} ({tensor.layout}, on {tensor.device}) cannot be read: "
            f"{str(error).splitlines()[0]} Give it values on a real device first."
        ) from error


def _array_digest(array: np.ndarray[Any, Any]) -> str:
    dtype = array.dtype.str if array.dtype.fields is None else repr(array.dtype.descr)
    if isinstance(array, np.ma.MaskedArray):
        parts = tensor_digest(np.ma.getmaskarray(array)) + tensor_digest(np.asarray(array.filled()))
        return _digest(f"masked {dtype}", array.shape, parts.encode())
    content = np.ascontiguousarray(array)
    return _digest(dtype, array.shape, content.reshape(-1).view(np.uint8).data if content.size else b"")


def _torch_digest(tensor: Any) -> str:
    import torch

    shape = tuple(tensor.shape)
    if tensor.is_quantized:
        kind = repr((str(tensor.qscheme()), *_quantisation(tensor)))
        return _digest(kind, shape, tensor_digest(tensor.int_repr()).encode())
    if tensor.layout != torch.strided:
        tensor = tensor.coalesce() if tensor.layout == torch.sparse_coo else tensor.to_sparse_coo().coalesce()
        parts = tensor_digest(tensor.indices()) + tensor_digest(tensor.values())
        return _digest("sparse", shape, parts.encode())
    values = tensor.cpu().resolve_conj().resolve_neg().contiguous()
    content = values.reshape(-1).view(torch.uint8).numpy().data if values.numel() else b""
    return _digest(str(tensor.dtype), shape, content)


def _quantisation(tensor: Any) -> tuple[Any, ...]:
    if "per_tensor" in str(tensor.qscheme()):
        return (tensor.q_scale(), tensor.q_zero_point())
    return (
        tensor.q_per_channel_axis(),
        tensor.q_per_channel_scales().tolist(),
        tensor.q_per_channel_zero_points().tolist(),
    )


def _digest(dtype: str, shape: tuple[int, ...], content: Any) -> str:
    hashed = hashlib.sha256(f"{dtype}{tuple(map(int, shape))}".encode())
    hashed.update(content)
    return hashed.hexdigest()


def content_id(item: Any) -> bytes:
    """Return the 16-byte id of a sample's content.

    Takes bytes, text, numbers, arrays, tensors, PIL images, and tuples, lists and dicts of these. Raises
    ``FingerprintError`` for anything else.
    """
    hashed = hashlib.sha256()
    _hash_content(item, hashed.update)
    return hashed.digest()[:16]


def _hash_content(item: Any, update: Update) -> None:
    if item is None or isinstance(item, (bool, int, str)):
        _framed(type(item).__name__, str(item).encode("utf-8", "surrogatepass"), update)
    elif isinstance(item, float):
        _framed("float", struct.pack("<d", item), update)
    elif isinstance(item, (bytes, bytearray)):
        _framed("bytes", bytes(item), update)
    elif isinstance(item, np.generic) and item.dtype.kind in "biuf" and item.dtype.itemsize <= 8:
        _hash_content(item.item(), update)
    elif isinstance(item, np.generic) and item.dtype != object:
        _hash_content(np.asarray(item), update)
    elif (isinstance(item, np.ndarray) and not item.dtype.hasobject) or is_tensor(item):
        _framed("tensor", tensor_digest(item).encode(), update)
    elif isinstance(item, Mapping):
        _framed("dict", str(len(item)).encode(), update)
        for key in sorted(item, key=lambda key: (str(key), type(key).__name__)):
            _hash_content(key, update)
            _hash_content(item[key], update)
    elif isinstance(item, (tuple, list)):
        _framed("list", str(len(item)).encode(), update)
        for part in item:
            _hash_content(part, update)
    elif is_image(item):
        _hash_image(item, update)
    else:
        raise FingerprintError(
            f"a sample holds {type(item).__module__}:{type(item).__qualname__}, whose content featcache cannot hash. "
            "Return tensors, arrays, images, text or numbers, or give the dataset a method sample_id(i)."
        )


def _hash_image(image: Any, update: Update) -> None:
    load_image(image)
    pixels = image.tobytes()  # first: decoding may still change the palette and the notes
    palette = image.palette.tobytes() if getattr(image, "palette", None) is not None else b""
    notes = {name: image.info[name] for name in SEEN_BY_TRANSFORMS if image.info.get(name) is not None}
    _framed("image", f"{image.mode}{image.size}{notes}".encode() + palette, update)
    _framed("pixels", pixels, update)


def _framed(kind: str, content: bytes, update: Update) -> None:
    # Kind and length come first, so that no two structures have the same bytes.
    update(f"{kind}:{len(content)}:".encode())
    update(content)


def is_image(value: Any) -> bool:
    """Return whether a value is a PIL image, without importing PIL."""
    return any(kind.__module__ == "PIL.Image" and kind.__name__ == "Image" for kind in type(value).__mro__)


def is_tensor(value: Any) -> bool:
    """Return whether a value is a torch tensor, without importing torch."""
    return any(
        kind.__module__ in ("torch", "torch._tensor") and kind.__name__ == "Tensor" for kind in type(value).__mro__
    )
