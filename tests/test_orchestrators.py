"""The examples for orchestrators, run by the real tools where they are installed: here, or anywhere on the PATH."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
BESIDE = [str(ROOT / ".venv-orchestrators" / "bin"), str(Path(sys.executable).parent)]
pytestmark = pytest.mark.slow


class Workspace:
    """A folder with images, in which tools find the command featcache."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        command = folder / "bin" / "featcache"
        command.parent.mkdir()
        command.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m featcache "$@"\n')
        command.chmod(command.stat().st_mode | stat.S_IXUSR)
        self.path = os.pathsep.join([str(command.parent), os.environ["PATH"], *BESIDE])

    def tool(self, name: str) -> Path:
        found = shutil.which(name, path=self.path)
        if found is None:
            pytest.skip(f"{name} is not installed: make orchestrators")
        return Path(found)

    def run(self, *command: str | Path, **environment: str) -> str:
        given = {**os.environ, "PATH": self.path, "OMP_NUM_THREADS": "1", **environment}
        done = subprocess.run(
            list(map(str, command)), cwd=self.folder, env=given, capture_output=True, text=True, timeout=400
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def add(self, name: str, seed: int) -> None:
        path = self.folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)

    def read(self, name: str):
        return json.loads((self.folder / name).read_text())


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


@pytest.fixture
def folder(workspace: Workspace) -> Workspace:
    for number in range(20):
        workspace.add(f"{('ant', 'bee')[number % 2]}/{number}.png", number)
    return workspace


def test_a_dvc_stage_keeps_the_rows_that_are_there(folder: Workspace) -> None:
    dvc = folder.tool("dvc")
    shutil.copy(ROOT / "pipelines" / "dvc.yaml", folder.folder)
    folder.run("git", "init", "--quiet")
    folder.run(dvc, "init", "--quiet")
    folder.run(dvc, "config", "core.analytics", "false")
    folder.run(dvc, "repro")
    assert folder.read("extract.json")[0]["computed"] == 20
    assert folder.read("head.json")["metrics"]
    assert "up to date" in folder.run(dvc, "repro")
    folder.add("ant/new.png", 99)
    folder.run(dvc, "repro")
    (report,) = folder.read("extract.json")
    assert (report["computed"], report["reused"]) == (1, 20)


def test_snakemake_runs_parts_and_again_what_is_new(folder: Workspace) -> None:
    snakemake = [folder.tool("snakemake"), "-s", ROOT / "pipelines" / "Snakefile", "--cores", "1"]
    command = [*snakemake, "--config", "parts=2", "options=--backbone bundled:resnet-mini --batch-size 4"]
    folder.run(*command)
    assert folder.read("head.json")["metrics"]
    assert "Nothing to be done" in folder.run(*command)
    folder.add("ant/new.png", 99)
    folder.run(*command)
    assert sum(folder.read(f"receipts/{part}.json")[0]["computed"] for part in (1, 2)) == 1


def test_dagster_shows_the_rows_of_each_day_and_computes_none_twice(workspace: Workspace) -> None:
    python = workspace.tool("dagster").parent / "python"
    for number in range(24):
        workspace.add(f"2026-01-0{1 + number % 3 // 2}/{('ant', 'bee')[number % 2]}/{number}.png", number)
    script = ROOT / "pipelines" / "dagster_assets.py"
    said = workspace.run(python, script, "2026-01-01", "2026-01-02", DAGSTER_HOME=str(workspace.folder))
    rows = {day: (int(computed), int(reused)) for day, computed, reused in shown(said)}
    assert rows == {"2026-01-01": (16, 0), "2026-01-02": (8, 0), "head": (0, 24)}


def shown(said: str) -> list[tuple[str, str, str]]:
    return re.findall(r"^(\S+) \{.*'computed': (\d+), 'reused': (\d+)", said, re.MULTILINE)


def test_an_airflow_dag_parses_and_runs_in_one_process(folder: Workspace) -> None:
    python = folder.tool("airflow").parent / "python"
    settings = {
        "AIRFLOW_HOME": str(folder.folder / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(folder.folder / "dags"),
        "FEATCACHE_OPTIONS": "--backbone bundled:resnet-mini --data folder:images --cut layer3 --batch-size 10",
    }
    (folder.folder / "dags").mkdir()
    shutil.copy(ROOT / "pipelines" / "airflow_dag.py", folder.folder / "dags")
    folder.run(folder.tool("airflow"), "db", "migrate", **settings)
    said = folder.run(python, folder.folder / "dags" / "airflow_dag.py", **settings)
    assert "20 rows computed" in said
