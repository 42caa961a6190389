"""Pictures of a training: curves and confusion matrix, as SVG that reads well on light and dark ground."""

from __future__ import annotations

from matplotlib.figure import Figure

from ..errors import printable
from ..figures import FIRST, INK, SECOND, plain_axes, svg
from ..training import EpochRecord, Metrics

__all__ = ["confusion_plot", "curves_plot"]

MOST_NAMED_CLASSES = 30


def curves_plot(history: list[EpochRecord]) -> bytes:
    """Return losses, and validation accuracy where there is one, over the epochs, as SVG."""
    judged = [each for each in history if each.validation_accuracy is not None]
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    losses, *others = figure.subplots(1, 2 if judged else 1, squeeze=False)[0]
    epochs = [each.epoch for each in history]
    losses.plot(epochs, [each.train_loss for each in history], color=FIRST, label="training")
    validated = [each for each in history if each.validation_loss is not None]
    if validated:
        at = [each.epoch for each in validated]
        losses.plot(at, [each.validation_loss for each in validated], color=SECOND, label="validation")
    losses.set(xlabel="epoch", ylabel="loss")
    losses.legend(frameon=False, labelcolor=INK)
    for accuracies in others:
        at = [each.epoch for each in judged]
        accuracies.plot(at, [100 * (each.validation_accuracy or 0) for each in judged], color=SECOND)
        accuracies.set(xlabel="epoch", ylabel="validation accuracy (%)")
    for axes in (losses, *others):
        plain_axes(axes)
    return svg(figure)


def confusion_plot(metrics: Metrics, classes: list[str]) -> bytes:
    """Return the confusion matrix, rows by true class, as SVG."""
    matrix, classes = metrics.confusion_matrix, [printable(name) for name in classes]
    named = len(classes) <= MOST_NAMED_CLASSES
    side = max(3.6, 0.42 * len(classes) + 1.6) if named else 6.0
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    shares = [[count / max(1, sum(row)) for count in row] for row in matrix]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if named:
        for true, row in enumerate(matrix):
            for predicted, count in enumerate(row):
                if count:
                    color = "white" if shares[true][predicted] > 0.5 else "#303030"
                    axes.text(predicted, true, str(count), ha="center", va="center", color=color, fontsize=8)
        axes.set_xticks(
            range(len(classes)), classes, rotation=90 if max(map(len, classes)) > 3 else 0, parse_math=False
        )
        axes.set_yticks(range(len(classes)), classes, parse_math=False)
    axes.set(
        xlabel="predicted",
        ylabel="true",
        title=f"{metrics.split}: {100 * metrics.accuracy:.1f} % of {metrics.samples}",
    )
    plain_axes(axes)
    return svg(figure)
