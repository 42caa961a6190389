"""What runs on a CUDA device; and, on any machine, the logic of what is held there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import featcache
from featcache.features.device_rows import DeviceRows

from .conftest import TensorPairs


def gathered(features: featcache.Features, loader: featcache.FeatureLoader, epoch: int) -> list:
    """Batches of an epoch as the device would gather them, here in the host's memory."""
    held = features.load()
    rows = DeviceRows(held.loaded, torch.from_numpy(held.targets), torch.device("cpu"))
    return list(rows.batches(loader.order(epoch), loader.views(epoch), loader.batch_size))


def assert_same(found: list, expected: list) -> None:
    assert len(found) == len(expected)
    for (mine, own), (other, its) in zip(found, expected, strict=True):
        assert own.tolist() == its.tolist()
        assert mine.dtype == other.dtype
        assert torch.equal(mine.cpu(), other)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
def test_rows_held_on_a_device_come_in_the_batches_that_the_host_gives(made, pairs, tmp_path, dtype) -> None:
    features = featcache.extract(made, pairs, str(tmp_path / "s"), dtype=dtype)
    loader = features.loader(16, seed=2)
    for epoch in range(2):
        assert_same(gathered(features, loader, epoch), list(loader))


def test_some_rows_of_those_in_memory_are_held_alone(features) -> None:
    part = features.load().subset([7, 3, 30])
    assert [len(values) for view in part.loaded for values in view.values()] == [3]
    loader = part.loader(2, shuffle=False)
    assert_same(gathered(part, loader, 0), list(loader))


class Noise:
    """A random augmentation with an identity."""

    featcache_identity = "noise"

    def __call__(self, value: torch.Tensor) -> torch.Tensor:
        return value + 0.1 * torch.randn(value.shape)


def test_each_row_is_held_in_all_its_views_and_given_out_in_the_one_that_the_epoch_draws(net, pairs, tmp_path) -> None:
    features = featcache.extract(net, pairs, str(tmp_path / "s"), cut="block", augment=Noise(), views=3)
    loader = features.loader(16, seed=5)
    assert loader.augmented
    for epoch in range(2):
        assert_same(gathered(features, loader, epoch), list(loader))


def test_all_tensors_that_cross_the_cut_are_held(pairs, tmp_path) -> None:
    class Skip(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            return (self.second(x.relu()) + x).mean((2, 3))

    features = featcache.extract(Skip().eval(), pairs, str(tmp_path / "s"), cut="second")
    assert len(features.frontier) == 2
    loader = features.loader(16, seed=5)
    for (mine, _), (other, _) in zip(gathered(features, loader, 0), list(loader), strict=True):
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[name], other[name]) for name in other)


@pytest.mark.gpu
def test_on_cuda_rows_equal_those_of_the_cpu_within_rounding_and_are_of_the_same_set(made, pairs, tmp_path) -> None:
    here = featcache.extract(made, pairs, str(tmp_path / "cpu"), device="cpu")
    there = featcache.extract(made, pairs, str(tmp_path / "cuda"), device="cuda", batch_size=16)
    assert there.recipe == here.recipe
    assert np.allclose(there.numpy()[0], here.numpy()[0], rtol=1e-4, atol=1e-5)
    again = featcache.extract(made, pairs, str(tmp_path / "cuda"), device="cpu")
    assert (again.report.computed, again.report.reused) == (0, len(pairs))


@pytest.mark.gpu
def test_an_extraction_on_cuda_brings_the_model_back_and_leaves_torchs_settings(made, pairs, tmp_path) -> None:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    featcache.extract(made, pairs, str(tmp_path / "s"), device="cuda")
    assert {parameter.device.type for parameter in made.model.parameters()} == {"cpu"}
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before


@pytest.mark.gpu
@pytest.mark.parametrize("numerics", ["fast", "bf16"])
def test_the_ways_of_computing_run_on_cuda(made, pairs, tmp_path, numerics) -> None:
    here = featcache.extract(made, pairs, str(tmp_path / "cpu")).numpy()[0]
    there = featcache.extract(made, pairs, str(tmp_path / "s"), device="cuda", numerics=numerics).numpy()[0]
    assert np.abs(there - here).max() <= (1e-3 if numerics == "fast" else 5e-2) * np.abs(here).max()


