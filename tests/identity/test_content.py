"""Ids of files, what is known of files and packages that are not read, and digests of tensors."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import featcache
from featcache.identity import (
    encoded_id,
    file_id,
    is_image,
    is_tensor,
    is_weights_file,
    package_folder,
    states,
    tensor_digest,
    versions,
)


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_the_id_of_a_file_is_that_of_all_of_its_content(tmp_path: Path, size: int) -> None:
    content = bytes(size)
    (tmp_path / "a").write_bytes(content)
    assert file_id(tmp_path / "a") == encoded_id(content)
    (tmp_path / "a").write_bytes(content + b"x")
    assert file_id(tmp_path / "a") == encoded_id(content + b"x") != encoded_id(content)


def rewritten(path: Path, content: bytes) -> None:
    """Write content of the same size, and set the time of modification back; only the time of change tells."""
    before = path.stat()
    assert len(content) == before.st_size
    while path.stat().st_ctime_ns == before.st_ctime_ns:
        path.write_bytes(content)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def test_the_state_of_a_file_changes_where_its_times_are_set_back(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    before = states([path])
    assert states([path]) == before
    rewritten(path, b"two")
    assert states([path]) != before


def test_the_states_of_files_come_in_one_order_each_once_and_a_missing_one_has_none(tmp_path: Path) -> None:
    one, other = tmp_path / "a", tmp_path / "b"
    one.write_bytes(b"four")
    found = states([other, one, one])
    state = one.stat()
    assert found == [[str(one), 4, state.st_mtime_ns, state.st_ctime_ns, state.st_ino], [str(other)]]


def test_packages_are_found_without_being_imported() -> None:
    assert package_folder("featcache") == Path(featcache.__file__).parent
    assert package_folder("not_installed_anywhere") is None
    assert package_folder("textwrap") is None
    assert versions("numpy", "not-installed-anywhere") == {"numpy": np.__version__, "not-installed-anywhere": None}


@pytest.mark.parametrize(
    ("weights", "is_file"),
    [
        *((name, True) for name in ("a.pt", "a.pth", "a.bin", "a.safetensors", "a/b")),
        *((name, False) for name in ("DEFAULT", "a.txt", "pt")),
    ],
)
def test_weights_are_a_file_by_their_ending_or_folder(weights: str, is_file: bool) -> None:
    assert is_weights_file(weights) == is_file


@pytest.mark.parametrize("name", ["Image", "Tensor"])
def test_what_is_only_called_like_an_image_or_a_tensor_is_neither(name: str) -> None:
    module = {"Image": "PIL.Image", "Tensor": "torch"}[name]
    for kind in (type(name, (), {"__module__": "user"}), type("Other", (), {"__module__": module})):
        assert not is_image(kind())
        assert not is_tensor(kind())
    for value, is_one in ((Image.new("L", (2, 2)), is_image), (torch.nn.Parameter(torch.ones(1)), is_tensor)):
        assert is_one(value)


def sparse(*values: float, where: int = 0) -> torch.Tensor:
    return torch.sparse_coo_tensor(
        [list(range(where, where + len(values)))], torch.tensor(values, dtype=torch.float32), (9,)
    )


VALUES = torch.tensor([[1.0, -2.0], [3.0, 0.5]])
TENSORS: list[Callable[[], object]] = [
    lambda: VALUES,
    lambda: VALUES.reshape(4),
    lambda: VALUES.reshape(4, 1),
    lambda: VALUES.T,
    lambda: VALUES.double(),
    lambda: VALUES.bfloat16(),
    lambda: VALUES.to(torch.complex64),
    lambda: VALUES.to(torch.complex64) * 1j,
    lambda: (VALUES.to(torch.complex64) * 1j).conj(),
    lambda: torch.zeros(0),
    lambda: torch.zeros(0, 2),
    lambda: torch.zeros(()),
    lambda: sparse(1, 2),
    lambda: sparse(1, 3),
    lambda: sparse(1, 2, where=1),
    lambda: sparse(1, 2).to_dense(),
    lambda: VALUES.to_sparse_csr(),
    lambda: np.array([1, 2], "<i4"),
    lambda: np.array([1, 2], "<u4"),
    lambda: np.array([1, 2], ">i4"),
    lambda: np.array([(1, 2)], [("a", "i4"), ("b", "i4")]),
    lambda: np.array([(1, 2)], [("a", "i4"), ("c", "i4")]),
    lambda: np.zeros((0, 3)),
    lambda: np.ma.array([1, 2], mask=[0, 1]),
    lambda: np.ma.array([1, 3], mask=[0, 0]),
    lambda: np.ma.array([1, 2], mask=[1, 1]),
]


def test_tensors_and_arrays_are_told_apart_by_kind_shape_and_values_alone() -> None:
    found = [tensor_digest(make()) for make in TENSORS]
    assert len(set(found)) == len(found)
    assert [tensor_digest(make()) for make in TENSORS] == found
    for same in (VALUES.T.contiguous().T, VALUES.clone().requires_grad_(), VALUES.expand(2, 2), (-VALUES)._neg_view()):
        assert tensor_digest(same) == tensor_digest(VALUES)
    twice = torch.sparse_coo_tensor([[0, 1, 0]], [0.5, 2.0, 0.5], (9,))
    assert tensor_digest(twice) == tensor_digest(sparse(1, 2))
    assert tensor_digest(VALUES.to_sparse_csr()) == tensor_digest(VALUES.to_sparse_coo())
    flipped = np.arange(6).reshape(2, 3)[:, ::-1]
    assert tensor_digest(flipped) == tensor_digest(flipped.copy())


@pytest.mark.filterwarnings("ignore")
def test_quantised_tensors_are_told_apart_by_their_scales_zero_points_and_axis() -> None:
    def by_channel(scales: list[float], zeros: list[int], axis: int) -> torch.Tensor:
        return torch.quantize_per_channel(VALUES, torch.tensor(scales), torch.tensor(zeros), axis, torch.qint8)

    made = [
        torch.quantize_per_tensor(torch.zeros(2, 2), scale, zero, kind)
        for scale, zero, kind in (
            (0.1, 0, torch.qint8),
            (0.2, 0, torch.qint8),
            (0.1, 1, torch.qint8),
            (0.1, 0, torch.quint8),
        )
    ]
    made += [by_channel([0.5, 0.5], [0, 0], 0), by_channel([0.5, 0.5], [0, 0], 1), by_channel([0.5, 0.25], [0, 0], 0)]
    made += [by_channel([0.5, 0.5], [0, 1], 0)]
    assert len({tensor_digest(each) for each in made}) == len(made)
