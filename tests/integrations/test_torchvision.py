from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models.detection import (
    FCOS,
    FasterRCNN,
    KeypointRCNN,
    MaskRCNN,
    RetinaNet,
    fasterrcnn_mobilenet_v3_large_320_fpn,
    retinanet_resnet50_fpn,
)
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
from torchvision.models.detection.ssd import SSD
from torchvision.models.resnet import BasicBlock, ResNet

import featcache
from featcache import FrozenDetector
from featcache.errors import DataError, SplitError, UnknownCutError, UsageError

SIZE = (48, 60)
COUNT = 6


def backbone() -> nn.Module:
    layers = {"layer1": "0", "layer2": "1", "layer3": "2"}
    return BackboneWithFPN(ResNet(BasicBlock, [1, 1, 1, 1]), layers, [64, 128, 256], 32)


def anchors(*ratios: float) -> AnchorGenerator:
    return AnchorGenerator(((8,), (16,), (32,), (48,)), (ratios or (0.5, 1.0, 2.0),) * 4)


def pyramid(kind: type[nn.Module], **options: Any) -> nn.Module:
    return kind(backbone(), num_classes=3, **{"min_size": 64, "max_size": 96, **options})


def r_cnn(kind: type[nn.Module], **options: Any) -> nn.Module:
    few = {"box_batch_size_per_image": 16, "box_detections_per_img": 4}
    return pyramid(kind, rpn_anchor_generator=anchors(), box_score_thresh=0.0, **few, **options)


def keypoint_r_cnn() -> nn.Module:
    head, predictor = KeypointRCNNHeads(32, (8,)), KeypointRCNNPredictor(8, 2)
    return r_cnn(KeypointRCNN, num_keypoints=None, keypoint_head=head, keypoint_predictor=predictor)


def ssd() -> nn.Module:
    boxes = DefaultBoxGenerator([[2], [2], [2], [2]])
    trunk = backbone()
    trunk.out_channels = [32] * 4
    return SSD(trunk, boxes, size=(96, 64), num_classes=3, score_thresh=0.0)


MAKERS = {
    "Faster R-CNN": lambda: r_cnn(FasterRCNN),
    "Mask R-CNN": lambda: r_cnn(MaskRCNN, mask_head=MaskRCNNHeads(32, (256,), 1)),
    "Keypoint R-CNN": keypoint_r_cnn,
    "RetinaNet": lambda: pyramid(RetinaNet, anchor_generator=anchors(), score_thresh=0.0),
    "FCOS": lambda: pyramid(FCOS, anchor_generator=anchors(1.0), score_thresh=0.0),
    "SSD": ssd,
}


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = MAKERS[name]()
    for each in model.modules():
        if isinstance(each, nn.BatchNorm2d):
            each.running_mean.normal_(std=0.1)
            each.running_var.uniform_(0.5, 1.5)
    return model


def images_of(sizes: Sequence[tuple[int, int]]) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.rand(3, *size) for size in sizes]


