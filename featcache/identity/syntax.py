"""The syntax trees of loaded Python code, checked against what was loaded, and their canonical digests."""

from __future__ import annotations

import ast
import hashlib
import json
import linecache
import types
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from ..errors import FingerprintError

__all__ = ["check_loaded", "class_node", "function_node", "module_tree", "tree_digest"]

HINT = "Define it in a file, as a function or class, or give it an attribute `featcache_identity`."
UNIMPORTANT_FIELDS = ("ctx", "kind", "type_comment", "type_ignores")
WITH_DOCSTRING = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Module)


def function_node(function: types.FunctionType, where: str) -> ast.AST:
    """Return the syntax tree of a function; raises ``FingerprintError`` where it cannot be had, or is ambiguous."""
    code = function.__code__
    found = [node for node in ast.walk(module_tree(code.co_filename, where)) if _begins_at(node, code)]
    if len(found) != 1:
        problem = "its source cannot be found" if not found else "several lambdas stand on its line"
        raise FingerprintError(f"{where} is {function.__qualname__!r}, but {problem} in {code.co_filename}. {HINT}")
    check_loaded(function, where)
    return found[0]


def class_node(kind: type, file: str | None, where: str) -> ast.ClassDef:
    """Return the syntax tree of a class that stands in a file."""
    wanted = kind.__qualname__.replace(".<locals>", "")
    found = [node for name, node in _classes(module_tree(file or "", where), "") if name == wanted]
    if len(found) != 1:
        problem = "its source cannot be found" if not found else "several classes of that name stand"
        raise FingerprintError(f"{where} is the class {kind.__qualname__!r}, but {problem} in {file}. {HINT}")
    return found[0]


def module_tree(file: str, where: str) -> ast.Module:
    """Return the syntax tree of a file, or of what was typed into an interpreter or notebook."""
    try:
        return _parsed(_source(file, where))
    except (SyntaxError, ValueError) as error:
        raise FingerprintError(f"the source of {where} in {file} does not parse any more: {error}. {HINT}") from error


def check_loaded(function: types.FunctionType, where: str) -> None:
    """Refuse a function whose file was edited after it was loaded: its source would not be what runs."""
    code = function.__code__
    try:
        compiled = _compiled(_source(code.co_filename, where), code.co_filename)
    except (SyntaxError, ValueError):
        compiled = ()
    for other in compiled:
        same_place = other.co_name == code.co_name and other.co_firstlineno == code.co_firstlineno
        if same_place and _same_code(other, code):
            return
    raise FingerprintError(
        f"the source of {function.__qualname__!r} in {code.co_filename} changed after it was loaded, or it was rewritten "
        f"on loading. Start the program again, or give it an attribute `featcache_identity`."
    )


def tree_digest(node: ast.AST) -> str:
    """Return 32 hexadecimal characters over a tree; comments, docstrings and layout do not enter, nor does the Python."""
    text = json.dumps(_canonical(node), separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _begins_at(node: ast.AST, code: types.CodeType) -> bool:
    if isinstance(node, ast.Lambda):
        return code.co_name == "<lambda>" and node.lineno == code.co_firstlineno
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        return node.name == code.co_name and first == code.co_firstlineno
    return False


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


def _same_code(one: types.CodeType, other: types.CodeType) -> bool:
    def plain(code: types.CodeType) -> tuple[Any, ...]:
        constants = [_stable(part) for part in code.co_consts if not isinstance(part, types.CodeType)]
        return (code.co_code, code.co_names, code.co_varnames, sorted(constants))

    inner = [part for part in one.co_consts if isinstance(part, types.CodeType)]
    outer = [part for part in other.co_consts if isinstance(part, types.CodeType)]
    return (
        plain(one) == plain(other)
        and len(inner) == len(outer)
        and all(_same_code(a, b) for a, b in zip(inner, outer, strict=True))
    )


def _stable(constant: Any) -> str:
    # The order within a frozenset depends on how it was built, and one from a .pyc file was built otherwise.
    return repr(sorted(map(repr, constant))) if isinstance(constant, frozenset) else repr(constant)


def _canonical(node: Any) -> Any:
    """Return a node as nested lists without positions, docstrings and empty fields, alike in all Python versions."""
    if isinstance(node, ast.AST):
        named = []
        for name, value in ast.iter_fields(node):
            if name in UNIMPORTANT_FIELDS or (value is None and name != "value"):
                continue
            if name == "body" and isinstance(node, WITH_DOCSTRING):
                value = value[_docstrings(value) :]
            if isinstance(node, ast.JoinedStr) and name == "values":
                value = _joined(value)
            if value != []:
                named.append([name, _canonical(value)])
        return [type(node).__name__, *named]
    if isinstance(node, list):
        return [_canonical(part) for part in node]
    return node if isinstance(node, (str, bool)) or node is None else {type(node).__name__: repr(node)}


def _joined(parts: list[Any]) -> list[Any]:
    """Return the parts of an f-string with neighbouring texts as one: Python versions cut them differently."""
    joined: list[Any] = []
    for part in parts:
        text = part.value if isinstance(part, ast.Constant) else None
        if not isinstance(text, str):
            joined.append(part)
        elif joined and isinstance(joined[-1], str):
            joined[-1] += text
        elif text:
            joined.append(text)
    return joined


def _docstrings(body: list[ast.stmt]) -> int:
    first = body[0] if body else None
    is_text = (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    )
    return int(is_text)
