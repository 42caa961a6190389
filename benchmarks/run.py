"""Run the races and write docs/performance.md from what they print.

    make bench        (or: python benchmarks/run.py [NAME ...], which replaces the figures of the named races only)

Each race's answer is kept in benchmarks/answers, so that one can be run again by itself.
"""

from __future__ import annotations

import argparse
import ast
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).parent.parent
KEPT, PAGE = ROOT / "benchmarks" / "answers", ROOT / "docs" / "performance.md"
DIGITS = "--data folder:data/digits"
SMALL = f"{DIGITS} --backbone bundled:resnet-mini --cuts layer3"
# Each race with its arguments, and those that make it short.
RACES = {
    "What to expect": [("jobs.py", "", "--samples 100")],
    "Epochs and whole jobs": [("epoch.py", "", "")],
    "Reading": [
        ("reading.py", "", "--quick"),
        ("cold.py", "--rows 1500000", "--rows 200000"),
        ("blockshuffle.py", "", "--seeds 2"),
        ("remote.py", "", "--rows 20000 --rounds 2"),
    ],
    "Extraction and numerics": [
        ("extraction.py", "--images 512 --rounds 3", "--images 64 --rounds 3"),
        ("checks.py", "", "--images 256"),
    ],
    "Photographs": [("photos.py", "", "--counts 200 --rounds 2")],
    "Training": [("training.py", "", "--rounds 3")],
    "Nothing to do": [("nothing_to_do.py", "", "--files 20000")],
    "Scale": [("scale.py", "", "--rows 10000 100000")],
    "Against what one would use instead": [("peers.py", "", "--images 1000")],
    "Precision and compression": [("codecs.py", each, each) for each in ("", DIGITS, SMALL)],
}
PACKAGES = (
    "torch",
    "torchvision",
    "pillow",
    "numpy",
    "h5py",
    "zstandard",
    "zarr",
    "lmdb",
    "datasets",
    "webdataset",
    "joblib",
)


def described(name: str) -> str:
    """Return the first paragraphs of a race's docstring, without its usage."""
    words = ast.get_docstring(ast.parse((ROOT / "benchmarks" / name).read_text())) or ""
    paragraphs = [part for part in words.split("\n\n") if not part.startswith("    ")]
    return "\n\n".join(paragraphs)


def machine() -> str:
    model = platform.processor() or platform.machine()
    with Path("/proc/cpuinfo").open() as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{len(names) or 1} × {names[0] if names else model}, {memory:.0f} GiB of memory"


def versions() -> str:
    found = [f"Python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def run(name: str, arguments: str, kept: Path) -> bool:
    """Run a race and keep its command and its answer; return whether it came to its end."""
    print(name, arguments, flush=True)
    command = [sys.executable, str(ROOT / "benchmarks" / name), *arguments.split()]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        print(f"{name} failed: its last answer stays", file=sys.stderr)
        return False
    kept.write_text(f"`{' '.join(['python', f'benchmarks/{name}', *arguments.split()])}`\n\n{done.stdout.strip()}\n")
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="such as reading scale; all by default")
    parser.add_argument("--quick", action="store_true", help="shorter races")
    parser.add_argument("--page", action="store_true", help="write the page from what was kept, running nothing")
    options = parser.parse_args()
    KEPT.mkdir(parents=True, exist_ok=True)
    failed = 0
    page = (ROOT / "benchmarks" / "page.md").read_text().strip()
    sections = [f"Machine: {machine()}. {versions()}."]
    for title, races in RACES.items():
        section = [f"## {title}"]
        for number, (name, full, quick) in enumerate(races):
            stem = Path(name).stem
            kept = KEPT / f"{stem}-{number}.md"
            if not options.page and (not options.names or stem in options.names):
                failed += not run(name, quick if options.quick else full, kept)
            if not number or name != races[number - 1][0]:
                section.append(described(name))
            if kept.exists():
                section.append(kept.read_text().strip())
        if (marked := section[0] + "\n\n<!-- races -->") in page:
            page = page.replace(marked, "\n\n".join(section))
        else:
            sections += section
    PAGE.write_text("\n\n".join([page, *sections]) + "\n")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
