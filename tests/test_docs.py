"""The documentation: its site builds without a warning, its references are complete, and its marked blocks run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import featcache
from featcache.cli.main import COMMANDS

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
MARKED = {
    page.name: re.findall(r"<!-- run -->\n```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL) for page in PAGES
}
NEEDING = [
    pytest.param(package, block, id=f"{page.name}-{package}")
    for page in PAGES
    for package, block in re.findall(
        r"<!-- run with (\w+) -->\n```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL
    )
]


def run(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for module in ("mkdocs", "material", "mkdocstrings", "mkdocs_click"):
        pytest.importorskip(module)
    made = tmp_path_factory.mktemp("site")
    done = run("-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", made, folder=ROOT)
    assert done.returncode == 0, done.stderr
    return made


@pytest.mark.slow
def test_the_site_builds_and_every_page_of_it_has_its_links_checked(site: Path) -> None:
    assert {page.stem for page in PAGES} - {"index"} <= {page.name for page in site.iterdir()}


def test_every_public_name_and_every_command_has_a_place_in_the_reference(site: Path) -> None:
    api = (site / "api" / "index.html").read_text("utf-8")
    for name in featcache.__all__:
        home = getattr(getattr(featcache, name), "__module__", None)
        assert home is None or f'id="{home}.{name}"' in api, name
    cli = (site / "cli" / "index.html").read_text("utf-8")
    for command in COMMANDS:
        assert f'id="featcache-{command}"' in cli, command


@pytest.mark.parametrize("page", [name for name, blocks in MARKED.items() if blocks])
def test_every_marked_block_runs(page: str, tmp_path: Path) -> None:
    done = run("-c", "\n".join(MARKED[page]), folder=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("package", "block"), NEEDING)
def test_every_block_that_needs_a_package_runs_where_it_is_installed(package: str, block: str, tmp_path: Path) -> None:
    pytest.importorskip(package)
    done = run("-c", block, folder=tmp_path)
    assert done.returncode == 0, done.stderr


def test_every_link_to_a_file_leads_to_one() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_file_that_a_page_names_is_there() -> None:
    for page in [*PAGES, ROOT / "README.md"]:
        for name in re.findall(r"`((?:pipelines|benchmarks|tests|data)/[\w./-]+\.\w+)`", page.read_text("utf-8")):
            made = name.startswith("data/") and not name.endswith(".py")  # by a script
            assert made or (ROOT / name).exists(), f"{page.name}: {name}"
