"""What engines promise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .raising import raises

__all__ = ["EngineContract"]


class EngineContract:
    """What every engine promises; ``engine`` is what ``--engine`` takes."""

    engine = ""

    def test_it_gives_what_one_process_gives_bit_for_bit(self, tmp_path: Path) -> None:
        """Every row of several cuts is computed once, in shards of the same bytes, whatever runs them."""
        from ..extraction import extract
        from .small import SAMPLES, SmallSamples, small_network

        network, dataset = small_network(), SmallSamples()
        options: dict[str, Any] = {"cut": ["stem", "block"], "batch_size": 4, "shard_bytes": 1}
        here = extract(network, dataset, str(tmp_path / "here"), **options)
        there = extract(network, dataset, str(tmp_path / "there"), engine=self.engine, **options)
        for cut, features in here.items():
            report = there[cut].report
            assert report is not None
            assert (report.computed, report.remaining, len(report.shards)) == (SAMPLES, 0, SAMPLES // 4)
            assert np.array_equal(features.numpy()[0], there[cut].numpy()[0])
            assert np.array_equal(features.numpy()[1], there[cut].numpy()[1])

    def test_what_is_there_is_not_computed_again(self, tmp_path: Path) -> None:
        """A second run, and one of a part that is done, compute nothing."""
        from ..extraction import extract
        from .small import SAMPLES, SmallSamples, small_network

        network, dataset, store = small_network(), SmallSamples(), str(tmp_path / "store")
        part = extract(
            network, dataset, store, cut="block", batch_size=4, shard_bytes=1, engine=self.engine, task="1/2"
        )
        whole = extract(network, dataset, store, cut="block", batch_size=4, shard_bytes=1, engine=self.engine)
        again = extract(network, dataset, store, cut="block", batch_size=4, shard_bytes=1, engine=self.engine)
        computed = [each.report.computed for each in (part, whole, again) if each.report is not None]
        assert computed == [SAMPLES // 2, SAMPLES // 2, 0]

    def test_an_error_comes_back_as_it_was_and_what_was_done_is_kept(self, tmp_path: Path) -> None:
        """A sample without finite features is named; the rows before it need not be computed again."""
        from ..errors import NonFiniteError
        from ..extraction import extract
        from .small import SAMPLES, SmallSamples, small_network

        network, bad, store = small_network(), SmallSamples(bad=SAMPLES - 1), str(tmp_path / "store")
        options: dict[str, Any] = {"cut": "stem", "batch_size": 4, "shard_bytes": 1, "engine": self.engine}
        with raises(NonFiniteError, str(SAMPLES - 1)):
            extract(network, bad, store, **options)
        report = extract(network, bad, store, on_error="skip", **options).report
        assert report is not None
        assert report.skipped == 1
        assert report.computed + report.reused == SAMPLES - 1

    def test_it_can_be_cancelled(self, tmp_path: Path) -> None:
        """What the progress callback raises ends the extraction, and the next one goes on from there."""
        from ..extraction import extract
        from ..progress import ProgressEvent
        from .small import SAMPLES, SmallSamples, small_network

        class CancelledError(Exception):
            pass

        def cancel(event: ProgressEvent) -> None:
            if event.stage == "extract" and event.done:
                raise CancelledError

        network, dataset, store = small_network(), SmallSamples(), str(tmp_path / "store")
        options: dict[str, Any] = {"cut": "stem", "batch_size": 4, "shard_bytes": 1, "engine": self.engine}
        with raises(CancelledError):
            extract(network, dataset, store, progress=cancel, **options)
        report = extract(network, dataset, store, **options).report
        assert report is not None
        assert report.reused > 0
        assert report.computed + report.reused == SAMPLES
