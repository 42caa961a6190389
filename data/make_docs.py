"""Write what scipy's documentation says of its functions as a table: which part of scipy is a text about?

python data/make_docs.py        →  data/scipy_docs.csv with the columns text, label and split
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import importlib
import inspect
import re
from pathlib import Path

PARTS = ("fft", "integrate", "interpolate", "linalg", "ndimage", "optimize", "signal", "sparse", "spatial", "stats")
FEWEST_WORDS, MOST_WORDS = 4, 120
TEST_SHARE = 0.25
MARKUP = re.compile(r":\w+:`|``?|\*\*")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "scipy_docs.csv")
    out: Path = parser.parse_args().out
    rows = [(text, part) for part in PARTS for text in texts(part)]
    part = out.with_suffix(".part")
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "split"])
        writer.writerows([text, label, split(text)] for text, label in rows)
    part.replace(out)
    print(f"wrote {out}: {len(rows)} texts about {len(PARTS)} parts of scipy")


def texts(part: str) -> list[str]:
    """Return the introductions of all that a part of scipy has, each once: what stands above the parameters."""
    module = importlib.import_module(f"scipy.{part}")
    found = []
    for name in sorted(module.__all__):
        value = getattr(module, name)
        if callable(value) and (documentation := inspect.getdoc(value)):
            introduction = re.split(r"\n[^\n]+\n-{3,}", documentation)[0]
            prose = [each for each in introduction.split("\n\n") if not re.match(r"\s*(\.\. |>>>|\w+\()", each)]
            found.append(" ".join(MARKUP.sub("", " ".join(prose[:2])).split()[:MOST_WORDS]))
    return list(dict.fromkeys(text for text in found if len(text.split()) >= FEWEST_WORDS))


def split(text: str) -> str:
    """Return which split a text belongs to, by its content: the same on every machine."""
    return "test" if hashlib.sha256(text.encode()).digest()[0] < 256 * TEST_SHARE else "train"


if __name__ == "__main__":
    main()
