"""docs/models.md from the rows of the coverage survey."""

from __future__ import annotations

import platform
import re
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from typing import Any

HEAD = """# At which boundaries networks can be cut

    python benchmarks/coverage.py --results rows.jsonl --write docs/models.md     # goes on where it stopped
    python benchmarks/coverage.py --family transformers --boundaries 3            # a small form

What `benchmarks/coverage.py` found: for each model, at each block boundary that `featcache.cuts` lists, whether the suffix
after the cut gives what the whole model gives. Weights are random, zero and constant ones among them randomised, NaN equals
nothing, inputs are the smallest that the model takes, and the check does not use featcache's own proof:

- **exact**: in evaluation mode, `suffix(prefix(x))` equals `model(x)` bit for bit, at a batch size other than the recorded
  ones; no module before the cut whose output depends on the input runs in the suffix; a perturbed frontier changes the output.
- **exact in training**: a seeded step in training mode equals that of the whole model with everything up to the cut in
  evaluation mode and without gradients: outputs, the set of trained parameters, gradients and buffers bit for bit, and the cached
  tensor is as it was. A weight that is used before the cut is frozen after it, too (tied embeddings, blocks that run twice).
- **flat**: the suffix is an ordinary `torch.fx` graph; elsewhere it replays the model's own code.
- **weighted**: the shares exact in evaluation and in training mode where each model counts with all of its boundaries, not with
  those that were checked: an estimate over all boundaries.
- **refused**: `split` raised `SplitError` with the reason. **wrong** would be a cut that is accepted and gives something else.

The family *set-ups* holds small networks of each kind that asks for something special. A key-value cache in the output of a
decoder is not compared: it serves to generate text, and no suffix gives one.
"""
REASONS = {
    "no dimension of it is the batch": "no dimension is the batch",
    "tied parameters": "tied parameters",
    "than in evaluation mode": "another path in training mode",
    "rows that depend on the other rows": "rows depend on each other",
    "draws random numbers": "random numbers in evaluation mode",
    "a Python value is taken": "a Python value is taken from the features",
    "writes into its own state": "writes into its own state",
    "takes another path": "path depends on the batch",
}


def page(rows: list[dict[str, Any]], left_out: list[str]) -> str:
    """Return the page; ``left_out`` are the models of the survey that have no row."""
    rows = sorted(rows, key=lambda row: (row["family"], row["model"]))
    parts = [HEAD, "## In all\n", _totals(rows), _machine(), "## Not run, and why\n", _not_run(rows, left_out)]
    for family in sorted({row["family"] for row in rows}):
        parts += [f"## {family}\n", _table([row for row in rows if row["family"] == family])]
    return "\n".join(parts)


def _count(rows: list[dict[str, Any]], test: Any) -> int:
    return sum(bool(test(each)) for row in rows for each in row["results"])


def _weighted(rows: list[dict[str, Any]], mode: str) -> float:
    """Return the share of exact boundaries where each model counts with all of its boundaries, not those checked."""
    found = [row for row in rows if row["results"]]
    exact = sum(
        row["boundaries"] * sum(each[mode] == "exact" for each in row["results"]) / len(row["results"]) for row in found
    )
    return float(exact / max(1, sum(row["boundaries"] for row in found)))


def _totals(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| family | models | boundaries | checked | exact | exact in training | weighted | rounding | flat | refused | wrong |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    groups = {
        family: [row for row in rows if row["family"] == family] for family in sorted({row["family"] for row in rows})
    }
    for name, group in {**groups, "all": rows}.items():
        checked = _count(group, lambda each: True)
        exact = _count(group, lambda each: each["eval"] == "exact")
        trained = _count(group, lambda each: each["train"] == "exact")
        share = max(1, checked)
        cells = [
            name,
            len(group),
            sum(row.get("boundaries", 0) for row in group),
            checked,
            f"{exact} ({exact / share:.1%})",
            f"{trained} ({trained / share:.1%})",
            f"{_weighted(group, 'eval'):.1%}, {_weighted(group, 'train'):.1%}",
            _count(group, lambda each: "rounding" in (each["eval"], each["train"])),
            _count(group, lambda each: each["flat"]),
            _count(group, lambda each: each["refused"]),
            _count(group, lambda each: "wrong" in (each["eval"], each["train"])),
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def _machine() -> str:
    versions = []
    for name in ("torch", "torchvision", "timm", "transformers"):
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    where = f"One CPU thread of a {platform.machine()} machine, {platform.system()}, Python {platform.python_version()}"
    return f"{where}, {', '.join(versions)}.\n"


def _not_run(rows: list[dict[str, Any]], left_out: list[str]) -> str:
    sampled = [row for row in rows if len(row["results"]) < row.get("boundaries", 0)]
    lines = [f"- {row['model']}: {row['failed']}" for row in rows if "failed" in row]
    if left_out:
        lines.append(f"- Not run for want of time: {', '.join(left_out)}.")
    if sampled:
        lines.append(
            f"- Of {len(sampled)} models a sample of the boundaries was checked, evenly spread: the column *checked* gives how "
            "many of how many."
        )
    return "\n".join(lines or ["Every boundary of every model in the tables was checked."]) + "\n"


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| model | parameters | checked | exact | in training | flat | refused, or not exact |",
        "|---|--:|--:|--:|--:|--:|---|",
    ]
    for row in rows:
        results = row["results"]
        checked = (
            str(len(results))
            if len(results) == row.get("boundaries")
            else f"{len(results)} of {row.get('boundaries', '?')}"
        )
        cells = [
            row["model"],
            f"{row.get('parameters', 0) / 1e6:.2f} M",
            checked,
            sum(each["eval"] == "exact" for each in results),
            sum(each["train"] == "exact" for each in results),
            sum(each["flat"] for each in results),
            _remarks(results),
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def _remarks(results: list[dict[str, Any]]) -> str:
    counts: Counter[str] = Counter()
    for each in results:
        if each["refused"]:
            counts[_short(each["refused"])] += 1
        elif {each["eval"], each["train"]} != {"exact"}:
            worst = each["train"] if each["eval"] == "exact" else each["eval"]
            counts[f"{worst}: {each['why']}"] += 1
    return "; ".join(f"{number} {words}" for words, number in counts.items()).replace("|", "/")


def _short(reason: str) -> str:
    for words, short in REASONS.items():
        if words in reason:
            return f"refused: {short}"
    return "refused: " + re.split(r"(?<=[a-z])[.;] ", reason)[0][:110]
