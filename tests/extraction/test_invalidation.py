"""Every row of the table in docs/guide.md ("What invalidates what"), one test each."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import InterpolationMode, v2

import featcache
from featcache import ExtractReport, FeatureStore
from featcache.errors import FingerprintError

from ..conftest import SmallNet, TensorPairs


def resized(side: int = 12, interpolation: InterpolationMode = InterpolationMode.BILINEAR) -> v2.Compose:
    return v2.Compose(
        [
            v2.ToImage(),
            v2.Resize((side, side), interpolation=interpolation, antialias=True),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )


class Workbench:
    """A folder of images with its store; ``run`` extracts and checks every served row against a run from scratch."""

    def __init__(self, folder: Path, net: SmallNet, scratch: Path) -> None:
        self.folder, self.net, self.scratch = folder, net, scratch
        self.store = str(scratch / "store")
        self.runs = 0

    def run(self, net: nn.Module | None = None, **options) -> ExtractReport:
        options = {"cut": "block", "transform": resized(), **options}
        model = self.net if net is None else net
        features = featcache.extract(model, f"folder:{self.folder}", self.store, **options)
        self.runs += 1
        fresh = featcache.extract(model, f"folder:{self.folder}", str(self.scratch / f"fresh{self.runs}"), **options)
        assert np.array_equal(features.numpy()[0], fresh.numpy()[0])
        assert np.array_equal(features.numpy()[1], fresh.numpy()[1])
        assert features.names == fresh.names
        return features.report


@pytest.fixture
def bench(image_folder: Path, net: SmallNet, tmp_path: Path) -> Workbench:
    made = Workbench(image_folder, net, tmp_path)
    assert made.run().computed == 18
    return made


def test_a_label_a_rename_an_order_or_a_class_list_costs_nothing(bench: Workbench) -> None:
    (bench.folder / "ant" / "0.png").rename(bench.folder / "bee" / "zz.png")
    assert bench.run().computed == 0
    (bench.folder / "dog").mkdir()
    (bench.folder / "cat" / "1.png").rename(bench.folder / "dog" / "1.png")
    assert bench.run().computed == 0
    shutil.move(bench.folder, bench.folder.parent / "moved")
    bench.folder = bench.folder.parent / "moved"
    assert bench.run().computed == 0


def test_a_split_costs_nothing(bench: Workbench) -> None:
    for label in ("ant", "bee", "cat"):
        for split in ("train", "test"):
            (bench.folder / split / label).mkdir(parents=True)
        for number, path in enumerate(sorted((bench.folder / label).iterdir())):
            path.rename(bench.folder / ("train" if number else "test") / label / path.name)
        (bench.folder / label).rmdir()
    assert bench.run().computed == 0


def test_the_suffix_and_its_training_cost_nothing(bench: Workbench) -> None:
    with torch.no_grad():
        bench.net.fc.weight.add_(1)
        bench.net.tail[1].running_mean.add_(1)
    bench.net.fc = nn.Linear(8, 7)
    bench.net.tail[2] = nn.GELU()
    assert bench.run().computed == 0


def test_shard_size_workers_and_batch_size_cost_nothing(bench: Workbench) -> None:
    features = featcache.extract(
        bench.net,
        f"folder:{bench.folder}",
        bench.store,
        cut="block",
        transform=resized(),
        shard_bytes=4096,
        workers=1,
        batch_size=5,
    )
    assert features.report.computed == 0


@pytest.mark.slow
def test_one_image_added_edited_or_deleted_costs_one_row_or_none(bench: Workbench) -> None:
    Image.new("RGB", (20, 20), "red").save(bench.folder / "ant" / "new.png")
    assert bench.run().computed == 1
    Image.new("RGB", (20, 20), "blue").save(bench.folder / "bee" / "3.png")
    assert bench.run().computed == 1
    (bench.folder / "cat" / "2.png").unlink()
    assert bench.run().computed == 0
    shutil.copy(bench.folder / "cat" / "1.png", bench.folder / "bee" / "copy.png")
    assert bench.run().computed == 0


@pytest.mark.slow
def test_an_edit_that_keeps_size_and_modification_time_is_seen(bench: Workbench) -> None:
    path = bench.folder / "ant" / "1.bmp"
    Image.new("RGB", (20, 20), "red").save(path)
    assert bench.run().computed == 1
    state = path.stat()
    Image.new("RGB", (20, 20), "blue").save(path)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert path.stat().st_size == state.st_size
    assert bench.run().computed == 1


def test_a_touched_file_costs_nothing(bench: Workbench) -> None:
    os.utime(bench.folder / "ant" / "1.png")
    assert bench.run().computed == 0


def every_weight(net: SmallNet) -> None:
    net.stem[0].weight.data.view(-1)[0] += 1e-6


def a_buffer(net: SmallNet) -> None:
    net.block[1].running_var.view(-1)[0] += 1e-6


def a_stride(net: SmallNet) -> None:
    net.stem[0].stride = (1, 1)


def an_activation(net: SmallNet) -> None:
    net.block[2] = nn.ReLU6()


def code(net: SmallNet) -> None:
    class Doubled(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * 2

    net.block = Doubled(*net.block)


@pytest.mark.slow
@pytest.mark.parametrize("edit", [every_weight, a_buffer, a_stride, an_activation, code])
def test_a_weight_a_buffer_or_the_structure_before_the_cut_is_another_recipe(
    bench: Workbench, edit: Callable[[SmallNet], None]
) -> None:
    old = copy.deepcopy(bench.net)
    edit(bench.net)
    report = bench.run()
    assert report.computed == 18
    assert len({info.recipe for info in FeatureStore(bench.store).sets()}) == 2
    assert bench.run(old).computed == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"cut": "stem"},
        {"transform": resized(13)},
        {"transform": resized(12, InterpolationMode.NEAREST)},
        {"dtype": "float16"},
    ],
    ids=["cut", "size", "interpolation", "precision"],
)
def test_the_cut_the_transform_and_the_precision_are_each_another_recipe(bench: Workbench, options: dict) -> None:
    report = bench.run(**options)
    assert report.computed + report.derived == 18  # another precision is rounded from the rows that are there
    assert report.derived == (18 if "dtype" in options else 0)
    assert bench.run().computed == 0


def scale(value: float) -> Callable[[Image.Image], torch.Tensor]:
    def transform(image: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1) / value

    return transform


class Stateful:
    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, image: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1) * self.value


@pytest.mark.slow
def test_closures_and_objects_with_state_are_told_apart_by_what_they_hold(bench: Workbench) -> None:
    for transform, computed in (
        (scale(255.0), 18),
        (scale(255.0), 0),
        (scale(128.0), 18),
        (Stateful(0.5), 18),
        (Stateful(0.5), 0),
        (Stateful(0.25), 18),
    ):
        assert bench.run(transform=transform).computed == computed


def test_a_transform_that_cannot_be_fingerprinted_is_refused_with_what_to_do(bench: Workbench) -> None:
    transform = Stateful(0.5)
    transform.source = iter([1])
    transform.lock = __import__("threading").Lock()
    with pytest.raises(FingerprintError, match="featcache_identity"):
        bench.run(transform=transform)
    transform.featcache_identity = {"name": "half", "version": 1}
    assert bench.run(transform=transform).computed == 18


def test_a_transform_inside_the_dataset_is_part_of_what_is_hashed(net: SmallNet, tmp_path: Path) -> None:
    class Inside(TensorPairs):
        factor = 1.0

        def __getitem__(self, index: int):
            return self.inputs[index] * self.factor, 0

    data = Inside(torch.randn(6, 3, 12, 12), torch.zeros(6))
    assert featcache.extract(net, data, str(tmp_path / "s"), cut="block").report.computed == 6
    data.factor = 2.0
    assert featcache.extract(net, data, str(tmp_path / "s"), cut="block").report.computed == 6


def test_a_dataset_with_sample_ids_of_its_own_is_asked_and_its_transform_is_in_the_recipe(net, tmp_path) -> None:
    class Named(TensorPairs):
        transform = None

        def sample_id(self, index: int) -> str:
            return f"photo {index}"

        def __getitem__(self, index: int):
            value = self.inputs[index]
            return (value if self.transform is None else self.transform(value)), 0

    data = Named(torch.randn(6, 3, 12, 12), torch.zeros(6))
    assert featcache.extract(net, data, str(tmp_path / "s"), cut="block").report.computed == 6
    assert featcache.extract(net, data, str(tmp_path / "s"), cut="block").report.computed == 0
    data.transform = v2.Normalize([0.1], [0.2])
    assert featcache.extract(net, data, str(tmp_path / "s"), cut="block").report.computed == 6


DECODED = """
import numpy as np
from PIL import Image

