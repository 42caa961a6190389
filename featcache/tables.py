"""Records that people look at: a notebook shows them as a table, and pandas takes them as a frame."""

from __future__ import annotations

import dataclasses
import html
import time
from collections.abc import Sequence
from typing import Any, TypeVar

from .extras import need

__all__ = ["Records", "Tabular", "html_table"]

SHOWN = 100  # rows in a notebook
MOMENTS = ("modified_s", "pinned_s")  # seconds since 1970
Record = TypeVar("Record")


class Records(list[Record]):
    """A list of dataclasses of one kind."""

    def to_pandas(self) -> Any:
        """Return the records as a table.

        Returns
        -------
        pandas.DataFrame
            One row per record and one column per field. A value that is neither a number nor text nor None is text.

        Raises
        ------
        MissingDependencyError
            If pandas is not installed.
        """
        header, rows = _cells(self)
        return need("pandas", "pandas", "to_pandas").DataFrame(rows, columns=header)

    def _repr_html_(self) -> str:
        header, rows = _cells(self)
        for column, name in enumerate(header):
            if name in MOMENTS:
                header[column] = name.removesuffix("_s")
                for row in rows:
                    row[column] = time.strftime("%Y-%m-%d %H:%M", time.localtime(row[column])) if row[column] else None
        return html_table(header, rows)


class Tabular:
    """A result whose ``rows`` are records."""

    rows: Any

    def to_pandas(self) -> Any:
        """Return the rows as a table.

        Returns
        -------
        pandas.DataFrame
            One row per record and one column per field. A value that is neither a number nor text nor None is text.

        Raises
        ------
        MissingDependencyError
            If pandas is not installed.
        """
        return Records(self.rows).to_pandas()

    def _repr_html_(self) -> str:
        return Records(self.rows)._repr_html_()


def html_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return the first rows of a table as HTML, and how many more there are."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(f'<td>{_shown(value)}</td>' for value in row)}</tr>" for row in rows[:SHOWN])
    more = f"<p>and {len(rows) - SHOWN:,} more</p>" if len(rows) > SHOWN else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _cells(records: Sequence[Any]) -> tuple[list[str], list[list[Any]]]:
    names = [each.name for each in dataclasses.fields(records[0])] if records else []
    return names, [[_plain(getattr(record, name)) for name in names] for record in records]


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return " + ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else html.escape(str(value))
