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
    """What every stored precision without scales promises; ``name`` is the one that ``--dtype`` takes."""

    name = ""
    tolerance = 0.01
    """The largest difference of what is read back, relative to the value, for values from 1e-3 to 1e3."""

    def codec(self) -> Codec:
        """Return the codec that is tested."""
        return load_codec(self.name)

    def decoded(self, stored: Array, values: Array) -> Array:
        """Return what is read of ``stored``, which was made of rows like ``values``."""
        return self.codec().decode(stored, values.shape[1:], str(values.dtype))

    def test_it_is_found_by_its_name(self) -> None:
        """The name in the recipe leads back to the codec."""
        assert self.codec().name == self.name

    def test_rows_keep_their_shape_and_come_as_they_were_said_to(self) -> None:
        """What is stored has the dtype that was said, which any HDF5 tool reads; floating values are read as float32."""
        for dtype in (*FLOATING, *OTHERS):
            values = _values(dtype)
            stored = self.codec().encode(values)
            read = self.decoded(stored, values)
            assert stored.dtype == self.codec().storage_dtype(dtype)
            assert stored.dtype.kind in "fiub"
            assert stored.shape == read.shape == values.shape
            assert read.dtype == (np.float32 if dtype in FLOATING else values.dtype)
            assert self.codec().encode(values[:0]).shape == values[:0].shape
            assert self.decoded(stored[:0], values).shape == values[:0].shape

    def test_what_is_no_floating_value_is_kept(self) -> None:
        """Token ids and masks are never rounded."""
        for dtype in OTHERS:
            values = _values(dtype)
            assert self.codec().is_exact(dtype)
            assert np.array_equal(self.decoded(self.codec().encode(values), values), values)

    def test_floating_values_are_near_and_exact_where_it_says_so(self) -> None:
        """What is derived from a cached set relies on ``is_exact``."""
        for dtype in FLOATING:
            values = _values(dtype)
            read = self.decoded(self.codec().encode(values), values)
            if self.codec().is_exact(dtype):
                assert np.array_equal(read.astype(np.float64), values.astype(np.float64))
            assert np.allclose(read, values.astype(np.float64), rtol=self.tolerance, atol=0)

    def test_a_row_does_not_depend_on_the_rows_beside_it(self) -> None:
        """Which rows are stored together is chance."""
        values = _values("float32")
        some = np.array([4, 1])
        assert np.array_equal(self.codec().encode(values)[some], self.codec().encode(values[some]))
        stored = self.codec().encode(values)
        assert np.array_equal(self.decoded(stored, values)[some], self.decoded(stored[some], values))

    def test_its_largest_value_is_held(self) -> None:
        """What is beyond it is refused, and what is not is never stored as infinite."""
        values = np.array([[self.codec().largest, -self.codec().largest]], dtype=np.float32)
        assert np.isfinite(self.decoded(self.codec().encode(values), values)).all()

    def test_what_was_read_is_stored_as_it_was(self) -> None:
        """Rounding once more changes nothing, and arguments stay as they are."""
        values = _values("float32")
        before = values.copy()
        stored = self.codec().encode(values)
        assert np.array_equal(values, before)
        kept = stored.copy()
        assert np.array_equal(self.codec().encode(self.decoded(stored, values)), kept)
        assert np.array_equal(stored, kept)

    def test_features_are_read_back_in_every_way_as_the_codec_says(self, tmp_path: Path) -> None:
        """One by one, in batches and as an array, features are what decoding gives; the next extraction finds them."""
        import torch

        from ..extract import extract
        from ..split import split
        from .small import SAMPLES, SmallSamples, small_network

        dataset, network = SmallSamples(), small_network()
        cut = split(network, "stem", (dataset.inputs[:2],))
        plain = extract(cut, dataset, str(tmp_path / "plain")).numpy()[0]
        expected = torch.from_numpy(self.decoded(self.codec().encode(plain), plain))
        features = extract(cut, dataset, str(tmp_path / "store"), dtype=self.name, shard_bytes=1, batch_size=8)
        assert torch.equal(torch.from_numpy(features.numpy()[0]), expected)
        one = features[3][0]
        assert isinstance(one, torch.Tensor)
        assert torch.equal(one, expected[3])
        batches = list(features.loader(5, shuffle=False))
        assert torch.equal(torch.cat([frontier for frontier, _ in batches]), expected)
        assert extract(cut, dataset, str(tmp_path / "store"), dtype=self.name).report.reused == SAMPLES


def _values(dtype: str) -> Array:
    generator = np.random.default_rng(0)
    if dtype == "bool":
        return generator.random((6, 2, 3)) < 0.5
    if dtype in OTHERS:
        return generator.integers(0, 100, (6, 2, 3)).astype(dtype)
    signs = np.where(generator.random((6, 2, 3)) < 0.5, -1.0, 1.0)
    return (signs * 10 ** generator.uniform(-3, 3, (6, 2, 3))).astype(dtype)
