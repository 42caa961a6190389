"""``FrozenDetector``: a torchvision detector whose backbone is frozen up to a cut, trained from the cache."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..errors import DataError, SplitError, UsageError
from ..splitting import Split, split

__all__ = ["FrozenDetector"]

Frontier = torch.Tensor | Mapping[str, torch.Tensor]
Target = dict[str, torch.Tensor]


class FrozenDetector(nn.Module):
    """A detector of torchvision, frozen up to a cut in its backbone, which takes cached features in place of images.

    ``featcache.extract`` computes the features from ``split`` and ``transform``. Called with a batch of them, it does
    what the detector does with the images: it gives the detector's own losses in training mode, and detections in
    evaluation mode. It shares its parameters with the detector, so the detector itself is trained.

    Before the cut the backbone stays in evaluation mode, with the statistics that its normalization layers have.
    Images that are resized to one size can be cached; images of several sizes need a detector that was made with
    ``fixed_size=(width, height)``, as SSD always is. Random scales and augmented boxes cannot be had from the cache.

    Parameters
    ----------
    model : torch.nn.Module
        The detector: Faster R-CNN, Mask R-CNN, Keypoint R-CNN, RetinaNet, FCOS or SSD, with the heads to be trained.
    cut : str
        The module to cut after: ``"backbone"``, or one within it.
    images : sequence of torch.Tensor, each of shape (channels, height, width)
        Example images, as the detector takes them. The backbone is recorded on them.

    Attributes
    ----------
    split : Split
        The backbone, cut.
    transform : callable
        The detector's own resizing and normalization of one image, which ``extract`` takes.

    Raises
    ------
    SplitError
        If caching at the cut is unsound, or the detector draws a scale for each image in training mode.
    UnknownCutError
        If the cut is not the backbone or a module within it.
    UsageError
        If the model is no detector of torchvision's kind, or there is no example image.

    Examples
    --------
    >>> import torch
    >>> import featcache
    >>> from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn
    >>> detector = fasterrcnn_mobilenet_v3_large_320_fpn(
    ...     weights=None, weights_backbone=None, num_classes=2, min_size=96, max_size=128
    ... )
    >>> images = [torch.rand(3, 90, 120) for _ in range(4)]
    >>> targets = [{"boxes": torch.tensor([[9.0, 9, 50, 60]]), "labels": torch.tensor([1])} for _ in images]
    >>> frozen = featcache.FrozenDetector(detector, "backbone", images[:2])
    >>> samples = [(image, number) for number, image in enumerate(images)]
    >>> features = featcache.extract(frozen.split, samples, "features", transform=frozen.transform)
    >>> for frontier, numbers in features.loader(batch_size=2):
    ...     losses = frozen.train()(frontier, [(90, 120)] * 2, [targets[number] for number in numbers])
    >>> sorted(losses)
    ['loss_box_reg', 'loss_classifier', 'loss_objectness', 'loss_rpn_box_reg']
    """

    def __init__(self, model: nn.Module, cut: str, images: Sequence[torch.Tensor]) -> None:
        super().__init__()
        if not len(images):
            raise UsageError("a detector is cut on example images, as it takes them: give one or more, not none.")
        self.transform = _Prepare(_transform_of(model), images[0])
        batch = torch.stack([self.transform(image) for image in images])
        self.split: Split = split(_Backbone(model.get_submodule("backbone")), cut, (batch,))
        self.detector = _with_backbone(model, self.split.suffix)
        self.train(model.training)

    def forward(
        self, frontier: Frontier, sizes: Sequence[tuple[int, int]], targets: Sequence[Target] | None = None
    ) -> Any:
        """Return the detector's losses in training mode, its detections in evaluation mode.

        Parameters
        ----------
        frontier : torch.Tensor or mapping of str to torch.Tensor
            A batch of features.
        sizes : sequence of (int, int)
            The height and width of each image, before the detector resizes it.
        targets : sequence of dict of str to torch.Tensor, optional
            The boxes and labels of each image, and masks or keypoints, as the detector takes them.

        Returns
        -------
        dict of str to torch.Tensor, or list of dict of str to torch.Tensor
            The losses, or each image's detections.

        Raises
        ------
        DataError
            If there is not one size and one target for each row, or an image of that size is not what was extracted.
        """
        rows = len(frontier if isinstance(frontier, torch.Tensor) else next(iter(frontier.values())))
        found = rows if targets is None and not self.training else len(targets or ())
        if len(sizes) != rows or found != rows:
            raise DataError(
                f"{rows} rows need {rows} sizes, and as many targets to train on, not {len(sizes)} and {found}."
            )
        # Images without content: the detector resizes the targets by their shapes, and draws what it draws.
        channels = self.transform.shape[0]
        images = [torch.empty(channels, *size, device="meta") for size in sizes]
        answer = _Answer(self.detector.backbone, frontier, self.transform.shape)
        return _with_backbone(self.detector, answer)(images, targets)


class _Prepare:
    """The detector's resizing, normalization and padding, of one image."""

    no_views = "the boxes of a detector's targets would not move with what is in its images"

    def __init__(self, transform: nn.Module, example: torch.Tensor) -> None:
        self.transform = copy.copy(transform).eval()
        self.shape: tuple[int, ...] = tuple(self._made(example).shape)

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        made = self._made(image)
        _check_size(made.shape, self.shape)
        return made

    def _made(self, image: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.transform([image])[0].tensors[0]
        return made


class _Backbone(nn.Module):
    """The backbone under the name that it has in the detector."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: torch.Tensor) -> Any:
        return self.backbone(images)


class _Answer(nn.Module):
    """A backbone that answers with what comes after the cut, whatever the images hold."""

    def __init__(self, suffix: nn.Module, frontier: Frontier, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.suffix, self.frontier, self.shape = suffix, frontier, shape

    def forward(self, images: torch.Tensor) -> Any:
        _check_size(images.shape[1:], self.shape)
        return self.suffix(self.frontier)


def _with_backbone(model: nn.Module, backbone: nn.Module) -> Any:
    """Return the detector itself, all of it shared, but with another backbone."""
    made = copy.copy(model)
    made._modules = {**model._modules, "backbone": backbone}
    return made


def _check_size(found: Sequence[int], expected: Sequence[int]) -> None:
    if tuple(found) != tuple(expected):
        raise DataError(
            f"an image becomes {list(found)} where the examples became {list(expected)}: give images of one size, or make "
            "the detector with fixed_size=(width, height), which brings all to one size."
        )


def _transform_of(model: nn.Module) -> Any:
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    parts = dict(model.named_children())
    transform = parts.get("transform")
    if not isinstance(transform, GeneralizedRCNNTransform) or "backbone" not in parts:
        raise UsageError(
            f"{type(model).__name__} is no detector of torchvision's kind, with a `transform` and a `backbone`: cut it with "
            "featcache.split."
        )
    if transform._skip_resize or (len(transform.min_size) > 1 and transform.fixed_size is None):
        raise SplitError(
            f"{type(model).__name__} resizes images otherwise in training mode (min_size={transform.min_size}, "
            f"_skip_resize={transform._skip_resize}): make it with one min_size, so that each image has one value to cache."
        )
    return transform
