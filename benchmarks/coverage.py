"""At how many block boundaries of how many models does ``split`` give what the model gives? Writes docs/models.md.

    python benchmarks/coverage.py --family transformers --boundaries 3
    python benchmarks/coverage.py --results survey.jsonl --write docs/models.md

Every boundary is checked without featcache's own proof (see ``coverage_check.py``). Each model runs in a process of its
own; its row is appended to ``--results``, so a long run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import multiprocessing
import time
from pathlib import Path
from typing import Any

import torch
from coverage_check import check_boundary, leaves, randomise
from coverage_models import FAMILIES, Case
from coverage_page import page

import featcache

EXAMPLE, BATCH = 2, 4  # split records two and three rows; the check runs another number


def prepared(case: Case) -> tuple[torch.nn.Module, Any, Any]:
    """Return the model with random weights, an example input, and inputs of another batch size."""
    torch.manual_seed(0)
    model, inputs = case.build()
    randomise(model.eval())
    return model, inputs(EXAMPLE, 1), inputs(BATCH, 2)


def evenly(names: list[str], most: int) -> list[str]:
    """Return at most ``most`` of the names (0: all), evenly spread; not the ends, which are the easiest."""
    if not most or len(names) <= most:
        return names
    return [names[int((number + 0.5) * len(names) / most)] for number in range(most)]


def survey(case: Case, boundaries: int = 0, tell: Any = None) -> dict[str, Any]:
    """Return a model's row: what is said of each of its boundaries; ``tell`` is called with the row as it grows."""
    started = time.monotonic()
    row: dict[str, Any] = {"family": case.family, "model": case.name, "results": []}
    try:
        model, example, inputs = prepared(case)
        row["parameters"] = sum(each.numel() for each in model.parameters())
        row["input"] = [list(each.shape[1:]) for each in leaves(inputs)]
        names = [each.name for each in featcache.cuts(model, example)]
        row["boundaries"] = len(names)
        for name in evenly(names, boundaries):
            row["results"].append(check_boundary(model, name, example, inputs))
            row["seconds"] = round(time.monotonic() - started, 1)
            if tell is not None:
                tell(row)
    except Exception as error:
        row["failed"] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    row["seconds"] = round(time.monotonic() - started, 1)
    return row


def apart(case: Case, boundaries: int, timeout: float) -> dict[str, Any]:
    """Return a model's row, made in a process of its own: a crash, or a run without end, is one row."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)

    def work() -> None:
        torch.set_num_threads(1)
        theirs.send(survey(case, boundaries, theirs.send))

    process = context.Process(target=work)
    process.start()
    theirs.close()
    row: dict[str, Any] = {"family": case.family, "model": case.name, "results": []}
    until = time.monotonic() + timeout
    try:
        while ours.poll(max(0.0, until - time.monotonic())):
            row = ours.recv()
    except EOFError:
        pass
    if process.is_alive() and time.monotonic() >= until:
        process.kill()
        row["failed"] = f"stopped after {timeout:.0f} s"
    process.join()
    if process.exitcode and "failed" not in row:
        row["failed"] = f"the process ended with {process.exitcode}"
    return row


def say(row: dict[str, Any]) -> None:
    """Print a row in one line, and what is wrong or refused in one each."""
    results = row["results"]
    exact = sum(each["eval"] == "exact" for each in results)
    trained = sum(each["train"] == "exact" for each in results)
    flat = sum(each["flat"] for each in results)
    print(
        f"{row['family']:<11} {row['model']:<36} {exact}/{len(results)} exact, {trained} in training, {flat} flat, "
        f"{row.get('seconds', 0):.0f} s {row.get('failed', '')}",
        flush=True,
    )
    for each in results:
        if each["refused"] or {each["eval"], each["train"]} != {"exact"}:
            print(f"    {each['cut']}: {each['eval']}, {each['train']}. {each['refused'] or each['why']}", flush=True)


def main() -> None:
    """Run the survey."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--family", choices=sorted(FAMILIES), action="append", help="default: all")
    parser.add_argument("--models", default="*", help="names, as a pattern")
    parser.add_argument("--max-parameters", type=float, default=float("inf"), help="leave out larger models")
    parser.add_argument("--min-parameters", type=float, default=0.0, help="leave out smaller models")
    parser.add_argument("--boundaries", type=int, default=0, help="of each model, evenly spread; 0 is all")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds a model")
    parser.add_argument(
        "--results", type=Path, help="JSON lines to append to; models that stand there are not run again"
    )
    parser.add_argument("--write", type=Path, help="a page to write from the results")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = [json.loads(line) for line in given.results.read_text().splitlines()] if _exists(given.results) else []
    done = {(row["family"], row["model"]) for row in rows}
    for family in given.family or sorted(FAMILIES):
        cases = [case for case in FAMILIES[family]() if fnmatch.fnmatch(case.name, given.models)]
        sizes = {case.name: case.parameters() for case in cases if (family, case.name) not in done}
        for case in sorted(cases, key=lambda each: sizes.get(each.name, 0.0)):
            if not given.min_parameters <= sizes.get(case.name, -1.0) <= given.max_parameters:
                continue
            rows.append(apart(case, given.boundaries, given.timeout))
            say(rows[-1])
            if given.results:
                with given.results.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    if given.write:
        ran = {(row["family"], row["model"]) for row in rows}
        known = ((family, case.name) for family in sorted(FAMILIES) for case in FAMILIES[family]())
        given.write.write_text(page(rows, [f"{family} {name}" for family, name in known if (family, name) not in ran]))
    wrong = [row["model"] for row in rows if any("wrong" in (each["eval"], each["train"]) for each in row["results"])]
    if wrong:
        raise SystemExit(f"wrong output: {', '.join(wrong)}")


def _exists(path: Path | None) -> bool:
    return path is not None and path.exists()


if __name__ == "__main__":
    main()
