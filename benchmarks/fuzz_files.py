"""Feeds damaged shards, snapshots and images to their readers, guided by coverage.

Only CorruptError or UnreadableSampleError may come out, and no wrong row.

pip install atheris && python benchmarks/fuzz_files.py --runs 20000
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
from pathlib import Path

import atheris
import numpy as np
from PIL import Image

with atheris.instrument_imports(include=["featcache"]):
    from featcache import Recipe, TensorSpec
    from featcache.datasets.media import IMAGES, decode
    from featcache.errors import CorruptError, UnreadableSampleError
    from featcache.samples.snapshot import Snapshot, read_snapshot, write_snapshot
    from featcache.store.shard import Shard
    from featcache.store.shard_writer import write_shard

RECIPE = Recipe("layer1", "structure", {"w": "1"}, (TensorSpec("layer1", (3, 2), "float32"),), None, {})
VALUES = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
IDS = np.arange(32, dtype=np.uint8).reshape(2, 16)
SNAPSHOT = Snapshot("d", np.zeros((2, 16), np.uint8), ["a", "b"], np.arange(2), ["train", "test"], ["x"])


def good_images() -> dict[str, bytes]:
    """Return a small image in each format that is taken and that Pillow writes, by extension."""
    Image.init()
    made = {}
    for extension, kind in Image.EXTENSION.items():
        for mode in ("RGB", "P", "1"):
            out = io.BytesIO()
            try:
                Image.new(mode, (32, 32), 1).save(out, kind)
            except (OSError, ValueError, KeyError):
                continue
            if extension in IMAGES and kind not in made:
                made[kind] = out.getvalue()
    return made


class Files:
    """A good shard, a good snapshot and good images, and a place for damaged copies of them."""

    def __init__(self, folder: Path) -> None:
        good = folder / "good"
        self.shard = folder / f"{write_shard(good, RECIPE, IDS, np.zeros(2, '<u4'), {'layer1': VALUES}, {})}.h5"
        self.shard_bytes = good.read_bytes()
        good.unlink()
        write_snapshot(good, SNAPSHOT)
        self.snapshot, self.snapshot_bytes = folder / f"{SNAPSHOT.digest}.h5", good.read_bytes()
        self.images = good_images()

    def try_one(self, data: bytes) -> None:
        provider = atheris.FuzzedDataProvider(data)
        kind = provider.ConsumeIntInRange(0, 2)
        if kind == 2:
            name = sorted(self.images)[provider.ConsumeIntInRange(0, len(self.images) - 1)]
            self.try_image(name, bytes(_damaged(self.images[name], provider)))
            return
        is_shard = kind == 0
        content = _damaged(self.shard_bytes if is_shard else self.snapshot_bytes, provider)
        path = self.shard if is_shard else self.snapshot
        path.write_bytes(content)
        try:
            if is_shard:
                shard = Shard.open(path, RECIPE)
                shard.check()
                assert np.array_equal(shard.features["layer1"], VALUES)
                assert np.array_equal(shard.ids, IDS)
            else:
                found = read_snapshot(path)
                assert (found.digest, list(found.names)) == (SNAPSHOT.digest, ["a", "b"])
        except CorruptError:
            pass

    def try_image(self, name: str, content: bytes) -> None:
        try:
            assert decode("image", content, name).mode == "RGB"
        except UnreadableSampleError as error:
            if name not in str(error):
                raise


def _damaged(good: bytes, provider: atheris.FuzzedDataProvider) -> bytearray:
    content = bytearray(good)
    for _ in range(provider.ConsumeIntInRange(1, 4)):
        at = provider.ConsumeIntInRange(0, len(content) - 1)
        piece = provider.ConsumeBytes(provider.ConsumeIntInRange(1, 16))
        content[at : at + len(piece)] = piece
    return content


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # where libFuzzer leaves what made it stop
        bounds = ["-max_len=128", "-timeout=10", "-rss_limit_mb=2048"]
        arguments = [sys.argv[0], f"-runs={options.runs}", f"-seed={options.seed}", *bounds]
        atheris.Setup(arguments, Files(Path(folder)).try_one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
