"""Files that a stranger could put into a store, made from good ones: each as a function that changes a good file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

__all__ = ["ATTRIBUTES", "BYTES", "DATASETS", "GROUPS", "replaced"]

UNKNOWN_FILTER = 32015  # of the range that HDF5 looks for as native code on disk
BOMB_BYTES = 1 << 30
Change = Callable[[h5py.File, str], object]


def replaced(path: Path, name: str, change: Change) -> None:
    """Put what ``change`` makes of a dataset, or a group, in the place of the good one."""
    with h5py.File(path, "r+") as file:
        del file[name]
        change(file, name)


def low_level(
    file: h5py.File, name: str, properties: h5py.h5p.PropDCID, shape: tuple[int, ...], kind: h5py.h5t.TypeID
) -> None:
    space = h5py.h5s.create_simple(shape)
    h5py.h5d.create(file.id, name.encode(), kind, space, properties)


def chunked(shape: tuple[int, ...]) -> h5py.h5p.PropDCID:
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk(shape)
    return properties


def unknown_filter(file: h5py.File, name: str) -> None:
    properties = chunked((2, 3, 2))
    properties.set_filter(UNKNOWN_FILTER, h5py.h5z.FLAG_OPTIONAL, (1, 2, 3))
    low_level(file, name, properties, (2, 3, 2), h5py.h5t.IEEE_F32LE)


def scale_offset(file: h5py.File, name: str) -> None:
    file.create_dataset(name, data=np.ones((2, 3, 2), "i4"), scaleoffset=0, chunks=(2, 3, 2))


def bomb(file: h5py.File, name: str) -> None:
    made = file.create_dataset(name, (BOMB_BYTES,), "u1", chunks=(BOMB_BYTES // 8,), compression="gzip")
    made[: BOMB_BYTES // 8] = 0


def compact(file: h5py.File, name: str) -> None:
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.COMPACT)
    low_level(file, name, properties, (2, 3, 2), h5py.h5t.IEEE_F32LE)


def virtual(file: h5py.File, name: str) -> None:
    layout = h5py.VirtualLayout((2, 3, 2), "f4")
    layout[:] = h5py.VirtualSource(secret(file), "x", (2, 3, 2))
    file.create_virtual_dataset(name, layout)


def region_references(file: h5py.File, name: str) -> None:
    other = file.create_dataset("other", data=np.ones((2, 3)))
    values = np.array([other.regionref[:1], other.regionref[1:]], dtype=h5py.regionref_dtype)
    file.create_dataset(name, data=values, dtype=h5py.regionref_dtype)


def secret(file: h5py.File) -> str:
    """Return the path of a file outside the store, which nothing may open."""
    return str(Path(file.filename).parent.parent / "outside" / "secret.h5")


DATASETS: dict[str, Change] = {
    "external link": lambda file, name: file.__setitem__(name, h5py.ExternalLink(secret(file), "x")),
    "external link to a folder": lambda file, name: file.__setitem__(name, h5py.ExternalLink("/proc/self", "x")),
    "soft link": lambda file, name: file.__setitem__(name, h5py.SoftLink("/ids")),
    "soft link to itself": lambda file, name: file.__setitem__(name, h5py.SoftLink(f"/{name}")),
    "external storage": lambda file, name: file.create_dataset(name, (2, 3, 2), "f4", external=[(secret(file), 0, 48)]),
    "virtual dataset": virtual,
    "huge shape": lambda file, name: file.create_dataset(name, (2, 1 << 50), "f4"),
    "huge chunked shape": lambda file, name: file.create_dataset(name, (1 << 40, 1 << 20), "f4", chunks=(1, 1024)),
    "shape that overflows": lambda file, name: file.create_dataset(name, (1 << 31, 1 << 31, 2), "f4", chunks=(1, 1, 1)),
    "never written": lambda file, name: file.create_dataset(name, (2, 3, 2), "f4"),
    "compression bomb": bomb,
    "gzip": lambda file, name: file.create_dataset(name, data=np.ones((2, 3, 2), "f4"), compression="gzip"),
    "lzf": lambda file, name: file.create_dataset(name, data=np.ones((2, 3, 2), "f4"), compression="lzf"),
    "shuffle": lambda file, name: file.create_dataset(name, data=np.ones((2, 3, 2), "f4"), shuffle=True),
    "fletcher32": lambda file, name: file.create_dataset(name, data=np.ones((2, 3, 2), "f4"), fletcher32=True),
    "scale offset": scale_offset,
    "filter that would be loaded": unknown_filter,
    "compact": compact,
    "object references": lambda file, name: file.create_dataset(name, (2, 3, 2), h5py.ref_dtype),
    "region references": region_references,
    "text of variable length": lambda file, name: file.create_dataset(name, (2, 3, 2), h5py.string_dtype()),
    "arrays of variable length": lambda file, name: file.create_dataset(name, (2, 3, 2), h5py.vlen_dtype("f4")),
    "compound": lambda file, name: file.create_dataset(name, (2, 3, 2), [("a", "f4"), ("b", "i8")]),
    "enumeration": lambda file, name: file.create_dataset(name, (2, 3, 2), h5py.enum_dtype({"a": 1})),
    "opaque": lambda file, name: file.create_dataset(name, data=np.zeros((2, 3, 2), "V4")),
    "array type": lambda file, name: file.create_dataset(name, (2,), np.dtype(("f4", (3, 2)))),
    "complex": lambda file, name: file.create_dataset(name, data=np.ones((2, 3, 2), "c8")),
    "other byte order": lambda file, name: file.create_dataset(name, data=np.ones((2, 3, 2), ">f4")),
    "wider type": lambda file, name: file.create_dataset(name, data=np.ones((2, 3, 2), "f8")),
    "scalar": lambda file, name: file.create_dataset(name, data=np.float32(1)),
    "no space at all": lambda file, name: file.create_dataset(name, data=h5py.Empty("f4")),
    "a group": lambda file, name: file.create_group(name),
    "the root again": lambda file, name: file.__setitem__(name, file["/"]),
    "a named type": lambda file, name: file.__setitem__(name, np.dtype("f4")),
    "nothing": lambda file, name: None,
}

GROUPS: dict[str, Change] = {
    "group through an external link": lambda file, name: file.__setitem__(name, h5py.ExternalLink(secret(file), "/")),
    "group through a soft link": lambda file, name: file.__setitem__(name, h5py.SoftLink("/")),
    "group that links to itself": lambda file, name: file.__setitem__(name, h5py.SoftLink(f"/{name}")),
    "group that is the root": lambda file, name: file.__setitem__(name, file["/"]),
    "group that is a dataset": lambda file, name: file.create_dataset(name, data=np.ones(3)),
}

ATTRIBUTES: dict[str, Callable[[h5py.AttributeManager], object]] = {
    "no format": lambda attributes: attributes.__delitem__("format"),
    "another format": lambda attributes: attributes.__setitem__("format", np.bytes_(b"featcache-shard-99")),
    "format of variable length": lambda attributes: attributes.__setitem__("format", "featcache-shard-1"),
    "format as a list": lambda attributes: attributes.__setitem__("format", np.array([b"a", b"b"])),
    "no space": lambda attributes: attributes.__setitem__("format", h5py.Empty("f4")),
    "text that is not text": lambda attributes: attributes.__setitem__("format", np.bytes_(b"\xff\xfe")),
    "a list of numbers": lambda attributes: attributes.create("more", np.zeros(3)),
    "many": lambda attributes: [attributes.__setitem__(f"more{n}", n) for n in range(1000)],
}


def truncated(share: float) -> Callable[[bytes], bytes]:
    return lambda content: content[: int(len(content) * share)]


def patched(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return lambda content: content.replace(old, new)


BYTES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "only a signature": lambda content: content[:8],
    "text": lambda content: json.dumps({"a": 1}).encode(),
    "a pickle": lambda content: b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x04true\x94\x85\x94R\x94.",
    "a user block before it": lambda content: b"\0" * 512 + content,
    "zeros": lambda content: content[:8] + b"\0" * (len(content) - 8),
    **{f"truncated to {share}": truncated(share) for share in (0.1, 0.3, 0.5, 0.7, 0.9, 0.99)},
    "dimensions that lie": patched(
        (3).to_bytes(8, "little") + (2).to_bytes(8, "little"), b"\xff" * 7 + b"\x7f" + (2).to_bytes(8, "little")
    ),
}
