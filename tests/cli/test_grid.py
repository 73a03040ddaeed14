"""`mlxdiff grid` as a shell runs it: sheets of pictures, and sweeps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from program import mlxdiff

from mlxdiff.images import write_picture
from mlxdiff.metadata import picture_text, read_picture
from mlxdiff.request import Request

TINY = ("--seed", "1", "--height", "32", "--width", "32")


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Path:
    """Two columns of steps (one of them twice) and two rows of prompts, with every cell saved."""
    folder = tmp_path_factory.mktemp("swept")
    vary = ("--vary", "steps=1,2,1", "--vary", 'prompt=cat,"dog, flat"')
    mlxdiff("grid", "--prompt", "a cat", *vary, *TINY, "-o", "sheet.png", "--save-cells", "cells", cwd=folder)
    return folder


def test_the_sheet_is_its_cells_below_and_beside_the_labels(swept):
    names = [
        "00-00-cat-steps-1.png",
        "00-01-cat-steps-2.png",
        "00-02-cat-steps-1.png",
        "01-00-dog-flat-steps-1.png",
        "01-01-dog-flat-steps-2.png",
        "01-02-dog-flat-steps-1.png",
    ]
    assert sorted(path.name for path in (swept / "cells").iterdir()) == names
    sheet = pixels(swept / "sheet.png")
    top, left = (sheet.shape[0] - (2 * 32 + 4), sheet.shape[1] - (3 * 32 + 2 * 4))
    assert top > 10
    assert left > 10
    for name in names:
        row, column = int(name[:2]), int(name[3:5])
        y, x = top + 36 * row, left + 36 * column
        np.testing.assert_array_equal(sheet[y : y + 32, x : x + 32], pixels(swept / "cells" / name))
    assert (sheet[:top] < 128).any(), "there are labels"
    assert (sheet[:, :left] < 128).any()


def test_cells_are_what_generate_makes_and_say_so(swept, tmp_path):
    cell = swept / "cells" / "01-01-dog-flat-steps-2.png"
    request = read_picture(cell).request
    assert request is not None
    assert (request.prompt, request.steps, request.seed) == ("a dog, flat", 2, 1)
    mlxdiff("generate", "a dog, flat", "--steps", "2", *TINY, "-o", "again.png", cwd=tmp_path)
    difference = np.abs(pixels(cell).astype(int) - pixels(tmp_path / "again.png"))
    assert difference.max() <= 1, "a batch differs from a single picture in the last bits"


def test_equal_cells_are_one_picture(swept):
    cells = swept / "cells"
    assert (cells / "00-00-cat-steps-1.png").read_bytes() == (cells / "00-02-cat-steps-1.png").read_bytes()


def test_the_sheet_says_how_to_make_it_again_and_claims_no_request(swept):
    with Image.open(swept / "sheet.png") as sheet:
        said = json.loads(sheet.text["mlxdiff-sweep"])  # pyright: ignore[reportAttributeAccessIssue]
    assert said["vary"] == ["steps=1,2,1", 'prompt=cat,"dog, flat"']
    assert (said["request"]["prompt"], said["request"]["seed"], said["request"]["model"]) == ("a cat", 1, "emoji")
    assert read_picture(swept / "sheet.png").request is None


def test_a_drawn_seed_is_the_same_for_all_cells(tmp_path):
    size = ("--height", "32", "--width", "32")
    done = mlxdiff(
        "grid",
        "-p",
        "a cat",
        "--vary",
        "steps=1,2",
        *size,
        "-o",
        "s.webp",
        "--save-cells",
        "c",
        "--json",
        cwd=tmp_path,
    )
    *cells, sheet = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(cell["row"], cell["column"], cell["varied"]) for cell in cells] == [
        (0, 0, {"steps": 1}),
        (0, 1, {"steps": 2}),
    ]
    seeds = {read_picture(tmp_path / cell["path"]).request.seed for cell in cells}  # pyright: ignore[reportOptionalMemberAccess]
    assert len(seeds) == 1
    assert (sheet["path"], sheet["images"]) == ("s.webp", 2)
    with Image.open(tmp_path / "s.webp") as picture:
        assert picture.size == (sheet["width"], sheet["height"])


def test_cells_of_different_sizes_are_centred(tmp_path):
    mlxdiff(
        "grid", "-p", "a cat", "--vary", "width=32,64", "--steps", "1", "--height", "32", "-o", "s.png", cwd=tmp_path
    )
    sheet = pixels(tmp_path / "s.png")
    assert sheet.shape[1] == 2 * 64 + 4
    cells = sheet[-32:]
    assert (cells[:, :16] == 255).all()
    assert (cells[:, 48:64] == 255).all()


SWEEP = ("--prompt", "a cat", "--vary", "steps=1,2")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "nothing for the sheet"),
        (("--vary", "steps=1"), "nothing for the sheet"),
        (("{here}/a.png", "--vary", "steps=1"), "Only a sweep is varied"),
        (("{here}/a.png", "--save-cells", "c"), "Only a sweep"),
        (("{here}/a.png", *SWEEP), "There are pictures and a --prompt"),
        (("--prompt", "a cat"), "varies nothing"),
        ((*SWEEP, "--n-rows", "2"), "Leave out --n-rows"),
        ((*SWEEP, "--vary", "seed=1", "--vary", "cfg=1"), "3 things are varied"),
        ((*SWEEP, "--vary", "colour=red"), "cannot vary 'colour'"),
        ((*SWEEP, "--vary", "prompt=dog,cow"), "'dog' does not occur"),
        ((*SWEEP, "--vary", "sampler=euler,warp"), "no sampler 'warp'"),
        ((*SWEEP, "--vary", "height=128,130"), "height is 130"),
        ((*SWEEP, "--vary", "strength=0.5"), "a strength but no image"),
        ((*SWEEP, "-o", "x.bmp"), "format '.bmp'"),
        ((*SWEEP, "--width", "8192", "-o", "x.webp"), "at most 16383 a side"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_rendered(tmp_path, arguments, words):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    arguments = [part.format(here=tmp_path) for part in arguments]
    output = () if "-o" in arguments else ("-o", "x.png")
    done = mlxdiff("grid", *arguments, *output, cwd=tmp_path, code=2)
    assert words in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_cell_that_exists_stops_everything(tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "00-01-steps-2.png").write_text("mine")
    done = mlxdiff("grid", *SWEEP, "-o", "x.png", "--save-cells", "c", cwd=tmp_path, code=1)
    assert "00-01-steps-2.png exists already" in done.stderr
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["00-01-steps-2.png"]


def test_a_sheet_of_pictures_that_no_webp_can_hold(tmp_path):
    Image.new("RGB", (9000, 8)).save(tmp_path / "a.png")
    done = mlxdiff("grid", "a.png", "a.png", "--n-rows", "1", "-o", "x.webp", cwd=tmp_path, code=2)
    assert "18000x8" in done.stderr
    assert not (tmp_path / "x.webp").exists()


def test_a_sheet_is_not_put_on_itself(tmp_path):
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (8, 8), colour).save(tmp_path / name)
    sheets = []
    for pictures in (("a.png", "b.png"), ("a.png", "b.png", "sheet.png"), ("a.png", "./sheet.png", "b.png")):
        done = mlxdiff("grid", *pictures, "-o", "sheet.png", "--n-rows", "1", "--force", cwd=tmp_path)
        assert done.stdout == "sheet.png\n"
        assert ("not put on it" in done.stderr) == (len(pictures) == 3)
        sheets.append((tmp_path / "sheet.png").read_bytes())
    assert sheets[0] == sheets[1] == sheets[2]
    done = mlxdiff("grid", "sheet.png", "-o", "sheet.png", "--force", cwd=tmp_path, code=2)
    assert "the only picture, and the sheet" in done.stderr


def test_a_folder_and_the_pictures_of_it_that_are_chosen(tmp_path):
    (tmp_path / "in/deep").mkdir(parents=True)
    for i, name in enumerate(("a", "b", "deep/c")):
        request = Request("a cat", seed=i, steps=2)
        write_picture(tmp_path / f"in/{name}.png", np.full((8, 8, 3), 100 + i, np.uint8), picture_text(request))

    def colours(*arguments, code=0) -> list[int]:
        mlxdiff("grid", *arguments, "-o", "in/sheet.png", "--n-rows", "1", "--force", cwd=tmp_path, code=code)
        return pixels(tmp_path / "in/sheet.png")[0, ::8, 0].tolist()

    assert colours("in") == [100, 101, 102]
    assert colours("in", "--where", "seed != 1") == [100, 102], "and not the sheet itself"
    assert colours("in/*.png", "in/a.png", "--where", "program = 'mlxdiff' and seed >= 0") == [100, 101]
    assert colours("in/a.png", "in/a.png") == [100, 100], "as often as they are named"
    (tmp_path / "in/broken.png").write_bytes(b"rubbish")
    assert colours("in", "--where", "seed = 1", code=1) == [101]
    for arguments, said in (
        (("in", "--where", "seed = 9"), "None of 5 pictures is chosen by --where."),
        (("in/deep", "--where", "sede = 9"), "there is no name 'sede'"),
        (("--prompt", "a cat", "--vary", "steps=1,2", "--where", "seed = 9"), "--where chooses among pictures"),
    ):
        code = 1 if "None" in said else 2
        assert said in mlxdiff("grid", *arguments, "-o", "no.png", cwd=tmp_path, code=code).stderr
    assert not (tmp_path / "no.png").exists()
