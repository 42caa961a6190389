"""Linear probes at several cuts: how well does each layer of a backbone separate the classes?

python pipelines/linear_probe.py --cut layer2 --cut layer3 --cut layer4
"""

from __future__ import annotations

import argparse

import featcache


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="bundled:resnet-mini")
    parser.add_argument("--data", default="folder:data/digits")
    parser.add_argument("--store", default="features")
    parser.add_argument("--cut", action="append", required=True)
    options = parser.parse_args()
    project = featcache.Project(featcache.Settings(options.backbone, options.data, options.store))
    for cut in options.cut:
        report = project.extract(cut)
        head = featcache.train_head(project.split(cut), project.features(cut), head="sklearn:LogisticRegression")
        print(f"{cut}: {100 * head.metrics.accuracy:.1f} % on {head.metrics.split} ({report.computed} rows computed)")


if __name__ == "__main__":
    main()
