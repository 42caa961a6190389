"""The same job with featcache and with what one would use instead: cache ResNet-18's layer4, train avgpool + fc from it.

    python benchmarks/peers.py [--images 2000] [--epochs 3]     (pip install zarr lmdb webdataset datasets joblib)

Images of 64 px in memory, batches of 64 through the frozen part, batches of 256 for training. Each peer has the shortest code
that its documentation suggests, shuffles, and gets no worker processes, which only made it slower here. One thread. Reading
is an epoch without training, training an epoch with it; both medians, relative to the same on tensors in memory. Storing is
relative to the bare forward loop that runs just before it. A peer whose package is missing is left out.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch.utils.data import DataLoader

import featcache

SHAPE = (512, 2, 2)
BATCH, TRAINED = 64, 256
Epoch = Callable[[], Iterable[Any]]


class Images(torch.utils.data.Dataset):
    def __init__(self, count: int) -> None:
        self.values = torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        self.targets = torch.arange(count) % 10

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.values[index], int(self.targets[index])


class Job:
    """The images, the network, and the bare forward loop over them."""

    def __init__(self, count: int) -> None:
        torch.manual_seed(0)
        self.images, self.model = Images(count), torchvision.models.resnet18(num_classes=10).eval()
        self.prefix = torch.nn.Sequential(*list(self.model.children())[:8])
        self.targets = self.images.targets

    def __len__(self) -> int:
        return len(self.images)

    def forward(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the number of the first row and the features of each batch."""
        with torch.no_grad():
            for start in range(0, len(self), BATCH):
                yield start, self.prefix(self.images.values[start : start + BATCH]).numpy()

    def whole(self) -> np.ndarray:
        return np.concatenate([values for _, values in self.forward()])


class OneByOne(torch.utils.data.Dataset):
    def __init__(self, row: Callable[[int], np.ndarray], targets: torch.Tensor) -> None:
        self.row, self.targets = row, targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(self.row(index)), int(self.targets[index])

    def loader(self) -> Epoch:
        return lambda: DataLoader(self, TRAINED, shuffle=True)


def in_memory(job: Job, folder: Path) -> Epoch:
    values = torch.from_numpy(job.whole())

    def epoch() -> Iterable[Any]:
        for rows in torch.randperm(len(values)).split(TRAINED):
            yield values[rows], job.targets[rows]

    return epoch


def with_featcache(job: Job, folder: Path) -> Epoch:
    features = featcache.extract(job.model, job.images, str(folder), cut="layer4", batch_size=BATCH)
    loader = features.loader(TRAINED)
    return lambda: loader


def with_h5py(job: Job, folder: Path) -> Epoch:
    import h5py

    with h5py.File(folder / "features.h5", "w") as file:
        made = file.create_dataset("features", (len(job), *SHAPE), "f4")
        for start, values in job.forward():
            made[start : start + len(values)] = values
    rows = h5py.File(folder / "features.h5")["features"]
    return OneByOne(lambda index: rows[index], job.targets).loader()


def with_npy(job: Job, folder: Path) -> Epoch:
    made = np.lib.format.open_memmap(folder / "features.npy", "w+", np.float32, (len(job), *SHAPE))
    for start, values in job.forward():
        made[start : start + len(values)] = values
    made.flush()
    rows = np.load(folder / "features.npy", mmap_mode="r")
    return OneByOne(lambda index: rows[index].copy(), job.targets).loader()


def with_files(job: Job, folder: Path) -> Epoch:
    for start, values in job.forward():
        for number, row in enumerate(values, start):
            torch.save(torch.from_numpy(row.copy()), folder / f"{number}.pt")
    return OneByOne(lambda index: torch.load(folder / f"{index}.pt").numpy(), job.targets).loader()


def with_datasets(job: Job, folder: Path) -> Epoch:
    import datasets

    datasets.disable_progress_bars()

    def prefix(batch: dict[str, Any]) -> dict[str, Any]:
        with torch.no_grad():
            return {"features": job.prefix(job.images.values[batch["row"]]).numpy()}

    rows = datasets.Dataset.from_dict({"row": list(range(len(job))), "target": job.targets.tolist()})
    kinds = datasets.Features({**rows.features, "features": datasets.Array3D(SHAPE, "float32")})
    made = rows.map(
        prefix, batched=True, batch_size=BATCH, features=kinds, cache_file_name=str(folder / "features.arrow")
    ).with_format("torch", columns=["features", "target"])

    def epoch() -> Iterable[Any]:
        for batch in DataLoader(made, TRAINED, shuffle=True):
            yield batch["features"], batch["target"]

    return epoch


