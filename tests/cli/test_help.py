"""`--help`: it fits the terminal, shows every option by its full name, and starts nothing heavy."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest
import typer

from mlxdiff.cli.app import app
from mlxdiff.cli.help import page

COMMANDS = {"": typer.main.get_command(app), **typer.main.get_command(app).commands}


def shown(name: str, width: int, monkeypatch) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    command = COMMANDS[name]
    return page(command, command.make_context(f"mlxdiff {name}".strip(), [], resilient_parsing=True))


@pytest.mark.parametrize("width", [30, 60, 80, 100, 200])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_page_fits_and_names_every_option_in_full(name, width, monkeypatch):
    text = shown(name, width, monkeypatch)
    examples = text.index("Examples:")
    for line in text[:examples].splitlines():
        assert len(line) <= min(width, 100) or len(line.split()) <= 4, "only what has no blank to break at is longer"
    context = COMMANDS[name].make_context("mlxdiff", [], resilient_parsing=True)
    words = text.replace(",", " ").split()
    for param in COMMANDS[name].get_params(context):
        if param.param_type_name == "option":
            assert set(param.opts) | set(param.secondary_opts) <= set(words)
    flat = " ".join(text.split())
    for param in COMMANDS[name].get_params(context):
        assert " ".join((param.help or "").split()) in flat
    assert "…" not in text


def test_brackets_are_no_markup_and_types_are_shown(monkeypatch):
    text = shown("generate", 80, monkeypatch)
    assert "(owner/name[@revision])" in text
    for line in ("--steps INTEGER", "--guidance-scale, --cfg FLOAT", "--rng torch|mlx|philox", "--quantize 8|4"):
        assert line in text
    assert "-n, --negative-prompt TEXT" in text


def test_options_stand_in_panels_and_settings_in_those_of_their_groups(monkeypatch):
    text = shown("generate", 80, monkeypatch)
    panels = [line.removesuffix(":") for line in text.splitlines() if line.endswith(":") and line[0] != " "]
    assert panels == [
        *("Arguments", "Input", "Model", "Prompt", "Picture", "From a picture", "Adapters", "Guidance", "Stages"),
        *("Speed", "Run", "Output", "Options", "Examples"),
    ]
    assert text.index("Guidance:") < text.index("--guidance-end") < text.index("Speed:") < text.index("--dtype")


def test_there_are_no_colours_where_nobody_sees_them(monkeypatch):
    assert "\x1b" not in shown("info", 80, monkeypatch)


def test_help_answers_at_once_and_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['mlxdiff', 'generate', '--help']\n"
        "from mlxdiff.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'mlx', 'numpy', 'PIL', 'huggingface_hub', 'safetensors', 'rich.console'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    best = 99.0
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime)
    assert best < 1.5, "0.25 s on an idle machine"
