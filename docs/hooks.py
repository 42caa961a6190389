"""What mkdocs does to the pages: links to files that the site does not have, and docstrings' roles, become plain code."""

from __future__ import annotations

import re
from typing import Any

OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)#]+)\)")
ROLE = re.compile(r":(?:class|func|meth|mod|data):<code>~?")


def on_page_markdown(markdown: str, **_: Any) -> str:
    return OUTSIDE.sub(lambda link: f"`{link[2]}`", markdown)


def on_page_content(html: str, **_: Any) -> str:
    return ROLE.sub(r"<code>", html)
