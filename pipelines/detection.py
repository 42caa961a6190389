"""Handwritten digits found in pictures: Faster R-CNN behind the frozen layers of a network that has read digits.

    python pipelines/detection.py --epochs 5

Each picture has up to three digits of scikit-learn's set on a noisy ground. The frozen layers run once a picture; the feature
pyramid, the region proposals and the boxes are trained from the cache, with the detector's own losses. What comes out is a
whole detector: --save keeps it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.nn.functional import interpolate
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops import MultiScaleRoIAlign, box_iou

import featcache

SIDE = 64
Target = dict[str, torch.Tensor]


def pictures(count: int, digits: np.ndarray, labels: np.ndarray, seed: int) -> tuple[list[torch.Tensor], list[Target]]:
    """Return grey pictures of digits, each with the boxes and labels of its digits; label 0 is the ground."""
    random = np.random.default_rng(seed)
    images, targets = [], []
    for _ in range(count):
        picture = torch.from_numpy(random.uniform(0, 0.15, (SIDE, SIDE)).astype("float32"))
        boxes, classes = [], []
        for left, top in random.permutation([(0, 0), (32, 0), (0, 32), (32, 32)])[: random.integers(1, 4)].tolist():
            number, height = random.integers(len(digits)), int(random.integers(18, 30))
            x, y = left + random.integers(0, 33 - height), top + random.integers(0, 33 - height)
            digit = interpolate(torch.from_numpy(digits[number])[None, None], (height, height), mode="bilinear")[0, 0]
            picture[y : y + height, x : x + height] = picture[y : y + height, x : x + height].maximum(digit)
            rows, columns = (digit.amax(1) > 0.2).nonzero(), (digit.amax(0) > 0.2).nonzero()
            boxes.append([x + columns[0], y + rows[0], x + columns[-1] + 1, y + rows[-1] + 1])
            classes.append(labels[number] + 1)
        images.append(picture[None])
        targets.append({"boxes": torch.tensor(boxes, dtype=torch.float32), "labels": torch.tensor(classes)})
    return images, targets


def detector() -> FasterRCNN:
    trunk = featcache.load_backbone("bundled:resnet-mini").model
    backbone = BackboneWithFPN(trunk, {"layer3": "0", "layer4": "1"}, [64, 96], 64)
    return FasterRCNN(
        backbone,
        num_classes=11,
        min_size=SIDE,
        max_size=SIDE,
        image_mean=[0.1307],
        image_std=[0.3081],
        rpn_anchor_generator=AnchorGenerator(((16, 24), (24, 32), (40, 48)), ((1.0, 1.6),) * 3),
        box_roi_pool=MultiScaleRoIAlign(["0", "1"], output_size=5, sampling_ratio=2),
        rpn_pre_nms_top_n_train=200,
        rpn_pre_nms_top_n_test=200,
        rpn_post_nms_top_n_train=100,
        rpn_post_nms_top_n_test=50,
        box_batch_size_per_image=32,
    )


def found(detections: list[Target], targets: list[Target]) -> tuple[float, float]:
    """Return the share of detections above a score of 0.5 that are right, and the share of digits that are found."""
    right = said = there = 0
    for each, target in zip(detections, targets, strict=True):
        kept = each["scores"] > 0.5
        overlap = box_iou(target["boxes"], each["boxes"][kept]) > 0.5
        right += int((overlap & (target["labels"][:, None] == each["labels"][kept])).any(1).sum())
        said, there = said + int(kept.sum()), there + len(target["labels"])
    return right / max(said, 1), right / there


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", default="features")
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--save", type=Path, help="A file for the whole detector's state_dict.")
    options = parser.parse_args()
    digits = load_digits()
    drawn, labels = (digits.images / 16).astype("float32"), digits.target
    images, targets = pictures(options.pictures, drawn[:1300], labels[:1300], seed=0)
    unseen, expected = pictures(100, drawn[1300:], labels[1300:], seed=1)

    torch.manual_seed(0)
    model = detector()
    frozen = featcache.FrozenDetector(model, "backbone.body", images[:2])
    samples = [(image, number) for number, image in enumerate(images)]
    features = featcache.extract(frozen.split, samples, options.store, transform=frozen.transform)
    print(f"{features.report.computed} computed, {features.report.reused} reused in {features.report.elapsed_s:.1f} s")

    optimizer = torch.optim.AdamW(frozen.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs)
    for epoch in range(options.epochs):
        for frontier, numbers in features.loader(8, seed=0):
            losses = frozen.train()(frontier, [(SIDE, SIDE)] * len(numbers), [targets[number] for number in numbers])
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
        schedule.step()
        print(f"epoch {epoch + 1}: " + ", ".join(f"{name} {loss.item():.3f}" for name, loss in losses.items()))

    with torch.no_grad():  # the detector itself is trained: it takes pictures
        right, there = found(model.eval()(unseen), expected)
    print(f"of the detections {100 * right:.1f} % are right; of the digits {100 * there:.1f} % are found")
    if options.save is not None:
        torch.save(model.state_dict(), options.save)


if __name__ == "__main__":
    main()
