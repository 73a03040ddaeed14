"""Which pictures are chosen: of every program that is read, by settings, their parts, and facts of files."""

from __future__ import annotations

import os
from datetime import datetime

import numpy as np
import program_pictures
import pytest
from PIL import Image

from mlxdiff.culling import Where, parse_order, read
from mlxdiff.culling.names import FACTS, called
from mlxdiff.errors import InputError, RequestError
from mlxdiff.images import write_picture
from mlxdiff.metadata import picture_text
from mlxdiff.metadata.sheets import sheet_text
from mlxdiff.recipes import PROGRAMS
from mlxdiff.request import Request


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """A picture of every program, by its name."""
    paths = program_pictures.write_all(tmp_path_factory.mktemp("programs"))
    return {program: read(path) for program, path in paths.items()}


def chosen(expression, pictures) -> set[str]:
    where = Where(expression)
    return {name for name, picture in pictures.items() if where.matches(picture)}


def made(tmp_path, request, name="a.png"):
    write_picture(tmp_path / name, np.zeros((8, 16, 3), np.uint8), picture_text(request))
    return read(tmp_path / name)


def test_pictures_of_every_program_are_chosen_by_one_expression(programs):
    assert set(programs) == set(PROGRAMS)
    assert {picture.program for picture in programs.values()} == set(PROGRAMS)
    assert chosen("steps = 20 and seed = 5 and prompt contains 'A CAT'", programs) == set(PROGRAMS)
    assert chosen("width = 512 and height = 768 and negative_prompt = 'dogs'", programs) == set(PROGRAMS)
    assert chosen("steps > 20 or seed != 5", programs) == set()
    assert chosen("program in ('ComfyUI', 'sd.cpp')", programs) == {"comfyui", "sd.cpp"}
    assert chosen("model contains 'v1-5'", programs) == {"a1111", "forge", "comfyui", "civitai"}
    assert chosen("sampler = 'Euler a'", programs) >= {"a1111", "forge", "invokeai", "civitai", "sd.cpp"}
    assert chosen("picture_width = 8", programs) == set(PROGRAMS), "of the file, and not of what was rendered"


def test_loras_are_found_as_settings_and_as_tags(programs, tmp_path):
    with_lora = {"a1111", "forge", "fooocus", "civitai", "swarmui", "drawthings"}
    assert chosen("lora = 'ink'", programs) == with_lora
    assert chosen("lora.scale = 0.5", programs) == {"a1111", "forge", "fooocus", "swarmui"}
    assert chosen("lora is missing", programs) == set(PROGRAMS) - with_lora
    pictures = {"two": made(tmp_path, Request("a", lora=("ink,scale=0.5", "dust")))}
    for expression in ("lora = 'dust'", "lora like 'in_'", "lora.scale < 1", "lora.scale = 1", "lora.ref = 'ink'"):
        assert chosen(expression, pictures), expression
    for expression in ("lora != 'dust'", "lora not in ('ink')", "lora not contains 'us'", "lora.text > 0"):
        assert not chosen(expression, pictures), expression


def test_what_is_not_said_matches_no_comparison_and_not_turns_that(tmp_path):
    pictures = {"a": made(tmp_path, Request("a cat", seed=3))}
    for expression in ("steps = 20", "steps != 20", "steps < 20", "steps in (20)", "steps not in (20)", "steps = seed"):
        assert not chosen(expression, pictures), expression
        assert chosen(f"not {expression}", pictures), expression
    for expression in ("hires_prompt like '%'", "hires_prompt not like 'a'", "hires_prompt != ''"):
        assert not chosen(expression, pictures), expression
    assert chosen("steps is missing and steps is null and seed is not missing", pictures)


def test_a_setting_that_is_left_out_because_it_changes_nothing_has_that_value(tmp_path, programs):
    pictures = {"a": made(tmp_path, Request("a cat"))}
    for expression in ("clip_skip = 1", "cache_interval = 1", "token_merging = 0", "n_images = 1", "fit = 'crop'"):
        assert chosen(expression, pictures), expression
    assert "a1111" in chosen("cache_interval = 1 and rounding = 'truncate'", programs)
    assert not chosen("clip_skip = 1", {"none": read(_plain(tmp_path))}), "a picture that says nothing has none"


