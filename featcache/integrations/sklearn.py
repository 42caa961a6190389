"""``FrozenFeatures``: the frozen prefix of a network as a scikit-learn transformer, with its features cached."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from ..backbones import load_backbone
from ..codecs import pooled_spec
from ..errors import DataError
from ..extraction import example_of, extract, refuse_changed
from ..samples import Samples, load_transform
from ..splitting import Split, split

if TYPE_CHECKING:
    from torch import nn

__all__ = ["FrozenFeatures"]

Array = np.ndarray[Any, Any]


class FrozenFeatures(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A scikit-learn transformer from samples to what crosses a cut of a frozen network, computed once and cached.

    It gives one float32 vector per sample. Rows are known by the content of their sample, so the folds of a
    cross-validation and the heads of a grid search share them, in any order and in later processes too. The network is
    never changed, and clones share it.

    Parameters
    ----------
    backbone : torch.nn.Module or str, default "bundled:resnet-mini"
        A network, or a specification as for ``featcache.load_backbone``.
    cut : str, default "layer4"
        The module of the network to cut after.
    store : str, default "features"
        The folder of the store.
    preprocess : callable, optional
        The transform from a sample to the network's input. Without one, samples are images (PIL, or arrays of bytes)
        for a backbone by specification, whose own transform is used, and tensors or arrays for a network.
    pool : str, default "auto"
        How features become vectors, as for ``featcache.extract``.
    batch_size : int, default 64
        The samples per forward pass.
    device : str, optional
        The device to run on. By default the best one there is.
    dtype : str, default "float32"
        The stored precision, as for ``featcache.extract``.

    Attributes
    ----------
    split_ : Split
        The network, cut. Available after ``fit``.
    width_ : int
        The length of the vectors. Available after ``fit``.
    report_ : ExtractReport
        What the last ``transform`` computed.

    Examples
    --------
    >>> import numpy
    >>> import torch
    >>> import featcache
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> network = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    >>> X = numpy.random.default_rng(0).normal(size=(30, 8)).astype("float32")
    >>> y = numpy.arange(30) % 3
    >>> frozen = featcache.FrozenFeatures(network, cut="1", store="features")
    >>> frozen.fit_transform(X).shape
    (30, 4)
    >>> model = make_pipeline(frozen, LogisticRegression()).fit(X, y)
    >>> model.predict(X).shape
    (30,)
    """

    def __init__(
        self,
        backbone: nn.Module | str = "bundled:resnet-mini",
        cut: str = "layer4",
        store: str = "features",
        *,
        preprocess: Callable[[Any], Any] | None = None,
        pool: str = "auto",
        batch_size: int = 64,
        device: str | None = None,
        dtype: str = "float32",
    ) -> None:
        self.backbone = backbone
        self.cut = cut
        self.store = store
        self.preprocess = preprocess
        self.pool = pool
        self.batch_size = batch_size
        self.device = device
        self.dtype = dtype

    def fit(self, X: Any, y: Any = None) -> FrozenFeatures:  # noqa: N803
        """Split the network at the cut; nothing is learned from the samples.

        Parameters
        ----------
        X : array or sequence of samples
            The samples. A few of them serve as example inputs.
        y : Any, optional
            Ignored.

        Returns
        -------
        FrozenFeatures
            The transformer itself.

        Raises
        ------
        DataError
            If the samples cannot be used.
        SplitError
            If caching at the cut is unsound.
        UnknownNameError
            If the backbone or the cut is unknown.
        """
        model, self.preprocess_, self.images_ = self.backbone, self.preprocess, False
        if isinstance(model, str):
            loaded = load_backbone(model)
            model = loaded.model
            if self.preprocess is None:
                self.preprocess_, self.images_ = load_transform(None, None, loaded), True
        example = example_of(self._samples(X))
        self.split_: Split = split(model, self.cut, example.inputs, example.other_length)
        self.width_ = pooled_spec(self.pool, self.cut, self.split_.frontier).value_shape[0]
        return self

    def transform(self, X: Any) -> Array:  # noqa: N803
        """Return the features of samples, computing only those that the store has not seen.

        Parameters
        ----------
        X : array or sequence of samples
            The samples.

        Returns
        -------
        numpy.ndarray, shape (samples, width), float32
            One vector per sample.

        Raises
        ------
        DataError
            If the samples cannot be used.
        StaleError
            If samples changed meanwhile, so that they have no features.
        StoreError
            If the store cannot be used.
        sklearn.exceptions.NotFittedError
            If ``fit`` has not been called.
        """
        check_is_fitted(self, "split_")
        if not len(X):
            return np.zeros((0, self.width_), dtype=np.float32)
        features = extract(
            self.split_, self._samples(X), self.store, pool=self.pool, batch_size=self.batch_size, device=self.device,
            dtype=self.dtype,
        )  # fmt: skip
        self.report_ = features.report
        refuse_changed([features.report])
        vectors: Array = features.numpy()[0]
        return vectors

    def get_feature_names_out(self, input_features: Any = None) -> Array:
        """Return a name for each column: the cut and a number.

        Parameters
        ----------
        input_features : Any, optional
            Ignored.

        Returns
        -------
        numpy.ndarray, shape (width,), object
            The names.
        """
        check_is_fitted(self, "split_")
        return np.array([f"{self.cut}_{number}" for number in range(self.width_)], dtype=object)

    def _samples(self, X: Any) -> Samples:  # noqa: N803
        return Samples(_Items(X, self.images_), self.preprocess_, "frozen-features")

    def __sklearn_clone__(self) -> FrozenFeatures:
        # A deep copy of the network, which is scikit-learn's way, would take its memory once a fold.
        return type(self)(**self.get_params(deep=False))


class _Items(torch.utils.data.Dataset[tuple[Any, int]]):
    """Samples of a sequence or an array, with the target 0; ``images`` makes PIL images of arrays of bytes."""

    def __init__(self, values: Any, images: bool) -> None:
        if not hasattr(values, "__len__") or not hasattr(values, "__getitem__"):
            raise DataError(f"X must be an array or a sequence of samples, not {type(values).__name__}.")
        self.values = values
        self.images = images

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        value = self.values[index]
        if not isinstance(value, np.ndarray):
            return value, 0
        if not self.images:
            return torch.from_numpy(np.ascontiguousarray(value)), 0
        if value.dtype != np.uint8 or value.ndim not in (2, 3):
            raise DataError(
                f"sample {index} is an array of {value.dtype} of shape {list(value.shape)}, not an image: give bytes of shape "
                "(height, width) or (height, width, 3), or a preprocess of your own."
            )
        return Image.fromarray(value).convert("RGB"), 0
