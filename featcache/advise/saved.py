"""Answers that were given, kept in the store for the report: ``advice/<dataset>/<question>.json``."""

from __future__ import annotations

import dataclasses
import json
from contextlib import suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from ..store import StoreFiles, check_name

if TYPE_CHECKING:
    from .plan import PlanResult
    from .probe import ProbeResult
    from .sweep import SweepResult

__all__ = ["QUESTIONS", "load_advice", "save_advice"]

QUESTIONS = ("plan", "probe", "sweep")


def save_advice(
    store: StoreFiles, backbone: str, question: str, result: PlanResult | ProbeResult | SweepResult
) -> None:
    """Keep the latest answer to a question about a dataset, if the store exists."""
    if not store.storage.exists("store.json"):
        return
    content = {
        "question": question,
        "backbone": backbone,
        "answered_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "result": dataclasses.asdict(result),
    }
    path = f"advice/{check_name(result.dataset, 'dataset')}/{question}.json"
    store.storage.write_bytes(path, (json.dumps(content, indent=1) + "\n").encode())


def load_advice(store: StoreFiles, backbone: str, dataset: str) -> dict[str, dict[str, Any]]:
    """Return the latest answers about a backbone and a dataset by question; those that cannot be read are left out.

    So are those of another version of featcache, whose fields are others.
    """
    from .choice import SweepRow
    from .plan import PlanResult, PlanRow
    from .probe import ProbeResult, ProbeRow
    from .sweep import SweepResult

    kinds = {"plan": (PlanResult, PlanRow), "probe": (ProbeResult, ProbeRow), "sweep": (SweepResult, SweepRow)}
    found = {}
    for question in QUESTIONS:
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            content = json.loads(store.storage.read_bytes(f"advice/{dataset}/{question}.json"))
            if content["backbone"] == backbone and _fits(content["result"], *kinds[question]):
                found[question] = {**content["result"], "answered_at": str(content["answered_at"])}
    return found


def _fits(result: dict[str, Any], kind: type[Any], row_kind: type[Any]) -> bool:
    rows = [_names(row_kind) == set(row) for row in result["rows"]]
    return _names(kind) == set(result) and all(rows)


def _names(kind: type[Any]) -> set[str]:
    return {each.name for each in dataclasses.fields(kind)}
