"""Identities of Python code: its syntax tree and what it refers to, so that only a change of meaning changes them."""

from __future__ import annotations

import ast
import builtins
import dis
import hashlib
import inspect
import json
import linecache
import sys
import sysconfig
import types
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from .errors import FingerprintError

__all__ = ["code_identity", "is_library", "is_named", "library_name", "module_identity"]

HINT = "Define it in a file, as a function or class, or give it an attribute `featcache_identity`."
UNIMPORTANT_FIELDS = ("ctx", "kind", "type_comment", "type_ignores")


@lru_cache
def _library_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return tuple({str(Path(paths[key]).resolve()) for key in ("stdlib", "platstdlib", "purelib", "platlib")})


def is_library(value: Any) -> bool:
    """Return whether a function, class or module belongs to Python or an installed package."""
    name = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
    if name is None:
        return isinstance(value, types.BuiltinFunctionType)
    top = name.partition(".")[0]
    if (top in sys.stdlib_module_names and top != "__main__") or top == "featcache":
        return True
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    if file is None:
        return module is not None and name != "__main__" and getattr(module, "__spec__", None) is not None
    resolved = str(Path(file).resolve())
    return "site-packages" in resolved or "dist-packages" in resolved or resolved.startswith(_library_folders())


def is_named(value: Any) -> bool:
    """Return whether a value is a thing of an installed package that its own name leads to, such as ``numpy.mean``."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or "<" in name or not is_library(value):
        return False
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is value


def library_name(value: Any) -> str:
    """Return ``module:qualified name`` of a function or class of an installed package."""
    return f"{value.__module__}:{getattr(value, '__qualname__', value.__name__)}"


def code_identity(value: Any, where: str) -> tuple[str, dict[str, Any]]:
    """Return the digest of a user function's or class's syntax tree, and the values that it refers to by name.

    Raises :class:`FingerprintError` where its source cannot be had, is ambiguous, or changed since it was loaded.
    """
    if isinstance(value, type):
        functions = [part for part in _functions_of(value) if part.__module__ == value.__module__]
        node = _class_node(value, where)
        for function in functions:
            if function.__qualname__.startswith(value.__qualname__ + "."):
                _check_loaded(function, where)
        used: dict[str, Any] = {}
        for function in functions:
            used.update(_used(function))
        used.update({f"base {number}": base for number, base in enumerate(value.__bases__) if base is not object})
        return _tree_digest(node), {name: part for name, part in used.items() if part is not value}
    if not isinstance(value, types.FunctionType):
        raise FingerprintError(f"{where} is {value!r}, whose code cannot be seen. {HINT}")
    node = _function_node(value, where)
    used = _used(value)
    defaults = (value.__defaults__, value.__kwdefaults__)
    if any(defaults):
        used["default arguments"] = [value.__defaults__ or (), value.__kwdefaults__ or {}]
    return _tree_digest(node), {name: part for name, part in used.items() if part is not value}


def module_identity(module: types.ModuleType, where: str) -> tuple[str, dict[str, Any]]:
    """Return the digest of a user module's syntax tree, and the other user modules that it refers to."""
    tree = _file_tree(getattr(module, "__file__", None) or "", where)
    used: dict[str, Any] = {}
    for name, part in vars(module).items():
        if (isinstance(part, types.ModuleType) and not is_library(part)) or (
            isinstance(part, (types.FunctionType, type)) and part.__module__ != module.__name__ and not is_library(part)
        ):
            used[name] = part
    return _tree_digest(tree), used


def _functions_of(kind: type) -> Iterator[types.FunctionType]:
    for part in vars(kind).values():
        candidates = [
            part,
            getattr(part, "__func__", None),
            getattr(part, "fget", None),
            getattr(part, "fset", None),
        ]
        yield from (candidate for candidate in candidates if isinstance(candidate, types.FunctionType))


def _used(function: types.FunctionType) -> dict[str, Any]:
    used: dict[str, Any] = {}
    for name in sorted(_global_names(function.__code__)):
        if name in function.__globals__:
            used[name] = function.__globals__[name]
        elif not hasattr(builtins, name):
            used[name] = None  # not defined yet: a name error, or set later
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if name == "__class__":
            continue
        try:
            used[name] = cell.cell_contents
        except ValueError:
            used[name] = None
    return used


def _global_names(code: types.CodeType) -> set[str]:
    names = {
        str(instruction.argval)
        for instruction in dis.get_instructions(code)
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
    }
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _global_names(constant)
    return names


