"""`--wildcards` with the real program: the same expansion again, after a kill, and beside other lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from killing import killed_after
from PIL import Image
from program import mlxdiff

from mlxdiff.metadata import read_picture

SMALL = ("-m", "emoji", "--height", "32", "--width", "32", "--steps", "2")
LINES = "a {red|green} __animals/pets__\n{small|large|} __fruit__ --negative_prompt {dark|{blur|noise}} --n_images 3\n"


@pytest.fixture
def cwd(tmp_path) -> Path:
    lists = tmp_path / "lists"
    (lists / "animals").mkdir(parents=True)
    (lists / "animals" / "pets.txt").write_text("cat\ndog\nhamster\n")
    (lists / "fruit.txt").write_text("# fruit\napple\n{1-3} pears\n")
    (tmp_path / "p.txt").write_text(LINES)
    return tmp_path


def prompts(folder: Path) -> dict[str, str]:
    """Each picture's prompt and negative prompt, as it was recorded."""
    found = {path.name: read_picture(path).request for path in sorted(folder.glob("*.png"))}
    return {name: f"{request.prompt} / {request.negative_prompt}" for name, request in found.items() if request}


def run(cwd: Path, *more: str):
    return mlxdiff("generate", "--wildcards", "lists", "--seed", "4", *SMALL, *more, cwd=cwd)


def test_the_same_pictures_after_a_kill_and_with_lines_put_in_front(cwd):
    run(cwd, "--prompts-file", "p.txt", "-o", "whole/")
    wanted = prompts(cwd / "whole")
    assert len(wanted) == 4
    assert not any(mark in text for text in wanted.values() for mark in "{|_")
    command = ("generate", "--wildcards", "lists", "--seed", "4", *SMALL, "--batch-size", "1")
    killed_after(cwd, "killed/*.png", *command, "--prompts-file", "p.txt", "-o", "killed/", n=2)
    run(cwd, "--prompts-file", "p.txt", "-o", "killed/", "--batch-size", "1")
    assert prompts(cwd / "killed") == wanted
    kept = {path.name: path.stat().st_mtime_ns for path in (cwd / "whole").glob("*.png")}
    (cwd / "p.txt").write_text(f"a new line\n{LINES}")
    again = run(cwd, "--prompts-file", "p.txt", "-o", "whole/")
    assert "Done before, or by another process: 4." in again.stderr
    assert {name: (cwd / "whole" / name).stat().st_mtime_ns for name in kept} == kept
    assert len(prompts(cwd / "whole")) == 5
    # Other words for the same line: other pictures, beside the old ones.
    (cwd / "lists" / "animals" / "pets.txt").write_text("bird\n")
    changed = run(cwd, "--prompts-file", "p.txt", "-o", "whole/", "--json")
    events = [json.loads(line) for line in changed.stdout.splitlines()]
    assert [event["event"] for event in events].count("picture") == 1
    assert any("bird" in text for text in prompts(cwd / "whole").values())


def test_a_prompt_by_hand_is_drawn_for_each_picture_and_recorded_as_drawn(cwd):
    done = run(cwd, "a {red|green|blue} __fruit__", "--n-images", "4", "-o", "out/")
    assert len(done.stdout.splitlines()) == 4
    found = prompts(cwd / "out")
    assert len(set(found.values())) > 1
    # The third alone is the third of four: what is drawn follows from its seed.
    mlxdiff(
        "generate",
        "a {red|green|blue} __fruit__",
        "--wildcards",
        "lists",
        "--seed",
        "6",
        *SMALL,
        "-o",
        "x.png",
        cwd=cwd,
    )
    request = read_picture(cwd / "x.png").request
    assert request is not None
    assert f"{request.prompt} / None" in {text for name, text in found.items() if name.endswith("-6.png")}
    # A picture has the words that were drawn, and is rendered with them again.
    mlxdiff("generate", "--from", "x.png", "-o", "y.png", cwd=cwd)
    with Image.open(cwd / "x.png") as first, Image.open(cwd / "y.png") as second:
        assert first.tobytes() == second.tobytes()


def test_without_the_option_braces_are_text(cwd):
    done = mlxdiff("generate", "a {red|green} apple", "--seed", "1", *SMALL, "-o", "x.png", cwd=cwd)
    assert "{red|green} in the prompt is text without --wildcards." in done.stderr
    request = read_picture(cwd / "x.png").request
    assert request is not None
    assert request.prompt == "a {red|green} apple"


def test_every_combination_and_a_sheet_of_them(cwd):
    done = run(cwd, "a {red|green} __animals/pets__", "--wildcards-all", "-o", "all/")
    assert len(done.stdout.splitlines()) == 6
    words = [f"a {color} {pet} / None" for color in ("red", "green") for pet in ("cat", "dog", "hamster")]
    assert list(prompts(cwd / "all").values()) == words
    run(cwd, "a {red|green}", "--wildcards-all", "--n-rows", "1", "-o", "s.png")
    with Image.open(cwd / "s.png") as sheet:
        assert sheet.size == (64, 32)


@pytest.mark.parametrize(
    ("more", "said", "code"),
    [
        (("a __animal/pets__",), "There is no wildcard __animal/pets__ in lists. Did you mean __animals/pets__?", 2),
        (
            ("{1-1000} {1-1000} {1-1000}", "--wildcards-all"),
            "it has at least 1,000,000,000 combinations, and at most 100,000",
            2,
        ),
        (("--from", "x.png"), "The prompt of a picture is never drawn again.", 2),
        (("a {b|c}", "-n", "{d|e}", "--n-rows", "1"), "A contact sheet has one negative_prompt.", 2),
    ],
)
def test_what_cannot_be_is_said_and_leaves_nothing(cwd, more, said, code):
    before = sorted(cwd.iterdir())
    done = mlxdiff("generate", *more, "--wildcards", "lists", *SMALL, "--seed", "1", cwd=cwd, code=code)
    assert said in done.stderr
    assert sorted(cwd.iterdir()) == before


def test_bad_lines_are_all_named_before_anything_is_rendered(cwd):
    (cwd / "p.txt").write_text("good --steps 1\na cat --stps 2\nb __no__\nc --steps\n")
    command = ("generate", "--wildcards", "lists", "--prompts-file", "p.txt", "-o", "out/")
    done = mlxdiff(*command, *SMALL, cwd=cwd, code=2)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert [line.split(":")[1].strip() for line in errors] == [f"p.txt, line {n}" for n in (2, 3, 4)]
    assert not (cwd / "out").exists()


def test_a_table_from_the_command_line(cwd):
    (cwd / "t.csv").write_text('prompt,steps,CFG scale\n"a red apple, on a table",1,2\na pear,,\n')
    done = run(cwd, "--prompts-file", "t.csv", "-o", "out/")
    assert [Path(line).name.rpartition("-")[2] for line in done.stdout.splitlines()] == ["4.png", "5.png"]
    request = read_picture(next((cwd / "out").glob("*-4.png"))).request
    assert request is not None
    assert (request.prompt, request.steps, request.guidance_scale) == ("a red apple, on a table", 1, 2)
