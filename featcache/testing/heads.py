"""What heads promise."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ..features import Features
    from ..heads import TrainedHead
    from ..splitting import Split

__all__ = ["HeadContract"]


class HeadContract:
    """What every kind of head promises; ``head`` is what ``--head`` takes, ``parameters`` what ``--head-param`` gives."""

    head = ""
    parameters: Mapping[str, Any] = {}
    least_accuracy = 0.8
    """On samples whose classes a linear layer tells apart."""

    def made(self, folder: Path, seed: int = 0) -> tuple[Split, Features, TrainedHead]:
        """Return a split, its features, and a head trained from them."""
        from ..extraction import extract
        from ..heads import train_head
        from ..splitting import split
        from .small import SmallSamples, small_network

        dataset = SmallSamples()
        cut = split(small_network(), "block", (dataset.inputs[:2],))
        features = extract(cut, dataset, str(folder / "store"))
        options: dict[str, Any] = {
            "parameters": self.parameters,
            "learning_rate": 0.05,
            "validation": 0.25,
            "seed": seed,
        }
        return cut, features, train_head(cut, features, head=self.head, epochs=30, **options)

    def test_it_learns_and_leaves_the_network_alone(self, tmp_path: Path) -> None:
        """Classes that are easy to tell apart are told apart; the caller's network is as it was."""
        from .small import small_network

        cut, features, head = self.made(tmp_path)
        assert head.evaluate(features).accuracy >= self.least_accuracy  # type: ignore[union-attr]
        before = small_network().state_dict()
        assert all(np.array_equal(value, before[name]) for name, value in cut.model.state_dict().items())

    def test_it_is_the_same_each_time(self, tmp_path: Path) -> None:
        """The seed decides all that is random."""
        _, features, head = self.made(tmp_path)
        _, _, again = self.made(tmp_path)
        assert np.array_equal(head.outputs(features), again.outputs(features))

    def test_the_whole_network_gives_what_the_head_gives_of_features(self, tmp_path: Path) -> None:
        """What is trained is a network that takes images."""
        import torch

        from .small import SmallSamples

        _, features, head = self.made(tmp_path)
        with torch.no_grad():
            scores = head.model(SmallSamples().inputs)
        assert scores.shape == (len(features), 3)
        assert torch.allclose(scores, head.outputs(features), atol=1e-5)
        assert np.allclose(head.predict_proba(features).sum(1), 1)

    def test_it_comes_back_from_its_folder(self, tmp_path: Path) -> None:
        """What is saved is all of it."""
        from ..project import load_head

        cut, features, head = self.made(tmp_path)
        loaded = load_head(head.save(tmp_path / "head"), cut)
        assert np.array_equal(loaded.outputs(features), head.outputs(features))
        assert loaded.options.head == self.head
