"""Extract on a Ray cluster: samples are read and shards written by the actors, only receipts come back.

    RAY_ADDRESS=auto python pipelines/ray_extract.py --data folder:/shared/photos --store s3://bucket/features --actors 8

Without RAY_ADDRESS a cluster of this machine is started for the job. The store must be one that all nodes reach.
"""

from __future__ import annotations

import argparse

import featcache


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="bundled:resnet-mini")
    parser.add_argument("--data", default="folder:data/digits")
    parser.add_argument("--store", default="features")
    parser.add_argument("--cut", action="append", default=[])
    parser.add_argument("--actors", type=int, default=2)
    options = parser.parse_args()
    project = featcache.Project(featcache.Settings(options.backbone, options.data, options.store))
    for report in project.extract_cuts(options.cut or ["layer3"], engine=f"ray:{options.actors}", on_error="skip"):
        print(f"{report.cut}: {report.computed} computed, {report.reused} reused in {report.elapsed_s:.0f} s")
        bound = report.timings.bound()
        if bound is not None:
            print(f"bound by: {bound.part} ({100 * bound.share:.0f} %)")


if __name__ == "__main__":
    main()
