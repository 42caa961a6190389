"""Write scikit-learn's two sample photographs, cut into tiles, as an image folder with two classes.

python data/make_photos.py        →  data/photos/{china,flower}/NN.jpg
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_sample_images

TILE = 128
COUNT = 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "photos")
    out: Path = parser.parse_args().out
    if len(list(out.glob("*/*.jpg"))) == COUNT:
        print(f"{out} is complete: {COUNT} tiles")
        return
    shutil.rmtree(out, ignore_errors=True)
    sample = load_sample_images()
    written = 0
    for name, pixels in zip(sample.filenames, sample.images, strict=True):
        folder = out / Path(name).stem
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(pixels)
        for top in range(0, image.height - TILE + 1, TILE):
            for left in range(0, image.width - TILE + 1, TILE):
                tile = image.crop((left, top, left + TILE, top + TILE))
                tile.save(folder / f"{top // TILE}{left // TILE}.jpg", quality=95)
                written += 1
    print(f"wrote {out}: {written} tiles of {TILE}×{TILE}")


if __name__ == "__main__":
    main()
