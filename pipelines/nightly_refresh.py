"""A nightly job: compute what is missing, train again if anything changed, publish the head only if it is good enough.

    python pipelines/nightly_refresh.py --cut layer3 --least-accuracy 0.95

Exits 1, and leaves the published head alone, where the new one is worse than that.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import featcache


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="bundled:resnet-mini")
    parser.add_argument("--data", default="folder:data/digits")
    parser.add_argument("--store", default="features")
    parser.add_argument("--cut", default="layer3")
    parser.add_argument("--least-accuracy", type=float, default=0.95)
    parser.add_argument("--publish", type=Path, default=Path("published-head"))
    parser.add_argument("--export", type=Path, help="A file for the whole network, such as model.safetensors.")
    options = parser.parse_args()
    settings = featcache.Settings(options.backbone, options.data, options.store)
    report = featcache.Project(settings).extract(options.cut, on_error="skip")
    print(f"{report.samples} samples: {report.computed} computed, {report.reused} reused, {report.skipped} skipped")
    if not report.computed and (options.publish / "head.json").is_file():
        print("nothing new: the published head stays")
        return
    project = featcache.Project(settings)
    head = featcache.train_head(project.split(options.cut), project.features(options.cut), patience=5)
    accuracy = head.metrics.accuracy
    if accuracy < options.least_accuracy:
        print(f"accuracy {accuracy:.3f} is below {options.least_accuracy}: not published", file=sys.stderr)
        sys.exit(1)
    head.save(options.publish, origin={"backbone": options.backbone, "data": options.data})
    if options.export is not None:
        featcache.export_head(head, options.export)
    print(f"accuracy {accuracy:.3f}: published {options.publish}")


if __name__ == "__main__":
    main()
