"""The rooms of the package keep their rules, and docs/architecture.md says what is there."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "featcache"
FILES = sorted([*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyi")])
ROOMS = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
LAZY = sorted(path.parent for path in PACKAGE.rglob("__init__.pyi"))
PAGES = ("docs/architecture.md", "CONTRIBUTING.md")
PAGE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
TOP_FILES = 13
MAX_LINES = 310  # docstrings not counted
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def room_of(path: Path) -> str | None:
    """The room that a file of the package lies in, None at the top."""
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else None


def imported(path: Path) -> Iterator[tuple[int, str, str]]:
    """What a file imports, anywhere in it: line, full name of the module, and the name that is taken from it, if any."""
    package = ["featcache", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, module, alias.name) for alias in node.names)


def taken_from_files(path: Path) -> set[str]:
    """The names that an ``__init__`` takes from the files of its room at once, or lists in its stub."""
    if not path.exists():
        return set()
    found = [node for node in tree(path).body if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module]
    return {alias.asname or alias.name for node in found for alias in node.names}


def handed_out(room: Path) -> set[str]:
    return taken_from_files(room / "__init__.py") | taken_from_files(room / "__init__.pyi")


def importable_files(folder: Path) -> set[str]:
    """The names by which the files and folders of a folder can be imported."""
    return {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}


def test_the_top_of_the_package_holds_few_files() -> None:
    files = sorted(path.name for path in PACKAGE.iterdir() if path.is_file())
    assert "errors.py" in files
    assert len(files) <= TOP_FILES, files


def test_every_room_says_what_it_is_for_and_what_it_never_does() -> None:
    for room in sorted(ROOMS):
        said = ast.get_docstring(tree(PACKAGE / room / "__init__.py")) or ""
        assert len(re.findall(r"[.!?](?=\s|$)", said)) >= 2, f"{room} says: {said!r}"


def test_other_rooms_import_from_a_room_and_not_from_its_inner_files() -> None:
    seen, offenders = 0, []
    for path in FILES:
        if (
            path == PACKAGE / "__main__.py"
        ):  # starts the command line from its file, as the script in pyproject.toml does
            continue
        for line, module, name in imported(path):
            package, _, inside = module.partition(".")
            room, _, inner = inside.partition(".")
            if package != "featcache" or room not in ROOMS or room == room_of(path):
                continue
            seen += 1
            folder = PACKAGE / room
            if inner or name in importable_files(folder) - handed_out(folder):
                offenders.append(f"{path.relative_to(ROOT)}:{line} imports {module} {name}".rstrip())
    assert seen > 100
    assert offenders == []


@pytest.mark.parametrize("folder", LAZY, ids=lambda folder: folder.name)
def test_no_file_stands_for_a_name_that_a_lazy_room_hands_out(folder: Path) -> None:
    listed = taken_from_files(folder / "__init__.pyi")
    assert listed
    assert listed & importable_files(folder) <= taken_from_files(folder / "__init__.py")


def lines_beside_docstrings(path: Path) -> int:
    text = path.read_text("utf-8")
    documented = [
        node for node in ast.walk(ast.parse(text)) if isinstance(node, DOCUMENTED) and ast.get_docstring(node)
    ]
    docstrings = [node.body[0] for node in documented]
    return len(text.splitlines()) - sum((each.end_lineno or 0) - each.lineno + 1 for each in docstrings)


def test_no_file_is_too_long_to_read() -> None:
    lengths = {str(path.relative_to(ROOT)): lines_beside_docstrings(path) for path in FILES}
    assert len(lengths) > 100
    assert {path: lines for path, lines in lengths.items() if lines > MAX_LINES} == {}


def test_the_page_names_every_room_and_no_other() -> None:
    assert set(re.findall(r"(?<![\w./])([a-z]\w*)/(?!\w)", PAGE)) == ROOMS


def test_the_page_names_the_lazy_rooms() -> None:
    (named,) = re.findall(r"\*\*Lazy rooms[^*]*\*\*: (.*?), and the package itself", PAGE, re.DOTALL)
    assert {*re.findall(r"`(\w+)/`", named), PACKAGE.name} == {folder.name for folder in LAZY}


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_about_the_code_names_is_there(page: str) -> None:
    named = re.findall(r"[`(]([A-Za-z][\w./-]*\.(?:py|pyi|md|toml|yml|txt))[`)#]", (ROOT / page).read_text("utf-8"))
    assert named
    for name in named:
        assert (ROOT / name).exists() or (ROOT / page).parent.joinpath(name).exists(), name


def test_the_table_of_layers_is_the_contract_of_import_linter() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    last = len(layers)
    below = [f"layers {number + 1}–{last}" for number in range(1, last - 1)] + [f"layer {last}", "nothing"]
    rows = re.findall(r"^\| (\d+) \| (.+?) \| .+ \| (.+?) \|$", PAGE, re.MULTILINE)
    told = [(int(number), name, may) for number, names, may in rows for name in re.findall(r"`(\w+)/?`", names)]
    agreed = [
        (number, name, below[number - 1]) for number, layer in enumerate(layers, 1) for name in layer.split(" | ")
    ]
    assert told == agreed


@pytest.mark.parametrize("arguments", [[], ["--help"], ["extract", "--help"]], ids=" ".join)
def test_importing_featcache_and_asking_for_help_load_neither_torch_nor_h5py(arguments: list[str]) -> None:
    code = """
import atexit, runpy, sys
import featcache
atexit.register(lambda: print(*sorted(sys.modules), file=sys.stderr))
if sys.argv[1:]:
    runpy.run_module("featcache", run_name="__main__")
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ("Usage: featcache" in done.stdout) == bool(arguments)
    loaded = done.stderr.split()
    assert "featcache" in loaded
    assert {"torch", "h5py"} & {*loaded} == set()
