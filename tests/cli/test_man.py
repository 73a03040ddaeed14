"""The man pages: made from the same declarations as --help, none stale, and readable by the programs that show them."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
COMMANDS = ("pull", "generate", "grid", "decode", "info", "serve")


@pytest.fixture(scope="module")
def made() -> dict[Path, str]:
    spec = importlib.util.spec_from_file_location("make_man", REPOSITORY / "docs" / "make_man.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.pages()


def test_no_page_is_missing_or_stale(made):
    assert {path.name for path in made} >= {"mlxdiff.1", *(f"mlxdiff-{command}.1" for command in COMMANDS)}
    assert {path.name for path in (REPOSITORY / "docs" / "man").iterdir()} == {path.name for path in made}
    for path, content in made.items():
        assert path.read_text() == content, f"run docs/make_man.py: {path.name} is stale"


def test_a_page_has_every_option_and_example_of_its_command():
    for command in COMMANDS:
        shown = (REPOSITORY / "docs" / f"{command}.md").read_text().split("<!-- help -->")[1].split("<!-- /help -->")[0]
        page = (REPOSITORY / "docs" / "man" / f"mlxdiff-{command}.1").read_text().replace("\\-", "-")
        options = set(re.findall(r"(?<!\S)--[a-z][a-z-]+", shown.split("Examples:")[0]))
        assert len(options) > 8
        assert not [option for option in options if option not in page]
        examples = shown.split("Examples:")[1].strip().strip("`").strip().splitlines()
        assert len(examples) > 2
        assert all(line.strip().split(" ")[1] in page for line in examples)


@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff, which formats man pages")
def test_pages_are_formatted_without_a_warning(made):
    for path in made:
        shown = subprocess.run(
            ["groff", "-man", "-Tutf8", "-ww", str(path)], capture_output=True, text=True, check=True
        )
        assert shown.stderr == ""
        text = re.sub(r"\x1b\[[0-9;]*m|.\x08", "", shown.stdout)
        assert all(title in text for title in ("NAME", "SYNOPSIS", "EXIT STATUS", "SEE ALSO"))
    assert "mlxdiff-generate(1)" in text
