"""Data that change while they are extracted: a row belongs to the bytes that it was computed from, or there is none."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import featcache
from featcache import FrozenFeatures, Project, Settings
from featcache.errors import DataError, StaleError

from ..conftest import TensorPairs
from .test_extract import reference, to_tensor

pytestmark = pytest.mark.filterwarnings("ignore:.* changed after .* listed")


def meanwhile(change: Callable[[], object]) -> dict:
    """Options with which a change happens once all samples are listed and none has been decoded."""
    waiting = [change]

    def look(event: featcache.ProgressEvent) -> None:
        if event.stage == "extract" and waiting:
            waiting.pop()()

    return {"progress": look}


def picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def rows_of(features: featcache.Features) -> dict[str, np.ndarray]:
    return dict(zip(features.names, features.numpy()[0], strict=True))


def as_folder(root: Path, contents: list[bytes]) -> tuple[str, Callable[[int, bytes], None]]:
    def write(number: int, content: bytes) -> None:
        (root / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        (root / "ab"[number % 2] / f"{number}.png").write_bytes(content)

    for number, content in enumerate(contents):
        write(number, content)
    return f"folder:{root}", write


def as_table(root: Path, contents: list[bytes]) -> tuple[str, Callable[[int, bytes], None]]:
    _, write = as_folder(root, contents)
    lines = [f"{'ab'[number % 2]}/{number}.png,{number % 2}" for number in range(len(contents))]
    (root / "table.csv").write_text("\n".join(["path,label", *lines]))
    return f"csv:{root / 'table.csv'}", write


def as_tar(root: Path, contents: list[bytes]) -> tuple[str, Callable[[int, bytes], None]]:
    """Members of equal size, one of which is overwritten where it lies."""
    root.mkdir()
    size = max(map(len, contents)) + 64
    with tarfile.open(root / "set.tar", "w") as archive:
        for number, content in enumerate(contents):
            for name, each in (
                (f"{number}.png", content.ljust(size, b"\0")),
                (f"{number}.cls", b"01"[number % 2 :][:1]),
            ):
                member = tarfile.TarInfo(name)
                member.size = len(each)
                archive.addfile(member, io.BytesIO(each))
    with tarfile.open(root / "set.tar") as archive:
        offsets = {member.name: member.offset_data for member in archive}

    def write(number: int, content: bytes) -> None:
        with (root / "set.tar").open("r+b") as file:
            file.seek(offsets[f"{number}.png"])
            file.write(content.ljust(size, b"\0"))

    return f"wds:{root / 'set.tar'}", write


SOURCES = [as_folder, as_table, as_tar]


@pytest.mark.parametrize("make", SOURCES)
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_sample_that_is_replaced_after_it_was_listed_gets_no_row_and_the_others_do(
    net, tmp_path, make, workers
) -> None:
    data, write = make(tmp_path / "data", [picture(seed) for seed in range(8)])
    options = {"cut": "block", "transform": to_tensor, "batch_size": 4, "workers": workers}
    clean = rows_of(featcache.extract(net, data, str(tmp_path / "clean"), **options))
    store = str(tmp_path / "s")
    part = featcache.extract(net, data, store, **options, **meanwhile(lambda: write(3, picture(99))))
    report = part.report
    assert (report.samples, report.computed, report.changed, report.skipped, report.remaining) == (8, 7, 1, 0, 0)
    (changed,) = report.changed_samples
    assert "3" in changed.name
    assert "another one than when it was listed" in changed.reason
    assert len(part) == 7
    for name, row in rows_of(part).items():
        assert np.array_equal(row, clean[name])

    write(3, picture(3))  # as it was
    again = featcache.extract(net, data, store, **options)
    assert (again.report.computed, again.report.reused, again.report.changed) == (1, 7, 0)
    assert all(np.array_equal(row, clean[name]) for name, row in rows_of(again).items())

    write(3, picture(99))
    other = featcache.extract(net, data, store, **options)
    assert (other.report.computed, other.report.changed) == (1, 0)
    assert not np.array_equal(rows_of(other)[changed.name], clean[changed.name])


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize("change", [Path.unlink, truncate])
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_file_that_is_deleted_or_cut_short_after_it_was_listed_is_left_for_the_next_run(
    net, image_folder, tmp_path, change, on_error
) -> None:
    path, backup = image_folder / "bee" / "2.png", tmp_path / "backup.png"
    shutil.copy2(path, backup)
    data, store = f"folder:{image_folder}", str(tmp_path / "s")
    options = {"cut": "block", "transform": to_tensor, "on_error": on_error}
    report = featcache.extract(net, data, store, **options, **meanwhile(lambda: change(path))).report
    assert (report.computed, report.changed, report.skipped) == (17, 1, 0)
    shutil.copy2(backup, path)
    assert featcache.extract(net, data, store, **options).report.computed == 1


@pytest.mark.slow
def test_all_cuts_views_and_tasks_leave_a_changed_sample_out(net, image_folder, tmp_path) -> None:
    data, store, path = f"folder:{image_folder}", str(tmp_path / "s"), image_folder / "ant" / "1.png"
    options = {
        "cut": ["stem", "block"], "transform": to_tensor, "batch_size": 4, "shard_bytes": 1, "augment": "flip",
        "views": 2,
    }  # fmt: skip
    before = path.read_bytes()
    done = featcache.extract(net, data, store, **options, **meanwhile(lambda: path.write_bytes(picture(5))))
    for features in done.values():
        assert [each.name for each in features.report.changed_samples] == ["ant/1.png"]
        assert (features.report.computed, features.report.remaining, len(features)) == (17 * 3, 0, 17)
    path.write_bytes(before)
    parts = [featcache.extract(net, data, store, **options, task=f"{part}/2") for part in (1, 2)]
    assert [sum(part[cut].report.computed for part in parts) for cut in ("stem", "block")] == [3, 3]
    clean = featcache.extract(net, data, str(tmp_path / "clean"), **options)
    for cut, features in clean.items():
        for view in range(3):
            assert np.array_equal(features.numpy(view)[0], parts[1][cut].numpy(view)[0])


@pytest.mark.slow
def test_a_worker_process_tells_which_samples_changed(net, image_folder, tmp_path) -> None:
    path, options = image_folder / "ant" / "1.png", {"cut": "block", "transform": to_tensor, "engine": "processes:1"}
    change = meanwhile(lambda: path.write_bytes(picture(5)))
    report = featcache.extract(net, f"folder:{image_folder}", str(tmp_path / "s"), **options, **change).report
    assert (report.computed, [each.name for each in report.changed_samples]) == (17, ["ant/1.png"])


def test_equal_samples_lack_their_row_together_and_the_one_that_stayed_gets_it_in_the_next_run(net, tmp_path) -> None:
    data, write = as_folder(tmp_path / "data", [picture(0), picture(1), picture(0)])
    options = {"cut": "block", "transform": to_tensor}
    report = featcache.extract(
        net, data, str(tmp_path / "s"), **options, **meanwhile(lambda: write(0, picture(7)))
    ).report
    assert (report.computed, report.changed, [each.name for each in report.changed_samples]) == (
        1, 2, ["a/0.png", "a/2.png"],
    )  # fmt: skip
    again = featcache.extract(net, data, str(tmp_path / "s"), **options)
    assert (again.report.computed, again.report.reused) == (2, 1)


class Stream(torch.utils.data.Dataset):
    """Items in one buffer that the next one overwrites, as a reader of a stream may have them."""

    def __init__(self, inputs: torch.Tensor) -> None:
        self.inputs, self.buffer = inputs, torch.empty_like(inputs[0])

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        self.buffer[:] = self.inputs[index]
        return self.buffer, index % 4


@pytest.mark.parametrize("kind", ["tensor", "array", "dict"])
def test_items_that_share_one_buffer_have_rows_of_their_own(net, pairs, tmp_path, kind) -> None:
    class Kind(Stream):
        def __getitem__(self, index: int):
            value, target = super().__getitem__(index)
            return {"tensor": value, "array": value.numpy(), "dict": {"x": value}}[kind], target

    features = featcache.extract(net, Kind(pairs.inputs), str(tmp_path / "s"), cut="block", batch_size=16)
    assert np.array_equal(features.numpy()[0], reference(net, pairs.inputs, "block", 16).numpy())


class Mapped(torch.utils.data.Dataset):
    """Rows of a file that is mapped into memory."""

    def __init__(self, path: Path, writable: bool = False) -> None:
        self.values = np.memmap(path, np.float32, "r+" if writable else "r", shape=(50, 3, 12, 12))

    def __len__(self) -> int:
        return 50

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self.values[index], index % 4


class Numbered(TensorPairs):
    """A dataset that says the ids of its samples itself."""

    def __init__(self, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        super().__init__(inputs, targets)
        self.versions = [0] * len(inputs)

    def sample_id(self, index: int) -> str:
        return f"{index} version {self.versions[index]}"


def test_an_item_of_a_dataset_of_ones_own_that_is_another_by_now_gets_no_row(net, pairs, tmp_path) -> None:
    pairs.inputs.numpy().tofile(tmp_path / "values")
    writer = Mapped(tmp_path / "values", writable=True)

    def change_values() -> None:
        writer.values[7] += 1
        writer.values.flush()

    numbered = Numbered(pairs.inputs.clone(), pairs.targets_of)

    def new_version() -> None:
        numbered.inputs[7] += 1
        numbered.versions[7] = 1

    expected = np.delete(reference(net, pairs.inputs, "block", 64).numpy(), 7, axis=0)
    for data, change in ((Mapped(tmp_path / "values"), change_values), (numbered, new_version)):
        store = str(tmp_path / type(data).__name__)
        features = featcache.extract(net, data, store, cut="block", **meanwhile(change))
        assert [each.name for each in features.report.changed_samples] == ["item 7"]
        assert np.array_equal(features.numpy()[0], expected)
        again = featcache.extract(net, data, store, cut="block").report
        assert (again.computed, again.reused, again.changed) == (1, 49, 0)


def test_a_declared_id_that_changes_while_its_item_is_fetched_is_not_believed(net, pairs, tmp_path) -> None:
    class Swapping(Numbered):
        swaps = False

        def __getitem__(self, index: int):
            item = super().__getitem__(index)
            if self.swaps and index == 7:
                self.versions[index] = 0  # it was 1 when the item was fetched, and is what was listed by now
            return item

    data = Swapping(pairs.inputs, pairs.targets_of)

    def change() -> None:
        data.swaps, data.versions[7] = True, 1

    report = featcache.extract(net, data, str(tmp_path / "s"), cut="block", **meanwhile(change)).report
    assert [each.name for each in report.changed_samples] == ["item 7"]


def test_an_image_of_ones_own_keeps_its_format_and_its_orientation_and_is_decoded_once(net, tmp_path) -> None:
    from PIL import ImageOps

    paths = []
    for number in range(4):
        paths.append(tmp_path / f"{number}.tif")
        exif = Image.Exif()
        exif[0x0112] = 6
        pixels = np.random.default_rng(number).integers(0, 256, (8, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(paths[-1], exif=exif)

    def upright(image: Image.Image) -> torch.Tensor:
        return to_tensor(ImageOps.exif_transpose(image)) + (image.format == "TIFF")

    inputs = torch.stack([upright(Image.open(path)) for path in paths])
    assert inputs.shape == (4, 3, 12, 8)

    class Pictures(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, index: int):
            return Image.open(paths[index]), 0

    features = featcache.extract(net, Pictures(), str(tmp_path / "s"), cut="block", transform=upright)
    assert np.array_equal(features.numpy()[0], reference(net, inputs, "block").numpy())


def test_a_wrong_memory_of_a_file_is_corrected_in_the_next_run(net, image_folder, tmp_path, monkeypatch) -> None:
    from featcache.samples import file_memo

    data, store, path = f"folder:{image_folder}", str(tmp_path / "s"), image_folder / "ant" / "1.png"
    state = file_memo._state
    # A file system whose times stand still and lie in the past: what is remembered of a file is believed.
    monkeypatch.setattr(file_memo, "_state", lambda path: (state(path)[0] and 1, 1, 1, state(path)[3]))
    options = {"cut": "block", "transform": to_tensor}
    featcache.extract(net, data, store, **options)
    path.write_bytes(picture(5))
    shutil.rmtree(tmp_path / "s" / "sets")
    assert featcache.extract(net, data, store, **options).report.changed == 1
    again = featcache.extract(net, data, store, **options).report
    assert (again.computed, again.reused, again.changed) == (1, 17, 0)


@pytest.mark.slow
def test_one_project_completes_what_changed_when_it_is_asked_again(image_folder, tmp_path) -> None:
    path = image_folder / "ant" / "1.png"
    project = Project(
        Settings(backbone="bundled:resnet-mini", data=f"folder:{image_folder}", store=str(tmp_path / "s"))
    )
    report = project.extract("layer1", **meanwhile(lambda: path.write_bytes(picture(5))))
    assert report.changed == 1
    with pytest.raises(StaleError, match="1 of 18 samples have none"):
        project.features("layer1")
    report = project.extract("layer1")
    assert (report.computed, report.changed) == (1, 0)
    assert len(project.features("layer1")) == 18


@pytest.mark.slow
def test_the_command_says_which_samples_changed_and_exits_3(featcache_command, image_folder, tmp_path) -> None:
    folder = featcache_command.folder
    (folder / "late.py").write_text(
        "from pathlib import Path\n"
        "from featcache.datasets import open_dataset\n"
        "class Late:\n"
        "    def __init__(self): self.inner, self.listed = open_dataset('folder:images'), False\n"
        "    def __len__(self): return len(self.inner)\n"
        "    def __getitem__(self, index): return self.inner[index]\n"
        "    def __getattr__(self, name):\n"
        "        if name == 'inner': raise AttributeError(name)\n"
        "        return getattr(self.inner, name)\n"
        "    def sample_ids(self, memo=None):\n"
        "        found = self.inner.sample_ids(memo)\n"
        "        if not Path('once').exists():\n"
        "            Path('once').touch()\n"
        "            for each in ('ant/1.png', 'bee/2.png', 'bee/3.png', 'cat/4.png'):\n"
        "                Path('images', each).write_bytes(b'changed')\n"
        "        return found\n"
        "def make(): return Late()\n"
    )
    backup = tmp_path / "backup"
    shutil.copytree(image_folder, backup)
    ask = ("extract", "--cut", "layer1", "--backbone", "bundled:resnet-mini", "--data", "late.py:make")
    done = featcache_command(*ask, "--json", expect=3)
    (report,) = json.loads(done.stdout)
    assert (report["computed"], report["changed"], report["skipped"], report["remaining"]) == (14, 4, 0, 0)
    assert [each["name"] for each in report["changed_samples"]] == ["ant/1.png", "bee/2.png", "bee/3.png", "cat/4.png"]
    assert "layer1: 18 samples, 14 computed, 0 reused, 4 changed" in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("warning")]
    assert line == (
        "warning: 4 samples changed after they were listed and have no row: ant/1.png, bee/2.png, bee/3.png, …. Run again "
        "once nothing writes to the data."
    )
    shutil.copytree(backup, image_folder, dirs_exist_ok=True)
    assert "4 computed, 14 reused in" in featcache_command(*ask).stderr


def test_what_needs_all_rows_refuses_in_one_line_where_samples_changed(net, pairs, tmp_path) -> None:
    class Restless(TensorPairs):
        """A dataset that draws so seldom that looking at a few samples does not find it."""

        def __getitem__(self, index: int):
            value, target = super().__getitem__(index)
            return (value + torch.randn(1) if index == 9 else value), target

    data = Restless(pairs.inputs, pairs.targets_of)
    with pytest.warns(UserWarning, match="1 sample changed after it was listed and has no row: item 9"):
        part = featcache.extract(net, data, str(tmp_path / "s"), cut="block")
    assert (len(part), part.report.changed) == (49, 1)
    said = "1 sample changed after it was listed and has no row: item 9. Run again once nothing writes to the data."
    with pytest.raises(StaleError) as refused:
        featcache.probe(net, data, str(tmp_path / "s"), ["block"])
    assert str(refused.value) == said
    with pytest.raises(StaleError, match="item 9"):
        featcache.sweep(net, data, str(tmp_path / "s"), ["block"], epochs=1)

    class Values:
        """Values of which one is another one each time."""

        def __len__(self) -> int:
            return len(data)

        def __getitem__(self, index: int) -> np.ndarray:
            return data[index][0].numpy()

    frozen = FrozenFeatures(net, "block", str(tmp_path / "s")).fit(Values())
    with pytest.raises(StaleError, match="item 9"):
        frozen.transform(Values())


def test_a_dataset_that_lists_ids_but_does_not_say_what_it_reads_is_refused(net, tmp_path) -> None:
    class Listing(TensorPairs):
        names, splits, decoding = ["a", "b"], ["", ""], {}

        def sample_ids(self, memo=None):
            return np.arange(32, dtype=np.uint8).reshape(2, 16)

    with pytest.raises(DataError, match=r"Listing lists .* has no read\(index\)"):
        featcache.extract(net, Listing(torch.randn(2, 3, 12, 12), torch.zeros(2)), str(tmp_path / "s"), cut="block")


def test_a_row_is_not_compared_with_what_its_sample_has_become(net, made, pairs, tmp_path) -> None:
    class Fourth(TensorPairs):
        """A dataset one item of which is another one when it is fetched for the fourth time."""

        fetched = 0

        def __getitem__(self, index: int):
            value, target = super().__getitem__(index)
            self.fetched += index == 9
            return (value + 1 if index == 9 and self.fetched == 4 else value), target

    data, store = Fourth(pairs.inputs, pairs.targets_of), str(tmp_path / "s")
    assert featcache.extract(made, data, store).report.computed == 50
    with pytest.raises(StaleError, match="item 9 changed after it was listed, so its row cannot be compared"):
        featcache.FeatureStore(store).recompute(made, data, 50)
