"""A setting is declared once: a line more in request/, and it is everywhere, with nothing added in cli/."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from patience import WAIT

import mlxdiff
from mlxdiff.batch import sweep
from mlxdiff.cli.app import app
from mlxdiff.cli.declared import declared, help_text, metavar, settings_of, values_of
from mlxdiff.metadata import parameters
from mlxdiff.request import Request

STICKER = """
@dataclass(frozen=True)
class Sticker:
    ref: str = setting(Reference(), default=MISSING)
    scale: float = setting(Number(0, 2), default=1.0)


@dataclass(frozen=True)
class Request("""
LINES = """    glow: float | None = setting(Number(0, 3), "How it glows.", group="Guidance", unset="0", a1111="Glow")
    sticker: Any = setting(Structured(Sticker), "Picture to stick on.", group="Adapters", a1111="Sticker")
    shiny: bool = setting(Flag(), "Whether it shines.", group="Guidance", default=False, unset="off")
    hashes: Any = setting("""

MODULE = declared.__module__.rpartition(".")[2]
IMPORTS = f"""from __future__ import annotations

from dataclasses import MISSING
from .{MODULE} import Flag, Number, Reference, setting
from .structured import Structured
"""

# Runs a command of the package on PYTHONPATH in this process, as a shell would: (exit code, stdout, stderr).
RUN = """
import contextlib, io, json, sys
from mlxdiff.cli.app import main

def run(*arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as end:
            code = end.code
    return code, out.getvalue(), err.getvalue()
"""
SMALL = '"--steps", "1", "--height", "32", "--width", "32", "--seed", "1", "-o"'


@pytest.fixture(scope="module")
def extended(tmp_path_factory) -> Path:
    """A copy of the package whose request/request.py declares two settings more; what is no Python is linked."""
    root = tmp_path_factory.mktemp("extended")
    source = Path(mlxdiff.__file__).parent
    for path in source.rglob("*"):
        to = root / "mlxdiff" / path.relative_to(source)
        if path.is_dir() or "__pycache__" in path.parts or "assets" in path.relative_to(source).parts:
            continue
        to.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".py":
            shutil.copy(path, to)
        else:
            to.symlink_to(path)
    (root / "mlxdiff" / "assets").symlink_to(source / "assets")
    request = root / "mlxdiff" / "request" / "request.py"
    text = request.read_text()
    for old, new in (
        ("\n@dataclass(frozen=True)\nclass Request(", STICKER),
        ("    hashes: Any = setting(", LINES),
        ("from __future__ import annotations\n", IMPORTS),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    request.write_text(text)
    return root


def run_python(root: Path, folder: Path, code: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(root), "COLUMNS": "80"}
    done = subprocess.run(
        [sys.executable, "-c", RUN + code], cwd=folder, env=environment, capture_output=True, text=True, timeout=WAIT
    )
    assert done.returncode == 0, done.stderr


def test_a_new_setting_is_in_help_tables_and_docs(extended, tmp_path):
    run_python(
        extended,
        tmp_path,
        """
for command in ("generate", "grid"):
    code, help, _ = run(command, "--help")
    assert code == 0
    guidance = help[help.index("Guidance:"):help.index("Speed:")]
    assert "--glow FLOAT" in guidance and "How it glows. Default: 0." in guidance
    assert "--shiny / --no-shiny" in guidance
    adapters = help[help.index("Adapters:"):help.index("Guidance:")]
    assert "--sticker REF[,scale=VALUE]" in adapters, adapters
code, table, _ = run("info", "--settings")
assert [line for line in table.splitlines() if "--glow" in line and "0 to 3" in line and "How it glows." in line]
rows = [json.loads(line) for line in run("info", "--settings", "--json")[1].splitlines()]
rows = {row["name"]: row for row in rows}
assert (rows["glow"]["low"], rows["glow"]["high"], rows["glow"]["vary"]) == (0, 3, True)
assert rows["sticker"]["keys"] == ["ref", "scale"]
from mlxdiff.cli.listing import settings_page
from mlxdiff.cli.app import app
from mlxdiff.cli.declared import settings_of
page = settings_page(settings_of())
assert "| `--glow` | number, 0 to 3 | 0 | yes | Glow | How it glows. |" in page, page
assert "## Adapters" in page
assert not {"mlx", "numpy", "PIL"} & set(sys.modules)
""",
    )


def test_a_new_setting_is_an_option_a_field_of_a_line_and_in_the_picture(extended, tmp_path):
    run_python(
        extended,
        tmp_path,
        f"""
from pathlib import Path
stickers = ("--sticker", "a.png,scale=0.5", "--sticker", "b.png")
code, out, err = run("generate", "a cat", "--glow", "2.5", "--shiny", *stickers, {SMALL}, "one.png")
assert code == 0, err
made = json.loads(run("info", "one.png", "--json")[1])["request"]
assert (made["glow"], made["shiny"]) == (2.5, True)
assert made["sticker"] == [{{"ref": "a.png", "scale": 0.5}}, {{"ref": "b.png", "scale": 1.0}}]
code, out, err = run("generate", "--from", "one.png", "--glow", "1", "--no-shiny", "-o", "again.png")
assert json.loads(run("info", "again.png", "--json")[1])["request"] == made | {{"glow": 1.0, "shiny": False}}, err
for option, value, words in (
    ("--glow", "4", "glow is 4.0. It is a number from 0 to 3."),
    ("--glow", "much", "glow is 'much'. It is a number from 0 to 3."),
    ("--sticker", "a.png,scale=9", "sticker's scale is 9.0. It is a number from 0 to 2."),
    ("--sticker", "a.png,size=1", "The keys are scale."),
):
    code, out, err = run("generate", "a cat", option, value)
    assert (code, out) == (2, "") and err.startswith("error: ") and words in err and err.count("\\n") == 1, err
lines = [{{"prompt": "a cat", "glow": 1}}, {{"prompt": "a dog", "glow": 4, "sticker": "a.png"}}]
Path("bad.txt").write_text("\\n".join(map(json.dumps, lines)))
code, out, err = run("generate", "--prompts-file", "bad.txt", {SMALL}, "bad")
assert code == 2 and "line 2" in err and "glow is 4" in err and "from 0 to 3" in err, err
lines[1]["glow"] = 3
Path("good.txt").write_text(json.dumps(lines[1]))
code, out, err = run("generate", "--prompts-file", "good.txt", {SMALL}, "good")
assert code == 0, err
made = json.loads(run("info", out.strip(), "--json")[1])["request"]
assert (made["glow"], made["sticker"]) == (3, [{{"ref": "a.png", "scale": 1.0}}])
from mlxdiff.request.request import Request, Sticker
request = Request(prompt="x", glow=1.5, sticker=["a.png,scale=0.25"])
assert request.sticker == (Sticker("a.png", 0.25),)
assert Request.from_json(request.to_json()) == request
""",
    )


@pytest.mark.skipif(not hasattr(sweep, "varied_names"), reason="sweeps vary a list of names of their own")
def test_a_new_setting_can_be_varied(extended, tmp_path):
    run_python(
        extended,
        tmp_path,
        f"""
from mlxdiff.batch import sweep
assert "glow" in sweep.varied_names()
axis = sweep.parse_axis("glow=1..3")
assert [float(value) for value in axis.values] == [1, 2, 3]
code, out, err = run("grid", "-p", "a cat", "--vary", "glow=1..4", {SMALL}, "sheet.png")
assert code == 2 and "from 0 to 3" in err, err
""",
    )


@pytest.mark.skipif(not hasattr(parameters, "declared"), reason="A1111's text has a table of its own")
def test_a_new_setting_is_in_a1111s_text_both_ways(extended, tmp_path):
    run_python(
        extended,
        tmp_path,
        """
from mlxdiff.metadata.parameters import parameters_text, parse_parameters
from mlxdiff.request import Request
text = parameters_text(Request(prompt="a cat", steps=3, glow=1.5))
assert "Glow: 1.5" in text, text
assert parse_parameters(text).glow == 1.5
""",
    )


@pytest.mark.parametrize("item", settings_of(), ids=lambda item: item.name)
def test_what_is_shown_of_a_setting_is_what_it_declares(item):
    described = item.kind.describe()
    assert item.help in help_text(item)
    for choice in described.get("choices", ()):
        assert str(choice) in metavar(item) + help_text(item)
        assert str(choice) in values_of(item)
    assert item in declared(Request)
    assert json.loads(json.dumps(item.describe())) == item.describe()


def test_generate_and_grid_take_the_same_settings_from_the_same_words():
    commands = typer.main.get_command(app).commands
    options = {
        name: {param.name: (param.opts, param.help, param.metavar) for param in commands[name].params}
        for name in ("generate", "grid")
    }
    for item in settings_of():
        if item.name == "prompt":
            continue
        assert options["generate"][item.name] == ([item.option, *item.flags], help_text(item), metavar(item))
        if item.name != "n_images":  # a cell is one picture
            assert options["grid"][item.name] == options["generate"][item.name]


def test_every_option_has_one_meaning():
    """A short name is the same option in all commands, and --quiet and --verbose are options of each."""
    commands = typer.main.get_command(app).commands
    meaning: dict[str, set[str]] = {}
    for command in commands.values():
        names = [name for param in command.params for name in param.opts]
        assert len(set(names)) == len(names)
        assert {"--quiet", "-q", "--verbose", "-v"} <= set(names)
        for param in command.params:
            for name in param.opts:
                if len(name) == 2:
                    meaning.setdefault(name, set()).add(param.name)
    assert [found for found in meaning.values() if len(found) > 1] == []
