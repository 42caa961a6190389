"""Write scikit-learn's handwritten digits (UCI, 1797 images of 8×8) as an image folder with train and test splits.

python data/make_digits.py        →  data/digits/{train,test}/{0…9}/NNNN.png
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

SEED = 0
TEST_SHARE = 0.25
COUNT = 1797


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "digits")
    out: Path = parser.parse_args().out
    if len(list(out.glob("*/*/*.png"))) == COUNT:
        print(f"{out} is complete: {COUNT} images")
        return
    shutil.rmtree(out, ignore_errors=True)
    digits = load_digits()
    # Sixteen shades of grey become the full range of a byte; the images stay 8×8 and lossless.
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    train, test = train_test_split(np.arange(COUNT), test_size=TEST_SHARE, stratify=digits.target, random_state=SEED)
    for split, numbers in (("train", train), ("test", test)):
        for number in sorted(numbers.tolist()):
            folder = out / split / str(digits.target[number])
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[number]).save(folder / f"{number:04d}.png")
    print(f"wrote {out}: {len(train)} images to train on, {len(test)} to test on")


if __name__ == "__main__":
    main()