def _plain(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    return tmp_path / "plain.png"


def test_names_are_those_of_options_too(tmp_path):
    pictures = {"a": made(tmp_path, Request("a", guidance_scale=7, hires_steps=4, sampler="dpmpp_2m"))}
    for expression in (
        "cfg = 7",
        "guidance-scale = 7",
        "GUIDANCE_SCALE > 6.5",
        "hires-steps = 4",
        "sampler = 'DPM++ 2M'",
    ):
        assert chosen(expression, pictures), expression


def test_values_are_written_as_in_an_option(tmp_path):
    request = Request("a", hires_size="512x768", hires_upscaler="Latent", expand="8,0,8,0", sigmas=(14.5, 7, 0))
    pictures = {"a": made(tmp_path, request)}
    for expression in ("hires_size = '512 x 768'", "hires_upscaler = 'Latent'", "expand = '8, 0, 8, 0'", "sigmas > 14"):
        assert chosen(expression, pictures), expression
    with pytest.raises(RequestError, match="character 14: hires_size is 'large'"):
        Where("hires_size = 'large'")


def test_every_setting_can_be_named(tmp_path):
    picture = made(tmp_path, Request("a"))
    from mlxdiff.culling.names import SETTINGS

    for item in SETTINGS:
        name = called(item.name)
        assert name is not None
        assert name.type in ("number", "text")
        assert isinstance(Where(f"{item.name} is missing").matches(picture), bool)


def test_facts_of_the_file(tmp_path):
    picture = made(tmp_path, Request("a"), "Cat é.png")
    os.utime(picture.path, (0, datetime(2026, 11, 26, 18, 30, 5).timestamp()))
    pictures = {"a": read(picture.path)}
    for expression in (
        "name = 'Cat é.png'",
        "name = 'Cat e\u0301.png'",
        "name like 'cat%.PNG'",
        "path contains '/cat'",
        "format = 'png' and picture_width = 16 and picture_height = 8",
        f"bytes = {picture.bytes} and bytes < 1e6",
        "date = '2026-11-26' and mtime = '2026-11'",
        "date = '2026-11-26 18:30' and date = '2026-11-26T18:30:05'",
        "date >= '2026-11-26' and date <= '2026-11-26' and date < '2026-11-27'",
        "'2026-11-25' < date and date > '2026-11-26 18:29' and date != '2026-11-25'",
    ):
        assert chosen(expression, pictures), expression
    for expression in ("date > '2026-11-26'", "date < '2026-11-26'", "date = '2026-12'", "name = 'cat é.png'"):
        assert not chosen(expression, pictures), expression


def test_a_sheet_of_one_request_has_all_its_seeds(tmp_path):
    several = {"a": made(tmp_path, Request(("a cat", "a dog"), n_images=2, seed=5))}
    for expression in ("seed = 5", "seed = 8", "prompt = 'a dog'", "n_images = 2"):
        assert chosen(expression, several), expression
    for expression in ("seed = 9", "seed != 8", "prompt != 'a dog'"):
        assert not chosen(expression, several), expression
    write_picture(tmp_path / "s.png", np.zeros((8, 8, 3), np.uint8), sheet_text(["a.png"]))
    sheet = {"s": read(tmp_path / "s.png")}
    assert chosen("program = 'mlxdiff' and seed is missing", sheet)


def test_large_seeds_are_exact(tmp_path):
    pictures = {"a": made(tmp_path, Request("a", seed=2**64 - 1))}
    assert chosen(f"seed = {2**64 - 1}", pictures)
    assert not chosen(f"seed = {2**64 - 2}", pictures)


def test_texts_of_others_that_cannot_be_used_are_no_settings(tmp_path):
    (tmp_path / "a.txt").write_text(program_pictures.A1111)
    assert chosen("steps = 20 and lora = 'ink' and picture_width is missing", {"a": read(tmp_path / "a.txt")})
    write_picture(tmp_path / "b.png", np.zeros((8, 8, 3), np.uint8), {"mlxdiff": '{"steps": "many"}'})
    broken = {"b": read(tmp_path / "b.png")}
    assert chosen("steps is missing and program is missing", broken)
    for name in ("c.png", "d.jpg"):
        (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
        with pytest.raises(InputError):
            read(tmp_path / name)
    with pytest.raises(InputError):
        read(tmp_path / "nosuch.png")


def test_order(tmp_path):
    pictures = [
        made(tmp_path, Request("a", seed=seed, steps=steps), f"{i}.png")
        for i, (seed, steps) in enumerate([(5, None), (20, 3), (3, 1), (20, 2)])
    ]

    def names(order: str) -> str:
        return "".join(picture.path.stem for picture in sorted(pictures, key=parse_order(order)))

    assert names("seed") == "2013"
    assert names("-seed") == "1302"
    assert names("steps") == "2310"
    assert names("-steps") == "1320", "what is missing comes last either way"
    assert names("-name") == "3210"
    with pytest.raises(RequestError, match="Did you mean seed"):
        parse_order("sede")


def test_facts_have_a_word_of_explanation():
    assert all(fact.help for fact in FACTS)
