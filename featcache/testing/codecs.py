"""What codecs promise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..codecs import Codec, load_codec

__all__ = ["CodecContract"]

FLOATING = ("float16", "float32", "float64")
OTHERS = ("int64", "int32", "uint8", "bool")

Array = np.ndarray[Any, Any]


class CodecContract:
    """What every stored precision promises; ``name`` is the one that ``--dtype`` takes."""

    name = ""
    tolerance = 0.01
    """The largest difference of what is read back, relative to the value, for values from 1e-3 to 1e3.

    Of a codec with scales: relative to the largest of these values.
    """
    smallest = 0.0
    """The largest difference that small values may have all the same."""

    def codec(self) -> Codec:
        """Return the codec that is tested."""
        return load_codec(self.name)

    def test_it_is_found_by_its_name(self) -> None:
        """The name in the recipe leads back to the codec."""
        assert self.codec().name == self.name

    def stored(self, values: Array, scales: Array | None = None) -> tuple[Array, Array | None]:
        """Return values as they are stored, and the scales beside them."""
        if scales is None and self.codec().scaled:
            scales = self.codec().scales(values, str(values.dtype))
        return self.codec().encode(values, scales), scales

    def read(self, stored: Array, values: Array, scales: Array | None) -> Array:
        """Return stored values as they are read back."""
        return self.codec().decode(stored, values.shape[1:], str(values.dtype), scales)

    def near(self, found: Array, values: Array) -> bool:
        """Return whether values are read back within the tolerance."""
        wanted = values.astype(np.float64)
        if self.codec().scaled:
            return bool(np.abs(found - wanted).max() <= self.tolerance * np.abs(wanted).max())
        return np.allclose(found, wanted, rtol=self.tolerance, atol=self.smallest)

    def test_rows_are_stored_and_come_back_as_it_says(self) -> None:
        """What is stored has the dtype and shape that were said, and floating values are read as float32."""
        for dtype in (*FLOATING, *OTHERS):
            values = _values(dtype)
            stored, scales = self.stored(values)
            read = self.read(stored, values, scales)
            assert stored.dtype == self.codec().storage_dtype(dtype)
            assert stored.dtype.kind in "fiub"  # which any HDF5 tool reads
            assert stored.shape == (len(values), *self.codec().storage_shape(values.shape[1:], dtype))
            assert read.shape == values.shape
            assert read.dtype == (np.float32 if dtype in FLOATING else values.dtype)
            assert (None if scales is None else scales.shape) == self.codec().scales_shape(values.shape[1:], dtype)
            assert self.stored(values[:0], scales)[0].shape == stored[:0].shape
            assert self.read(stored[:0], values[:0], scales).shape == values[:0].shape

    def test_what_is_no_floating_value_is_kept(self) -> None:
        """Token ids and masks are never rounded."""
        for dtype in OTHERS:
            values = _values(dtype)
            stored, scales = self.stored(values)
            assert self.codec().is_exact(dtype)
            assert np.array_equal(self.read(stored, values, scales), values)

    def test_floating_values_are_near_and_exact_where_it_says_so(self) -> None:
        """What is derived from a cached set relies on ``is_exact``."""
        for dtype in FLOATING:
            values = np.clip(_values(dtype), -self.codec().largest, self.codec().largest)
            stored, scales = self.stored(values)
            read = self.read(stored, values, scales)
            if self.codec().is_exact(dtype):
                assert np.array_equal(read.astype(np.float64), values.astype(np.float64))
            assert self.near(read, values)

    def test_a_row_does_not_depend_on_the_rows_beside_it(self) -> None:
        """Which rows are stored together is chance; what they share are the scales."""
        values = np.clip(_values("float32"), -self.codec().largest, self.codec().largest)
        some = np.array([4, 1])
        stored, scales = self.stored(values)
        assert np.array_equal(stored[some], self.stored(values[some], scales)[0])
        read = self.read(stored, values, scales)
        assert np.array_equal(read[some], self.read(stored[some], values[some], scales))

    def test_what_was_read_is_stored_as_it_was(self) -> None:
        """Rounding once more changes nothing, and arguments stay as they are."""
        values = np.clip(_values("float32"), -self.codec().largest, self.codec().largest)
        before = values.copy()
        stored, scales = self.stored(values)
        assert np.array_equal(values, before)
        kept = stored.copy()
        assert np.array_equal(self.stored(self.read(stored, values, scales), scales)[0], kept)
        assert np.array_equal(stored, kept)

    def test_features_are_read_back_in_every_way_as_the_codec_says(self, tmp_path: Path) -> None:
        """One by one, in batches and as an array, features are what decoding gives; the next extraction finds them."""
        import torch

        from ..extraction import extract
        from ..splitting import split
        from .small import SAMPLES, SmallSamples, small_network

        dataset, network = SmallSamples(), small_network()
        cut = split(network, "stem", (dataset.inputs[:2],))
        plain = extract(cut, dataset, str(tmp_path / "plain")).numpy()[0]
        features = extract(cut, dataset, str(tmp_path / "store"), dtype=self.name, shard_bytes=1, batch_size=8)
        found = torch.from_numpy(features.numpy()[0])
        if not self.codec().scaled:  # else each shard has scales of its own
            assert torch.equal(found, torch.from_numpy(self.read(self.stored(plain)[0], plain, None)))
        assert self.near(found.numpy(), plain)
        one = features[3][0]
        assert isinstance(one, torch.Tensor)
        assert torch.equal(one, found[3])
        batches = list(features.loader(5, shuffle=False))
        assert torch.equal(torch.cat([frontier for frontier, _ in batches]), found)
        assert extract(cut, dataset, str(tmp_path / "store"), dtype=self.name).report.reused == SAMPLES


def _values(dtype: str) -> Array:
    generator = np.random.default_rng(0)
    if dtype == "bool":
        return generator.random((6, 2, 3)) < 0.5
    if dtype in OTHERS:
        return generator.integers(0, 100, (6, 2, 3)).astype(dtype)
    signs = np.where(generator.random((6, 2, 3)) < 0.5, -1.0, 1.0)
    return (signs * 10 ** generator.uniform(-3, 3, (6, 2, 3))).astype(dtype)
