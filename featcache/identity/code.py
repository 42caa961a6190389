"""Whose a piece of Python code is, what it is called, and what it refers to."""

from __future__ import annotations

import ast
import builtins
import dis
import functools
import importlib
import importlib.util
import sys
import sysconfig
import types
from collections import namedtuple
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import FingerprintError
from .syntax import HINT, check_loaded, class_node, function_node, module_tree, tree_digest

__all__ = ["class_code", "function_code", "is_library", "is_named", "module_code", "name_of"]

GENERATED = {
    "__dict__", "__weakref__", "__doc__", "__module__", "__qualname__", "__annotations__", "__annotate__",
    "__annotate_func__", "__annotations_cache__", "__static_attributes__", "__firstlineno__", "__classdictcell__",
    "__conditional_annotations__", "__type_params__", "__parameters__", "__orig_bases__", "__slots__", "__match_args__",
    "__abstractmethods__", "_abc_impl", "__dataclass_fields__", "__dataclass_params__", "__attrs_attrs__",
    "__protocol_attrs__", "__non_callable_proto_members__", "_is_runtime_protocol",
}  # fmt: skip
DESCRIPTORS = (types.MemberDescriptorType, types.GetSetDescriptorType, type(vars(namedtuple("_", "field"))["field"]))


@lru_cache
def _library_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    folders = {str(Path(paths[key]).resolve()) for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    return (*(f"{folder}/" for folder in folders), f"{Path(__file__).resolve().parent}/")


@lru_cache(maxsize=4096)
def _is_library_file(file: str) -> bool:
    path = Path(file).resolve()
    return bool({"site-packages", "dist-packages"} & set(path.parts)) or path.as_posix().startswith(_library_folders())


def _is_library_module(name: Any) -> bool:
    if not isinstance(name, str) or name == "__main__":
        return False
    module = sys.modules.get(name) or sys.modules.get(name.partition(".")[0])
    file = getattr(module, "__file__", None)
    if file is not None:
        return _is_library_file(file)
    return module is not None and getattr(module, "__spec__", None) is not None


def is_library(value: Any) -> bool:
    """Return whether a function, class or module is code of Python or of an installed package.

    A function is judged by the file it was compiled from: the names that it bears may be those of what it wraps.
    """
    if isinstance(value, types.ModuleType):
        return _is_library_module(value.__name__)
    if isinstance(value, types.FunctionType):
        file = value.__code__.co_filename
        if file.startswith("<"):
            return file.startswith("<frozen ") or _is_library_module(value.__globals__.get("__name__"))
        return _is_library_file(file)
    if isinstance(value, type):
        return _is_library_module(value.__module__) and all(is_library(each) for each in _functions_of(value))
    return _is_library_module(getattr(value, "__module__", None) or "builtins")


def is_named(value: Any) -> bool:
    """Return whether a value is a thing of an installed package that its own name leads to, such as ``numpy.mean``."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or "<" in name or not _is_library_module(module):
        return False
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is value


def name_of(value: Any) -> str:
    """Return a readable name: ``module:qualified name`` for code of a package, the qualified name alone for user code."""
    if isinstance(value, types.ModuleType):
        return value.__name__ if is_library(value) else Path(value.__file__ or value.__name__).stem
    if isinstance(value, types.FunctionType) and not is_named(value):
        code = value.__code__.co_name
        return f"{value.__globals__.get('__name__')}:{code}" if is_library(value) else code
    name = str(getattr(value, "__qualname__", getattr(value, "__name__", type(value).__name__)))
    module = getattr(value, "__module__", None) or "builtins"
    return f"{module}:{name}" if _is_library_module(module) else name.replace("<locals>.", "")


def function_code(function: types.FunctionType, where: str) -> tuple[str, dict[str, Any]]:
    """Return the digest of a function's syntax tree, and the values that it refers to by name.

    Raises ``FingerprintError`` where its source cannot be had, is ambiguous, or changed since it was loaded.
    """
    node = function_node(function, where)
    used = _closed_over(function) if is_library(function) else _used(function, node)
    if (defaults := _defaults(function)) is not None:
        used["default arguments"] = defaults
    used.update({f".{name}": part for name, part in vars(function).items() if not name.startswith("__")})
    return tree_digest(node), {name: part for name, part in used.items() if part is not function}


def class_code(kind: type, where: str) -> tuple[str, dict[str, Any]]:
    """Return the digest of a class's syntax tree, and what it holds and its methods refer to, by name."""
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    file = file or next((each.__code__.co_filename for each in _functions_of(kind)), None)
    node = class_node(kind, file, where)
    used: dict[str, Any] = {}
    for name, part in vars(kind).items():
        if name in GENERATED or isinstance(part, DESCRIPTORS) or (name == "__hash__" and part is None):
            continue
        function = _function_in(part)
        if function is None:
            used[f".{name}"] = part
        elif _stands_in(function, node, file):
            check_loaded(function, where)
            own = _closed_over(function)
            own["default arguments"] = _defaults(function)
            used.update({f"{name}: {key}": value for key, value in own.items() if value is not None})
            used.update({key: value for key, value in _used(function, node).items() if key not in own})
        elif not (name.startswith("__") and is_library(function)) and not _is_generated(kind, function):
            used[f".{name}"] = part
    used.update({f"base {number}": base for number, base in enumerate(kind.__bases__) if base is not object})
    if type(kind) is not type and not is_library(type(kind)):
        used["metaclass"] = type(kind)
    return tree_digest(node), {name: part for name, part in used.items() if part is not kind}


def module_code(module: types.ModuleType, where: str) -> tuple[str, dict[str, Any]]:
    """Return the digest of a module's syntax tree, and all that it holds by name."""
    tree = module_tree(getattr(module, "__file__", None) or "", where)
    return tree_digest(tree), {name: part for name, part in vars(module).items() if not name.startswith("__")}


def _functions_of(kind: type) -> Iterator[types.FunctionType]:
    for part in vars(kind).values():
        function = _function_in(part)
        if function is not None:
            yield function


def _function_in(part: Any) -> types.FunctionType | None:
    """Return the function that a class's plain, static, class, property or cached method consists of."""
    if isinstance(part, (staticmethod, classmethod)):
        part = part.__func__
    elif isinstance(part, property) and not part.fset and not part.fdel:
        part = part.fget
    elif isinstance(part, functools.cached_property):
        part = part.func
    return part if isinstance(part, types.FunctionType) else None


def _stands_in(function: types.FunctionType, node: ast.ClassDef, file: str | None) -> bool:
    code = function.__code__
    return code.co_filename == file and node.lineno <= code.co_firstlineno <= (node.end_lineno or 0)


def _is_generated(kind: type, function: types.FunctionType) -> bool:
    """Return whether a method was made from the fields of a dataclass, an attrs class or a named tuple."""
    made = any(name in vars(kind) for name in ("__dataclass_fields__", "__attrs_attrs__", "_fields"))
    return made and (function.__code__.co_filename.startswith("<") or is_library(function))


def _defaults(function: types.FunctionType) -> list[Any] | None:
    if not function.__defaults__ and not function.__kwdefaults__:
        return None
    return [list(function.__defaults__ or ()), sorted((function.__kwdefaults__ or {}).items())]


def _closed_over(function: types.FunctionType) -> dict[str, Any]:
    used: dict[str, Any] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if name == "__class__":
            continue
        try:
            used[name] = cell.cell_contents
        except ValueError:
            used[name] = None
    return used


def _used(function: types.FunctionType, node: ast.AST) -> dict[str, Any]:
    """Return what a function's names stand for: globals, what it closes over, and what it imports when it runs.

    Of a user module only those members are taken that the function names.
    """
    roots = {name: function.__globals__.get(name) for name in _global_names(function.__code__)}
    roots = {name: value for name, value in roots.items() if value is not None or not hasattr(builtins, name)}
    roots.update(_closed_over(function))
    roots.update(_imported(node, function))
    used: dict[str, Any] = {}
    chains = _Chains()
    chains.visit(node)
    for name, value in sorted(roots.items()):
        if not isinstance(value, types.ModuleType) or is_library(value):
            used[name] = value
            continue
        for chain in sorted(chains.found.get(name, {()})):
            used.update([_member(value, name, chain)])
    return used


def _member(module: Any, name: str, chain: tuple[str, ...]) -> tuple[str, Any]:
    found: Any = module
    for part in chain:
        if not isinstance(found, types.ModuleType) or is_library(found):
            break
        found, name = getattr(found, part, None), f"{name}.{part}"
    return name, found


class _Chains(ast.NodeVisitor):
    """Collects the dotted names in a tree: the first name, with what follows it."""

    def __init__(self) -> None:
        self.found: dict[str, set[tuple[str, ...]]] = {}

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """Take a whole dotted name at once."""
        parts: list[str] = []
        root: ast.expr = node
        while isinstance(root, ast.Attribute):
            parts.append(root.attr)
            root = root.value
        if isinstance(root, ast.Name):
            self.found.setdefault(root.id, set()).add(tuple(reversed(parts)))
        else:
            self.visit(root)

    def visit_Name(self, node: ast.Name) -> None:
        """Take a name that stands alone."""
        self.found.setdefault(node.id, set()).add(())


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


def _imported(node: ast.AST, function: types.FunctionType) -> dict[str, Any]:
    """Return what the import statements inside a function bind to user modules and their members, by name."""
    bound: dict[str, Any] = {}
    for statement in ast.walk(node):
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                module, top = _user_module(alias.name), alias.name.partition(".")[0]
                bound[alias.asname or top] = module if alias.asname or module is None else sys.modules[top]
        elif isinstance(statement, ast.ImportFrom):
            name = "." * statement.level + (statement.module or "")
            if statement.level:
                name = importlib.util.resolve_name(name, function.__globals__.get("__package__") or "")
            module = _user_module(name)
            for alias in statement.names:
                found = getattr(module, alias.name, None)
                bound[alias.asname or alias.name] = found if found is not None else _user_module(f"{name}.{alias.name}")
    return {name: value for name, value in bound.items() if value is not None}


def _user_module(name: str) -> types.ModuleType | None:
    """Return a user module by name, imported if need be; None for one of a package, and where there is none."""
    module = sys.modules.get(name)
    if module is None:
        try:
            specification = importlib.util.find_spec(name.partition(".")[0])
        except (ImportError, ValueError):
            specification = None
        if specification is None or not specification.origin or _is_library_file(specification.origin):
            return None
        try:
            module = importlib.import_module(name)
        except ImportError:
            return None
        except Exception as error:
            raise FingerprintError(f"importing {name} failed: {type(error).__name__}: {error}. {HINT}") from error
    return None if is_library(module) else module
