"""What is released: the public names, and a wheel that works where nothing else of the project is."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import featcache

ROOT = Path(__file__).parent.parent
LARGEST_WHEEL_BYTES = 5_000_000


def test_the_public_names_are_those_that_were_agreed_on() -> None:
    agreed = (ROOT / "tests" / "snapshots" / "public_api.txt").read_text(encoding="utf-8").split()
    assert featcache.__all__ == sorted(featcache.__all__) == agreed
    assert all(getattr(featcache, name) is not None for name in agreed)


@pytest.mark.slow
def test_a_wheel_built_from_the_source_distribution_extracts_from_a_folder_of_its_own(
    tmp_path: Path, image_folder: Path
) -> None:
    pytest.importorskip("build")
    source = tmp_path / "source"
    subprocess.run(["git", "checkout-index", "-a", f"--prefix={source}/"], cwd=ROOT, check=True)
    built = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path / "dist", source],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    assert list((tmp_path / "dist").glob("*.tar.gz"))
    assert wheel.stat().st_size < LARGEST_WHEEL_BYTES
    names = zipfile.ZipFile(wheel).namelist()
    assert {"featcache/py.typed", "featcache/__init__.pyi", "featcache/backbones/resnet_mini.json"} <= set(names)
    assert not any(name.startswith(("tests/", "benchmarks/", "data/")) for name in names)
    target = tmp_path / "installed"
    install = ["pip", "install", "--quiet", "--no-deps", "--no-index", "--target", target, wheel]
    subprocess.run([sys.executable, "-m", *install], check=True)
    environment = {**os.environ, "PYTHONPATH": str(target)}
    options = ["--backbone", "bundled:resnet-mini", "--data", f"folder:{image_folder}", "--cut", "layer3"]
    done = subprocess.run(
        [sys.executable, "-m", "featcache", "extract", *options],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "18 computed" in done.stderr
    where = [sys.executable, "-c", "import featcache; print(featcache.__file__)"]
    assert subprocess.run(where, cwd=tmp_path, env=environment, capture_output=True, text=True).stdout.startswith(
        str(target)
    )
