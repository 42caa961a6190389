"""Dividing an extraction among jobs that know nothing of each other: which rows belong to which task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import UsageError

__all__ = ["MissingTask", "TaskSlice", "task_count", "task_numbers"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class MissingTask:
    """A task of an extraction that is not done.

    Attributes
    ----------
    task : str
        Its number and how many there are in all, as in ``"3/100"``.
    cuts : tuple of str
        The cuts at which rows are missing.
    rows : int
        The number of missing rows.
    """

    task: str
    cuts: tuple[str, ...]
    rows: int


@dataclass(frozen=True)
class TaskSlice:
    """The tasks whose number is ``number`` modulo ``of``; all slices of one ``of`` make the whole, whenever each is run."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> TaskSlice:
        """Return the slice that ``K/N`` names; raises ``UsageError`` unless K is from 1 to N."""
        number, _, of = text.partition("/")
        if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise UsageError(f"a task is K/N with K from 1 to N, such as 3/16, not {text!r}.")
        return cls(int(number), int(of))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def chosen(self, rows: Array, samples: int, task_rows: int) -> Array:
        """Return those of the rows (position, view), (n, 2), that belong to the slice."""
        kept: Array = rows[(task_numbers(rows, samples, task_rows) - self.number) % self.of == 0]
        return kept


def task_numbers(rows: Array, samples: int, task_rows: int) -> Array:
    """Return the task, from 1, of each row (position, view): it depends on the dataset alone, not on what is there already."""
    numbers: Array = (rows[:, 1] * samples + rows[:, 0]) // task_rows + 1
    return numbers


def task_count(samples: int, views: int, task_rows: int) -> int:
    """Return how many tasks there are for all samples and their random views."""
    return -(-samples * (1 + views) // task_rows)
