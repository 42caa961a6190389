"""Contract tests for the extension points: inherit one in a pytest class, say what to test, and all of it is checked.

They are for tests, here and in other packages. No other room imports them.

class TestMySource(DatasetSourceContract):
    spec = "mine:argument"
"""

from __future__ import annotations

from .codecs import CodecContract
from .engines import EngineContract
from .heads import HeadContract
from .sources import BackboneSourceContract, DatasetSourceContract
from .storages import StorageContract

__all__ = [
    "BackboneSourceContract",
    "CodecContract",
    "DatasetSourceContract",
    "EngineContract",
    "HeadContract",
    "StorageContract",
]
