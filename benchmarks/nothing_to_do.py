"""A run with nothing, or little, to do over a folder of many files: against Python's start, and against the full run.

    python benchmarks/nothing_to_do.py [--files 100000]

Small images, so that the files' number counts and not their size, and the bundled network. Each figure but those of the
runs that compute something is the median of three runs of the command in a new process.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def seconds(command: list[str], folder: Path) -> tuple[float, float]:
    """Return how long a command takes, and how much of the processor's time."""
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    elapsed, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    return elapsed, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def image(path: Path, number: int, edit: int = 0) -> None:
    pixels = np.random.default_rng([number, edit]).integers(0, 256, 192, dtype=np.uint8)
    path.write_bytes(b"P6 8 8 255\n" + pixels.tobytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000)
    count = parser.parse_args().files
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = [folder / "images" / str(number % 10) / f"{number}.ppm" for number in range(count)]
        for path in paths[:10]:
            path.parent.mkdir(parents=True)
        for number, path in enumerate(paths):
            image(path, number)
        command = [
            sys.executable,
            "-m",
            "featcache",
            "extract",
            "--backbone",
            "bundled:resnet-mini",
            "--data",
            "folder:images",
        ]
        command += ["--cut", "layer4", "--pool", "auto", "--batch-size", "256"]
        started = [seconds([sys.executable, "-c", "pass"], folder) for _ in range(3)]
        imported = [seconds([sys.executable, "-c", "import torch, torchvision"], folder) for _ in range(3)]
        full = seconds(command, folder)
        again = [seconds(command, folder) for _ in range(3)]
        status = command.copy()
        status[3] = "status"
        looked = [seconds(status[: -len(["--batch-size", "256"])], folder) for _ in range(3)]
        os.sync()
        for number in range(0, count, 100):
            image(paths[number], number, edit=1)
        edited = seconds(command, folder)
    print(f"{count:,} files\n\n| run | seconds | of the processor |\n|---|---|---|")
    rows = {
        "Python's start": started,
        "import torch, torchvision": imported,
        "extract everything": [full],
        "extract again, nothing to do": again,
        "status": looked,
        "extract with 1 % of the files edited": [edited],
    }
    for what, times in rows.items():
        elapsed, used = (statistics.median(each) for each in zip(*times, strict=True))
        print(f"| {what} | {elapsed:.2f} | {used:.2f} |")


if __name__ == "__main__":
    main()
