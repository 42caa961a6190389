"""Docstrings: they name each parameter in order, say what comes back, and their examples run."""

from __future__ import annotations

import dataclasses
import doctest
import importlib
import inspect
import io
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import featcache

PACKAGE = Path(featcache.__file__).parent
HOMES = {
    "backbones": ("Backbone", "BackboneSource"),
    "codecs": ("Codec",),
    "datasets": ("DatasetSource", "SourceDataset"),
    "engines": ("Engine", "Job"),
    "heads": ("BuiltHead", "HeadKind", "LinearHead"),
    "identity": ("Difference",),
    "storages": ("Entry", "Storage"),
    "training": ("EpochRecord",),
}
NAMED = {name: getattr(featcache, name) for name in featcache.__all__}
FUNCTIONS = {name: each for name, each in NAMED.items() if inspect.isfunction(each)}
CLASSES = {name: each for name, each in NAMED.items() if inspect.isclass(each)}
CLASSES |= {
    name: getattr(importlib.import_module(f"featcache.{room}"), name) for room, names in HOMES.items() for name in names
}


def methods() -> Iterator[tuple[str, Any]]:
    """Yield the public methods of the public classes, also those that they inherit from another class of featcache."""
    for owner, each in CLASSES.items():
        for name, method in inspect.getmembers(each):
            of_python = inspect.isfunction(method) or inspect.ismethod(method)
            if of_python and not name.startswith("_") and method.__module__.startswith("featcache."):
                yield f"{owner}.{name}", method
    yield "DatasetSource.__call__", CLASSES["DatasetSource"].__call__


def found_examples() -> Iterator[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    for name, each in (FUNCTIONS | CLASSES).items():
        yield from (test for test in finder.find(each, name, globs={}) if test.examples)


METHODS = dict(methods())
EXAMPLES = list(found_examples())


def sections(documented: Any) -> dict[str, list[str]]:
    """Return the lines of each section of a docstring that are not indented: in most of them, what it lists."""
    lines = inspect.cleandoc(documented.__doc__).splitlines()
    starts = [number - 1 for number, line in enumerate(lines) if line and not line.strip("-")]
    for start in starts:
        assert len(lines[start + 1]) == len(lines[start]), f"the line below {lines[start]!r} is not as long"
    return {
        lines[start]: [line for line in lines[start + 2 : end] if line and not line[0].isspace()]
        for start, end in itertools.pairwise([*starts, len(lines)])
    }


def listed(documented: Any, section: str) -> list[str]:
    """Return the names that a section lists, each of which has a type."""
    lines = sections(documented).get(section, [])
    assert all(" : " in line for line in lines), lines
    return [line.partition(" : ")[0].lstrip("*") for line in lines]


def parameters(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]


def test_a_section_is_read_as_the_names_that_it_lists() -> None:
    def documented() -> None:
        """Do it.

        Parameters
        ----------
        first : int
            Some words : and a colon.
        *others : str, optional
            More.

        Returns
        -------
        int
            A number.
        """

    assert sections(documented) == {"Parameters": ["first : int", "*others : str, optional"], "Returns": ["int"]}
    assert listed(documented, "Parameters") == ["first", "others"]


@pytest.mark.parametrize("name", [*FUNCTIONS, *METHODS])
def test_the_documented_parameters_are_those_of_the_signature_in_its_order(name: str) -> None:
    function = (FUNCTIONS | METHODS)[name]
    assert listed(function, "Parameters") == parameters(function)


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_documents_what_it_is_made_of(name: str) -> None:
    each = CLASSES[name]
    if dataclasses.is_dataclass(each):
        fields = sorted(dataclasses.fields(each), key=lambda field: field.kw_only)
        assert listed(each, "Attributes") == [field.name for field in fields] == parameters(each)
    elif getattr(each.__init__, "__module__", "builtins").startswith("featcache."):
        assert listed(each, "Parameters") == parameters(each)
    else:
        assert listed(each, "Parameters") == []  # errors and protocols, which nobody makes so


@pytest.mark.parametrize("name", [*FUNCTIONS, *METHODS])
def test_what_comes_back_is_documented_where_something_does(name: str) -> None:
    function = (FUNCTIONS | METHODS)[name]
    nothing = inspect.signature(function).return_annotation in (None, "None")
    assert nothing is not bool({"Returns", "Yields"} & set(sections(function)))


@pytest.mark.parametrize("name", [*FUNCTIONS, *CLASSES, *METHODS])
def test_a_docstring_begins_with_a_summary_of_one_line(name: str) -> None:
    lines = inspect.cleandoc((FUNCTIONS | CLASSES | METHODS)[name].__doc__).splitlines()
    assert lines[0].endswith(".")
    assert not any(lines[1:2])


def test_every_public_function_has_an_example_and_no_example_of_the_package_is_left_out() -> None:
    assert set(FUNCTIONS) <= {each.name for each in EXAMPLES}
    assert all("Examples" in sections(each) for each in FUNCTIONS.values())
    written = [re.findall(r"^ *>>> ", path.read_text("utf-8"), re.MULTILINE) for path in PACKAGE.rglob("*.py")]
    assert sum(len(each.examples) for each in EXAMPLES) == sum(map(len, written))


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda each: each.name)
def test_every_example_gives_what_it_says(
    example: doctest.DocTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    assert torch.get_num_threads() == 1
    said = io.StringIO()
    done = doctest.DocTestRunner().run(example, out=said.write, clear_globs=False)
    assert done.failed == 0, said.getvalue()
    assert done.attempted == len(example.examples) > 0