def targets_of(sizes: Sequence[tuple[int, int]]) -> list[dict[str, torch.Tensor]]:
    found = []
    for number, (height, width) in enumerate(sizes):
        boxes = torch.tensor([[3.0 + number, 4, 24, 30], [width / 2, height / 3, width - 2, height - 1]])
        masks = torch.zeros(2, height, width, dtype=torch.uint8)
        masks[0, 4:30, 3:24], masks[1, height // 3 :, width // 2 :] = 1, 1
        points = torch.cat([boxes.reshape(2, 2, 2), torch.ones(2, 2, 1)], dim=2)
        found.append({"boxes": boxes, "labels": torch.tensor([1, 2]), "masks": masks, "keypoints": points})
    return found


def extracted(frozen: FrozenDetector, images: Sequence[torch.Tensor], folder: Path) -> featcache.Features:
    samples = [(image, number) for number, image in enumerate(images)]
    return featcache.extract(frozen.split, samples, str(folder), transform=frozen.transform, batch_size=2)


def trained(parameters: Any, losses_of: Any) -> list[dict[str, float]]:
    """Return the losses of an epoch in batches of two; ``losses_of`` gives them for the numbers of a batch."""
    optimizer = torch.optim.SGD([each for each in parameters if each.requires_grad], lr=1e-3, momentum=0.9)
    torch.manual_seed(2)
    said = []
    for first in range(0, COUNT, 2):
        losses = losses_of([first, first + 1])
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        said.append({name: loss.item() for name, loss in losses.items()})
    return said


def train_both(
    model: nn.Module, cut: str, frozen_modules: Sequence[str], sizes: Sequence[tuple[int, int]], folder: Path
) -> tuple[nn.Module, nn.Module, FrozenDetector, featcache.Features]:
    """Train a detector on images with modules of it frozen, and a copy of it from the cache; compare the losses."""
    usual, images, targets = copy.deepcopy(model), images_of(sizes), targets_of(sizes)
    usual.train()
    for name in frozen_modules:
        usual.get_submodule(name).eval().requires_grad_(False)
    expected = trained(
        usual.parameters(), lambda numbers: usual([images[n] for n in numbers], [targets[n] for n in numbers])
    )
    frozen = FrozenDetector(model, cut, images[:2]).train()
    features = extracted(frozen, images, folder)

    def losses_of(numbers: list[int]) -> dict[str, torch.Tensor]:
        frontier, found = features.batch(torch.tensor(numbers).numpy())
        assert found.tolist() == numbers
        return frozen(frontier, [sizes[n] for n in numbers], [targets[n] for n in numbers])

    said = trained(frozen.parameters(), losses_of)
    torch.testing.assert_close(said, expected)
    assert said[0] != said[-1]
    return usual, model, frozen, features


def assert_same_detections(usual: nn.Module, model: nn.Module, images: list[torch.Tensor]) -> list[Any]:
    with torch.no_grad():
        expected, found = usual.eval()(images), model.eval()(images)
    assert all(len(each["boxes"]) for each in expected)
    torch.testing.assert_close(found, expected)
    return expected


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKERS)
def test_a_detector_learns_from_the_cache_what_it_learns_from_images_with_its_backbone_frozen(name, tmp_path) -> None:
    sizes = [SIZE] * COUNT
    before = made(name)
    usual, model, frozen, features = train_both(made(name), "backbone", ["backbone"], sizes, tmp_path / "s")
    images = images_of(sizes)
    expected = assert_same_detections(usual, model, images)
    assert set(frozen.parameters()).isdisjoint(model.backbone.parameters())
    for each, was, other in zip(model.parameters(), before.parameters(), usual.parameters(), strict=True):
        torch.testing.assert_close(each, other)
        assert other.requires_grad or torch.equal(each, was)
    frontier, _ = features.batch(torch.arange(COUNT).numpy())
    with torch.no_grad():
        torch.testing.assert_close(frozen.eval()(frontier, sizes), expected)


def test_the_backbone_is_trained_from_a_cut_within_it(tmp_path) -> None:
    before = ["backbone.body.conv1", "backbone.body.bn1", "backbone.body.layer1", "backbone.body.layer2"]
    sizes, was = [SIZE] * COUNT, made("Faster R-CNN").state_dict()
    usual, model, _, _ = train_both(made("Faster R-CNN"), "backbone.body.layer2", before, sizes, tmp_path / "s")
    assert_same_detections(usual, model, images_of(sizes))
    torch.testing.assert_close(model.state_dict(), usual.state_dict())
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, was[name])}
    assert not {name for name in changed if name.startswith(tuple(before))}
    assert {"backbone.body.layer3.0.conv1.weight", "backbone.body.layer3.0.bn1.running_mean"} <= changed


@pytest.mark.slow
@pytest.mark.parametrize("make", [retinanet_resnet50_fpn, fasterrcnn_mobilenet_v3_large_320_fpn])
def test_torchvisions_own_detectors_are_refused_whole_and_cut_as_frozen_detectors(make) -> None:
    model = make(weights=None, weights_backbone=None, num_classes=3, min_size=64, max_size=64).eval()
    images = torch.rand(2, 3, 64, 64)
    for cut in ("backbone", "backbone.body"):
        with pytest.raises(SplitError):
            featcache.split(model, cut, (images,))
        assert FrozenDetector(model, cut, images).split.flat


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SSD", "Faster R-CNN"])
def test_a_detector_of_fixed_size_takes_images_of_any_size(name, tmp_path) -> None:
    sizes = [(48, 60), (70, 50), (40, 90), (48, 60), (64, 64), (55, 77)]
    model = made(name)
    model.transform.fixed_size = (96, 64)
    usual, model, _, _ = train_both(model, "backbone", ["backbone"], sizes, tmp_path / "s")
    assert_same_detections(usual, model, images_of(sizes))