def with_joblib(job: Job, folder: Path) -> Epoch:
    import joblib

    def features(state: dict[str, torch.Tensor], images: torch.Tensor) -> np.ndarray:
        return job.whole()

    cached = joblib.Memory(folder, verbose=0).cache(features)
    arguments = ({name: value.numpy() for name, value in job.prefix.state_dict().items()}, job.images.values.numpy())
    cached(*arguments)
    values = torch.from_numpy(cached(*arguments))

    def epoch() -> Iterable[Any]:
        for rows in torch.randperm(len(values)).split(TRAINED):
            yield values[rows], job.targets[rows]

    return epoch


def with_zarr(job: Job, folder: Path) -> Epoch:
    import zarr

    made = zarr.create_array(
        str(folder / "features.zarr"), shape=(len(job), *SHAPE), chunks=(BATCH, *SHAPE), dtype="f4"
    )
    for start, values in job.forward():
        made[start : start + len(values)] = values
    rows = zarr.open_array(str(folder / "features.zarr"), mode="r")

    def epoch() -> Iterable[Any]:
        for chosen in torch.randperm(len(job)).split(TRAINED):
            yield torch.from_numpy(rows.oindex[chosen.numpy()]), job.targets[chosen]

    return epoch


def with_lmdb(job: Job, folder: Path) -> Epoch:
    import lmdb

    store = lmdb.open(str(folder), map_size=1 << 32)
    for start, values in job.forward():
        with store.begin(write=True) as writing:
            for number, row in enumerate(values, start):
                writing.put(str(number).encode(), row.tobytes())
    reading = store.begin(buffers=True)

    def row(index: int) -> np.ndarray:
        return np.frombuffer(reading.get(str(index).encode()), np.float32).reshape(SHAPE).copy()

    return OneByOne(row, job.targets).loader()


def with_webdataset(job: Job, folder: Path) -> Epoch:
    import webdataset

    with webdataset.TarWriter(str(folder / "features.tar")) as writer:
        for start, values in job.forward():
            for number, row in enumerate(values, start):
                content = io.BytesIO()
                np.save(content, row)
                writer.write({"__key__": str(number), "npy": content.getvalue(), "cls": int(job.targets[number])})

    def epoch() -> Iterable[Any]:
        rows = webdataset.WebDataset(str(folder / "features.tar"), shardshuffle=False).shuffle(1000).decode()
        for values, targets in rows.to_tuple("npy", "cls").batched(TRAINED):
            yield torch.as_tensor(values), torch.as_tensor(targets)

    return epoch


RACED = {
    "tensors in memory": in_memory,
    "featcache": with_featcache,
    "h5py, a row an item": with_h5py,
    ".npy memory map, a row an item": with_npy,
    "one .pt file a sample": with_files,
    "HF datasets.map": with_datasets,
    "joblib.Memory": with_joblib,
    "zarr": with_zarr,
    "lmdb": with_lmdb,
    "webdataset": with_webdataset,
}


def seconds(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def read(epoch: Epoch) -> None:
    for frontier, _ in epoch():
        float(frontier.view(-1)[0])


def train(job: Job, epoch: Epoch) -> None:
    head = torch.nn.Sequential(job.model.avgpool, torch.nn.Flatten(), torch.nn.Linear(512, 10))
    optimizer = torch.optim.AdamW(head.parameters())
    for frontier, targets in epoch():
        loss = torch.nn.functional.cross_entropy(head(frontier), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    job = Job(options.images)
    job.whole()
    base: list[float] = []
    print("| cached with | storing, of the bare loop | an epoch read | an epoch trained |\n|---|---|---|---|")
    for name, make in RACED.items():
        with tempfile.TemporaryDirectory() as folder:
            bare = seconds(lambda: [None for _ in job.forward()])
            started = time.perf_counter()
            try:
                epoch = make(job, Path(folder))
            except ImportError as error:
                print(f"| {name} | not here: {error.name} | | |")
                continue
            storing = (time.perf_counter() - started) / bare
            times = []
            for run in (lambda epoch=epoch: read(epoch), lambda epoch=epoch: train(job, epoch)):
                run()
                times.append(statistics.median(seconds(run) for _ in range(options.epochs)))
            base = base or times
            ratios = [mine / memory for mine, memory in zip(times, base, strict=True)]
            print(f"| {name} | {storing:.2f} | {ratios[0]:.1f} × | {ratios[1]:.2f} × |", flush=True)


if __name__ == "__main__":
    main()
