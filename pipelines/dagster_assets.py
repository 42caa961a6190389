"""Dagster assets: the features of each day's images, and a head trained on all days.

    dagster dev -f pipelines/dagster_assets.py
    python pipelines/dagster_assets.py 2026-01-01 2026-01-02     # the same, once, without the server

Images lie in IMAGES/DAY/CLASS. A row is keyed by what the image is, so the asset `head`, whose data are all days, computes
nothing that a day has computed. Dagster shows how many rows were computed and reused.
"""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import dagster as dg

IMAGES = Path(os.environ.get("IMAGES", "images"))
OPTIONS = ["--backbone", os.environ.get("BACKBONE", "bundled:resnet-mini"), "--cut", os.environ.get("CUT", "layer3")]
DAYS = dg.DailyPartitionsDefinition(start_date=os.environ.get("FIRST_DAY", "2026-01-01"), end_offset=1)


def featcache(command: str, data: str) -> dict:
    """Return the JSON that a command gives; one that fails says why on stderr, in one line."""
    done = subprocess.run(
        ["featcache", command, *OPTIONS, "--data", data, "--json"], stdout=subprocess.PIPE, check=True
    )
    given = json.loads(done.stdout)
    return given[0] if isinstance(given, list) else given


def rows(report: dict) -> dict[str, int | str]:
    return {name: report[name] for name in ("samples", "computed", "reused", "skipped", "size_bytes", "recipe")}


@dg.asset(partitions_def=DAYS)
def features(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """The features of one day's images."""
    return dg.MaterializeResult(metadata=rows(featcache("extract", f"folder:{IMAGES / context.partition_key}")))


@dg.asset(deps=[features])
def head() -> dg.MaterializeResult:
    """A head trained on the images of all days that have been extracted."""
    index = Path("all-days.csv")
    with index.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["image", "label"])
        table.writerows([path, path.parent.name] for path in sorted(IMAGES.glob("*/*/*")))
    report, trained = featcache("extract", f"csv:{index}"), featcache("train-head", f"csv:{index}")
    return dg.MaterializeResult(metadata={**rows(report), "metrics": trained["metrics"] or {}})


defs = dg.Definitions(assets=[features, head])

if __name__ == "__main__":
    for day in sys.argv[1:]:
        made = dg.materialize([features], partition_key=day)
        print(
            day,
            {key: value.value for key, value in made.asset_materializations_for_node("features")[0].metadata.items()},
        )
    made = dg.materialize([head], selection=[head])
    print("head", {key: value.value for key, value in made.asset_materializations_for_node("head")[0].metadata.items()})
