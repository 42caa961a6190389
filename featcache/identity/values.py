"""The walk that turns a value into JSON-able, readable values that say all that its behaviour depends on."""

from __future__ import annotations

import datetime
import decimal
import enum
import functools
import hashlib
import inspect
import json
import logging
import math
import operator
import re
import types
from collections import deque
from pathlib import PurePath
from typing import Any

import numpy as np

from ..errors import FingerprintError
from .code import class_code, function_code, is_library, is_named, module_code, name_of
from .content import content_id, digest_json, is_image, is_tensor, tensor_digest
from .objects import hides_state, is_module, module_state, object_state

__all__ = ["digest", "identity"]

HINT = "Give it an identity: an attribute or method `featcache_identity` that returns JSON-able values."
SHORT_BYTES = 64
TAGS = frozenset([
    "Size", "arguments", "bases", "bytes", "class", "code", "complex", "default_factory", "descriptor", "device",
    "dict", "dtype", "enum", "featcache_identity", "fields", "flags", "float", "image", "inside", "int", "items",
    "keywords", "layout", "logger", "maxlen", "memory_format", "method", "module", "modules", "namedtuple", "numpy",
    "numpy_dtype", "of", "partial", "path", "pattern", "range", "seen", "set", "shape", "singleton", "slice", "state",
    "tensor", "tree", "tuple", "typing", "uses", "value", "wrapped",
])  # fmt: skip
GETTERS = (operator.itemgetter, operator.attrgetter, operator.methodcaller)
C_METHODS = (types.MethodDescriptorType, types.WrapperDescriptorType, types.ClassMethodDescriptorType)
BY_TEXT = (datetime.date, datetime.time, datetime.timedelta, datetime.timezone, decimal.Decimal)
SINGLETONS = {Ellipsis: "Ellipsis", NotImplemented: "NotImplemented"}


def digest(value: Any) -> str:
    """Return the SHA-256 digest of a value's identity, 64 hexadecimal characters."""
    return digest_json(identity(value))


def identity(value: Any) -> Any:
    """Return JSON-able, readable values that say all that a value's behaviour depends on.

    Functions and classes of installed packages are named; those of user code are identified by their syntax tree
    (comments, formatting and docstrings do not count), their defaults, what they close over and the globals that they
    use. Objects are identified by class and state; what a thing declares as ``featcache_identity`` stands for all of it.
    Raises ``FingerprintError`` for what has no such identity.
    """
    try:
        return _Walk().of(value, "it")
    except RecursionError as error:
        raise FingerprintError(f"a {type(value).__name__} is nested too deeply to be identified. {HINT}") from error


