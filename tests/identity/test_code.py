"""What a function's identity follows: the names in it, in lambdas and inner functions, its defaults, what it imports."""

from __future__ import annotations

import abc
import functools
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
from featcache.identity.code import class_code, function_code, is_library, is_named, module_code, name_of

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


def abs(x: int) -> int:
    return x * FACTOR


def through_a_shadowed_builtin(x: int) -> int:
    return abs(x)


def through_builtins(x: list[int]) -> int:
    return max(x) + len(x)


def test_a_global_that_hides_a_builtin_is_followed_and_builtins_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest(through_a_shadowed_builtin)
    assert function_code(through_builtins, "it")[1] == {}
    monkeypatch.setattr(sys.modules[__name__], "FACTOR", 3)
    assert digest(through_a_shadowed_builtin) != before


def test_a_name_that_stands_for_nothing_yet_counts_once_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    def later(x: int) -> int:
        return x * not_there_yet  # type: ignore[name-defined]  # noqa: F821

    before = digest(later)
    monkeypatch.setattr(sys.modules[__name__], "not_there_yet", 3, raising=False)
    assert digest(later) != before


def closing_over(value: Any) -> Callable[[], Any]:
    def inner() -> Any:
        return value, own

    if value is None:
        del value
    own = 1
    return inner


def test_what_a_function_closes_over_counts_also_where_it_is_empty() -> None:
    digests = {digest(closing_over(value)) for value in (None, 1, 2, "1")}
    assert len(digests) == 4
    assert function_code(closing_over(5), "it")[1] == {"value": 5, "own": 1}


def test_a_function_that_calls_itself_has_an_identity() -> None:
    def factorial(x: int) -> int:
        return x * factorial(x - 1) if x else 1

    assert function_code(factorial, "it")[1] == {}
    assert digest(factorial) == digest(factorial)


class Base:
    def scaled(self, x: int) -> int:
        return x * FACTOR


class Meta(type):
    factor = 2


class WithMeta(metaclass=Meta):
    pass


class Abstract(metaclass=abc.ABCMeta):  # noqa: B024
    pass


class Static:
    @staticmethod
    def run(x: int) -> int:
        return x * FACTOR


class OfClass:
    @classmethod
    def run(cls, x: int) -> int:
        return x * FACTOR


class Read:
    @property
    def value(self) -> int:
        return FACTOR


class Once:
    @functools.cached_property
    def value(self) -> int:
        return FACTOR


class Hashed:
    def __hash__(self) -> int:
        return FACTOR


class Compared:
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Compared)


class Kinds(Base):
    plain = 5
    unset = None
    cached = functools.cached_property(lambda self: FACTOR)


class Written:
    @property
    def value(self) -> int:
        return 1

    @value.setter
    def value(self, new: int) -> None:
        self.new = new * FACTOR


class Super(Base):
    def scaled(self, x: int) -> int:
        return super().scaled(x)


@pytest.mark.parametrize("kind", [Base, Hashed, Static, OfClass, Read, Once, Kinds, Written, Super])
def test_what_the_methods_of_a_class_and_of_its_bases_name_is_followed(kind: type, monkeypatch) -> None:
    before = digest(kind())
    monkeypatch.setattr(sys.modules[__name__], "FACTOR", 3)
    assert digest(kind()) != before


def test_a_metaclass_a_base_and_a_class_attribute_count(monkeypatch: pytest.MonkeyPatch) -> None:
    used = class_code(WithMeta, "it")[1]
    assert used == {"metaclass": Meta}
    before = digest(WithMeta)
    monkeypatch.setattr(Meta, "factor", 3)
    assert digest(WithMeta) != before
    assert class_code(Super, "it")[1] == {"base 0": Base}
    assert ".__hash__" not in class_code(Compared, "it")[1]
    assert class_code(Abstract, "it")[1] == {}  # that of a package is known by the tree
    assert {".plain": 5, ".unset": None, "base 0": Base}.items() <= class_code(Kinds, "it")[1].items()


def test_code_is_called_by_its_own_name_and_that_of_a_package_by_its_module_too() -> None:
    assert name_of(Kinds) == "Kinds"
    assert name_of(through_a_lambda) == "through_a_lambda"
    assert name_of(closing_over(1)) == "inner"
    assert name_of(with_method_of_keyword_only_default(1).__class__) == "with_method_of_keyword_only_default.Scaled"
    assert name_of(textwrap.dedent) == "textwrap:dedent"
    assert name_of(nn.Linear) == "torch.nn.modules.linear:Linear"
    assert name_of(textwrap) == "textwrap"
    assert name_of(sys.modules[__name__]) == "test_code"
    assert name_of(len) == "builtins:len"


