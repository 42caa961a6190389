"""The demo: handwritten digits of one kind taught the backbone, digits of another kind are the task.

Makes the data, then runs the README's commands one after another, and says how long each took.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STEPS = [
    ("make the data: 1797 handwritten digits as an image folder", ["data/make_digits.py"]),
    ("run the frozen prefix once, up to layer4", ["-m", "featcache", "extract", "--cut", "layer4"]),
    ("train what comes after it", ["-m", "featcache", "train-head"]),
    ("extract again: nothing to compute", ["-m", "featcache", "extract", "--cut", "layer4"]),
    ("move the freeze boundary up: layer4 is trained too", ["-m", "featcache", "extract", "--cut", "layer3"]),
    ("train layer4 + fc from the cache", ["-m", "featcache", "train-head"]),
    ("is everything fresh?", ["-m", "featcache", "status"]),
    ("what the trained network says of new images", ["-m", "featcache", "predict", "data/digits/test/3/1474.png"]),
]


def main() -> None:
    began = time.perf_counter()
    for words, arguments in STEPS:
        shown = " ".join(arguments).removeprefix("-m ")
        print(f"\n# {words}\n$ {'' if shown.startswith('featcache') else 'python '}{shown}", flush=True)
        started = time.perf_counter()
        done = subprocess.run([sys.executable, *arguments], cwd=ROOT, check=False)
        print(f"  ({time.perf_counter() - started:.1f} s, start of Python included)", flush=True)
        if done.returncode:
            sys.exit(done.returncode)
    print(f"\ndone in {time.perf_counter() - began:.0f} s; the store is {ROOT / 'features'}")


if __name__ == "__main__":
    main()
