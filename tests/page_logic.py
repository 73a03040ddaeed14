"""The scripts of a gallery's page that touch no page, run by node; and what a written page holds."""

from __future__ import annotations

import json
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from patience import WAIT

import mlxdiff.gallery.document as document

NODE = shutil.which("node")
MISSING = "needs node on PATH" if NODE is None else None
PAGE = Path(document.__file__).parent / "page"
LOGIC = ("shell.js", "store.js", "query.js")
FROM_DISK = "file:///home/me/my%20pictures/gallery.html"


class Page(HTMLParser):
    """A page as a browser's parser sees it: scripts of data by id or class, and every other tag."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.blocks: list[Any] = []
        self.data: dict[str, Any] = {}
        self.scripts: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = path.read_text(encoding="ascii")
        self._script: dict[str, str | None] | None = None
        self._gathered: list[str] = []
        self.feed(self.text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._script = dict(attrs) if tag == "script" else None
        self._gathered = []

    def handle_data(self, data: str) -> None:
        self._gathered.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag != "script" or self._script is None:
            return
        text, self._script = "".join(self._gathered), self._script
        if self._script.get("type") != "application/json":
            self.scripts.append(text)
        elif self._script.get("class") == "block":
            self.blocks.append(json.loads(text))
        else:
            self.data[str(self._script["id"])] = json.loads(text)

    @property
    def rows(self) -> list[list[Any]]:
        return [row for block in self.blocks for row in block["rows"]]


def evaluate(expression: str, page: Path | None = None, **values: Any) -> Any:
    """The value of an expression of JavaScript, in which `values`, and a page's `store`, are known."""
    assert NODE is not None
    source = "\n".join((PAGE / name).read_text(encoding="utf-8") for name in LOGIC)
    given: dict[str, Any] = {"values": values}
    if page is not None:
        read = Page(page)
        given |= {"fields": read.data["about"]["fields"], "blocks": read.blocks}
    names = ", ".join(values)
    program = f"""
    const given = JSON.parse(require("fs").readFileSync(0, "utf8"));
    const store = given.fields && new Store(given.fields);
    for (const block of given.blocks ?? []) store.add(block);
    const find = (query) => store.pictures.filter(matcher(parseQuery(query, store).terms, store));
    const location = new URL("{FROM_DISK}");
    const {{ {names} }} = given.values;
    process.stdout.write(JSON.stringify({expression}));
    """
    done = subprocess.run(
        [NODE, "--input-type=commonjs", "-e", f'"use strict";\n{source}\n{program}'],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=WAIT,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
