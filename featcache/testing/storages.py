"""What storages promise."""

from __future__ import annotations

import gc
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import StoreError
from ..storages import Storage, open_storage
from .raising import raises

__all__ = ["StorageContract"]

CLOCKS_DIFFER_S = 60.0


class StorageContract:
    """What every storage promises; ``url`` names an empty place."""

    def url(self, folder: Path) -> str:
        """Return the URL of a place that holds nothing; ``folder`` is one for the test alone."""
        raise NotImplementedError

    def storage(self, folder: Path) -> Storage:
        """Return the storage that is tested."""
        return open_storage(self.url(folder))

    def test_what_is_put_is_read_by_another_process_and_replaced_in_one_step(self, tmp_path: Path) -> None:
        """A storage pickles; another opening of the same URL sees the same."""
        storage = self.storage(tmp_path)
        for content in (b"one", b"", b"three" * 1000):
            storage.write_bytes("sets/a/x.json", content)
            for each in (storage, pickle.loads(pickle.dumps(storage)), open_storage(storage.url)):
                assert each.read_bytes("sets/a/x.json") == content
                assert each.fetch("sets/a/x.json").read_bytes() == content
                assert each.exists("sets/a/x.json")
                assert each.exists("sets/a")

    def test_what_is_not_there_is_not_found(self, tmp_path: Path) -> None:
        """Absence is FileNotFoundError, an empty list, and nothing removed."""
        storage = self.storage(tmp_path)
        assert not storage.exists("a.json")
        assert storage.list("") == storage.list("sets") == []
        assert not storage.remove("a.json")
        with raises(FileNotFoundError):
            storage.read_bytes("a.json")

    def test_a_file_appears_whole_or_not_at_all(self, tmp_path: Path) -> None:
        """Nothing is seen of a file before it is committed, and nothing is left where its writer fails."""
        storage = self.storage(tmp_path)
        with storage.create("sets/a/x.h5") as temporary:
            temporary.write_bytes(b"half")
            assert not storage.exists("sets/a/x.h5")
            assert [entry for entry in storage.list("sets/a") if not entry.is_folder] == []
        assert storage.read_bytes("sets/a/x.h5") == b"half"
        with raises(ZeroDivisionError), storage.create("sets/a/y.h5") as temporary:
            temporary.write_bytes(b"half")
            raise ZeroDivisionError
        assert [entry.name for entry in storage.list("sets/a")] == ["x.h5"]

    def test_a_file_may_be_named_after_its_content(self, tmp_path: Path) -> None:
        """What was created under one name is committed under another, and only there."""
        storage = self.storage(tmp_path)
        with storage.create("sets/a/shard") as temporary:
            temporary.write_bytes(b"content")
            storage.commit(temporary, "sets/a/digest.h5")
        assert [entry.name for entry in storage.list("sets/a")] == ["digest.h5"]
        assert storage.fetch("sets/a/digest.h5").name == "digest.h5"

    def test_a_folder_lists_what_lies_directly_in_it(self, tmp_path: Path) -> None:
        """Entries are sorted, with their sizes and times; folders are told from files."""
        storage = self.storage(tmp_path)
        for path in ("sets/b.json", "sets/a/x.h5", "sets/a/y.h5", "top.json"):
            storage.write_bytes(path, path.encode())
        assert [(entry.name, entry.is_folder) for entry in storage.list("")] == [("sets", True), ("top.json", False)]
        assert [entry.name for entry in storage.list("sets")] == ["a", "b.json"]
        x, y = storage.list("sets/a")
        assert (x.name, y.name) == ("x.h5", "y.h5")
        assert x.size_bytes == len("sets/a/x.h5")
        assert abs(x.modified_s - time.time()) < CLOCKS_DIFFER_S

    def test_a_folder_is_fetched_with_its_files(self, tmp_path: Path) -> None:
        """Heads are folders that are read as a whole."""
        storage = self.storage(tmp_path)
        storage.write_bytes("heads/mine/head.json", b"{}")
        storage.write_bytes("heads/mine/head.safetensors", b"")
        folder = storage.fetch("heads/mine")
        assert sorted(path.name for path in folder.iterdir()) == ["head.json", "head.safetensors"]
        assert (folder / "head.json").read_bytes() == b"{}"

    def test_the_first_who_creates_a_file_has_created_it(self, tmp_path: Path) -> None:
        """Claims and locks are made so."""
        storage = self.storage(tmp_path)
        assert storage.create_new("active/lock", b"me")
        assert not open_storage(storage.url).create_new("active/lock", b"you")
        assert storage.read_bytes("active/lock") == b"me"
        assert storage.remove("active/lock")
        assert storage.create_new("active/lock", b"you")

    def test_touching_sets_the_time_and_keeps_the_content(self, tmp_path: Path) -> None:
        """A file that is not there is made, empty."""
        storage = self.storage(tmp_path)
        storage.write_bytes("active/a", b"content")
        before_s = storage.list("active")[0].modified_s
        time.sleep(0.02)
        storage.touch("active/a")
        storage.touch("active/b")
        a, b = storage.list("active")
        assert a.modified_s >= before_s
        assert storage.read_bytes("active/a") == b"content"
        assert (b.name, b.size_bytes) == ("b", 0)

    def test_files_and_folders_are_removed_unless_someone_objects(self, tmp_path: Path) -> None:
        """``unless`` has the last word."""
        storage = self.storage(tmp_path)
        for path in ("sets/a/x.h5", "sets/a/y.h5", "sets/b/z.h5", "sets/ab.json"):
            storage.write_bytes(path, b"content")
        assert not storage.remove("sets/a", unless=lambda: True)
        assert [entry.name for entry in storage.list("sets/a")] == ["x.h5", "y.h5"]
        assert storage.remove("sets/a", unless=lambda: False)
        assert storage.remove("sets/b/z.h5")
        assert not storage.remove("sets/a")
        assert not storage.exists("sets/a")
        assert storage.read_bytes("sets/ab.json") == b"content"
        storage.write_bytes("sets/a/x.h5", b"new")
        assert storage.read_bytes("sets/a/x.h5") == b"new"

    def test_names_that_lead_out_of_the_store_are_refused(self, tmp_path: Path) -> None:
        """A shard's or dataset's name may come from a stranger."""
        storage = self.storage(tmp_path)
        for path in ("../x", "/x", "a/../../x", "a//b", "./x", "a\\b", "a\0b"):
            for use in (storage.read_bytes, storage.fetch, storage.touch, storage.list):
                with raises(StoreError):
                    _call(use, path)

    def test_what_it_says_of_itself_is_a_number_or_nothing(self, tmp_path: Path) -> None:
        """Free bytes may be unknown; sweeping and reading again may have nothing to do."""
        storage = self.storage(tmp_path)
        free = storage.free_bytes()
        assert free is None or free >= 0
        assert storage.sweep("") >= 0
        storage.reread()

    def test_features_are_extracted_trained_from_verified_and_dropped(self, tmp_path: Path) -> None:
        """A store there is like a store in a folder."""
        import numpy as np

        from ..catalog import FeatureStore
        from ..extraction import extract
        from ..heads import train_head
        from ..splitting import split
        from .small import SAMPLES, SmallSamples, small_network

        dataset, store = SmallSamples(), FeatureStore(self.url(tmp_path))
        cut = split(small_network(), "block", (dataset.inputs[:2],))
        features = extract(cut, dataset, store, shard_bytes=1, batch_size=8)
        assert extract(cut, dataset, FeatureStore(store.url)).report.reused == SAMPLES
        assert store.status(cut, dataset).fresh
        assert [(info.rows, info.shards) for info in store.sets()] == [(SAMPLES, 3)]
        assert not store.verify().damaged
        here = extract(cut, dataset, str(tmp_path / "here"))
        assert np.array_equal(features.numpy()[0], here.numpy()[0])
        train_head(cut, features, epochs=1)
        for snapshot in store.storage.list("snapshots"):
            store.storage.remove(f"snapshots/{snapshot.name}")
        del features
        gc.collect()  # what uses a set is told by what lives
        store.gc(delete=True)
        assert store.sets() == []


def _call(use: Callable[[str], Any], path: str) -> Any:
    return use(path)