def test_images_that_become_other_sizes_are_refused_with_the_way_that_works(tmp_path) -> None:
    images = images_of([SIZE, SIZE, (90, 48)])
    frozen = FrozenDetector(made("RetinaNet"), "backbone", images[:2])
    with pytest.raises(DataError, match="fixed_size"):
        extracted(frozen, images, tmp_path / "s")
    frontier, _ = extracted(frozen, images[:2], tmp_path / "s").batch(torch.arange(2).numpy())
    with pytest.raises(DataError, match="fixed_size"):
        frozen.eval()(frontier, [SIZE, (90, 48)])
    with pytest.raises(DataError, match="fixed_size"):
        FrozenDetector(made("RetinaNet"), "backbone", images[1:])


def test_rows_need_a_size_and_a_target_each(tmp_path) -> None:
    images = images_of([SIZE, SIZE])
    frozen = FrozenDetector(made("RetinaNet"), "backbone", images).train()
    frontier, _ = extracted(frozen, images, tmp_path / "s").batch(torch.arange(2).numpy())
    for sizes, targets in (([SIZE], targets_of([SIZE])), ([SIZE] * 2, None), ([SIZE] * 2, targets_of([SIZE]))):
        with pytest.raises(DataError, match="2 rows need 2 sizes"):
            frozen(frontier, sizes, targets)


@pytest.mark.slow
def test_features_go_stale_with_the_detectors_own_preprocessing_and_not_with_its_heads(tmp_path) -> None:
    images, model = images_of([SIZE] * 4), made("RetinaNet")
    first = extracted(FrozenDetector(model, "backbone", images), images, tmp_path / "s")
    with torch.no_grad():
        model.head.classification_head.cls_logits.weight += 0.1
    again = extracted(FrozenDetector(model, "backbone", images[:1]), images, tmp_path / "s")
    assert (again.report.computed, again.recipe.fingerprint) == (0, first.recipe.fingerprint)
    model.transform.image_mean = [0.5, 0.5, 0.5]
    assert extracted(FrozenDetector(model, "backbone", images), images, tmp_path / "s").report.computed == 4


def test_what_is_no_detector_or_draws_its_scale_is_refused(net) -> None:
    images = images_of([SIZE, SIZE])
    with pytest.raises(UsageError, match=r"featcache\.split"):
        FrozenDetector(net, "backbone", images)
    with pytest.raises(UsageError, match="example images"):
        FrozenDetector(made("RetinaNet"), "backbone", [])
    with pytest.raises(UnknownCutError):
        FrozenDetector(made("RetinaNet"), "head", images)
    model = made("RetinaNet")
    model.transform.min_size = (48, 64)
    with pytest.raises(SplitError, match="one min_size"):
        FrozenDetector(model, "backbone", images)


def test_random_views_of_a_detectors_images_are_refused_since_its_boxes_would_not_move(tmp_path: Path) -> None:
    images = [torch.rand(3, 90, 120) for _ in range(2)]
    frozen = FrozenDetector(made("RetinaNet"), "backbone", images)
    samples = [(image, number) for number, image in enumerate(images)]
    with pytest.raises(UsageError, match="boxes of a detector's targets would not move"):
        featcache.extract(frozen.split, samples, tmp_path, transform=frozen.transform, augment="flip", views=2)


@pytest.mark.parametrize("given", [torch.rand(2, 3, 90, 120), list(torch.rand(2, 3, 90, 120))])
def test_a_detector_that_is_cut_as_any_network_is_refused_with_the_class_that_cuts_it(given: object) -> None:
    with pytest.raises(SplitError, match=r"featcache\.FrozenDetector"):
        featcache.split(made("RetinaNet"), "backbone", (given,))