class _Walk:
    """One walk over a value; remembers what it is inside of, so that cycles end, and the code that it has seen."""

    def __init__(self, inside: dict[int, int] | None = None, seen: dict[int, tuple[int, Any]] | None = None) -> None:
        self._inside = dict(inside or {})
        self._seen = dict(seen or {})

    def of(self, value: Any, where: str) -> Any:
        if value is None or type(value) in (bool, str):
            return value
        simple = self._simple(value)
        if simple is not None:
            return simple[0]
        if id(value) in self._inside:
            return {"inside": self._inside[id(value)]}
        self._inside[id(value)] = len(self._inside)
        try:
            declared = self._declared(value, where)
            if declared is not None:
                return declared
            for method in (self._container, self._callable, self._special):
                found = method(value, where)
                if found is not None:
                    return found
            return self._object(value, where)
        finally:
            del self._inside[id(value)]

    def _simple(self, value: Any) -> tuple[Any] | None:
        """Return the identity of a value without parts, in a tuple; None for others."""
        kind = type(value)
        if kind is int:
            return (value if abs(value) < 1 << 53 else {"int": hex(value)},)
        if kind is float:
            return (value if math.isfinite(value) else {"float": repr(value)},)
        if kind is complex:
            return ({"complex": repr(value)},)
        if kind in (bytes, bytearray, memoryview):
            content = bytes(value)
            return ({"bytes": content.hex() if len(content) <= SHORT_BYTES else hashlib.sha256(content).hexdigest()},)
        if isinstance(value, PurePath):
            return ({"path": value.as_posix()},)
        if isinstance(value, np.generic) and not value.dtype.hasobject:
            return ({"numpy": value.dtype.str, "value": str(value)},)
        if isinstance(value, np.dtype):
            return ({"numpy_dtype": value.str if value.fields is None else repr(value.descr)},)
        if kind is range:
            return ({"range": [value.start, value.stop, value.step]},)
        if kind.__module__ == "torch" and kind.__name__ in ("dtype", "device", "layout", "memory_format", "Size"):
            return ({kind.__name__: str(value)},)
        if is_tensor(value) or (isinstance(value, np.ndarray) and not value.dtype.hasobject):
            return ({"tensor": tensor_digest(value), "shape": list(value.shape)},)
        if is_image(value):
            return ({"image": content_id(value).hex()},)
        if isinstance(value, logging.Logger):  # what it writes changes no value
            return ({"logger": value.name},)
        if kind.__module__ == "typing" or isinstance(value, (types.GenericAlias, types.UnionType)):
            return ({"typing": repr(value)},)
        return ({"singleton": SINGLETONS[value]},) if value is Ellipsis or value is NotImplemented else None

    def _declared(self, value: Any, where: str) -> Any:
        # Looked up statically: an object that answers to every name declares nothing.
        if isinstance(value, type) or inspect.getattr_static(value, "featcache_identity", None) is None:
            return None
        given = value.featcache_identity
        given = given() if callable(given) else given
        try:
            plain = json.loads(json.dumps(given, allow_nan=False, sort_keys=True))
        except (TypeError, ValueError):
            plain = self.of(given, f"{where}.featcache_identity")
        return {"class": name_of(type(value)), "featcache_identity": plain}

    def _container(self, value: Any, where: str) -> Any:
        kind = type(value)
        if isinstance(value, (list, tuple, deque)):
            parts = [self.of(part, f"{where}[{number}]") for number, part in enumerate(value)]
            if kind is list:
                return parts
            if kind is tuple:
                return {"tuple": parts}
            extra = {"maxlen": value.maxlen} if isinstance(value, deque) else {}
            return {**self._instance(value, where), "items": parts, **extra}
        if isinstance(value, (dict, types.MappingProxyType)):
            return self._mapping(value, where)
        if isinstance(value, (set, frozenset)):
            # Each part is walked on its own, since a set's order is chance.
            parts = sorted((_Walk(self._inside, self._seen).of(part, where) for part in value), key=digest_json)
            return {"set": parts} if kind in (set, frozenset) else {**self._instance(value, where), "set": parts}
        if isinstance(value, np.ndarray):
            return {"items": [self.of(part, where) for part in value.ravel().tolist()], "shape": list(value.shape)}
        if kind is slice:
            return {"slice": [self.of(part, where) for part in (value.start, value.stop, value.step)]}
        return None

    def _mapping(self, value: Any, where: str) -> Any:
        items = [(key, self.of(part, f"{where}[{key!r}]")) for key, part in value.items()]
        readable = all(type(key) is str and key not in TAGS for key in value) and list(value) == sorted(value, key=str)
        # The order is kept, since code that walks over a dict depends on it.
        ordered = dict(items) if readable else {"dict": [[self.of(key, where), part] for key, part in items]}
        if type(value) in (dict, types.MappingProxyType):
            return ordered
        made = {"default_factory": self.of(value.default_factory, where)} if hasattr(value, "default_factory") else {}
        return {**self._instance(value, where), "items": ordered, **made}

    def _callable(self, value: Any, where: str) -> Any:
        if isinstance(value, (types.FunctionType, types.ModuleType, type)):
            return self._code(value, where)
        if isinstance(value, types.MethodType):
            function = self.of(value.__func__, f"{where}.{value.__func__.__name__}")
            return {"method": function, "of": self.of(value.__self__, where)}
        if isinstance(value, functools.partial):
            return {
                "partial": self.of(value.func, f"{where}.func"),
                "arguments": [self.of(part, where) for part in value.args],
                "keywords": {key: self.of(part, f"{where}.{key}") for key, part in sorted(value.keywords.items())},
            }
        if isinstance(value, functools._lru_cache_wrapper):
            return {"wrapped": self.of(value.__wrapped__, where)}
        if isinstance(value, (types.BuiltinFunctionType, types.MethodWrapperType)):
            owner: Any = value.__self__
            if owner is None or isinstance(owner, (type, types.ModuleType)):
                owner = getattr(value, "__module__", None) or getattr(owner, "__module__", None) or "builtins"
                return {"code": f"{owner}:{value.__qualname__}"}
            return {"method": value.__name__, "of": self.of(owner, where)}
        if isinstance(value, C_METHODS):
            return {"code": f"{name_of(value.__objclass__)}.{value.__name__}"}
        if isinstance(value, np.ufunc) and getattr(np, str(getattr(value, "__name__", "")), None) is value:
            return {"code": f"numpy:{getattr(value, '__name__', '')}"}
        if callable(value) and is_named(value):
            return {"code": name_of(value)}
        return None

    def _special(self, value: Any, where: str) -> Any:
        kind = type(value)
        if isinstance(value, enum.Enum):
            if is_library(kind):
                return {"enum": f"{name_of(kind)}.{value.name or value.value}"}
            return {"enum": value.name, "value": self.of(value.value, where), "class": self.of(kind, where)}
        if isinstance(value, (property, classmethod, staticmethod, functools.cached_property)):
            functions = [getattr(value, name, None) for name in ("fget", "fset", "fdel", "__func__", "func")]
            return {"descriptor": [self.of(function, where) for function in functions]}
        if isinstance(value, re.Pattern):
            return {"pattern": self.of(value.pattern, where), "flags": value.flags}
        if isinstance(value, GETTERS):
            made = value.__reduce__()
            assert isinstance(made, tuple)
            return {"class": name_of(kind), "arguments": [self.of(part, where) for part in made]}
        if kind.__module__ == "torch" and kind.__name__ == "ScriptObject" and hasattr(value, "__getstate__"):
            return {"script": str(value._type()), "state": self.of(_state_of_script(value), where)}  # quantised weights
        if isinstance(value, BY_TEXT) and isinstance(getattr(value, "tzinfo", None), (datetime.timezone, type(None))):
            return {"class": name_of(kind), "value": repr(value)}
        for simple in (int, str, float, bytes):  # a class of its own that is one of these
            if isinstance(value, simple):
                plain: Any = simple
                return {**self._instance(value, where), "value": self.of(plain(value), where)}
        return None

    def _code(self, value: Any, where: str) -> Any:
        library = is_library(value)
        if library and isinstance(value, types.ModuleType):
            return {"module": value.__name__}
        if library and is_named(value):
            return {"code": name_of(value)}
        if id(value) in self._seen:
            return {"seen": self._seen[id(value)][0]}
        self._seen[id(value)] = (len(self._seen), value)
        if isinstance(value, type) and (library or _is_plain_named_tuple(value)):
            # Made while running, such as torch's parametrized classes: known by what it was made from.
            bases = [self.of(base, f"{where} → {base.__name__}") for base in value.__bases__]
            return {"code": name_of(value), "bases": bases, "fields": list(getattr(value, "_fields", ()))}
        if isinstance(value, types.FunctionType):
            tree, used = function_code(value, where)
        else:
            tree, used = class_code(value, where) if isinstance(value, type) else module_code(value, where)
        if isinstance(value, type) and issubclass(value, enum.Enum):
            members = {name: member.value for name, member in value.__members__.items()}
            hidden = {*members, *(name.strip(".") for name in used if name.startswith("._"))}
            used = {name: part for name, part in used.items() if name.strip(".") not in hidden} | {".members": members}
        uses = {name: self.of(part, f"{where} → {name.strip('.')}") for name, part in sorted(used.items())}
        return {"code": name_of(value), "tree": tree, "uses": uses}

    def _instance(self, value: Any, where: str) -> dict[str, Any]:
        """Return class and attributes of a value whose items are told apart."""
        state = {name: self.of(part, f"{where}.{name}") for name, part in sorted(object_state(value).items())}
        return {"class": self._class(type(value), where), **({"state": state} if state else {})}

    def _object(self, value: Any, where: str) -> Any:
        kind = type(value)
        if isinstance(value, property) or hides_state(kind):
            raise self._refused(value, where, "its state is not visible from Python, or changes by itself")
        if not is_module(value):
            made = self._instance(value, where)
            return {"class": made.pop("class"), "state": {}, **made}
        if getattr(value, "_forward_hooks", None) or getattr(value, "_forward_pre_hooks", None):
            raise self._refused(value, where, "it has hooks")
        state, children = module_state(value)
        found = {
            "class": self._class(kind, where),
            "state": {name: self.of(part, f"{where}.{name}") for name, part in sorted(state.items())},
        }
        if children:
            found["modules"] = [[name, self.of(part, f"{where}.{name}")] for name, part in children]
        return found

    def _class(self, kind: type, where: str) -> Any:
        return name_of(kind) if is_library(kind) and is_named(kind) else self.of(kind, where)

    def _refused(self, value: Any, where: str, reason: str) -> FingerprintError:
        kind = type(value)
        return FingerprintError(
            f"{where} is {kind.__module__}:{kind.__qualname__}, which has no deterministic identity: {reason}. {HINT}"
        )


def _state_of_script(value: Any) -> Any:
    try:
        return value.__getstate__()
    except RuntimeError as error:
        raise FingerprintError(f"the state of {value._type()} cannot be read. {HINT}") from error


def _is_plain_named_tuple(kind: type) -> bool:
    made = issubclass(kind, tuple) and "_field_defaults" in vars(kind)
    code = [part.__code__.co_filename for part in vars(kind).values() if isinstance(part, types.FunctionType)]
    annotated = "__orig_bases__" in vars(kind) or "__annotations__" in vars(kind) or "__annotate_func__" in vars(kind)
    return (
        made
        and not annotated
        and all(file.startswith("<") or file.endswith("collections/__init__.py") for file in code)
    )
