"""What the commands say of splits: which rows are trained on, and which nobody said what they are for."""

from __future__ import annotations

import json

import pytest

from ..conftest import CommandLine

FILES = """
import torch

class Rows(torch.utils.data.Dataset):
    name = "rows"
    classes = ["cat", "dog"]
    splits = ["train"] * 24 + ["holdout"] * 8 + ["fold, 2"] * 8
    targets = [row % 2 for row in range(40)]

    def __len__(self):
        return 40

    def __getitem__(self, row):
        return torch.full((3,), float(row)) + torch.arange(3), row % 2

def rows():
    return Rows()

def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).eval()
"""


@pytest.fixture
def command(featcache_command: CommandLine) -> CommandLine:
    (featcache_command.folder / "mine.py").write_text(FILES)
    (featcache_command.folder / "featcache.toml").write_text(
        'backbone = "mine.py:network"\ndata = "mine.py:rows"\ndevice = "cpu"\n'
    )
    featcache_command("extract", "--cut", "1")
    return featcache_command


def test_rows_that_nobody_named_are_refused_until_an_option_or_the_configuration_names_them(
    command: CommandLine,
) -> None:
    refused = command("train-head", "--epochs", "1", expect=2)
    assert "16 rows (8 of fold, 2, 8 of holdout)" in refused.stderr
    assert "--test-splits" in refused.stderr
    assert "Traceback" not in refused.stderr
    named = command("train-head", "--epochs", "1", "--train-splits", "train", "--test-splits", "holdout", "--json")
    assert json.loads(named.stdout)["rows"] == {
        "train": {"train": 19}, "validation": {"train": 5}, "test": {"holdout": 8}, "left_out": {"fold, 2": 8},
        "is_share": True, "repeated": 0, "untrained": [],
    }  # fmt: skip
    with (command.folder / "featcache.toml").open("a") as file:
        for table in ("train-head", "probe"):
            file.write(f'[{table}]\ntrain_splits = ["train"]\nvalidation_splits = "holdout"\n')
    said = command("train-head", "--epochs", "1").stderr
    assert (
        "rows: trained on 24 rows of train, validated by 8 rows of holdout, tested on no rows, left out 8 rows of fold, 2"
        in said
    )
    assert "left out: 8 rows of fold, 2." in command("probe", "--cut", "1").stderr
