"""What Tab offers: the program asked as shells ask it, and the shells themselves where they are installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import part_files
import pytest
from patience import WAIT
from repositories import cached, repository

from mlxdiff.catalogue import UPSCALERS
from mlxdiff.hub.known import KNOWN

Ask = Callable[..., list[str]]


@pytest.fixture
def environment(tmp_path) -> dict[str, str]:
    """Of a user with SD 2.1 and a LoRA in the cache, and LoRAs of strange names in a folder."""
    hub = tmp_path / "hf" / "hub"
    cached(hub, repository(), name=KNOWN["sd21"].repository)
    cached(hub, {"pytorch_lora_weights.safetensors": part_files.lora()}, name="owner/styles")
    loras = tmp_path / "loras"
    loras.mkdir()
    for name in ("ink", "my style", "$(touch evil)", "a;b", "tab\tb", "-n", "café"):
        (loras / f"{name}.safetensors").write_bytes(part_files.lora())
    config = tmp_path / "config.toml"
    config.write_text("[profile.fast]\nsteps = 4\n[profile.fine]\nsteps = 50\n")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "MLXDIFF_"))}
    own = {"HF_HOME": str(tmp_path / "hf"), "MLXDIFF_HOME": str(tmp_path / "state"), "MLXDIFF_LORAS": str(loras)}
    return {**kept, **own, "MLXDIFF_CONFIG": str(config), "HOME": str(tmp_path)}


@pytest.fixture
def ask(environment, tmp_path) -> Ask:
    """ask(words...) -> what is offered for the last word, as bash asks."""

    def ask(*words: str) -> list[str]:
        asked = {"_MLXDIFF_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(("mlxdiff", *words))}
        done = subprocess.run(
            [sys.executable, "-m", "mlxdiff"],
            env={**environment, **asked, "COMP_CWORD": str(len(words))},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=WAIT,
            check=True,
        )
        assert done.stderr == ""
        return done.stdout.split("\n")[:-1] if done.stdout.endswith("\n") else done.stdout.split("\n")

    return ask


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("gen",), ["generate"]),
        (("generate", "--gui"), ["--guidance-scale", "--guidance-start"]),
        (("generate", "--sampler", "unip"), ["unipc"]),
        (("generate", "--model", "em"), ["emoji"]),
        (("generate", "--model", "sd"), ["sd21", KNOWN["sd21"].repository]),
        (("generate", "--refiner", "sd2"), ["sd21"]),
        (("generate", "--lora", "i"), ["ink"]),
        (("generate", "--lora", "o"), ["owner/styles"]),
        (("generate", "--lora", "ca"), ["café"]),
        (("generate", "--control", "em"), ["emoji-edges"]),
        (("generate", "--hires-upscaler", "lan"), ["lanczos"]),
        (("generate", "--profile", "f"), ["fast", "fine"]),
        (("generate", "--progress", "j"), ["json"]),
        (("pull", "sdxl-t"), ["sdxl-turbo"]),
        (("pull", "own"), ["owner/styles"]),
        (("pull", "x", "--kind", "ip"), ["ip_adapter"]),
        (("info", "em"), ["emoji"]),
    ],
)
def test_what_begins_as_the_word_is_offered(ask, words, offered):
    found = ask(*words)
    assert set(offered) <= set(found)
    assert all(one.startswith(words[-1]) for one in found)


def test_names_that_a_shell_would_read_otherwise_are_not_offered(ask, tmp_path):
    offered = ask("generate", "--lora", "")
    assert {"ink", "pixel-art", "café"} <= set(offered)
    assert not [name for name in offered if set(name) & set(" $;\t(") or name.startswith("-")]
    assert not (tmp_path / "evil").exists()


def test_files_are_left_to_the_shell(ask, tmp_path):
    (tmp_path / "emperor.png").write_bytes(b"x")
    assert ask("generate", "--image", "em") == [""]
    assert ask("generate", "--lora", "./i") == [""]
    assert ask("info", "em") == [""]  # a file begins so: the shell offers that


def test_a_damaged_cache_or_config_offers_nothing_and_says_nothing(ask, environment):
    Path(environment["MLXDIFF_CONFIG"]).write_text("= broken")
    assert ask("generate", "--profile", "f") == [""]
    Path(environment["MLXDIFF_HOME"]).mkdir(exist_ok=True)
    (Path(environment["MLXDIFF_HOME"]) / "state.json").write_text("{")
    assert "emoji" in ask("generate", "--model", "em")


def test_every_way_to_enlarge_is_offered(ask):
    assert set(UPSCALERS) <= set(ask("generate", "--hires-upscaler", ""))


@pytest.fixture
def program(environment, tmp_path) -> dict[str, str]:
    """The environment with `mlxdiff` on PATH, as it is when installed."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "mlxdiff").write_text(f'#!/bin/sh\nexec {sys.executable} -m mlxdiff "$@"\n')
    (folder / "mlxdiff").chmod(0o755)
    return {**environment, "PATH": f"{folder}{os.pathsep}{environment['PATH']}"}


def _script(shell: str, environment: dict[str, str]) -> str:
    shown = subprocess.run(
        [sys.executable, "-m", "mlxdiff", "--show-completion", shell],
        env={**environment, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=True,
    )
    return shown.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_takes_the_script(program, tmp_path):
    asked = "COMP_WORDS=(mlxdiff generate --lora in); COMP_CWORD=3; _mlxdiff_completion mlxdiff"
    script = f'{_script("bash", program)}\n{asked}; printf "%s|" "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", script], env=program, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "ink|"


@pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")
def test_fish_takes_the_script(program, tmp_path):
    script = f'{_script("fish", program)}\ncomplete -C "mlxdiff generate --lora in"'
    done = subprocess.run(["fish", "-c", script], env=program, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "ink\n"


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_zsh_takes_the_script(program):
    # compdef is of the completion system, which only an interactive shell has: here it is what records the function.
    script = f"compdef() {{ print registered $2 }}; {_script('zsh', program)}"
    done = subprocess.run(["zsh", "-f", "-c", script], env=program, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "registered mlxdiff"
