"""The extension points: what is built in keeps their contracts, and so does a package that is installed beside."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from featcache.testing.codecs import CodecContract
from featcache.testing.engines import EngineContract
from featcache.testing.heads import HeadContract
from featcache.testing.storages import StorageContract

PLUGIN = Path(__file__).parent / "example_plugin"


class TestFloat16(CodecContract):
    name = "float16"


class TestFloat32(CodecContract):
    name = "float32"


class TestBfloat16(CodecContract):
    name = "bfloat16"


class TestFloat8OfManyDigits(CodecContract):
    name, tolerance, smallest = "float8_e4m3", 0.07, 2**-10


class TestFloat8OfManySizes(CodecContract):
    name, tolerance, smallest = "float8_e5m2", 0.13, 2**-17


class TestInt8(CodecContract):
    name = "int8"


class TestInt4(CodecContract):
    name, tolerance = "int4", 0.08


class TestFolder(StorageContract):
    def url(self, folder: Path) -> str:
        return str(folder / "store")


class TestMemory(StorageContract):
    @pytest.fixture(autouse=True)
    def _copies(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("fsspec")
        monkeypatch.setenv("FEATCACHE_COPIES", str(tmp_path / "copies"))

    def url(self, folder: Path) -> str:
        return f"memory:/{folder}"


class TestLocal(EngineContract):
    engine = "local"


@pytest.mark.slow
class TestProcesses(EngineContract):
    engine = "processes:2"


class TestSuffixHead(HeadContract):
    head = "suffix"


class TestLinearHead(HeadContract):
    head = "linear"


class TestEstimatorHead(HeadContract):
    head = "sklearn:LogisticRegression"


class TestForestHead(HeadContract):
    head = "sklearn:RandomForestClassifier"

    @pytest.fixture(autouse=True)
    def _skops(self) -> None:
        pytest.importorskip("skops")


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example package, installed by pip into a folder of its own, with its source beside it."""
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(PLUGIN, folder / "source", ignore=shutil.ignore_patterns("__pycache__"))
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--target", folder / "installed"]
    command = [sys.executable, "-m", "pip", "install", *options, folder / "source"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def environment(plugin: Path) -> dict[str, str]:
    paths = [str(plugin / "installed"), str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_the_command_line_finds_all_that_an_installed_package_adds(plugin: Path, tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "featcache", *arguments, "--store", "sqlite://store.db", "--json"]
        done = subprocess.run(command, cwd=tmp_path, env=environment(plugin), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    given = ["--backbone", "example:32", "--data", "stripes:100", "--dtype", "brain16"]
    (report,) = json.loads(run("extract", *given, "--cut", "0", "--engine", "backwards", "--batch-size", "16"))
    assert report["computed"] == 100
    trained = json.loads(run("train-head", *given, "--cut", "0", "--head", "centroid"))
    assert trained["metrics"]["accuracy"] > 0.7
    assert [each["dtype"] for each in json.loads(run("ls"))] == ["brain16"]
    assert not json.loads(run("verify"))["damaged"]


@pytest.mark.slow
def test_the_contract_tests_of_an_installed_package_pass(plugin: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "pyproject.toml", "tests"]
    done = subprocess.run(
        command, cwd=plugin / "source", env=environment(plugin), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-3000:]
