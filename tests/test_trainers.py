"""Other trainers: every snippet of docs/trainers.md trains, and accelerate shares the rows among two real processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "trainers.md").read_text("utf-8")
(COMMON,) = re.findall(r"<!-- run -->\n```python\n(.*?)```", PAGE, re.DOTALL)
SNIPPETS: dict[str, str] = defaultdict(str)
for packages, block in re.findall(r"<!-- goes on with ([\w ]+) -->\n```python\n(.*?)```", PAGE, re.DOTALL):
    SNIPPETS[packages] += block
ON_CPU = {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
ACCELERATE = """
import sys
import torch
from accelerate import Accelerator
import featcache

accelerator = Accelerator()
rank, world_size = accelerator.process_index, accelerator.num_processes
torch.manual_seed(0)
network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
data = [(torch.full((3,), float(n)), n) for n in range(16)]
features = featcache.extract(network, data, f"store-{rank}", cut="1", device="cpu")


def rows(batches):
    return sorted(row for _, targets in batches for row in targets.tolist())


ways = {
    "DataLoader": accelerator.prepare(torch.utils.data.DataLoader(features, batch_size=4, shuffle=True)),
    "told": features.loader(4, rank=rank, world_size=world_size, device=accelerator.device),
}
for way, batches in ways.items():
    print(f"{way} {rank} of {world_size} {rows(batches)}", flush=True)
try:
    rows(accelerator.prepare(features.loader(4)))
except featcache.errors.UsageError as error:
    print(f"refused {rank} of {world_size} {error}", flush=True)
"""


def run(code: str, folder: Path, processes: int = 1) -> list[str]:
    """Run code in processes of torch.distributed, or in one alone, and return the lines that it prints."""
    (folder / "script.py").write_text(code, encoding="utf-8")
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    several += ["--log-dir", "logs", "--redirects", "1"]
    command = [sys.executable, *(several if processes > 1 else []), "script.py"]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **ON_CPU}
    # Several processes write into files of their own: on one pipe, lines of two would mix.
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    printed = sorted((folder / "logs").rglob("stdout.log")) if processes > 1 else []
    return [line for file in printed for line in file.read_text("utf-8").splitlines()] or done.stdout.splitlines()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trainers")


def accuracies(printed: list[str]) -> list[float]:
    return [float(line.removeprefix("accuracy ")) for line in printed if line.startswith("accuracy ")]


@pytest.mark.slow
@pytest.mark.parametrize("packages", SNIPPETS)
def test_every_snippet_trains(packages: str, folder: Path) -> None:
    for package in packages.split():
        pytest.importorskip(package)
    printed = accuracies(run(COMMON + SNIPPETS[packages], folder))
    assert printed
    assert printed[-1] > 0.9


@pytest.mark.slow
def test_the_snippet_of_accelerate_trains_in_two_processes(folder: Path) -> None:
    pytest.importorskip("accelerate")
    learned = (
        'print("learned", accelerator.num_processes, *(float(each.double().sum()) for each in suffix.parameters()))'
    )
    printed = run(COMMON + SNIPPETS["accelerate"] + learned, folder, 2)
    assert len(accuracies(printed)) == 2
    assert min(accuracies(printed)) > 0.9
    one, other = (line for line in printed if line.startswith("learned"))
    assert one.startswith("learned 2 ")
    assert one == other


@pytest.mark.slow
def test_accelerate_shares_rows_among_processes_or_is_told_how(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    printed = run(ACCELERATE, tmp_path, 2)
    for way in ("DataLoader", "told"):
        shares = [line.partition(" of 2 ")[2] for line in printed if line.startswith(f"{way} ")]
        found = [[int(row) for row in re.findall(r"\d+", share)] for share in shares]
        assert [len(rows) for rows in found] == [8, 8]
        assert sorted(found[0] + found[1]) == list(range(16))
    refused = sorted(line for line in printed if line.startswith("refused"))
    assert [re.search(r"rank=\d, world_size=\d", line)[0] for line in refused] == [
        "rank=0, world_size=2",
        "rank=1, world_size=2",
    ]


def test_the_packages_of_the_page_are_installed_for_development() -> None:
    wanted = {package for packages in SNIPPETS for package in packages.split()}
    extras = (ROOT / "pyproject.toml").read_text("utf-8")
    for package in wanted:
        assert f'"{package}>=' in extras, package
