"""Random edits in random order: what extract recomputes is what changed, and what it serves is what a new store would."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from PIL import Image
from torch import nn
from torchvision.transforms import InterpolationMode, v2

import featcache

from ..conftest import SmallNet

LABELS = ("ant", "bee")


class Doubled(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * 2


# What a recipe depends on, with the values that edits give it; the first is what it starts with.
RECIPE = {
    "weight": (0.0, 1e-6, 0.5),
    "buffer": (0.0, 1e-6),
    "stride": (2, 1),
    "activation": ("relu", "relu6", "gelu"),
    "code": (False, True),
    "cut": ("block", "stem"),
    "side": (12, 14),
    "interpolation": (InterpolationMode.BILINEAR, InterpolationMode.NEAREST),
    "dtype": ("float32", "float16"),
    "pool": (None, "auto"),
}
# What it does not depend on.
BESIDE = {"head": (0.0, 1.0), "batch_size": (4, 3), "shard_bytes": (1 << 20, 1)}


def network(state: dict) -> nn.Module:
    torch.manual_seed(0)
    net = SmallNet().eval()
    with torch.no_grad():
        net.stem[0].weight.view(-1)[0] += state["weight"]
        net.stem[1].running_mean.view(-1)[0] += state["buffer"]
        net.fc.weight += state["head"]
    net.stem[0].stride = (state["stride"], state["stride"])
    net.stem[2] = {"relu": nn.ReLU, "relu6": nn.ReLU6, "gelu": nn.GELU}[state["activation"]]()
    if state["code"]:
        net.stem = Doubled(*net.stem)
    return net


def transform(state: dict) -> v2.Compose:
    size = (state["side"], state["side"])
    return v2.Compose(
        [
            v2.ToImage(),
            v2.Resize(size, interpolation=state["interpolation"], antialias=True),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )


class Edits(RuleBasedStateMachine):
    """A folder of images, a configuration, and a store that saw every earlier state of both."""

    def __init__(self) -> None:
        super().__init__()
        self.scratch = Path(tempfile.mkdtemp())
        self.folder = self.scratch / "images"
        self.numbers = itertools.count()
        self.state = {name: values[0] for name, values in {**RECIPE, **BESIDE}.items()}
        self.seen: dict[tuple, set[str]] = {}
        self.patch = pytest.MonkeyPatch()
        # Files that were written a moment ago are read again in any case; here the change time has to tell.
        self.patch.setattr("featcache.samples.file_memo.RACY_NS", 20_000_000)

    def teardown(self) -> None:
        self.patch.undo()
        shutil.rmtree(self.scratch)

    @initialize()
    def begin(self) -> None:
        for label in LABELS:
            (self.folder / label).mkdir(parents=True)
            for _ in range(3):
                self._draw(self.folder / label / f"{next(self.numbers)}.bmp")

    def _draw(self, path: Path) -> None:
        pixels = np.random.default_rng(1000 + next(self.numbers)).integers(0, 256, (10, 10, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)

    def _files(self) -> list[Path]:
        return sorted(self.folder.rglob("*.bmp"))

    def _one(self, number: int) -> Path:
        files = self._files()
        return files[number % len(files)]

    @rule(name=st.sampled_from(sorted({**RECIPE, **BESIDE})), number=st.integers(0, 2))
    def change_the_configuration(self, name: str, number: int) -> None:
        values = {**RECIPE, **BESIDE}[name]
        self.state[name] = values[number % len(values)]

    @rule(number=st.integers(0, 20))
    def edit_an_image(self, number: int) -> None:
        self._draw(self._one(number))

    @rule(number=st.integers(0, 20))
    def edit_an_image_and_keep_its_size_and_times(self, number: int) -> None:
        path = self._one(number)
        state = path.stat()
        self._draw(path)
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
        assert path.stat().st_size == state.st_size

    @rule(number=st.integers(0, 20))
    def rename_an_image(self, number: int) -> None:
        path = self._one(number)
        path.rename(path.with_name(f"{next(self.numbers)}.bmp"))

    @rule(number=st.integers(0, 20))
    def relabel_an_image(self, number: int) -> None:
        path = self._one(number)
        siblings = len(list(path.parent.iterdir()))
        other = LABELS[1 - LABELS.index(path.parent.name)]
        if siblings > 1:
            path.rename(self.folder / other / f"{next(self.numbers)}.bmp")

    @rule(label=st.sampled_from(LABELS))
    def add_an_image(self, label: str) -> None:
        self._draw(self.folder / label / f"{next(self.numbers)}.bmp")

    @precondition(lambda self: len(self._files()) > 4)
    @rule(number=st.integers(0, 20))
    def delete_an_image(self, number: int) -> None:
        path = self._one(number)
        if len(list(path.parent.iterdir())) > 1:
            path.unlink()

    @rule(number=st.integers(0, 20))
    def copy_an_image(self, number: int) -> None:
        path = self._one(number)
        shutil.copy(path, path.with_name(f"{next(self.numbers)}.bmp"))

    @rule(number=st.integers(0, 20))
    def touch_an_image(self, number: int) -> None:
        os.utime(self._one(number))

    def _extract(self, store: str) -> featcache.Features:
        names = ("cut", "dtype", "pool", "batch_size", "shard_bytes")
        options = {name: self.state[name] for name in names}
        return featcache.extract(
            network(self.state), f"folder:{self.folder}", store, transform=transform(self.state), **options
        )

    @invariant()
    def what_is_served_is_fresh_and_only_what_changed_is_computed(self) -> None:
        if not self.folder.exists():
            return
        contents = [hashlib.sha256(path.read_bytes()).hexdigest() for path in self._files()]
        known = self.seen.setdefault(tuple(self.state[name] for name in sorted(RECIPE)), set())
        features = self._extract(str(self.scratch / "store"))
        report = features.report
        assert report.computed + report.derived == sum(content not in known for content in contents)
        known.update(contents)
        whole = self._extract(str(self.scratch / f"fresh{next(self.numbers)}"))
        assert features.names == whole.names
        assert np.array_equal(features.targets, whole.targets)
        assert features.recipe == whole.recipe
        values, expected = features.numpy()[0], whole.numpy()[0]
        if report.derived or self.state["batch_size"] != 4 or report.reused:
            # Derived rows, and rows of another batch size, are the same up to rounding.
            assert np.allclose(values, expected, rtol=1e-3 if self.state["dtype"] == "float16" else 1e-5, atol=1e-6)
        else:
            assert np.array_equal(values, expected)


@pytest.mark.slow
def test_random_edits_recompute_what_changed_and_serve_nothing_stale() -> None:
    from hypothesis.stateful import run_state_machine_as_test

    examples = int(os.environ.get("FEATCACHE_FUZZ_EXAMPLES", "8"))
    run_state_machine_as_test(
        Edits,
        settings=settings(
            max_examples=examples,
            stateful_step_count=12,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
