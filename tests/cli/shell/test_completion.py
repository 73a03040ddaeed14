"""What Tab offers: every declared setting, its choices, files, names; and nothing that would drive a terminal."""

from __future__ import annotations

import pytest

from mlxdiff.cli.completion import names_here
from mlxdiff.cli.shell.commands import COMMANDS
from mlxdiff.cli.shell.completion import MOST, Completer
from mlxdiff.cli.shell.state import SETTINGS, typed_name
from mlxdiff.errors import CheckpointError
from mlxdiff.request import SAMPLERS, SCHEDULES

NAMES = {"lora": ["ink", "inlay"], "control": ["edges"], "vae": ["tiny"], "model": ["emoji", "owner/name"]}


@pytest.fixture
def complete(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("cat.png", "my photo.JPG", "notes.txt", "model.safetensors", ".hidden.png", "bad\x1b[31m.png"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cow.webp").write_bytes(b"")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "own.png").write_bytes(b"")
    arguments = {name: command.complete for name, command in COMMANDS.items()}
    found = Completer(arguments, lambda kind: NAMES.get(kind, []), lambda: ["fruit", "colors/dark"])

    def complete(line: str) -> list[str]:
        """The whole lines that Tab leads to."""
        start, texts = found(line)
        return [line[:start] + text for text in texts]

    return complete


def test_every_command_and_every_setting_is_offered(complete):
    offered = complete("/")
    assert set(offered) == {f"/{name} " for name in (*COMMANDS, *map(typed_name, SETTINGS))}
    assert complete("/guid") == [
        *("/guidance-end ", "/guidance-mode ", "/guidance-rescale ", "/guidance-scale ", "/guidance-start ")
    ]
    assert complete("/guidance_sc") == ["/guidance-scale "]
    assert complete("/nothing") == []


def test_a_link_that_leads_to_itself_hides_no_other_file(complete, tmp_path):
    for i in range(8):
        (tmp_path / "photos" / str(i)).symlink_to(str(i))
    assert complete("/image photos/") == ["/image photos/cow.webp"]


@pytest.mark.parametrize("item", SETTINGS, ids=lambda item: item.name)
def test_the_choices_of_every_setting_are_offered_in_commands_and_in_lines(complete, item):
    for choice in map(str, item.kind.describe().get("choices", ())):
        for line in (f"/{typed_name(item)} ", f"a cat {item.option} ", f"a cat {item.option}="):
            assert line + choice in complete(line)
            assert line + choice in complete(line + choice[:2])


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("/sampler dpmpp_2m_sde_", ["/sampler dpmpp_2m_sde_heun"]),
        ("/sampler def", ["/sampler default"]),
        ("/schedule ays_", ["/schedule ays_sdxl"]),
        ("/image c", ["/image cat.png"]),
        ("/image my p", ["/image my photo.JPG"]),
        ('/image "my p', ['/image "my photo.JPG']),
        ("/image pho", ["/image photos/"]),
        ("/image photos/", ["/image photos/cow.webp"]),
        ("/image ./ca", ["/image ./cat.png"]),
        ("/image ~/o", ["/image ~/own.png"]),
        ("/image .h", ["/image .hidden.png"]),
        ("/image bad", []),
        ("/image nowhere/", []),
        ("/mask al", ["/mask alpha"]),
        ("/lora in", ["/lora ink", "/lora inlay"]),
        ("/lora m", ["/lora model.safetensors"]),
        ("/lora ink,", [f"/lora ink,{key}=" for key in ("scale", "text", "rank", "blocks")]),
        ("/lora ink,scale=0.5,te", ["/lora ink,scale=0.5,text="]),
        ("/lora ink,scale=", []),
        ("/control ed", ["/control edges="]),
        ("/control edges=c", ["/control edges=cat.png"]),
        ("/control edges=photos/c", ["/control edges=photos/cow.webp"]),
        ("/control edges=cat.png,preprocess=ca", ["/control edges=cat.png,preprocess=canny"]),
        ("/vae ti", ["/vae tiny"]),
        ("/hires-upscaler lanc", ["/hires-upscaler lanczos"]),
        ("/model em", ["/model emoji"]),
        ("/model owner/", ["/model owner/name"]),
        ("/reset st", ["/reset steps", "/reset strength"]),
        ("/reset steps see", ["/reset steps seed", "/reset steps seed-resize"]),
        ("/preview o", ["/preview on", "/preview off"]),
        ("/output ph", ["/output photos/"]),
        ("/quit ", []),
        ("/nothing x", []),
        ("a cat", []),
        ("", []),
        ("a cat --stre", ["a cat --strength "]),
        ("a cat --outp", ["a cat --output "]),
        ("a cat --steps 3 --sampler eul", [f"a cat --steps 3 --sampler {n}" for n in SAMPLERS if n.startswith("eul")]),
        ("a cat --schedule ay", [f"a cat --schedule {name}" for name in SCHEDULES if name.startswith("ay")]),
        ("a cat --image my", ["a cat --image my photo.JPG"]),
        ("a cat --image ~/o", []),
        ("a <lora:in", ["a <lora:ink", "a <lora:inlay"]),
        ("a <lora:ink:0.5> and <lora:inl", ["a <lora:ink:0.5> and <lora:inlay"]),
        ("a __fr", ["a __fruit__"]),
        ("a __", ["a __fruit__", "a __colors/dark__"]),
    ],
)
def test_what_is_offered(complete, line, offered):
    assert sorted(complete(line)) == sorted(offered)


def test_a_damaged_cache_offers_nothing_and_a_large_folder_not_all(tmp_path, monkeypatch):
    def fail(_):
        raise CheckpointError("It is damaged.", "Pull it again.")

    assert Completer({}, fail, list)("/lora i") == (7, [])
    monkeypatch.chdir(tmp_path)
    for i in range(MOST + 100):
        (tmp_path / f"{i}.png").touch()
    assert len(Completer({}, lambda _: [], list)("/image ")[1]) == MOST


def test_names_are_those_on_this_disk():
    assert "pixel-art" in names_here("lora")
    assert "emoji-edges" in names_here("control")
    assert next(names_here("model")) == "emoji"
