"""What a function's identity follows: the names in it, in lambdas and inner functions, its defaults, what it imports."""

from __future__ import annotations

import importlib
import sys
import textwrap
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from featcache.errors import FingerprintError
from featcache.identity import digest

FACTOR = 2


def through_a_lambda(x: list[int]) -> list[int]:
    return list(map(lambda value: value * FACTOR, x))  # noqa: C417


def through_an_inner_function(x: int) -> int:
    def scaled(value: int) -> int:
        return value * FACTOR

    return scaled(x)


def through_a_lambda_in_an_inner_function(x: int) -> Any:
    def scaled(value: int) -> Any:
        return lambda: value * FACTOR

    return scaled(x)()


class InAMethod:
    def __call__(self, x: list[int]) -> list[int]:
        return sorted(x, key=lambda value: value % FACTOR)


@pytest.mark.parametrize(
    "subject",
    [through_a_lambda, through_an_inner_function, through_a_lambda_in_an_inner_function, InAMethod()],
    ids=["lambda", "inner function", "lambda in an inner function", "lambda in a method"],
)
def test_a_global_name_is_followed_wherever_in_a_function_it_stands(subject: object, monkeypatch) -> None:
    before = digest(subject)
    monkeypatch.setattr(sys.modules[__name__], "FACTOR", 3)
    assert digest(subject) != before


def with_default(by: int) -> Callable[[int], int]:
    def scaled(x: int, by: int = by) -> int:
        return x * by

    return scaled


def with_keyword_only_default(by: int) -> Callable[[int], int]:
    def scaled(x: int, *, by: int = by) -> int:
        return x * by

    return scaled


def with_method_of_keyword_only_default(by: int) -> object:
    class Scaled:
        def __call__(self, x: int, *, by: int = by) -> int:
            return x * by

    return Scaled()


@pytest.mark.parametrize("make", [with_default, with_keyword_only_default, with_method_of_keyword_only_default])
def test_the_value_of_a_default_counts_also_of_a_keyword_only_one(make: Callable[[int], object]) -> None:
    assert digest(make(2)) == digest(make(2)) != digest(make(3))


@pytest.mark.parametrize("register", [nn.Module.register_forward_hook, nn.Module.register_forward_pre_hook])
def test_a_module_with_a_hook_before_or_behind_it_is_refused(register: Callable[..., object]) -> None:
    layer = nn.Linear(2, 2)
    register(layer, lambda *_: None)
    with pytest.raises(FingerprintError, match="hooks"):
        digest(layer)


def loaded(folder: Path, package: str, files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Write a package with these modules and return the one that is called user."""
    for name, source in {"__init__.py": "", **files}.items():
        path = folder / package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source))
    monkeypatch.syspath_prepend(folder)
    importlib.invalidate_caches()
    return importlib.import_module(f"{package}.user")


IMPORTS = {
    "a member of a sibling": "from .helpers import FACTOR\n    return x * FACTOR",
    "a member under another name": "from .helpers import FACTOR as by\n    return x * by",
    "a sibling": "from . import helpers\n    return x * helpers.FACTOR",
    "a module by its full name": "import {package}.helpers\n    return x * {package}.helpers.FACTOR",
    "a module under another name": "import {package}.helpers as h\n    return x * h.FACTOR",
    "a member by its full name": "from {package}.helpers import FACTOR\n    return x * FACTOR",
}


@pytest.mark.parametrize("number", range(len(IMPORTS)), ids=IMPORTS)
def test_what_a_function_imports_when_it_runs_is_followed(tmp_path: Path, monkeypatch, number: int) -> None:
    package = f"importing_{number}"
    body = list(IMPORTS.values())[number].format(package=package)
    files = {"user.py": f"def subject(x):\n    {body}\n", "helpers.py": "FACTOR = 2\nOTHER = 1\n"}
    user = loaded(tmp_path, package, files, monkeypatch)
    before = digest(user.subject)
    assert user.subject(3) == 6
    helpers = sys.modules[f"{package}.helpers"]
    helpers.OTHER = 5
    assert digest(user.subject) == before
    helpers.FACTOR = 3
    assert digest(user.subject) != before


def test_an_import_of_a_package_above_is_followed(tmp_path: Path, monkeypatch) -> None:
    files = {
        "helpers.py": "FACTOR = 2\n",
        "inner/__init__.py": "",
        "inner/work.py": "def subject(x):\n    from ..helpers import FACTOR\n    return x * FACTOR\n",
        "user.py": "from .inner.work import subject\n",
    }
    user = loaded(tmp_path, "importing_above", files, monkeypatch)
    before = digest(user.subject)
    sys.modules["importing_above.helpers"].FACTOR = 3
    assert digest(user.subject) != before
