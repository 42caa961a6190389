"""Train everything after a cut with the library's loader and an optimizer of your own.

python pipelines/train_suffix.py --cut layer3 --epochs 10
"""

from __future__ import annotations

import argparse

import torch

import featcache
from featcache.heads import new_network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="bundled:resnet-mini")
    parser.add_argument("--data", default="folder:data/digits")
    parser.add_argument("--store", default="features")
    parser.add_argument("--cut", default="layer3")
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    project = featcache.Project(featcache.Settings(options.backbone, options.data, options.store))
    project.extract(options.cut)
    features = project.features(options.cut)
    train, test = features.where("train"), features.where("test")
    network = new_network(project.split(options.cut), classes=len(features.classes))
    optimizer = torch.optim.SGD(network.suffix.parameters(), lr=0.02, momentum=0.9)
    batches = train.loader(64, shuffle=True, seed=0)
    for epoch in range(options.epochs):
        network.suffix.train()
        for frontier, targets in batches:
            loss = torch.nn.functional.cross_entropy(network.suffix(frontier), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        network.suffix.eval()
        with torch.no_grad():
            right = sum((network.suffix(z).argmax(1) == y).sum().item() for z, y in test.loader(256, shuffle=False))
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}, test accuracy {100 * right / len(test):.1f} %")
    # network.model is the whole network: it takes images and holds the trained layers.


if __name__ == "__main__":
    main()
