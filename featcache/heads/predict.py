"""``predict``: what a head predicts for new inputs or for cached features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..progress import ProgressCallback, silent
from .predictions import Predictions
from .trained import TrainedHead

__all__ = ["predict"]


def predict(
    head: TrainedHead,
    inputs: Any,
    *,
    transform: Callable[[Any], Any] | None = None,
    batch_size: int = 64,
    device: str | None = None,
    on_error: str = "raise",
    progress: ProgressCallback = silent,
) -> Predictions:
    """Predict for new inputs or cached features; the same as ``head.predict``.

    Parameters
    ----------
    head : TrainedHead
        The trained head.
    inputs : Any
        Cached features at the head's cut, a map-style dataset, a tensor or other sequence, or any iterable. Its items
        are inputs, or (input, target) pairs whose target is ignored. If it has ``classes``, they must be those of the
        head. Names are those of the dataset (``names``), else ``item 0``, ``item 1`` and so on.
    transform : callable, optional
        Applied to each input.
    batch_size : int, default 64
        The number of inputs that run at once.
    device : str, optional
        The device to run on. By default the best one there is.
    on_error : str, default "raise"
        What to do with an input that cannot be read, or with a text or sound that the transform does not take:
        ``"raise"`` or ``"skip"``.
    progress : callable, optional
        Called with a ``ProgressEvent`` after each batch.

    Returns
    -------
    Predictions
        The predictions for every input that could be read.

    Raises
    ------
    UnreadableSampleError
        If an input cannot be read, unless ``on_error`` is ``"skip"``.
    NonFiniteError
        If the network's output for an input is NaN or infinite.
    DataError
        If the data has other classes than the head or is decoded in another way, the transform does not take a text or
        sound (unless ``on_error`` is ``"skip"``), or there are no inputs.
    StaleError
        If the features belong to another network.
    UsageError
        If ``on_error`` or ``batch_size`` is not valid, or a transform is given for cached features.

    Examples
    --------
    >>> import torch
    >>> import featcache
    >>> network = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    >>> samples = [(torch.randn(8), number % 3) for number in range(30)]
    >>> cut = featcache.split(network, "1", (torch.zeros(2, 8),))
    >>> features = featcache.extract(cut, samples, "features")
    >>> head = featcache.train_head(cut, features, epochs=1)
    >>> found = featcache.predict(head, [torch.randn(8), torch.randn(8)])
    >>> found.names
    ['item 0', 'item 1']
    >>> found.probabilities.shape
    (2, 3)
    >>> head.predict(features).labels == featcache.predict(head, samples).labels
    True
    """
    return head.predict(
        inputs, transform=transform, batch_size=batch_size, device=device, on_error=on_error, progress=progress
    )
