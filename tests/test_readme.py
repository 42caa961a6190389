"""Every block of the README that is marked to be run, run in a folder with the demo's files in it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featcache.cli.main import COMMANDS

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"<!-- run -->\n```(console|python)\n(.*?)```", TEXT, re.DOTALL)
((_, PHOTOS),) = re.findall(r"<!-- run photos -->\n```(console)\n(.*?)```", TEXT, re.DOTALL)


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
    run([[sys.executable, "-c", block]] if kind == "python" else commands_of(block), folder)


@pytest.mark.slow
def test_the_commands_for_ones_own_photos_run(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for number in range(24):
        place = tmp_path / "photos" / ("cat" if number % 2 else "dog")
        place.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 128, (40, 50, 3), dtype=np.uint8) + 100 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(place / f"{number}.jpg")
    shutil.copy(place / f"{number}.jpg", tmp_path / "new.jpg")
    block = PHOTOS.replace(
        "torchvision:resnet18", "torchvision:resnet18 --weights none"
    )  # pretrained ones are downloaded
    told = run(commands_of(block), tmp_path)
    assert "new.jpg,cat" in told


def commands_of(block: str) -> list[list[str]]:
    lines = [line.removeprefix("$ ").split() for line in block.splitlines() if line.startswith("$ ")]
    programs = {"python": [sys.executable], "featcache": [sys.executable, "-m", "featcache"]}
    return [[*programs[line[0]], *line[1:]] for line in lines]


def run(commands: list[list[str]], folder: Path) -> str:
    """Return what the last of some commands wrote."""
    told = ""
    for command in commands:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        told = done.stdout
    return told


def test_every_link_of_the_readme_leads_to_a_file() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", TEXT):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("name", COMMANDS)
def test_every_public_command_is_named(name: str) -> None:
    assert f"`{name}" in TEXT or f"featcache {name}" in TEXT
