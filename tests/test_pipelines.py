from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("data") / "digits"
    subprocess.run([sys.executable, ROOT / "data" / "make_digits.py", "--out", made], check=True, capture_output=True)
    return made


def run(script: str, digits: Path, folder: Path, *arguments: str, expect: int = 0) -> str:
    command = [sys.executable, ROOT / "pipelines" / script, "--data", f"folder:{digits}", "--store", folder / "store"]
    done = subprocess.run([*command, *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == expect, done.stderr
    return done.stdout + done.stderr


def test_linear_probe(digits: Path, tmp_path: Path) -> None:
    words = run("linear_probe.py", digits, tmp_path, "--cut", "layer3", "--cut", "layer4")
    assert "layer3" in words
    assert float(words.split("layer4: ")[1].split(" %")[0]) > 95


def test_train_suffix(digits: Path, tmp_path: Path) -> None:
    words = run("train_suffix.py", digits, tmp_path, "--epochs", "4")
    assert float(words.rsplit("test accuracy ", 1)[1].split(" %")[0]) > 97


def test_nightly_refresh_publishes_only_a_good_head_and_only_when_something_is_new(
    digits: Path, tmp_path: Path
) -> None:
    assert "not published" in run("nightly_refresh.py", digits, tmp_path, "--least-accuracy", "1.01", expect=1)
    assert not (tmp_path / "published-head").exists()
    assert "published" in run("nightly_refresh.py", digits, tmp_path)
    assert "nothing new" in run("nightly_refresh.py", digits, tmp_path)


@pytest.mark.slow
def test_imagenet_weights_put_to_digits(digits: Path, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    backbone = f"{ROOT / 'data' / 'efficientnet_lite0.py'}:factory"
    words = run("imagenet_digits.py", digits, tmp_path, "--backbone", backbone)
    assert float(words.split("sklearn:LogisticRegression: ")[1].split(" %")[0]) > 94


def test_every_script_is_short_and_uses_the_public_api_only() -> None:
    for script in (ROOT / "pipelines").glob("*.py"):
        text = script.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 150, script
        assert "featcache._" not in text


@pytest.mark.slow
def test_which_layers(digits: Path, tmp_path: Path) -> None:
    words = run("which_layers.py", digits, tmp_path, "--epochs", "3")
    assert "avgpool" in words
    assert float(words.rsplit(": ", 1)[1].split(" %")[0]) > 90
