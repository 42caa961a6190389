"""Where the seconds of an extraction went, and what limits it."""

from __future__ import annotations

from dataclasses import dataclass, fields

__all__ = ["DECODING", "Bound", "Timings"]

DECODING = "image decoding"
ADVICE = {
    "wait_s": (
        DECODING,
        "give it more --workers, store the images smaller or nearer, or spread the tasks over machines",
    ),
    "forward_s": (
        "the network",
        "use --numerics fast or bf16, a GPU or more of them (--engine processes), or a shallower cut",
    ),
    "transfer_s": ("copying from the device", "choose a cut with a smaller frontier, or --pool auto"),
    "write_wait_s": ("writing", "use a faster store, --dtype float16 or --pool auto"),
}


@dataclass(frozen=True)
class Bound:
    """What took the largest share of an extraction's time, and what to do about it.

    Attributes
    ----------
    part : str
        What took it, in words.
    share : float
        Its share of the time, from 0 to 1.
    advice : str
        What to do about it.
    """

    part: str
    share: float
    advice: str


@dataclass
class Timings:
    """What the seconds of an extraction were spent on, summed over all workers.

    Attributes
    ----------
    decode_s : float
        Reading and transforming samples, wherever it was done.
    wait_s : float
        The network waiting for samples.
    forward_s : float
        The network's computation.
    transfer_s : float
        Copying the network's results from the device.
    write_s : float
        Writing shards.
    write_wait_s : float
        The part of ``write_s`` that was not hidden behind the rest.
    """

    decode_s: float = 0.0
    wait_s: float = 0.0
    forward_s: float = 0.0
    transfer_s: float = 0.0
    write_s: float = 0.0
    write_wait_s: float = 0.0

    def add(self, other: Timings) -> None:
        """Add the seconds of another part.

        Parameters
        ----------
        other : Timings
            The seconds to add.
        """
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    def bound(self) -> Bound | None:
        """Return what limited the extraction.

        Returns
        -------
        Bound or None
            The largest part of the time. None if nothing was done.
        """
        parts = {name: float(getattr(self, name)) for name in ADVICE}
        total = sum(parts.values())
        if not total:
            return None
        name = max(parts, key=lambda each: parts[each])
        return Bound(ADVICE[name][0], parts[name] / total, ADVICE[name][1])
