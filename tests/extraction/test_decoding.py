"""What is said of how samples are decoded."""

from __future__ import annotations

import numpy as np

from featcache.extraction import scaling_gain
from featcache.samples import Samples


class OwnPixels:
    """A dataset with an attribute of a name that featcache uses, too."""

    pixels = np.zeros((3, 4, 4))

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self.pixels[index], 0


def test_a_dataset_whose_pixels_are_an_array_gains_nothing_by_scaled_decoding() -> None:
    assert scaling_gain(Samples(OwnPixels(), np.float32)) == 1.0
