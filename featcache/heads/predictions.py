"""What a head predicts, and the forms in which it is written down."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..errors import printable
from ..extras import need
from ..samples import TARGET_PADDING, Unreadable
from ..tables import html_table
from ..training import Task

__all__ = ["Predictions", "predictions_of"]


@dataclass(repr=False)
class Predictions:
    """What the network predicts for each input.

    Attributes
    ----------
    names : list of str
        The name of each input that could be read.
    labels : list of str
        The class name of each input. For several labels the predicted ones, joined by ``|``; for tokens that of each,
        joined by spaces; for dense targets the class of most pixels; for values an empty string.
    classes : list of str
        The names of the outputs.
    probabilities : numpy.ndarray, shape (inputs, classes), float64
        The probability of each class. The shape is (inputs, 0) for values, dense targets and tokens.
    skipped : list of Unreadable
        The inputs that could not be read, each with its ``position``, ``name`` and ``reason``.
    task : Task, optional
        What the head learned.
    values : numpy.ndarray, shape (inputs, …)
        The predictions in the form of the targets: class numbers, rows of 0 and 1, values, masks, or the classes of
        tokens, padded with -100.
    """

    names: list[str]
    labels: list[str]
    classes: list[str]
    probabilities: np.ndarray[Any, Any]
    skipped: list[Unreadable] = field(default_factory=list)
    task: Task | None = None
    values: np.ndarray[Any, Any] = field(default_factory=lambda: np.zeros(0))

    def to_csv(self) -> str:
        """Return the predictions as CSV text.

        The columns are the name, the label, the probability of the label, and one column per class. Several labels have
        no single probability, and values have neither label nor probability. For dense targets the columns of the
        classes hold each class's share of the pixels. For tokens there is a column of their classes, joined by spaces. A class
        that is called as another column has the column ``output NAME``.

        Returns
        -------
        str
            The CSV text, with a header line.
        """
        form = ".6g" if self._kind in ("regression", "output") else ".6f"
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        header, rows = self._table()
        writer.writerow(header)
        writer.writerows([each if isinstance(each, str) else format(each, form) for each in row] for row in rows)
        return printable(out.getvalue())

    def to_pandas(self) -> Any:
        """Return the predictions as a table with the columns of ``to_csv``.

        Returns
        -------
        pandas.DataFrame
            One row per input.

        Raises
        ------
        MissingDependencyError
            If pandas is not installed.
        """
        header, rows = self._table()
        return need("pandas", "pandas", "to_pandas").DataFrame(rows, columns=header)

    def __repr__(self) -> str:
        kinds = f"{len(self.classes)} classes" if self._kind not in ("regression", "output") else "values"
        skipped = f", {len(self.skipped)} skipped" if self.skipped else ""
        return f"Predictions({len(self.names)} inputs, {kinds}{skipped})"

    def _repr_html_(self) -> str:
        return html_table(*self._table())

    @property
    def _kind(self) -> str:
        return "single_label" if self.task is None else self.task.kind

    def _table(self) -> tuple[list[str], list[list[Any]]]:
        between = {
            "single_label": ["label", "probability"], "multi_label": ["labels"], "dense": ["label"], "token": ["labels"],
        }.get(self._kind, [])  # fmt: skip
        rows = []
        for name, label, row in zip(self.names, self.labels, self._columns(), strict=True):
            filled = {"single_label": [label, float(max(row, default=0.0))], "regression": [], "output": []}
            rows.append([name, *filled.get(self._kind, [label]), *row.tolist()])
        return _unlike(["name", *between], self._names()), rows

    def to_json(self) -> str:
        """Return the predictions as JSON text.

        The text is a list of inputs with name, label and probabilities by class name. Several labels are a list of
        names under ``labels``, and so are the classes of tokens, which have no probabilities. Values are under
        ``values`` by name, and the pixel shares of dense targets under ``shares``.

        Returns
        -------
        str
            The JSON text.
        """
        kind = self._kind
        key = {"regression": "values", "output": "values", "dense": "shares"}.get(kind, "probabilities")
        described = []
        for name, label, row in zip(self.names, self.labels, self._columns(), strict=True):
            one: dict[str, Any] = {"name": printable(name)}
            label = printable(label)
            if kind == "multi_label":
                one["labels"] = label.split("|") if label else []
            elif kind == "token":
                described.append({**one, "labels": label.split(" ")})
                continue
            elif kind not in ("regression", "output"):
                one["label"] = label
            plain = kind in ("regression", "output")
            rounded = [float(f"{value:.6g}") if plain else round(float(value), 6) for value in row]
            described.append({**one, key: dict(zip(map(printable, self._names()), rounded, strict=True))})
        return json.dumps(described, indent=1)

    def _names(self) -> list[str]:
        """Return the name of each column."""
        if self.task is None or self.task.kind not in ("token", "output"):
            return self.classes
        return [f"value {number}" for number in range(self._columns().shape[1])]

    def _columns(self) -> np.ndarray[Any, Any]:
        """Return one number for each input and class."""
        if self.task is None or self.task.kind in ("single_label", "multi_label"):
            return self.probabilities
        if self.task.kind in ("regression", "output"):
            return self.values.reshape(len(self.names), -1)
        if self.task.kind == "token":
            return np.zeros((len(self.names), 0))
        return _shares(self.values, len(self.classes))


def _unlike(header: list[str], names: list[str]) -> list[str]:
    """Return a header with a column for each output; one that is called as another column is ``output NAME``."""
    columns = dict.fromkeys(header)
    for name in names:
        while name in columns:
            name = f"output {name}"
        columns[name] = None
    return list(columns)


def _shares(masks: np.ndarray[Any, Any], classes: int) -> np.ndarray[Any, Any]:
    counts = np.stack([np.bincount(mask.reshape(-1), minlength=classes) for mask in masks])
    shares: np.ndarray[Any, Any] = counts / counts.sum(axis=1, keepdims=True)
    return shares


def predictions_of(
    task: Task, outputs: torch.Tensor, names: Sequence[str], skipped: Sequence[Unreadable] = ()
) -> Predictions:
    """Return what a task reads from the network's outputs of some inputs."""
    values = task.decoded(outputs)
    of_classes = task.kind in ("single_label", "multi_label")
    probabilities = task.probabilities(outputs) if of_classes else np.zeros((len(outputs), 0))
    labels = _labels(task, values)
    return Predictions(list(names), labels, list(task.classes), probabilities, list(skipped), task, values)


def _labels(task: Task, values: np.ndarray[Any, Any]) -> list[str]:
    if task.kind in ("regression", "output"):
        return [""] * len(values)
    if task.kind == "multi_label":
        return ["|".join(task.classes[number] for number in np.flatnonzero(row)) for row in values]
    if task.kind == "token":
        return [" ".join(task.classes[number] for number in row if number != TARGET_PADDING) for row in values]
    numbers = _shares(values, task.outputs).argmax(axis=1) if task.kind == "dense" else values
    return [task.classes[number] for number in numbers.tolist()]
