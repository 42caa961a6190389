"""Texts of many samples, held as one column: Python's own strings take sixty bytes each before their first letter."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np

__all__ = ["CodedColumn", "TextColumn"]

PIECE = 1 << 14  # texts that are Python strings at once

Array = np.ndarray[Any, Any]


class _Column(Sequence[str]):
    """What both kinds of columns share: they look like lists of str that cannot be changed."""

    @abstractmethod
    def take(self, rows: Array | slice) -> _Column:
        """Return some of the texts, as a column."""

    @abstractmethod
    def _texts(self) -> list[str]: ...

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> _Column: ...
    def __getitem__(self, index: int | slice) -> str | _Column:
        if isinstance(index, slice):
            return self.take(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"text {index} of {len(self)}")
        return self.take(slice(index % len(self), index % len(self) + 1))._texts()[0]

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), PIECE):
            yield from self.take(slice(start, start + PIECE))._texts()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as of a list

    def __repr__(self) -> str:
        few = ", ".join(map(repr, self[:3]))
        return f"{type(self).__name__}({few}{', …' if len(self) > 3 else ''}; {len(self)})"


class TextColumn(_Column):
    """Texts one after another as the bytes of UTF-8, and where each begins and ends.

    Where it is not a part of another one, ``content`` holds its texts and nothing else, in their order.
    """

    def __init__(self, content: Array, starts: Array, ends: Array, is_part: bool = True) -> None:
        self.content, self.ends, self._starts, self._is_part = content, ends, starts, is_part

    @classmethod
    def of(cls, texts: Iterable[str]) -> TextColumn:
        """Return the column of some texts that is not a part of another one."""
        if isinstance(texts, cls) and not texts._is_part:
            return texts
        content = bytearray()

        def ends() -> Iterator[int]:
            for text in texts:
                content.extend(text.encode("utf-8", "surrogateescape"))
                yield len(content)

        found = np.fromiter(ends(), np.int64)
        return cls.packed(np.frombuffer(bytes(content), np.uint8), found)

    @classmethod
    def packed(cls, content: Array, ends: Array) -> TextColumn:
        """Return the column with this ``content`` and ``ends``; raises ``ValueError`` where they do not fit together."""
        last = ends[-1] if len(ends) else 0
        # Ends that fall could ask for the same text again and again, beyond any memory.
        if last != len(content) or (len(ends) and (ends[0] < 0 or (ends[1:] < ends[:-1]).any())):
            raise ValueError("the ends of its names do not rise to the end of the text")
        bounds = np.zeros(len(ends) + 1, np.uint32 if len(content) < 1 << 32 else np.int64)
        bounds[1:] = ends
        return cls(content, bounds[:-1], bounds[1:], is_part=False)

    def __len__(self) -> int:
        return len(self.ends)

    def take(self, rows: Array | slice) -> TextColumn:
        """Return some of the texts, which stay where they are."""
        return TextColumn(self.content, self._starts[rows], self.ends[rows])

    def _texts(self) -> list[str]:
        places = zip(self._starts.tolist(), self.ends.tolist(), strict=True)
        return [self.content[start:end].tobytes().decode("utf-8", "surrogateescape") for start, end in places]


class CodedColumn(_Column):
    """Texts of which few differ: a number for each, of its place among the sorted texts that occur."""

    def __init__(self, codes: Array, table: Sequence[str]) -> None:
        """Take numbers and what they stand for; raises ``IndexError`` for one without text, ``TypeError`` for no text."""
        used = np.flatnonzero(np.bincount(codes)) if len(codes) else np.empty(0, np.int64)
        texts = {int(code): table[code] for code in used.tolist()}
        if not all(isinstance(text, str) for text in texts.values()):
            raise TypeError("a name of a split is not text")
        self.table = tuple(sorted(set(texts.values())))
        if list(self.table) != [texts.get(code) for code in range(len(used))]:
            numbers = {text: number for number, text in enumerate(self.table)}
            places = np.zeros(int(used[-1]) + 1, np.int64)
            places[used] = [numbers[texts[code]] for code in used.tolist()]
            codes = places[codes]
        self.codes = codes.astype(np.uint8 if len(self.table) <= 256 else np.int32, copy=False)

    @classmethod
    def of(cls, texts: Iterable[str]) -> CodedColumn:
        """Return the column of some texts."""
        if isinstance(texts, cls):
            return texts
        table: dict[str, int] = {}
        codes = np.fromiter((table.setdefault(str(text), len(table)) for text in texts), np.int32)
        return cls(codes, list(table))

    def __len__(self) -> int:
        return len(self.codes)

    def take(self, rows: Array | slice) -> CodedColumn:
        """Return some of the texts."""
        return CodedColumn(self.codes[rows], self.table)

    def array(self) -> Array:
        """Return the texts as an array of numpy's own kind of text."""
        texts: Array = np.array(self.table, dtype=str)[self.codes]
        return texts

    def among(self, texts: Iterable[str]) -> Array:
        """Return for each whether it is one of some texts, as booleans."""
        wanted = set(texts)
        found: Array = np.array([text in wanted for text in self.table], dtype=bool)[self.codes]
        return found

    def _texts(self) -> list[str]:
        return [self.table[code] for code in self.codes.tolist()]
