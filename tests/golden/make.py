"""Makes the golden store of the present format, which every later featcache must read: python -m tests.golden.make FOLDER.

Run it for a new format only; a store that is there is never made again.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

import torch
from torch import nn

import featcache
from featcache import FeatureStore
from tests.conftest import TensorPairs
from tests.store.independent_reader import read_store


class Times(torch.nn.Module):
    """Multiplies by a random whole number, which is exact."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.randint(1, 9, (1,))


class Steps(torch.utils.data.Dataset):
    """Six samples of one to six steps."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int):
        return torch.arange(4.0 * (index + 1)).reshape(index + 1, 4), index % 2


def network() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.arange(12.0).reshape(3, 4) - 5)
        model[0].bias.copy_(torch.arange(3.0))
    return model.eval()


def pairs() -> TensorPairs:
    return TensorPairs(torch.arange(40.0).reshape(10, 4), torch.arange(10) % 3, ["a", "b", "c"])


def main(folder: Path) -> None:
    store = FeatureStore(str(folder))
    with patch("socket.gethostname", return_value="example"):
        for dtype in ("float32", "float16"):
            featcache.extract(
                network(), pairs(), store, cut="0", dtype=dtype, batch_size=4, shard_bytes=48, name="pairs"
            )
        featcache.extract(network(), pairs(), store, cut="0", augment=Times(), views=2, batch_size=10, name="pairs")
        featcache.extract(network(), Steps(), store, cut="0", batch_size=4, name="steps")
    for passing in ("cache", "active"):
        shutil.rmtree(folder / passing)
    rows = {f"{name}/{key}": value.hex() for name, each in read_store(folder).items() for key, value in each.items()}
    (folder.parent / f"{folder.name}.json").write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n")


def heads(folder: Path) -> None:
    """Make heads of the first set beside the store, and what they predict; figures are left out, as without matplotlib."""
    split = featcache.split(network(), "0", (pairs().inputs[:2],))
    with tempfile.TemporaryDirectory() as store, patch.dict(sys.modules, {"matplotlib": None}):
        features = featcache.extract(split, pairs(), store, name="pairs")
        for kind in ("suffix", "linear"):
            head = featcache.train_head(split, features, head=kind, epochs=20)
            head.save(folder / kind)
            with torch.no_grad():
                scores = head.model(pairs().inputs).tolist()
            (folder / f"{kind}.json").write_text(json.dumps(scores) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    heads(Path(sys.argv[1]).with_name("heads-1"))
