"""Paths whose bytes are not UTF-8, as old archives and other systems leave them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from torchvision.transforms import v2

import featcache
from featcache.datasets.source import dataset_name

from ..conftest import CommandLine, SmallNet

TRANSFORM = v2.Compose([v2.Resize(12), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])


@pytest.fixture
def odd_folder(image_folder: Path) -> Path:
    folder = image_folder.parent / os.fsdecode(b"r\xe9")
    try:
        shutil.copytree(image_folder, folder)
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    return folder


@pytest.mark.parametrize("kind", ["folder", "csv"])
def test_data_at_a_path_that_is_not_utf8_are_extracted_and_exported(
    odd_folder: Path, net: SmallNet, tmp_path: Path, kind: str
) -> None:
    (odd_folder / "t.csv").write_text("path,label\nant/0.png,a\nbee/0.png,b\n")
    spec = f"folder:{odd_folder}" if kind == "folder" else f"csv:{odd_folder / 't.csv'}"
    features = featcache.extract(
        net, featcache.open_dataset(spec), str(tmp_path / "store"), cut="block", transform=TRANSFORM
    )
    again = featcache.extract(
        net, featcache.open_dataset(spec), str(tmp_path / "store"), cut="block", transform=TRANSFORM
    )
    assert again.report is not None
    assert again.report.computed == 0
    assert len(again) == len(features) > 0
    for suffix in ("npy", "npz", "parquet", "h5"):
        to = odd_folder / os.fsdecode(b"\xe9." + suffix.encode())
        assert featcache.export_features(features, to).rows == len(features)
        assert to.stat().st_size > 0


def test_a_name_of_a_dataset_at_a_path_in_utf8_is_what_it_was() -> None:
    assert dataset_name("sklearn:digits") == "digits-8fc02863"
    assert dataset_name("hf:naïve/é") == "hf-290e1333"


@pytest.mark.slow
def test_the_command_line_takes_a_path_that_is_not_utf8(odd_folder: Path, featcache_command: CommandLine) -> None:
    network = ["--backbone", "bundled:resnet-mini", "--data", f"folder:{odd_folder}", "--cut", "layer4"]
    featcache_command("extract", *network)
    assert "nothing to compute" in featcache_command("extract", *network).stderr
    featcache_command("export", *network, "--to", os.fsdecode(b"\xe9.parquet"))
    featcache_command("export", *network, "--to", os.fsdecode(b"\xe9.h5"), "--json")
    featcache_command("train-head", *network, "--head", "linear", "--epochs", "1")
    for suffix in ("pt", "safetensors"):
        featcache_command("export", "--to", os.fsdecode(b"\xe9." + suffix.encode()))
    featcache_command("predict", odd_folder)
    featcache_command("ls")
    featcache_command("status", *network)
