"""The page about a head of every task, by the public API."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import featcache
from featcache.report import html_report, intervals
from featcache.report.judged import judge
from featcache.training import measure

from .test_report import Page

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

CODE = """
import torch
from torch import nn

class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.classify = nn.Embedding(9, 4), nn.Linear(4, 3)

    def forward(self, ids):
        return self.classify(self.embed(ids))

def plain():
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)).eval()

def maps():
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 3, 1)).eval()

def tokens():
    return Tokens().eval()

def rows(target):
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(6, generator=generator), target(number)) for number in range(int(open("count.txt").read()))]

def single_label():
    return rows(lambda number: number % 3)

def regression():
    return rows(lambda number: number / 7)

def multi_label():
    return rows(lambda number: [number % 2, 1, int(number < 9)])

def output():
    return rows(lambda number: number / 7)

def dense():
    generator = torch.Generator().manual_seed(0)
    def mask(number):
        labels = (torch.arange(16).reshape(4, 4) * number) % 3
        return labels.where(torch.arange(16).reshape(4, 4) < 12, 255)
    return [(torch.randn(1, 4, 4, generator=generator), mask(number)) for number in range(40)]

def token():
    return [((torch.arange(5) + number) % 9, (torch.arange(5) * number) % 3) for number in range(40)]
"""
CASES = {
    "single_label": ("plain", "1", ("accuracy", "balanced", "macro F1", "log loss")),
    "multi_label": ("plain", "1", ("micro F1", "macro F1", "all labels right")),
    "regression": ("plain", "1", ("R2", "mean absolute error", "root mean squared error")),
    "dense": ("maps", "0", ("pixel accuracy", "mean IoU")),
    "token": ("tokens", "embed", ("token accuracy", "balanced", "macro F1")),
    "output": ("plain", "1", ()),
}


def trained(
    kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[featcache.Project, featcache.TrainedHead]:
    monkeypatch.chdir(folder)
    torch.manual_seed(0)
    (folder / "mine.py").write_text(CODE)
    (folder / "count.txt").write_text("40")
    network, cut, _ = CASES[kind]
    project = featcache.Project(featcache.Settings(f"mine.py:{network}", f"mine.py:{kind}", "s"))
    project.extract(cut)
    loss = {"loss": lambda output, targets: (output[:, 0] - targets).square().mean()} if kind == "output" else {}
    return project, featcache.train_head(
        project.split(cut), project.features(cut), epochs=2, validation=0.5, task=kind, **loss
    )


@pytest.mark.parametrize("kind", CASES)
def test_the_page_shows_the_figures_of_every_task_with_intervals(kind: str, tmp_path, monkeypatch) -> None:
    project, head = trained(kind, tmp_path, monkeypatch)
    text = html_report(project, head)
    page = Page(text)
    shown = {
        name: (value, interval)
        for name, value, interval in re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)<small>([^<]*)</small>", text)
    }
    assert {*shown} == {*CASES[kind][2]}
    for name, (value, interval) in shown.items():
        low, high = (float(each) for each in re.findall(r"-?[\d.]+(?:e-?\d+)?", interval))
        assert low < high, interval
        assert value == head.metrics.figures[name]
        assert low - 0.1 <= float(value.split()[0]) <= high + 0.1 or name == "R2"
    assert ("Figures of each class" in page.headings) == (kind not in ("regression", "output"))
    assert "left out" not in text
    assert ("no figures but its losses" in text) == (kind == "output")


@pytest.mark.parametrize("kind", [kind for kind in CASES if kind != "output"])
def test_intervals_are_those_of_the_metrics_of_resampled_rows(kind: str, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(intervals, "RESAMPLES", 40)
    project, head = trained(kind, tmp_path, monkeypatch)
    features = project.features(CASES[kind][1])
    judged = judge(head, features)
    found = intervals.bootstrap_intervals(head.task, judged)
    outputs, generator = head.outputs(judged.features), np.random.default_rng(0)
    rows = [generator.integers(len(outputs), size=len(outputs)) for _ in range(40)]
    measured = [measure("", head.task, judged.targets[chosen], outputs[chosen]) for chosen in rows]
    fields = {
        "balanced": "balanced_accuracy", "macro F1": "macro_f1", "log loss": "log_loss", "micro F1": "micro_f1", "R2": "r2",
        "mean absolute error": "mae", "root mean squared error": "rmse", "pixel accuracy": "pixel_accuracy",
        "mean IoU": "mean_iou", "token accuracy": "accuracy",
    }  # fmt: skip
    assert found
    for name, interval in found.items():
        expected = np.quantile([getattr(each, fields[name]) for each in measured], (0.025, 0.975))
        assert interval == pytest.approx(expected, abs=1e-9), name


def test_the_interval_of_an_accuracy_is_wilsons() -> None:
    # 8 of 10, as in Brown, Cai and DasGupta 2001; and no rows right of 10, where the normal interval has no width.
    assert intervals.wilson(8, 10) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert intervals.wilson(0, 10) == pytest.approx((0.0, 0.2775328), abs=1e-6)


def test_after_a_change_of_the_data_the_page_says_what_it_leaves_out(tmp_path, monkeypatch) -> None:
    project, head = trained("single_label", tmp_path, monkeypatch)
    (tmp_path / "count.txt").write_text("39")
    changed = featcache.Project(project.settings)
    changed.extract("1")
    text = html_report(changed, head)
    assert "the data changed since the head was trained" in text
    assert "Figures of each class" not in Page(text).headings
    assert text.count("<small>") == 1  # the accuracy's, which needs no rows


def test_a_head_that_was_judged_by_no_rows_is_shown_by_those_that_it_was_trained_on(tmp_path, monkeypatch) -> None:
    project, _ = trained("single_label", tmp_path, monkeypatch)
    head = featcache.train_head(project.split("1"), project.features("1"), epochs=1, validation=0)
    assert head.metrics is None
    text = html_report(project, head)
    assert "On 40 training rows." in text
    assert "<small>" not in text
    assert "Worst mistakes" in Page(text).headings
