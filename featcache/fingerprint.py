"""Identities and digests: equal things have equal ones, in every process, on every machine, and only they have.

Never by memory address, pickle or chance: what cannot be identified deterministically is refused with the way to
give it an identity.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import inspect
import json
import math
import struct
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from .code import code_identity, is_library, is_named, library_name, module_identity
from .errors import FingerprintError

__all__ = ["content_id", "digest", "digest_json", "file_id", "identity", "tensor_digest"]

HINT = "Give it an identity: an attribute or method `featcache_identity` that returns JSON-able values."
FILE_PIECE_BYTES = 1 << 20
REFUSED = ("generator", "coroutine", "_thread.lock", "_thread.RLock", "Random", "Generator", "RandomState")


def digest(value: Any) -> str:
    """Return the SHA-256 digest of a value's identity, 64 hexadecimal characters."""
    return digest_json(identity(value))


def digest_json(value: Any) -> str:
    """Return the SHA-256 digest of JSON-able values: of their canonical text, with sorted keys and no spaces."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def tensor_digest(tensor: Any) -> str:
    """Return the SHA-256 digest over dtype, shape and values of a tensor or array, wherever it lies.

    Quantised tensors are digested with their scales and zero points, sparse ones with their indices.
    """
    if isinstance(tensor, np.ndarray):
        return _digest_array(tensor.dtype.str, tensor.shape, np.ascontiguousarray(tensor).tobytes())
    import torch

    tensor = tensor.detach()
    if tensor.is_quantized:
        kind = repr((str(tensor.qscheme()), *_quantisation(tensor)))
        return _digest_array(kind, tuple(tensor.shape), tensor_digest(tensor.int_repr()).encode())
    if tensor.layout != torch.strided:
        tensor = tensor.coalesce() if tensor.layout == torch.sparse_coo else tensor.to_sparse_coo().coalesce()
        parts = tensor_digest(tensor.indices()) + tensor_digest(tensor.values())
        return _digest_array("sparse", tuple(tensor.shape), parts.encode())
    values = tensor.cpu().resolve_conj().resolve_neg().contiguous()
    content = values.reshape(-1).view(torch.uint8).numpy().tobytes() if values.numel() else b""
    return _digest_array(str(tensor.dtype), tuple(tensor.shape), content)


def _quantisation(tensor: Any) -> tuple[Any, ...]:
    if "per_tensor" in str(tensor.qscheme()):
        return (tensor.q_scale(), tensor.q_zero_point())
    return (
        tensor.q_per_channel_axis(),
        tensor.q_per_channel_scales().tolist(),
        tensor.q_per_channel_zero_points().tolist(),
    )


def _digest_array(dtype: str, shape: tuple[int, ...], content: bytes) -> str:
    hashed = hashlib.sha256(f"{dtype}{tuple(map(int, shape))}".encode())
    hashed.update(content)
    return hashed.hexdigest()


def file_id(path: Path | str) -> bytes:
    """Return the 16-byte id of a file's content."""
    hashed = hashlib.sha256()
    with Path(path).open("rb") as file:
        while piece := file.read(FILE_PIECE_BYTES):
            hashed.update(piece)
    return hashed.digest()[:16]


def content_id(item: Any) -> bytes:
    """Return the 16-byte id of a sample's content.

    Takes bytes, text, numbers, arrays, tensors, PIL images, and tuples, lists and dicts of these. Raises
    :class:`FingerprintError` for anything else.
    """
    hashed = hashlib.sha256()
    _hash_content(item, hashed.update)
    return hashed.digest()[:16]


def _hash_content(item: Any, update: Any) -> None:
    if item is None or isinstance(item, (bool, int, str)):
        _framed(type(item).__name__, str(item).encode("utf-8", "surrogatepass"), update)
    elif isinstance(item, float):
        _framed("float", struct.pack("<d", item), update)
    elif isinstance(item, (bytes, bytearray)):
        _framed("bytes", bytes(item), update)
    elif isinstance(item, np.generic):
        _hash_content(item.item(), update)
    elif (isinstance(item, np.ndarray) and item.dtype != object) or _is_tensor(item):
        _framed("tensor", tensor_digest(item).encode(), update)
    elif isinstance(item, Mapping):
        _framed("dict", str(len(item)).encode(), update)
        for key in sorted(item, key=str):
            _hash_content(key, update)
            _hash_content(item[key], update)
    elif isinstance(item, (tuple, list)):
        _framed("list", str(len(item)).encode(), update)
        for part in item:
            _hash_content(part, update)
    elif hasattr(item, "getbands") and hasattr(item, "tobytes"):  # a PIL image, without importing PIL
        palette = item.palette.tobytes() if getattr(item, "palette", None) is not None else b""
        _framed("image", f"{item.mode}{item.size}{item.info.get('transparency')}".encode() + palette, update)
        _framed("pixels", item.tobytes(), update)
    else:
        raise FingerprintError(
            f"a sample holds {_type_name(item)}, whose content featcache cannot hash. Return tensors, arrays, images, "
            "text or numbers, or give the dataset a method sample_id(i)."
        )