class Pictures:
    decoding = {"shade": SHADE}
    names, splits, classes, targets = ["a", "b"], ["", ""], None, np.arange(2)

    def __len__(self): return 2
    def __getitem__(self, index): return Image.new("RGB", (8, 8), (SHADE, index, 0)), index
    def sample_ids(self, memo=None): return np.arange(32, dtype=np.uint8).reshape(2, 16)
    def read(self, index): return self.sample_ids()[index].tobytes(), lambda: self[index][0]

def make(): return Pictures()
"""


@pytest.mark.slow
def test_a_dataset_that_decodes_otherwise_by_now_is_another_recipe_though_its_specification_stayed(
    featcache_command,
) -> None:
    ask = ("extract", "--json", "--cut", "layer4", "--backbone", "bundled:resnet-mini", "--data", "pictures.py:make")
    computed = []
    for shade in (10, 10, 200):
        (featcache_command.folder / "pictures.py").write_text(DECODED.replace("SHADE", str(shade)))
        computed.append(json.loads(featcache_command(*ask).stdout)[0]["computed"])
    assert computed == [2, 0, 2]


def test_explain_names_the_field_the_tensors_and_the_samples_that_changed(bench: Workbench) -> None:
    store, data = FeatureStore(bench.store), f"folder:{bench.folder}"
    fresh = store.explain(bench.net, data, cut="block", transform=resized())
    assert fresh.status.state == "fresh"
    original = bench.net.stem[0].bias.detach().clone()
    with torch.no_grad():
        bench.net.stem[0].bias.add_(1)
    stale = store.explain(bench.net, data, cut="block", transform=resized(14))
    words = "\n".join(stale.lines())
    assert stale.status.state == "stale"
    assert stale.tensors == ["stem.0.bias"]
    assert "stem.0.bias" in words
    assert "[12, 12] → [14, 14]" in words or "12 → 14" in words
    with torch.no_grad():
        bench.net.stem[0].bias.copy_(original)
    Image.new("RGB", (20, 20), "red").save(bench.folder / "ant" / "0.png")
    Image.new("RGB", (20, 20), "green").save(bench.folder / "bee" / "new.png")
    (bench.folder / "cat" / "5.png").unlink()
    partial = store.explain(bench.net, data, cut="block", transform=resized())
    assert (partial.status.state, partial.status.missing) == ("partial", 2)
    assert (partial.edited, partial.new, partial.gone) == (["ant/0.png"], ["bee/new.png"], ["cat/5.png"])
    missing = store.status(bench.net, data, cut="tail", transform=resized())
    assert missing.state == "missing"
