"""The documentation is complete and true: every command has its page, with today's help, and links lead somewhere."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mlxdiff.cli.app import app

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
COMMANDS = [command.callback.__name__ for command in app.registered_commands]


def script(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # its dataclasses look it up
    spec.loader.exec_module(module)
    return module


make_help, make_images = script("make_help"), script("make_images")


@pytest.mark.parametrize("page", make_help.pages(), ids=lambda page: page.stem)
def test_what_is_generated_in_a_page_is_as_it_is(page):
    assert page.read_text() == make_help.rendered(page), "run: python docs/make_help.py"


def test_every_command_has_a_page_that_readers_find():
    generated = {page.stem for page in make_help.pages()}
    assert generated == {*COMMANDS, make_help.SETTINGS}
    readme = (ROOT / "README.md").read_text()
    assert [command for command in COMMANDS if f"docs/{command}.md" not in readme] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_every_picture_can_be_made_again_and_is_shown():
    made = sorted(name for names in make_images.ALL for name in names)
    assert made == sorted(path.name for path in make_images.IMAGES.iterdir()), "docs/make_images.py makes others"
    shown = {name for page in PAGES for name in re.findall(r"\]\((?:docs/)?images/([^)]+)\)", page.read_text())}
    assert shown == set(made)


@pytest.mark.parametrize("of_page", [make for make in make_images.ALL.values() if hasattr(make, "page")])
def test_commands_stand_above_their_pictures(of_page):
    for image in of_page.images:
        commands = make_images.blocks_before(of_page.page, image)
        assert commands.startswith("mlxdiff ") or "\nmlxdiff " in commands
        made = re.findall(r"(?:-o|--output) ([\w.-]+)", commands + of_page.then)
        assert image in made or f" {image}\n" in f"{of_page.then}\n", "no command writes it"


@pytest.mark.parametrize(
    ("page", "image"), [("generate", "preview.png"), ("faster", "faster.png"), ("faster", "faster-merging.png")]
)
def test_one_command_stands_above_pictures_that_need_more_than_it(page, image):
    assert re.fullmatch(r"mlxdiff .*\n", make_images.blocks_before(page, image))


def test_every_page_is_named_in_the_readme():
    readme = (ROOT / "README.md").read_text()
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f"(docs/{page.name})" not in readme] == []


def test_the_readmes_tree_names_what_is_there():
    tree = re.search(r"```\nsrc/mlxdiff/\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    inside, outside = tree.split("benchmarks/", 1)
    for name in re.findall(r"^  (\S+)", inside, re.MULTILINE):
        assert (ROOT / "src" / "mlxdiff" / name).exists(), name
    named = set(re.findall(r"[a-z0-9_]+(?:\.py|\.typed|/)", inside))
    for path in (ROOT / "src" / "mlxdiff").iterdir():
        name = f"{path.name}/" if path.is_dir() else path.name
        if name not in ("__pycache__/", "__init__.py", "__main__.py"):
            assert name in named, f"README's tree lacks {name}"
    assert "docs/" in outside
    assert "tests/" in outside


def test_the_readme_says_nothing_twice():
    """Its lines are merged by union."""
    lines = (ROOT / "README.md").read_text().splitlines()
    commands = [line.partition(" #")[0].strip() for line in lines if line.startswith("mlxdiff ")]
    rows = [line.split()[0] for line in lines if re.match(r"  \S+(\.py|/)  ", line)]
    links = [line for line in lines if line.startswith("- [")]
    for said in (commands, rows, links):
        assert len(said) > 10
        assert [one for one in said if said.count(one) > 1] == []


def test_every_sampler_and_schedule_is_named_in_the_readme_or_the_changelog():
    from mlxdiff.request import SAMPLERS, SCHEDULES

    text = (ROOT / "README.md").read_text() + (ROOT / "CHANGELOG.md").read_text()
    assert all(f"`{name}`" in text for name in (*SAMPLERS, *SCHEDULES))


@pytest.mark.parametrize("number", range(7))
def test_the_python_page_s_examples_run(number, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)
    assert len(blocks) == 7
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", blocks[number]],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