def test_code_of_packages_is_told_from_that_of_users() -> None:
    for value in (textwrap, textwrap.dedent, nn.Linear, nn.Linear.forward, len, dict, pytest.fixture, digest):
        assert is_library(value)
    wrapped = functools.wraps(textwrap.dedent)(closing_over(2))
    for value in (sys.modules[__name__], through_a_lambda, wrapped, Kinds, OfClass.run, closing_over(1), lambda: 1):
        assert not is_library(value)
    patched = type("Patched", (), {"__module__": "textwrap", "run": closing_over(1)})
    assert not is_library(patched)
    assert is_library(type("Patched", (), {"__module__": "textwrap"}))
    assert is_library(textwrap.TextWrapper())
    assert is_library(str.upper)  # which has no module
    assert not is_library(type("Made", (), {"__module__": __name__})())


def test_code_without_a_file_is_of_the_package_that_made_it() -> None:
    def made_by(name: str) -> Any:
        names: dict[str, Any] = {"__name__": name}
        exec("def f(x): return x", names)
        return names["f"]

    assert is_library(made_by("textwrap"))
    assert not is_library(made_by("user"))
    assert not is_library(made_by("__main__"))
    assert is_library(importlib.import_module)
    frozen = types.FunctionType(through_a_lambda.__code__.replace(co_filename="<frozen made>"), {"__name__": "user"})
    assert is_library(frozen)


def test_a_class_that_says_that_it_is_of_a_package_whose_module_is_not_loaded_is_of_that_package() -> None:
    assert is_library(type("Made", (), {"__module__": "numpy.not_there"}))
    assert not is_library(type("Made", (), {"__module__": "not_there.numpy"}))
    assert not is_library(type("Made", (), {"__module__": "__main__"}))


def test_a_method_from_elsewhere_is_no_part_of_its_class_though_its_line_would_be(tmp_path: Path, monkeypatch) -> None:
    files = {
        "user.py": "class T:\n    a = 1\n    b = 2\n    c = 3\n\n\ndef own(self):\n    return 1\n",
        "helpers.py": "def call(self):\n    return 1\n",
    }
    user = loaded(tmp_path, "methods_from_elsewhere", files, monkeypatch)
    helpers = importlib.import_module("methods_from_elsewhere.helpers")
    user.T.run, user.T.own = helpers.call, user.own
    used = class_code(user.T, "it")[1]
    assert (used[".run"], used[".own"]) == (helpers.call, user.own)


def test_a_thing_is_named_where_its_name_leads_to_it() -> None:
    assert is_named(textwrap.dedent)
    assert is_named(nn.Linear.forward)
    assert not is_named(through_a_lambda)
    stands_in = types.FunctionType(textwrap.dedent.__code__, {}, "dedent")
    stands_in.__module__ = "textwrap"
    assert not is_named(stands_in)
    assert not is_named(5)


def test_the_code_of_a_module_is_all_that_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user = loaded(tmp_path, "a_module", {"user.py": "FACTOR = 2\ndef f(x): return x\n"}, monkeypatch)
    tree, used = module_code(user, "it")
    assert used == {"FACTOR": 2, "f": user.f}
    before = digest(user)
    user.FACTOR = 3
    assert digest(user) != before
    assert module_code(user, "it")[0] == tree


def test_a_module_that_cannot_be_imported_for_lack_of_another_is_no_change_and_one_that_fails_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        "user.py": "def lacking(x):\n    from . import lacks\n    return lacks.f(x)\n\n\n"
        "def failing(x):\n    from . import fails\n    return fails.f(x)\n",
        "lacks.py": "import not_installed_anywhere\n",
        "fails.py": "1 / 0\n",
    }
    user = loaded(tmp_path, "importing_badly", files, monkeypatch)
    assert function_code(user.lacking, "it")[1] == {}
    with pytest.raises(FingerprintError, match=r"importing importing_badly\.fails failed: ZeroDivisionError"):
        digest(user.failing)


def test_what_a_function_imports_from_packages_is_not_followed() -> None:
    def imports(x: str) -> Any:
        import os.path
        from textwrap import dedent

        import numpy as np
        from torch import nn as networks

        return os.path.join(dedent(x), str(np.mean), str(networks))  # noqa: PTH118

    assert function_code(imports, "it")[1] == {}
