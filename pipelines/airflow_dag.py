"""An Airflow DAG: what is missing is listed, extracted by as many tasks as there are, and a head is trained.

Put this file into the folder of DAGs, or run it once, without a server, in this process:

    airflow db migrate && python pipelines/airflow_dag.py

A task that fails or is run twice does no harm: rows that are there are reused.
"""

from __future__ import annotations

import json
import os
import subprocess

from airflow.sdk import dag, task

OPTIONS = os.environ.get(
    "FEATCACHE_OPTIONS", "--backbone bundled:resnet-mini --data folder:images --cut layer3"
).split()


def featcache(*arguments: str) -> list | dict:
    """Return the JSON that a command gives; one that fails says why on stderr, in one line."""
    done = subprocess.run(["featcache", *arguments, *OPTIONS, "--json"], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


@dag(schedule=None, catchup=False, tags=["featcache"])
def features_and_head():
    @task
    def missing() -> list[str]:
        return [each["task"] for each in featcache("extract", "--plan-only")]

    @task(retries=2)
    def extract(part: str) -> int:
        (report,) = featcache("extract", "--task", part)
        return report["computed"]

    @task
    def train(computed: list[int]) -> dict:
        metrics = featcache("train-head")["metrics"]
        print(f"{sum(computed)} rows computed; accuracy {metrics and metrics['accuracy']}")
        return {"computed": sum(computed), "metrics": metrics}

    train(extract.expand(part=missing()))


made = features_and_head()

if __name__ == "__main__":
    run = made.test()
    raise SystemExit(0 if run.state == "success" else 1)
