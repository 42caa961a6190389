"""Every block of the README that is marked to be run, run in a folder with the demo's files in it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"<!-- run -->\n```(console|python)\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("readme")
    for name in ("data", "benchmarks"):
        shutil.copytree(
            ROOT / name, made / name, ignore=shutil.ignore_patterns("digits", "mnist5k", "photos", "__pycache__")
        )
    shutil.copy(ROOT / "featcache.toml", made)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_every_block_of_the_readme_runs(folder: Path, number: int) -> None:
    kind, block = BLOCKS[number]
    if kind == "python":
        commands = [[sys.executable, "-c", block]]
    else:
        lines = [line.removeprefix("$ ").split() for line in block.splitlines() if line.startswith("$ ")]
        programs = {"python": [sys.executable], "featcache": [sys.executable, "-m", "featcache"]}
        commands = [[*programs[line[0]], *line[1:]] for line in lines]
    for command in commands:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def test_every_link_of_the_readme_leads_to_a_file() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", TEXT):
        assert (ROOT / target).exists(), target


def test_every_public_command_is_named() -> None:
    for name in (
        "extract",
        "train-head",
        "cuts",
        "status",
        "explain",
        "ls",
        "verify",
        "gc",
        "pin",
        "predict",
        "export",
        "init",
        "plan",
        "probe",
        "sweep",
        "report",
    ):
        assert f"`{name}" in TEXT or f"featcache {name}" in TEXT
