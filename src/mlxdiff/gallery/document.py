"""The page around the pictures: one HTML file with its style and script inside, which may do nothing but show them.

Its policy lets no other script run than the one whose hash it names, and no address be reached but pictures' on the
page's own disk or server.
"""

from __future__ import annotations

import base64
import hashlib
import html
from functools import cache
from pathlib import Path

from .. import __version__
from ..printable import printable
from .blocks import fields, json_text
from .earlier import mark

STYLE = "page.css"
SCRIPTS = ("shell.js", "store.js", "query.js", "facets.js", "tiles.js", "details.js", "compare.js", "page.js")
FEED = "\n"


def head(title: str, n_pictures: int, thumbnail_size: int) -> str:
    """All that stands before the first block; it shows pictures as soon as their blocks arrive."""
    style, script = _asset(STYLE), "".join(_asset(name) for name in SCRIPTS)
    script = f'"use strict";\n(() => {{\n{script}}})();\n'
    values = {
        "title": html.escape(printable(title)),
        "policy": _policy(style, script),
        "mark": mark(thumbnail_size),
        "version": __version__,
        "style": style,
        "script": script,
        "about": json_text({"fields": fields(), "pictures": n_pictures, "thumbnail": thumbnail_size}),
    }
    text = _asset("page.html")
    before, _, rest = text.partition("{{")
    made = [before]
    for part in rest.split("{{"):
        name, _, after = part.partition("}}")
        made += [values[name], after]
    return "".join(made).rstrip() + FEED


def tail(n_pictures: int, broken: list[tuple[str, str]]) -> str:
    """The end, which says that the file is whole, and names the pictures that are not on the page, and why."""
    said = json_text({"pictures": n_pictures, "broken": broken})
    return f'<script type="application/json" id="end">{said}</script>\n</body>\n</html>\n'


def _policy(style: str, script: str) -> str:
    rules = (
        "default-src 'none'",
        f"script-src '{_hash(script)}'",
        f"style-src '{_hash(style)}'",
        "img-src 'self' file: data:",
        "base-uri 'none'",
        "form-action 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
    return "; ".join(rules)


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


@cache
def _asset(name: str) -> str:
    return (Path(__file__).parent / "page" / name).read_text(encoding="utf-8")
