"""The page in a browser, where there is one."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path

import pytest

import featcache
from featcache.report import html_report

from .test_tasks import trained

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

ASKED = """<script>
const heading = document.querySelectorAll("table.sortable th")[4];
heading.click();
const support = [...heading.closest("table").tBodies[0].rows].map(row => row.cells[4].textContent);
const root = document.documentElement;
parent.document.title = JSON.stringify({support, page: root.scrollWidth, room: root.clientWidth, window: innerWidth});
</script></body>"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome on the PATH")
@pytest.mark.parametrize("width", [1400, 390])
def test_the_page_is_no_wider_than_the_window_and_a_click_on_a_heading_sorts(
    width: int, tmp_path: Path, monkeypatch
) -> None:
    project, head = trained("multi_label", tmp_path, monkeypatch)
    project.save_head(head, "a-head-with-a-name-that-is-rather-long")
    text = html_report(featcache.Project(project.settings), head).replace("</body>", ASKED)
    page = tmp_path / "page.html"  # in a frame, as a window of a desktop has a least width
    page.write_text(
        f'<title></title><iframe width="{width}" height="900" style="border: 0" srcdoc="{escape(text)}"></iframe>'
    )
    options = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'browser'}")
    command = [str(BROWSER), *options, "--window-size=1600,1200", "--dump-dom", page.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    (title,) = re.findall(r"<title>(\{.*?\})</title>", shown)
    told = json.loads(unescape(title))
    assert told["window"] == width
    assert told["page"] <= told["room"]
    assert [int(each) for each in told["support"]] == sorted(map(int, told["support"]), reverse=True)
    assert len({*told["support"]}) == 3