def _function_node(function: types.FunctionType, where: str) -> ast.AST:
    code = function.__code__
    tree = _file_tree(code.co_filename, where)
    found = [node for node in ast.walk(tree) if _begins_at(node, code)]
    if len(found) != 1:
        problem = "its source cannot be found" if not found else "several lambdas stand on its line"
        raise FingerprintError(f"{where} is {function.__qualname__!r}, but {problem} in {code.co_filename}. {HINT}")
    _check_loaded(function, where)
    return found[0]


def _begins_at(node: ast.AST, code: types.CodeType) -> bool:
    if isinstance(node, ast.Lambda):
        return code.co_name == "<lambda>" and node.lineno == code.co_firstlineno
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        return node.name == code.co_name and first == code.co_firstlineno
    return False


def _class_node(kind: type, where: str) -> ast.AST:
    module = sys.modules.get(kind.__module__)
    file = getattr(module, "__file__", None) or _file_of_methods(kind)
    tree = _file_tree(file or "", where)
    wanted = kind.__qualname__.replace(".<locals>", "")
    found = [node for name, node in _classes(tree, "") if name == wanted]
    if len(found) != 1:
        problem = "its source cannot be found" if not found else "several classes of that name stand"
        raise FingerprintError(f"{where} is the class {kind.__qualname__!r}, but {problem} in {file}. {HINT}")
    return found[0]


def _file_of_methods(kind: type) -> str | None:
    return next((function.__code__.co_filename for function in _functions_of(kind)), None)


def _classes(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.ClassDef]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            name = f"{prefix}{child.name}"
            if isinstance(child, ast.ClassDef):
                yield name, child
            yield from _classes(child, f"{name}.")
        else:
            yield from _classes(child, prefix)


def _source(file: str, where: str) -> str:
    linecache.checkcache(file)
    lines = linecache.getlines(file)
    if not lines:
        raise FingerprintError(f"the source of {where} is not available ({file or 'no file'}). {HINT}")
    return "".join(lines)


def _file_tree(file: str, where: str) -> ast.Module:
    try:
        return _parsed(_source(file, where))
    except SyntaxError as error:
        raise FingerprintError(f"the source of {where} in {file} does not parse any more: {error}. {HINT}") from error


@lru_cache(maxsize=64)
def _parsed(source: str) -> ast.Module:
    return ast.parse(source)


@lru_cache(maxsize=64)
def _compiled(source: str, file: str) -> tuple[types.CodeType, ...]:
    found, waiting = [], [compile(source, file, "exec", dont_inherit=True)]
    while waiting:
        code = waiting.pop()
        found.append(code)
        waiting.extend(constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return tuple(found)


def _check_loaded(function: types.FunctionType, where: str) -> None:
    """Refuse a function whose file was edited after it was loaded: its source would not be what runs."""
    code = function.__code__
    if inspect.getattr_static(function, "__wrapped__", None) is not None and not linecache.getlines(code.co_filename):
        return
    for other in _compiled(_source(code.co_filename, where), code.co_filename):
        same_place = other.co_name == code.co_name and other.co_firstlineno == code.co_firstlineno
        if same_place and _same_code(other, code):
            return
    raise FingerprintError(
        f"the source of {function.__qualname__!r} in {code.co_filename} changed after it was loaded. Start the program anew."
    )


def _same_code(one: types.CodeType, other: types.CodeType) -> bool:
    def plain(code: types.CodeType) -> tuple[Any, ...]:
        constants = [repr(part) for part in code.co_consts if not isinstance(part, types.CodeType)]
        return (code.co_code, code.co_names, code.co_varnames, sorted(constants))

    inner = [part for part in one.co_consts if isinstance(part, types.CodeType)]
    outer = [part for part in other.co_consts if isinstance(part, types.CodeType)]
    return (
        plain(one) == plain(other)
        and len(inner) == len(outer)
        and all(_same_code(a, b) for a, b in zip(inner, outer, strict=True))
    )


def _tree_digest(node: ast.AST) -> str:
    text = json.dumps(_canonical(node), separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _canonical(node: Any) -> Any:
    """Return a node as nested lists without positions, docstrings and empty fields, alike in all Python versions."""
    if isinstance(node, ast.AST):
        named = []
        for name, value in ast.iter_fields(node):
            if name in UNIMPORTANT_FIELDS or (value is None and name != "value"):
                continue
            if name == "body" and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Module)):
                value = value[_docstrings(value) :]
            if value != []:
                named.append([name, _canonical(value)])
        return [type(node).__name__, *named]
    if isinstance(node, list):
        return [_canonical(part) for part in node]
    return node if isinstance(node, (str, bool)) or node is None else {type(node).__name__: repr(node)}


def _docstrings(body: list[ast.stmt]) -> int:
    first = body[0] if body else None
    is_text = (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    )
    return int(is_text)
