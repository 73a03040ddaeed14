"""`mlxdiff generate --from` many pictures: which are rendered, under which names, and what a second run does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import program_pictures
import pytest
from killing import THREADS, killed_after, names
from odd_names import ODD
from PIL import Image
from program import mlxdiff

from mlxdiff.batch.again import changes
from mlxdiff.cli.app import main
from mlxdiff.images import write_picture
from mlxdiff.metadata import picture_text, read_picture
from mlxdiff.request import Lora, Request

SMALL = {"steps": 2, "height": 64, "width": 64, "model": "emoji", "prompt_syntax": "a1111"}


def write(path, prompt="a red apple", **settings) -> None:
    """A picture that says how it was made, and was not: its pixels do not matter here."""
    path.parent.mkdir(parents=True, exist_ok=True)
    request = Request(prompt, **{**SMALL, "seed": 1, **settings})
    write_picture(path, np.zeros((8, 8, 3), np.uint8), picture_text(request), force=True)


@pytest.fixture
def generate(monkeypatch, capfd):
    """Runs the command in this process, in a folder; what it printed."""

    def run(cwd, *arguments, code=0) -> SimpleNamespace:
        monkeypatch.chdir(cwd)
        with pytest.raises(SystemExit) as end:
            main(["generate", *map(str, arguments)])
        out, err = capfd.readouterr()
        assert end.value.code == code, f"{out}{err}"
        return SimpleNamespace(stdout=out, stderr=err)

    return run


def made(path) -> Request:
    request = read_picture(path).request
    assert request is not None
    return request


@pytest.fixture
def here(tmp_path):
    """src/a.png (seed 1), src/b.png (seed 2), src/in/a.png (seed 3, a pear)."""
    write(tmp_path / "src/a.png")
    write(tmp_path / "src/b.png", seed=2)
    write(tmp_path / "src/in/a.png", "a pear", seed=3)
    return tmp_path


def test_every_way_to_name_them_gives_the_same_pictures(here, generate):
    done = generate(here, "--from", "src", "--steps", "1", "-o", "out", "--batch-size", "1", "--json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["event"] for event in events] == ["picture"] * 3
    assert {event["source"]: event["path"] for event in events} == {
        "src/a.png": "out/a-steps-1.png",
        "src/b.png": "out/b-steps-1.png",
        "src/in/a.png": "out/in/a-steps-1.png",
    }
    again = [made(here / f"out/{name}-steps-1.png") for name in ("a", "b", "in/a")]
    assert [(one.prompt, one.seed, one.steps) for one in again] == [
        ("a red apple", 1, 1), ("a red apple", 2, 1), ("a pear", 3, 1)
    ]  # fmt: skip
    for ways in (("src/*.png",), ("src/a.png", "--from", "src/b.png"), ("src/a.png", "src/b.png")):
        folder = f"out{len(ways)}{len(ways[-1])}"
        generate(here, "--from", *ways, "--steps", "1", "-o", folder, "--batch-size", "1")
        for name in ("a", "b"):
            wanted = (here / f"out/{name}-steps-1.png").read_bytes()
            assert (here / folder / f"{name}-steps-1.png").read_bytes() == wanted
    listed = subprocess.run(
        [sys.executable, "-m", "mlxdiff", "generate", "--from", "-", "--steps", "1", "-o", "out"],
        cwd=here, input=b"src/b.png\0src/a.png\0", capture_output=True, check=True, env={**os.environ, **THREADS},
    )  # fmt: skip
    assert (listed.stdout, listed.stderr.count(b"Done before")) == (b"", 1), "their names do not depend on the list"


def test_in_their_own_folder_they_are_neither_overwritten_nor_rendered_from_what_was_made(here, generate):
    sources = {name: (here / "src" / name).read_bytes() for name in ("a.png", "b.png")}
    for extra in ((), ("--no-metadata",)):
        steps = "3" if extra else "1"
        shell = ["a.png", "b.png"]
        for _ in range(3):
            generate(here / "src", "--from", *shell, "--steps", steps, *extra)
            shell = sorted(name for name in names(here / "src") if name.endswith(f"-steps-{steps}.png")) + shell[-2:]
            assert len(shell) == 4
        generate(here / "src", "--from", ".", "--where", "steps = 2", "--steps", steps, "--force", *extra)
    assert [name for name in names(here / "src") if name.endswith(".png")] == [
        *("a-steps-1.png", "a-steps-3.png", "a.png", "b-steps-1.png", "b-steps-3.png", "b.png"),
    ]
    assert {name: (here / "src" / name).read_bytes() for name in sources} == sources


def test_a_folder_inside_the_one_that_is_read_is_no_source(here, generate):
    generate(here, "--from", "src", "--steps", "1", "-o", "src/new")
    before = names(here / "src/new")
    done = generate(here, "--from", "src", "--steps", "1", "-o", "src/new")
    assert "Pictures in src/new are left out (3): new ones are written there." in done.stderr
    done = generate(here, "--from", "src", "--steps", "3", "-o", "src/new", "--dry-run", "--json")
    assert len(done.stdout.splitlines()) == 3
    assert names(here / "src/new") == before


def test_a_name_that_another_picture_has_is_an_error_and_force_spares_what_is_read(here, generate):
    write(here / "src/a-steps-1.png", "another", seed=9)
    kept = (here / "src/a-steps-1.png").read_bytes()
    for force in ((), ("--force",)):
        done = generate(
            here / "src", "--from", "a.png", "a-steps-1.png", "--steps", "1", *force, code=2 if force else 1
        )
        assert "a-steps-1.png exists already: its" in done.stderr
        assert "its prompt is 'another', not 'a red apple'" in done.stderr
        assert (here / "src/a-steps-1.png").read_bytes() == kept
    for template in ("{name}.png", "src/{name}.png"):
        cwd = here if "/" in template else here / "src"
        done = generate(cwd, "--from", "src" if cwd == here else ".", "--steps", "1", "-o", template, "-f", code=2)
        assert "would be written over the picture that it is made from" in done.stderr
    done = generate(here / "src", "--from", ".", "-o", "{index}.png", code=2)
    assert "a name with {index} does not say" in done.stderr


def test_one_that_cannot_be_rendered_fails_alone(here, generate):
    (here / "src/broken.png").write_bytes(b"rubbish")
    Image.new("RGB", (8, 8)).save(here / "src/plain.png")
    write(here / "src/gone.png", image="nosuch.jpg", strength=0.5)
    write(here / "src/nomodel.png", model="nosuch/model")
    for dry in (("--dry-run",), (), ()):
        done = generate(here, "--from", "src", "--steps", "1", "-o", "out", "--json", *dry, code=3)
        events = [json.loads(line) for line in done.stdout.splitlines()]
        failed = {event["source"]: event["error"] for event in events if event["event"] == "failed"}
        assert len(events) - len(failed) == 3
        assert failed["src/broken.png"].startswith("src/broken.png is not a picture, or a damaged one.")
        assert failed["src/plain.png"].startswith("src/plain.png: It says nothing about how it was made.")
        assert "There is no picture nosuch.jpg." in failed["src/gone.png"]
        assert "nosuch/model is not in the cache" in failed["src/nomodel.png"]
        assert done.stderr.count("failed: ") == 4
    assert [name for name in names(here / "out") if name.endswith(".png")] == ["a-steps-1.png", "b-steps-1.png"]
    done = generate(here, "--from", "src", "--where", "seed < 3 and model = 'emoji'", "-o", "out2", code=3)
    assert "2 of 7 pictures are chosen." not in done.stderr, "three have seed 1, one of them without its image"
    assert done.stderr.count("failed: ") == 2
    done = generate(here, "--from", "src", "--model", "nosuch/model", "-o", "out3", code=1)
    assert done.stderr.count("nosuch/model is not in the cache") == 1
    assert not (here / "out3").exists()


def test_an_input_file_that_changed_is_said_once(here, generate):
    write(here / "start.png")
    for name in ("a", "b"):
        write(here / f"{name}.png", image="start.png", strength=0.5, hashes={"start.png": "0" * 64})
    done = generate(here, "--from", "a.png", "b.png", "--steps", "2", "-o", "out")
    assert "2 pictures (a.png, b.png): start.png has changed since the picture was made." in done.stderr
    assert done.stderr.count("has changed") == 1


def test_pictures_of_other_programs_and_their_remarks(tmp_path, generate):
    (tmp_path / "in").mkdir()
    program_pictures.write_all(tmp_path / "in")
    done = generate(
        *(tmp_path, "--from", "in", "--where", "program != 'novelai'"),
        *("--height", "64", "--width", "64", "--steps", "1", "-o", "out", "--dry-run", "--json"),
    )
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert {event["request"]["prompt"] for event in events} == {"a cat"}
    assert {event["seed"] for event in events} == {5}
    assert len(events) == 10
    warned = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert any(line.startswith("warning: 2 pictures (a1111.png, forge.png): ") for line in warned)
    assert len(warned) < 20


@pytest.mark.slow
def test_killed_and_run_again(here):
    write(here / "src/c.png", seed=10)
    write_seedless(here / "src/seedless.txt", here / "src/seedless.png")
    command = ("generate", "--from", "src", "--steps", "12", "-o", "killed", "--batch-size", "1")
    killed_after(here, "killed/*.png", *command)
    left = {name: (here / "killed" / name).read_bytes() for name in names(here / "killed") if name.endswith(".png")}
    assert 0 < len(left) < 5
    mlxdiff(*command, cwd=here, **THREADS)
    seed = made(here / "killed/seedless-steps-12.png").seed
    rest = {path.relative_to(here / "killed"): path.read_bytes() for path in (here / "killed").rglob("*.png")}
    assert len(rest) == 5
    assert {name: (here / "killed" / name).read_bytes() for name in left} == left
    done = mlxdiff(*command, cwd=here, **THREADS)
    assert (done.stdout, "5." in done.stderr) == ("", True)
    assert made(here / "killed/seedless-steps-12.png").seed == seed, "drawn once for the command"
    whole = ("generate", "--from", "src", "--where", "seed is not missing", *command[3:5], "-o", "whole", *command[7:])
    mlxdiff(*whole, cwd=here, **THREADS)
    for path in (here / "whole").rglob("*.png"):
        assert path.read_bytes() == rest[path.relative_to(here / "whole")]


def write_seedless(text, picture) -> None:
    info = "a plum\nSteps: 2, Sampler: DDIM, CFG scale: 4, Size: 64x64, Model: emoji, RNG: CPU, Version: mlxdiff 0.1.0"
    write_picture(picture, np.zeros((8, 8, 3), np.uint8), {"parameters": info})
    assert not text.exists()


def test_limits_and_existing_files(here, generate):
    command = ("--from", "src", "--steps", "1", "-o", "out", "--batch-size", "1")
    done = generate(here, *command, "--limit", "1", "--json")
    assert json.loads(done.stdout.splitlines()[-1]) == {"event": "stopped", "why": "limit", "left": 2}
    (here / "out/b-steps-1.png").write_bytes(b"mine")
    generate(here, *command, "--skip-existing")
    assert (here / "out/b-steps-1.png").read_bytes() == b"mine"
    assert (here / "out/in/a-steps-1.png").exists()


def test_two_of_one_name_get_a_number_and_keep_it(here, generate):
    write(here / "other/a.png", "a plum", seed=7)
    generate(here, "--from", "src/a.png", "other/a.png", "--steps", "1", "-o", "out")
    assert made(here / "out/a-steps-1.png").prompt == "a red apple"
    assert made(here / "out/a-steps-1-2.png").prompt == "a plum"
    done = generate(here, "--from", "other/a.png", "src/a.png", "src/b.png", "--steps", "1", "-o", "out")
    assert done.stdout == "out/b-steps-1.png\n"


def test_names(here, generate):
    generate(here, "--from", "src", "--sampler", "Euler a", "--cfg", "2.5", "-o", "x/{steps}/{name:.1}-{seed}")
    assert sorted(path.name for path in (here / "x/2").glob("*.png")) == ["a-1.png", "a-3.png", "b-2.png"]
    generate(here, "a plum", "--from", "src/*.png", "--n-images", "2", "--seed", "7", "-o", "y")
    assert [name for name in names(here / "y") if name.endswith(".png")] == [
        *(f"{name}-prompt-a-plum-seed-7-{seed}.png" for name in "ab" for seed in (7, 8)),
    ]
    generate(here, "--from", "src/a.png", "--where", "seed = 1", "--sampler", "DPM++ 2M Karras", "-o", "v")
    generate(here, "--from", "src/a.png", "--where", "seed = 1", "--sampler", "dpmpp_2m_karras", "-o", "v")
    assert [name for name in names(here / "v") if name.endswith(".png")] == ["a-sampler-dpmpp_2m-schedule-karras.png"]
    generate(here, "--from", "src/*.png", "-o", "z")
    assert [name for name in names(here / "z") if name.endswith(".png")] == ["a-again.png", "b-again.png"]


def test_odd_names(tmp_path, generate):
    for name in ODD:
        write(tmp_path / "plain.png", steps=1)
        (tmp_path / "src").mkdir(exist_ok=True)
        os.rename(tmp_path / "plain.png", os.path.join(os.fsencode(tmp_path / "src"), os.fsencode(name)))
    generate(tmp_path, "--from", "src", "--cfg", "1", "-o", "out")
    found = [name for name in names(tmp_path / "out") if name.endswith(".png")]
    assert len(found) == len(ODD)
    assert not set("\n\t\x1b\u202e\\\udcff") & set("".join(found))
    assert max(len(os.fsencode(name)) for name in found) <= 255
    done = generate(tmp_path, "--from", "src", "--cfg", "1", "-o", "out")
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (("--from", "src", "--where", "stpes = 1"), "there is no name 'stpes'", 2),
        (("--where", "steps = 1", "a cat"), "--where chooses among pictures, and there are none.", 2),
        (("--from", "src", "--steps", "5000"), "steps is 5000.", 2),
        (("--from", "src", "--sampler", "eulr"), "There is no sampler 'eulr'.", 2),
        (("--from", "src", "--prompts-file", "p.txt"), "--prompts-file has no place beside many pictures.", 2),
        (("--from", "src", "--n-rows", "2"), "--n-rows has no place beside many pictures.", 2),
        (("--from", "src", "--wildcards-all"), "--wildcards-all has no place beside many pictures.", 2),
        (("--from", "src", "--profile", "fast"), "--profile has no place beside many pictures.", 2),
        (("--from", "src", "-o", "-"), "Many pictures do not fit into one stream.", 2),
        (("--from", "src", "-o", "{nome}.png"), "{name}", 2),
        (("--from", "src/a.png", "src/b.png", "a", "pear"), 'Quote it: mlxdiff generate "a pear"', 2),
        (("--from", "src/*.jpg"), "No picture's name is like src/*.jpg.", 1),
        (("--from", "empty"), "There are no pictures to render again.", 1),
        (("--from", "src/a.png", "missing.png"), "There is no picture missing.png.", 3),
        (("--from", "src", "--where", "seed = 99"), "0 of 3 pictures are chosen.", 0),
        (("a", "cat"), 'There are words after the prompt: cat. Quote it: mlxdiff generate "a cat"', 2),
    ],
)
def test_wrong_usage(here, generate, arguments, said, code):
    (here / "empty").mkdir()
    done = generate(here, *arguments, *(() if "-o" in arguments else ("-o", "out")), "--dry-run", code=code)
    assert said in done.stderr


def test_what_a_shell_makes_of_a_pattern(here, generate):
    (here / "src/mlxdiff-journal.jsonl").touch()
    (here / "src/b.safetensors").touch()
    words = sorted(f"src/{name}" for name in names(here / "src"))
    done = generate(here, "--from", *words, "--steps", "1", "-o", "out", "--dry-run", "--json")
    sources = [json.loads(line)["source"] for line in done.stdout.splitlines()]
    assert sources == ["src/a.png", "src/b.png", "src/in/a.png"]
    assert "Left out, as they are no pictures: src/b.safetensors, src/mlxdiff-journal.jsonl." in done.stderr


@pytest.mark.parametrize("word", ["in", "Makefile"])
def test_a_word_that_may_be_a_file_or_the_prompt(here, generate, word):
    (here / "src/Makefile").touch()
    done = generate(here / "src", "--from", "a.png", "b.png", word, "--dry-run", code=2)
    assert f"{word} is a {'folder' if word == 'in' else 'file'} here, and might be the prompt." in done.stderr
    done = generate(here / "src", "--from", "a.png", "b.png", f"{word} ", "--dry-run", "--json")
    assert {json.loads(line)["prompt"] for line in done.stdout.splitlines()} == {f"{word} "}


def test_folders_are_not_in_names():
    given = {
        "lora": (Lora("/home/me/style.safetensors", 0.5),),
        "vae": "/home/me/tiny.safetensors",
        "model": "a/b@v1",
    }
    assert changes(given) == "lora-style-scale-0.5-model-b-v1-vae-tiny"
    assert changes({}) == "again"


def test_one_picture_is_as_ever(here, generate):
    generate(here, "--from", "src/a.png", "a plum", "-o", "one.png")
    assert made(here / "one.png").prompt == "a plum"
    generate(here, "--from", "src/a.png", "--n-images", "2", "--n-rows", "1", "-o", "sheet.png")
    assert made(here / "sheet.png").n_images == 2
