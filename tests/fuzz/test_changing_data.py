"""Files that change at any moment of an extraction: every row of the store is that of the content which its id names.

Edits come at random reads, so that an example is the same each time it is run; another test edits from a thread. More of
it: ``FEATCACHE_FUZZ_EXAMPLES=500 python -m pytest tests/fuzz/test_changing_data.py``.
"""

from __future__ import annotations

import io
import os
import random
import shutil
import sys
import tarfile
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image

import featcache
from featcache.datasets import open_dataset
from featcache.errors import DataError, FeatCacheError
from featcache.identity import content_id, encoded_id
from featcache.samples import file_memo

from ..conftest import SmallNet

pytestmark = pytest.mark.slow
EXAMPLES = int(os.environ.get("FEATCACHE_FUZZ_EXAMPLES", "12"))
FILES = 6
BATCH = 4
SIDE = 12


def pixels_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def encode(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


PICTURES = [encode(pixels_of(seed)) for seed in range(16)]
SIZE = max(map(len, PICTURES))  # of a member of a tar file, in which nothing may move


def to_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


class World:
    """Files of images, all that they ever held by the ids that it has, and the edits that are still to come."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.known: dict[bytes, np.ndarray] = {}
        self.before: dict[int, tuple[bytes, int]] = {}
        for number in range(FILES):
            self.path(number).parent.mkdir(parents=True, exist_ok=True)
            self.write(number, PICTURES[number])
            self.before[number] = PICTURES[number], self.path(number).stat().st_mtime_ns
        self.note_all()

    spec = property(lambda self: f"folder:{self.root}")

    def dataset(self) -> Any:
        return open_dataset(self.spec)

    def path(self, number: int) -> Path:
        return self.root / "ab"[number % 2] / f"{number}.png"

    def content(self, number: int) -> bytes:
        return self.path(number).read_bytes()

    def write(self, number: int, content: bytes) -> None:
        self.path(number).write_bytes(content)

    def replace(self, number: int, content: bytes) -> None:
        beside = self.root / f".{number}.new"
        beside.write_bytes(content)
        beside.replace(self.path(number))

    def remove(self, number: int) -> None:
        self.path(number).unlink(missing_ok=True)

    def edit(self, kind: str, number: int, other: int, old_time: bool) -> None:
        original, mtime_ns = self.before[number]
        if kind == "restore":
            self.write(number, original)
        elif kind == "replace":
            self.replace(number, PICTURES[other])
        elif kind == "rewrite":
            self.write(number, PICTURES[other])
        elif kind == "remove":
            self.remove(number)
        elif kind == "truncate":
            with suppress(OSError):
                self.write(number, self.content(number)[: 10 * other])
        elif kind == "swap":
            with suppress(OSError):
                first, second = self.content(number), self.content(other % FILES)
                self.write(number, second)
                self.write(other % FILES, first)
        if old_time:
            with suppress(OSError):
                os.utime(self.path(number), ns=(mtime_ns, mtime_ns))
        self.note_all()

    def note_all(self) -> None:
        for number in range(FILES):
            with suppress(OSError, SyntaxError):
                content = self.content(number)
                self.known[encoded_id(content)] = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))

    def now(self) -> set[bytes]:
        """The ids of what the files hold that is an image."""
        found = set()
        for number in range(FILES):
            with suppress(OSError):
                found.add(encoded_id(self.content(number)))
        return found & set(self.known)


class Table(World):
    """The same files, named by a table."""

    spec = property(lambda self: f"csv:{self.root / 'table.csv'}")

    def dataset(self) -> Any:
        rows = [f"{self.path(number).relative_to(self.root)},{number % 2}" for number in range(FILES)]
        (self.root / "table.csv").write_text("\n".join(["path,label", *rows]))
        return super().dataset()


class Tar(World):
    """Members of one tar file, which are overwritten where they lie, or replaced with the whole tar file."""

    spec = property(lambda self: f"wds:{self.root / 'set.tar'}")

    def __init__(self, root: Path) -> None:
        root.mkdir()
        self.members = [PICTURES[number].ljust(SIZE, b"\0") for number in range(FILES)]
        self.root, self.offsets = root, [0] * FILES
        self._pack(root / "set.tar")
        super().__init__(root)

    def path(self, number: int) -> Path:
        return self.root / "set.tar"

    def content(self, number: int) -> bytes:
        return self.members[number]

    def write(self, number: int, content: bytes) -> None:
        self.members[number] = content.ljust(SIZE, b"\0")
        with self.path(number).open("r+b") as file:
            file.seek(self.offsets[number])
            file.write(self.members[number])

    def replace(self, number: int, content: bytes) -> None:
        self.members[number] = content.ljust(SIZE, b"\0")
        self._pack(self.root / ".new")
        (self.root / ".new").replace(self.path(number))

    def remove(self, number: int) -> None:
        self.write(number, b"")

    def _pack(self, path: Path) -> None:
        with tarfile.open(path, "w") as archive:
            for number, content in enumerate(self.members):
                for name, each in ((f"{number}.png", content), (f"{number}.cls", b"01"[number % 2 :][:1])):
                    member = tarfile.TarInfo(name)
                    member.size = len(each)
                    archive.addfile(member, io.BytesIO(each))
        with tarfile.open(path) as archive:
            self.offsets = [archive.getmember(f"{number}.png").offset_data for number in range(FILES)]


class Own(World):
    """A dataset of one's own over the files, whose items are hashed."""

    class Pictures(torch.utils.data.Dataset):
        def __init__(self, paths: list[Path]) -> None:
            self.paths = [path for path in paths if path.exists()]

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            return Image.open(self.paths[index]), index % 2

    def dataset(self) -> Any:
        return self.Pictures([self.path(number) for number in range(FILES)])

    def note_all(self) -> None:
        for number in range(FILES):
            with suppress(OSError, SyntaxError):
                image = Image.open(io.BytesIO(self.content(number)))
                self.known[content_id(image)] = np.asarray(image)

    def now(self) -> set[bytes]:
        found = set()
        for number in range(FILES):
            with suppress(OSError, SyntaxError):
                found.add(content_id(Image.open(io.BytesIO(self.content(number)))))
        return found


class Declared(Own):
    """A dataset of one's own that counts the versions of its files, and says them as ids."""

    class Pictures(Own.Pictures):
        world: Declared

        def sample_id(self, index: int) -> str:
            number = int(self.paths[index].stem)
            return f"{number} version {self.world.versions.get(number, 0)}"

    def dataset(self) -> Any:
        made = super().dataset()
        made.world = self
        return made

    def edit(self, kind: str, number: int, other: int, old_time: bool) -> None:
        for each in (number, other % FILES):
            self.versions[each] = self.versions.get(each, 0) + 1
        super().edit(kind, number, other, old_time)

    def note_all(self) -> None:
        self.versions: dict[int, int] = getattr(self, "versions", {})
        for number in range(FILES):
            with suppress(OSError, SyntaxError):
                image = Image.open(io.BytesIO(self.content(number)))
                self.known[self._id(number)] = np.asarray(image)

    def now(self) -> set[bytes]:
        found = set()
        for number in range(FILES):
            with suppress(OSError, SyntaxError):
                Image.open(io.BytesIO(self.content(number))).load()
                found.add(self._id(number))
        return found

    def _id(self, number: int) -> bytes:
        return content_id(f"{number} version {self.versions.get(number, 0)}")


opened: list[Callable[[str], None]] = []  # who is told of the next file that is opened


def _told(event: str, arguments: tuple[Any, ...]) -> None:
    if opened and event == "open" and isinstance(arguments[0], (str, os.PathLike)):
        tell = opened.pop()
        try:
            tell(os.fspath(arguments[0]))
        finally:
            opened.append(tell)


sys.addaudithook(_told)


@contextmanager
def edits_at_reads(world: World, edits: list[tuple[int, tuple[Any, ...]]]) -> Iterator[None]:
    """Make each edit just before the file is opened that is the so-many-th of the world's."""
    count = 0

    def tell(path: str) -> None:
        nonlocal count
        if path.startswith(str(world.root)):
            for _, edit in [each for each in edits if each[0] == count]:
                world.edit(*edit)
            count += 1

    opened.append(tell)
    try:
        yield
    finally:
        opened.clear()


@pytest.fixture(scope="module")
def prefix() -> featcache.Split:
    torch.manual_seed(0)
    return featcache.split(SmallNet().eval(), "block", (torch.rand(2, 3, SIDE, SIDE),))


def extract(world: World, prefix: featcache.Split, store: Path, **options: Any) -> featcache.ExtractReport:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        features = featcache.extract(
            prefix, world.dataset(), str(store), transform=to_tensor, batch_size=BATCH, workers=0, **options
        )
    return features.report


def check_rows(world: World, prefix: featcache.Split, store: Path) -> set[bytes]:
    """Assert that each row of the store equals a fresh one of the content that its id names; return the ids."""
    found: dict[bytes, np.ndarray] = {}
    for path in store.glob("sets/*/*.h5"):
        with h5py.File(path) as file:
            found.update(zip(map(bytes, file["ids"][:]), file["features/block"][:], strict=True))
    assert set(found) <= set(world.known), "a row belongs to content that was never there"
    for key, row in found.items():
        fresh = prefix.prefix(to_tensor(Image.fromarray(world.known[key]))[None].repeat(BATCH, 1, 1, 1))[0]
        assert np.allclose(row, fresh.numpy(), atol=1e-5), "a row lies under another content's id"
    return set(found)


def opens(world: World) -> bool:
    """Whether what is left can be used at all: a folder of a class may have lost all its files."""
    try:
        return len(world.dataset()) > 0
    except DataError:
        return False


edits = st.tuples(
    st.sampled_from(["replace", "rewrite", "restore", "swap", "truncate", "remove"]),
    st.integers(0, FILES - 1),
    st.integers(0, len(PICTURES) - 1),
    st.booleans(),
)


@pytest.mark.parametrize("kind", [World, Table, Tar, Own, Declared])
def test_whatever_is_edited_at_whichever_read_no_row_lies_under_another_contents_id(prefix, kind) -> None:
    @settings(
        max_examples=EXAMPLES, deadline=None, derandomize="FEATCACHE_FUZZ_EXAMPLES" not in os.environ,
        suppress_health_check=list(HealthCheck), print_blob=True,
    )  # fmt: skip
    @given(
        st.lists(st.tuples(st.integers(0, 60), edits), min_size=1, max_size=12),
        st.sampled_from(["raise", "skip"]),
        st.booleans(),
    )
    def run(planned: list[tuple[int, Any]], on_error: str, believes_times: bool) -> None:
        scratch = Path(tempfile.mkdtemp())
        grace_ns = file_memo.RACY_NS
        try:
            world, store = kind(scratch / "data"), scratch / "s"
            # Without its grace the memo of files remembers some wrongly, within a tick of the clock of the file system.
            file_memo.RACY_NS = 0 if believes_times else grace_ns
            with edits_at_reads(world, planned), suppress(FeatCacheError, OSError, SyntaxError):
                extract(world, prefix, store, on_error=on_error)
            check_rows(world, prefix, store)
            file_memo.RACY_NS = grace_ns
            if not world.now() or not opens(world):
                return
            # Once nothing is edited, a run or two have every row.
            extract(world, prefix, store, on_error="skip")
            report = extract(world, prefix, store, on_error="skip")
            assert report.changed == 0
            assert check_rows(world, prefix, store) >= world.now()
        finally:
            file_memo.RACY_NS = grace_ns
            shutil.rmtree(scratch)

    run()


@pytest.mark.parametrize("seed", range(max(2, EXAMPLES // 6)))
def test_edits_by_another_thread_leave_no_row_under_another_contents_id(prefix, tmp_path, seed) -> None:
    world, store, chance, done = World(tmp_path / "data"), tmp_path / "s", random.Random(seed), threading.Event()
    for number, picture in enumerate(PICTURES):  # all that the files will ever hold
        world.known[encoded_id(picture)] = pixels_of(number)

    def edit() -> None:
        while not done.is_set():
            number, other = chance.randrange(FILES), chance.randrange(len(PICTURES))
            world.replace(number, PICTURES[other])
            os.utime(world.path(number), ns=(world.before[number][1],) * 2)
            time.sleep(chance.random() * 0.004)

    editor = threading.Thread(target=edit)
    editor.start()
    try:
        for _ in range(4):
            extract(world, prefix, store)
    finally:
        done.set()
        editor.join()
    check_rows(world, prefix, store)
    extract(world, prefix, store)
    extract(world, prefix, store)
    assert check_rows(world, prefix, store) >= world.now(), f"rows are missing with the seed {seed}"