def _framed(kind: str, content: bytes, update: Any) -> None:
    # Kind and length come first, so that no two structures have the same bytes.
    update(f"{kind}:{len(content)}:".encode())
    update(content)


def identity(value: Any) -> Any:
    """Return JSON-able, readable values that say all that a value's behaviour depends on.

    Functions and classes of installed packages are named; those of user code are identified by their syntax tree
    (comments, formatting and docstrings do not count), their defaults, what they close over and the globals that they
    use. Objects are identified by class and state. Raises :class:`FingerprintError` for what has no such identity.
    """
    return _Identities().of(value, "it")


class _Identities:
    """One walk over a value; remembers what it is inside of, so that cycles end."""

    def __init__(self) -> None:
        self._inside: dict[int, int] = {}
        self._seen: dict[int, tuple[int, Any]] = {}

    def of(self, value: Any, where: str) -> Any:
        if value is None or (isinstance(value, (bool, str)) and not isinstance(value, enum.Enum)):
            return value
        if isinstance(value, enum.Enum):
            return {"enum": f"{_type_name(value)}.{value.name}"}
        simple = self._simple(value, where)
        if simple is not NotImplemented:
            return simple
        if id(value) in self._inside:
            return {"inside": self._inside[id(value)]}
        self._inside[id(value)] = len(self._inside)
        try:
            return self._compound(value, where)
        finally:
            del self._inside[id(value)]

    def _simple(self, value: Any, where: str) -> Any:
        if isinstance(value, int):
            return value if abs(value) < 1 << 53 else {"int": str(value)}
        if isinstance(value, float):
            return value if math.isfinite(value) else {"float": repr(value)}
        if isinstance(value, complex):
            return {"complex": repr(value)}
        if isinstance(value, (bytes, bytearray)):
            return {"bytes": bytes(value).hex() if len(value) <= 64 else hashlib.sha256(value).hexdigest()}
        if isinstance(value, PurePath):
            return {"path": value.as_posix()}
        if isinstance(value, np.generic):
            return {"numpy": value.dtype.str, "value": self.of(value.item(), where)}
        if isinstance(value, np.ndarray) and value.dtype != object:
            return {"tensor": tensor_digest(value), "shape": list(value.shape)}
        if isinstance(value, np.dtype):
            return {"numpy_dtype": value.str}
        if isinstance(value, (range, slice)) or value is Ellipsis or value is NotImplemented:
            return {type(value).__name__: repr(value)}
        if type(value).__module__ == "torch" and type(value).__name__ in (
            "dtype", "device", "layout", "memory_format", "Size",
        ):  # fmt: skip
            return {type(value).__name__: str(value)}
        if _is_tensor(value):
            return {"tensor": tensor_digest(value), "shape": list(value.shape)}
        return NotImplemented

    def _compound(self, value: Any, where: str) -> Any:
        declared = getattr(value, "featcache_identity", None)
        if declared is not None and not isinstance(value, type):
            given = declared() if callable(declared) else declared
            return {
                "class": _type_name(value),
                "featcache_identity": self.of(given, f"{where}.featcache_identity"),
            }
        if isinstance(value, Mapping):
            items = [[self.of(key, where), self.of(part, f"{where}[{key!r}]")] for key, part in value.items()]
            if all(isinstance(key, str) for key in value):
                return dict(items) if type(value) is dict else {"class": _type_name(value), "items": dict(items)}
            return {"items": sorted(items, key=digest_json)}
        if isinstance(value, (list, tuple)):
            parts = [self.of(part, f"{where}[{number}]") for number, part in enumerate(value)]
            if hasattr(value, "_fields"):
                return {"class": _type_name(value), "items": parts}
            return parts
        if isinstance(value, (set, frozenset)):
            return {"set": sorted((self.of(part, where) for part in value), key=digest_json)}
        if isinstance(value, functools.partial):
            return {
                "partial": self.of(value.func, f"{where}.func"),
                "arguments": [self.of(part, where) for part in value.args],
                "keywords": {key: self.of(part, f"{where}.{key}") for key, part in value.keywords.items()},
            }
        if isinstance(value, types.ModuleType):
            return self._code(value, where)
        if isinstance(value, types.MethodType):
            return {"method": value.__name__, "of": self.of(value.__self__, where)}
        if isinstance(value, type) or (
            callable(value) and isinstance(value, (types.FunctionType, types.BuiltinFunctionType))
        ):
            return self._code(value, where)
        if callable(value) and is_named(value):
            return {"code": library_name(value)}
        if isinstance(value, (property, classmethod, staticmethod)):
            functions = [getattr(value, name, None) for name in ("fget", "fset", "__func__")]
            return {"descriptor": [self.of(function, where) for function in functions if function is not None]}
        return self._object(value, where)

    def _code(self, value: Any, where: str) -> Any:
        if isinstance(value, types.ModuleType):
            name = value.__name__
            if is_library(value):
                return {"module": name}
        elif is_library(value):
            return self._library(value, where)
        else:
            name = value.__qualname__.replace("<locals>.", "")
        if id(value) in self._seen:
            return {"seen": self._seen[id(value)][0]}
        self._seen[id(value)] = (len(self._seen), value)
        walk = module_identity if isinstance(value, types.ModuleType) else code_identity
        tree, closed = walk(value, where)
        return {
            "code": name,
            "tree": tree,
            "uses": {name: self.of(part, f"{where} → {name}") for name, part in sorted(closed.items())},
        }

    def _library(self, value: Any, where: str) -> Any:
        cells = getattr(value, "__closure__", None)
        if not cells:
            return {"code": library_name(value)}
        names = value.__code__.co_freevars
        closed = {
            name: self.of(cell.cell_contents, f"{where} → {name}") for name, cell in zip(names, cells, strict=True)
        }
        return {"code": library_name(value), "uses": closed}

    def _object(self, value: Any, where: str) -> Any:
        kind = type(value)
        if kind.__name__ in REFUSED or f"{kind.__module__}.{kind.__name__}" in REFUSED or hasattr(value, "fileno"):
            raise self._refused(value, where, "its state is not visible or changes by itself")
        if _is_module(value):
            return self._module(value, where)
        if is_dataclass(value):
            state = {field.name: getattr(value, field.name) for field in fields(value)}
        else:
            state = dict(getattr(value, "__dict__", {}))
            for parent in kind.__mro__:
                slots = parent.__dict__.get("__slots__", ())
                for name in (slots,) if isinstance(slots, str) else slots:
                    if hasattr(value, name) and name not in ("__dict__", "__weakref__"):
                        state[name] = getattr(value, name)
        if not state and not hasattr(value, "__dict__") and not _has_slots(kind):
            raise self._refused(value, where, "its state is not visible from Python")
        return {
            "class": self._class(kind, where),
            "state": {str(name): self.of(part, f"{where}.{name}") for name, part in sorted(state.items())},
        }

    def _module(self, module: Any, where: str) -> Any:
        hooks = [name for name in vars(module) if name.endswith("_hooks") and getattr(module, name)]
        if hooks:
            raise self._refused(module, where, "it has hooks")
        hidden = {"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"}
        plain = {
            name: part
            for name, part in vars(module).items()
            if name not in hidden and not name.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called"))
        }
        tensors = {
            **dict(module.named_parameters(recurse=False)),
            **dict(module.named_buffers(recurse=False)),
        }
        return {
            "class": self._class(type(module), where),
            "state": {
                name: self.of(part, f"{where}.{name}")
                for name, part in sorted({**plain, **tensors, **module._modules}.items())
                if name not in ("training", "_is_full_backward_hook", "call_super_init", "dump_patches", "_version")
            },
        }

    def _class(self, kind: type, where: str) -> Any:
        return library_name(kind) if is_library(kind) else self.of(kind, where)

    def _refused(self, value: Any, where: str, reason: str) -> FingerprintError:
        return FingerprintError(
            f"{where} is {_type_name(value)}, which has no deterministic identity: {reason}. {HINT}"
        )


def _has_slots(kind: type) -> bool:
    return inspect.getattr_static(kind, "__slots__", None) is not None


def _type_name(value: Any) -> str:
    kind = type(value)
    return f"{kind.__module__}:{kind.__qualname__}"


def _is_tensor(value: Any) -> bool:
    return any(parent.__module__ == "torch" and parent.__name__ == "Tensor" for parent in type(value).__mro__)


def _is_module(value: Any) -> bool:
    return any(
        parent.__module__ == "torch.nn.modules.module" and parent.__name__ == "Module" for parent in type(value).__mro__
    )
