"""Which layers should I unfreeze? Plan, probe and sweep over the boundaries of a backbone, then train the answer.

python pipelines/which_layers.py --data folder:data/digits
"""

from __future__ import annotations

import argparse

import featcache


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="bundled:resnet-mini")
    parser.add_argument("--data", default="folder:data/digits")
    parser.add_argument("--store", default="features")
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    project = featcache.Project(featcache.Settings(options.backbone, options.data, options.store))
    asked = (project.backbone.model, project.samples, project.store)

    costs = featcache.plan(*asked, epochs=options.epochs)
    for row in costs.rows:
        print(f"{row.cut}: {row.disk_bytes / 1e6:.1f} MB, {row.verdict}")

    scores = featcache.probe(*asked)
    print(f"{scores.summary}.")

    found = featcache.sweep(*asked, [row.cut for row in costs.rows if row.worth_it] or None)
    print(f"{found.reason}.")

    head = featcache.train_head(
        project.split(found.recommended), extracted(project, found.recommended), epochs=options.epochs
    )
    assert head.metrics is not None
    print(f"{found.recommended}: {100 * head.metrics.accuracy:.1f} % on {head.metrics.split}")


def extracted(project: featcache.Project, cut: str) -> featcache.Features:
    project.extract(cut)  # the sweep has computed them: nothing is computed again
    return project.features(cut)


if __name__ == "__main__":
    main()