@pytest.mark.gpu
@pytest.mark.parametrize("free_bytes", [1 << 40, 0])
def test_batches_on_cuda_are_those_of_the_host_whether_they_are_held_there_or_sent(
    features, monkeypatch, free_bytes
) -> None:
    monkeypatch.setattr("featcache.features.loader.free_memory_bytes", lambda device: free_bytes)
    there, here = features.loader(16, seed=2, device="cuda"), features.loader(16, seed=2)
    for _ in range(2):
        batches = list(there)
        assert all(frontier.is_cuda and targets.is_cuda for frontier, targets in batches)
        assert_same([(frontier, targets.cpu()) for frontier, targets in batches], list(here))


@pytest.mark.gpu
def test_what_exceeds_the_memory_is_streamed_to_cuda(net, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("featcache.features.loader.BLOCK_BYTES", 16 * 8 * 36 * 4)
    monkeypatch.setattr("featcache.features.loader.WINDOW_BLOCKS", 4)
    monkeypatch.setattr("featcache.features.features.available_memory_bytes", lambda: 0)
    pairs = TensorPairs(torch.randn(300, 3, 12, 12), torch.arange(300) % 4)
    features = featcache.extract(net, pairs, str(tmp_path / "s"), cut="block", device="cuda")
    there, here = features.loader(24, seed=3, device="cuda"), features.loader(24, seed=3)
    assert there.blockwise
    assert_same([(frontier, targets.cpu()) for frontier, targets in there], list(here))


@pytest.mark.gpu
def test_a_head_trained_on_cuda_follows_the_one_trained_on_the_cpu(made, features) -> None:
    options = {"epochs": 5, "batch_size": 16, "validation": 0.0, "learning_rate": 1e-3}
    here = featcache.train_head(made, features, device="cpu", head="linear", optimizer="adamw", **options)
    there = featcache.train_head(made, features, device="cuda", head="linear", optimizer="adamw", **options)
    losses = [[record.train_loss for record in head.history] for head in (here, there)]
    assert np.allclose(*losses, rtol=1e-3)
    grid = [{"learning_rate": 1e-3}, {"learning_rate": 1e-2}]
    many = featcache.train_heads(
        made, features, grid, device="cuda", **{k: v for k, v in options.items() if k != "learning_rate"}
    )
    assert np.allclose([record.train_loss for record in many[0].history], losses[0], rtol=1e-3)


@pytest.mark.gpu
def test_a_batch_that_exceeds_the_memory_of_cuda_is_computed_in_parts(net, tmp_path) -> None:
    class Hungry(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            # 64 MiB a sample, beside what the small network takes
            hungry = torch.zeros(len(x), 1 << 24, device=x.device)
            return self.net(x + hungry[:, :1, None, None])

    model = Hungry().eval()
    pairs = TensorPairs(torch.randn(64, 3, 12, 12), torch.arange(64) % 4)
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((1 << 30) / total)
    try:
        features = featcache.extract(model, pairs, str(tmp_path / "s"), cut="net.block", device="cuda", batch_size=64)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert features.report.computed == 64
    assert any("out of memory" in note for note in features.report.notes)


@pytest.mark.slow
def test_the_benchmark_for_a_gpu_runs_in_small_on_any_machine_and_writes_its_page(tmp_path: Path) -> None:
    script, page = Path(__file__).parent.parent / "benchmarks" / "gpu.py", tmp_path / "gpu.md"
    asked = [sys.executable, str(script), "--device", "cpu", "--small", "--out", str(page)]
    subprocess.run(asked, check=True, timeout=900, capture_output=True)
    text = page.read_text("utf-8")
    assert text.startswith("# On a GPU")
    assert "| resnet18 | bf16 | memory |" in text
    assert "--decoding scaled" in text
    assert "32 linear heads" in text
