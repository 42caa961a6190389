from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import featcache
from featcache.report import html_report
from featcache.report.thumbnails import thumbnail

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Checks that tags are closed in order, and collects what the page refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.ids: list[str] = []
        self.headings: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href"):
                self.references.append(value)
            if name == "id":
                self.ids.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


@pytest.fixture
def shared(image_folder: Path) -> tuple[str, ...]:
    return ("--backbone", "bundled:resnet-mini", "--data", f"folder:{image_folder}", "--store", "s")


@pytest.mark.slow
def test_the_page_is_whole_by_itself_and_has_a_section_for_everything_at_hand(
    shared, image_folder, featcache_command
) -> None:
    featcache_command("extract", *shared, "--cut", "layer4")
    featcache_command("plan", *shared, "--cut", "layer3", "--cut", "layer4")
    featcache_command("probe", *shared, "--cut", "layer3", "--cut", "layer4")
    featcache_command(
        "sweep", *shared, "--cut", "layer3", "--cut", "layer4", "--epochs", "1", "--seeds", "2", "--validation", "0.4"
    )
    steps = ("--epochs", "2", "--validation", "0.4", "--optimizer", "adamw")
    featcache_command("train-head", *shared, "--cut", "layer4", *steps)
    featcache_command("report", "--store", "s", "--out", "page.html")
    text = (featcache_command.folder / "page.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.headings == [
        "Data", "Which boundary is best", "How well the features transfer", "Cost and break-even", "Training",
        "Figures of each class", "Confusion", "Worst mistakes", "Label suspects", "The features, in a plane",
        "All heads of the store", "Where it comes from",
    ]  # fmt: skip
    assert all(each.startswith(("data:", "#")) for each in page.references), page.references
    assert len(page.ids) == len(set(page.ids))
    assert {each[1:] for each in page.references if each.startswith("#")} <= {*page.ids}
    assert "<title>ant/" in text
    (script,) = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    assert len(script) < 30_000
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    assert 'src="data:image/png;base64,' in text
    # Where the data are gone, the page does without the thumbnails and says so.
    image_folder.rename(image_folder.with_name("elsewhere"))
    featcache_command("report", "--store", "s", "--out", "page.html")
    text = (featcache_command.folder / "page.html").read_text(encoding="utf-8")
    assert "is not here" in text
    assert "data:image/png;base64,iVBOR" not in re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL)


@pytest.mark.slow
def test_without_a_head_the_page_says_how_to_get_more(shared, featcache_command) -> None:
    featcache_command("extract", *shared, "--cut", "layer4")
    featcache_command("report", *shared)
    text = (featcache_command.folder / "report.html").read_text(encoding="utf-8")
    assert Page(text).headings == ["Data", "Where it comes from"]
    assert "Samples of each class" in text
    assert not (featcache_command.folder / "report.suspects.csv").exists()
    assert "train-head" in text
    assert "`featcache plan` adds a section" in text
    missing = featcache_command("report", *shared, "--head", "none", expect=2)
    assert "no head 'none'" in missing.stderr
    featcache_command("report", *shared, "--out", "no/such/page.html", expect=1)


@pytest.mark.slow
def test_names_from_the_data_are_shown_as_text_and_never_run(tmp_path, monkeypatch) -> None:
    root = tmp_path / "images"
    for number, label in enumerate(("<script>alert(1)<", "b&amp;$x_$", "c")):
        (root / label).mkdir(parents=True)
        generator = np.random.default_rng(number)
        for each in range(8):
            Image.fromarray(generator.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(root / label / f"{each}.png")
    project = featcache.Project(featcache.Settings("bundled:resnet-mini", f"folder:{root}", str(tmp_path / "s")))
    project.extract("layer4")
    head = featcache.train_head(project.split("layer4"), project.features("layer4"), epochs=1, validation=0.4)
    text = html_report(project, head)
    Page(text)
    assert text.count("<script") == 1
    assert "alert" in text
    assert "<script>alert" not in text
    assert "b&amp;amp;$x_$" in text


def test_thumbnails_are_made_of_images_and_of_arrays_that_look_like_ones() -> None:
    for value in (
        Image.new("L", (8, 8)), torch.rand(3, 10, 20), torch.rand(1, 28, 28), np.zeros((5, 5, 3)), np.full((4, 4), np.nan)
    ):  # fmt: skip
        assert thumbnail(value).startswith("data:image/png;base64,")
    assert thumbnail(torch.rand(3, 200, 300)).startswith("data:image/jpeg;base64,")
    for value in (torch.rand(5), torch.rand(7, 10, 10), "text", {"a": 1}, torch.rand(3, 0, 4)):
        assert thumbnail(value) is None


def test_samples_without_a_label_are_no_bar_of_the_balance() -> None:
    from featcache.report.pictures import balance_picture
    from featcache.samples import Snapshot

    def drawn(targets: list[int], splits: list[str]) -> str:
        ids = np.arange(16 * len(targets), dtype=np.uint8).reshape(-1, 16)
        names = [str(row) for row in range(len(targets))]
        made = Snapshot("rows", ids, names, np.array(targets), splits, ["cat", "dog"])
        return re.sub(r"p\d+-", "", str(balance_picture(made)))

    assert "<svg" in drawn([0, 1, 0], [""] * 3)
    assert drawn([0, 1, 0, -1], ["", "", "", "unlabelled"]) == drawn([0, 1, 0], [""] * 3)
