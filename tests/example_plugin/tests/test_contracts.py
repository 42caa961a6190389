from __future__ import annotations

from pathlib import Path

from featcache.testing import (
    BackboneSourceContract,
    CodecContract,
    DatasetSourceContract,
    EngineContract,
    HeadContract,
    StorageContract,
)


class TestBackbone(BackboneSourceContract):
    spec = "example:8"
    nonsense = "example:wide"


class TestDataset(DatasetSourceContract):
    spec = "stripes:30"
    nonsense = "stripes:some"


class TestCodec(CodecContract):
    name = "brain16"


class TestStorage(StorageContract):
    def url(self, folder: Path) -> str:
        return f"sqlite://{folder / 'store.db'}"


class TestEngine(EngineContract):
    engine = "backwards"


class TestHead(HeadContract):
    head = "centroid"
