"""Label suspects: on the page and in the file beside it."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import featcache
from featcache.report import make_report, suspects

from .test_report import Page

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

WRONG = {"dark/3.png", "light/5.png"}


@pytest.fixture
def mislabelled(tmp_path: Path) -> Path:
    """Dark and light images, of which one of each lies in the other's folder."""
    root = tmp_path / "images"
    generator = np.random.default_rng(0)
    for label in ("dark", "light"):
        (root / label).mkdir(parents=True)
        for number in range(12):
            is_light = (label == "light") != (f"{label}/{number}.png" in WRONG)
            pixels = generator.integers(0, 60, (20, 20, 3)) + 190 * is_light
            Image.fromarray(pixels.astype(np.uint8)).save(root / label / f"{number}.png")
    return root


def trained(root: Path, store: Path) -> tuple[featcache.Project, featcache.TrainedHead]:
    project = featcache.Project(featcache.Settings("bundled:resnet-mini", f"folder:{root}", str(store)))
    project.extract("layer2")
    features = project.features("layer2")
    return project, featcache.train_head(project.split("layer2"), features, head="linear", epochs=1, validation=0.4)


def test_wrong_labels_are_suspects_with_the_label_that_the_features_suggest(mislabelled, tmp_path) -> None:
    project, head = trained(mislabelled, tmp_path / "s")
    report = make_report(project, head)
    found = {each.name: (each.label, each.suggested) for each in report.suspects.rows}
    assert found == {"dark/3.png": ("dark", "light"), "light/5.png": ("light", "dark")}
    assert all(0.5 < each.confidence <= 1 for each in report.suspects.rows)
    section = report.html.split("<h2>Label suspects</h2>")[1].split("</section>")[0]
    assert section.count("<img src=") == 2
    assert "<strong>dark</strong>, perhaps <strong>light</strong>" in section
    assert make_report(project, head).suspects == report.suspects


@pytest.mark.slow
def test_the_command_writes_the_suspects_beside_the_page_and_names_an_earlier_file(
    mislabelled, featcache_command
) -> None:
    shared = ("--backbone", "bundled:resnet-mini", "--data", f"folder:{mislabelled}", "--store", "s")
    featcache_command("extract", *shared, "--cut", "layer2")
    featcache_command(
        "train-head", *shared, "--cut", "layer2", "--head", "linear", "--epochs", "1", "--validation", "0.4"
    )
    told = featcache_command("report", "--store", "s", "--out", "my.page.html")
    assert "wrote my.page.suspects.csv: 2 label suspects among 24 rows" in told.stderr
    written = (featcache_command.folder / "my.page.suspects.csv").read_text("utf-8")
    rows = [*csv.DictReader(io.StringIO(written))]
    assert {(row["name"], row["label"], row["suggested_label"]) for row in rows} == {
        ("dark/3.png", "dark", "light"), ("light/5.png", "light", "dark")
    }  # fmt: skip
    assert all(0.5 < float(row["confidence"]) <= 1 for row in rows)
    # Where none are looked for, a file of an earlier report is left as it is, and told.
    shutil.rmtree(featcache_command.folder / "s" / "heads")
    told = featcache_command("report", *shared, "--out", "my.page.html")
    assert "my.page.suspects.csv is of an earlier report" in told.stderr
    assert (featcache_command.folder / "my.page.suspects.csv").read_text("utf-8") == written


def test_where_there_is_too_much_work_a_subset_is_looked_at_and_the_page_says_so(
    mislabelled, tmp_path, monkeypatch
) -> None:
    project, head = trained(mislabelled, tmp_path / "s")
    width = project.features("layer2").frontier[0].shape[0]
    monkeypatch.setattr(suspects, "MOST_WORK", 20 * 2 * width)
    monkeypatch.setattr(suspects, "LEAST_ROWS", 20)
    report = make_report(project, head)
    assert report.suspects.looked_at == 20
    assert "label suspects were looked for among 20 of 24 rows, drawn at random" in report.html
    monkeypatch.setattr(suspects, "LEAST_ROWS", 21)
    report = make_report(project, head)
    assert report.suspects is None
    assert "label suspects are left out" in report.html
    assert "Label suspects" not in Page(report.html).headings


def test_classes_of_few_rows_are_not_looked_at_and_the_page_says_so(mislabelled, tmp_path) -> None:
    (mislabelled / "rare").mkdir()
    for number in range(3):
        shutil.copy(mislabelled / "dark" / f"{number}.png", mislabelled / "rare" / f"{number}.png")
    project, head = trained(mislabelled, tmp_path / "s")
    report = make_report(project, head)
    assert report.suspects.looked_at == 24
    assert "not looked for in classes of fewer than 5 rows (1): &#39;rare&#39;" in report.html
    shutil.rmtree(mislabelled / "dark")
    (mislabelled / "dark").mkdir()
    for number in range(4):
        shutil.copy(mislabelled / "light" / f"{number}.png", mislabelled / "dark" / f"{number}.png")
    project, head = trained(mislabelled, tmp_path / "s")
    report = make_report(project, head)
    assert report.suspects is None
    assert "fewer than two classes have 5 rows or more" in report.html
