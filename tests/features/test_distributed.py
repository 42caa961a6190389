"""Two real processes of torch.distributed: each gets its share of the rows, or is told how."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import featcache

ROOT = Path(__file__).parent.parent.parent
SCRIPT = """
import json
import torch
import torch.distributed as dist
import featcache

dist.init_process_group("gloo")
rank, world_size = dist.get_rank(), dist.get_world_size()
torch.manual_seed(0)
network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).eval()
data = [(torch.full((3,), float(n)), n % 2) for n in range(13)]
split = featcache.split(network, "1", (torch.zeros(2, 3),))
features = featcache.extract(split, data, f"store-{rank}", device="cpu")


def rows(loader):
    return [row for frontier, _ in loader for row in frontier.tolist()]


found = {"all": rows(features.loader(4, shuffle=False, world_size=1))}
found["share"] = rows(features.loader(4, shuffle=False, rank=rank, world_size=world_size))
try:
    rows(features.loader(4))
except featcache.errors.UsageError as error:
    found["said"] = str(error)
head = featcache.train_head(split, features, epochs=2, batch_size=4, device="cpu")
found["head"] = head.predict_proba(features).tolist()
with open(f"{rank}.json", "w") as file:
    json.dump(found, file)
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of the two processes found."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "script.py").write_text(SCRIPT, encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "script.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"{rank}.json").read_text("utf-8")) for rank in (0, 1)]


@pytest.mark.slow
def test_a_loader_that_would_give_all_rows_to_each_process_says_how_to_share_them(found: list[dict[str, Any]]) -> None:
    for rank, each in enumerate(found):
        assert f"rank={rank}, world_size=2" in each["said"]
        assert "DataLoader(features" in each["said"]


@pytest.mark.slow
def test_each_process_gets_its_share_or_all_rows_where_that_is_said(found: list[dict[str, Any]]) -> None:
    every = found[0]["all"]
    assert len(every) == 13
    assert found[1]["all"] == every
    shares = [each["share"] for each in found]
    assert [len(each) for each in shares] == [7, 7]
    assert [row for pair in zip(*shares, strict=True) for row in pair] == [*every, every[0]]


@pytest.mark.slow
def test_a_head_that_each_process_trains_for_itself_has_all_rows(found: list[dict[str, Any]], tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).eval()
    data = [(torch.full((3,), float(n)), n % 2) for n in range(13)]
    split = featcache.split(network, "1", (torch.zeros(2, 3),))
    features = featcache.extract(split, data, str(tmp_path), device="cpu")
    head = featcache.train_head(split, features, epochs=2, batch_size=4, device="cpu")
    for each in found:
        assert np.allclose(each["head"], head.predict_proba(features), atol=1e-5)
