"""What lines and commands do to the state of the shell, and what they say; without a terminal."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image, ImageChops
from safetensors.numpy import load_file, save_file

from mlxdiff.batch.options import RunOptions
from mlxdiff.cli.shell.commands import ALIASES, COMMANDS
from mlxdiff.cli.shell.session import Session
from mlxdiff.cli.shell.state import SETTINGS, State, setting_named, typed_name
from mlxdiff.metadata import read_picture
from mlxdiff.request import Request

START = Request(model="emoji", steps=2, height=32, width=32)


@pytest.fixture
def session(tmp_path, monkeypatch) -> Session:
    monkeypatch.chdir(tmp_path)
    return Session(State(START), RunOptions(), every=False, with_model=lambda request: replace(request, model="emoji"))


@pytest.fixture
def tell(session, capsys):
    """Types lines, and returns what is said; the shell goes on."""

    def tell(*lines: str) -> str:
        capsys.readouterr()
        for line in lines:
            assert session.do([line])
        out, err = capsys.readouterr()
        return out + err

    return tell


def last(session: Session) -> Request:
    return read_picture(session.last_picture()).request


def test_no_command_has_the_name_of_a_setting_and_every_setting_is_one():
    names = {typed_name(item) for item in SETTINGS}
    assert not names & {*COMMANDS, *ALIASES}
    assert all(setting_named(name) is not None for name in names)
    assert setting_named("prompt") is None
    assert "hashes" not in names


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("/steps 7", "steps", 7),
        ("/steps=7", "steps", 7),
        ("/STEPS 7", "steps", 7),
        ("/guidance-scale 3.5", "guidance_scale", 3.5),
        ("/cfg 3.5", "guidance_scale", 3.5),
        ("/cfg_scale 3.5", "guidance_scale", 3.5),
        ("/sampler Euler a", "sampler", "euler_ancestral"),
        ('/negative-prompt "dark, blurry"', "negative_prompt", "dark, blurry"),
        ("/negative-prompt dark, blurry", "negative_prompt", "dark, blurry"),
        ('/negative-prompt "none"', "negative_prompt", "none"),
        ("/seed 5", "seed", 5),
        ("/seed -1", "seed", None),
        ("/seed random", "seed", None),
        ("/steps default", "steps", None),
        ("/n-images 3", "n_images", 3),
        ("/n-images default", "n_images", 1),
        ("/hires off", "hires", None),
        ("/negative-prompt none", "negative_prompt", None),
    ],
)
def test_a_setting_is_set_for_later_lines(session, tell, line, name, value):
    assert "error" not in tell(line)
    assert getattr(session.state.request, name) == value


def test_a_samplers_older_name_sets_the_schedule_too_in_place_of_the_one_before(session, tell):
    tell("/schedule simple", "/sampler Euler")
    assert (session.state.request.sampler, session.state.request.schedule) == ("euler", "simple")
    tell("/sampler DPM++ 2M Karras")
    assert (session.state.request.sampler, session.state.request.schedule) == ("dpmpp_2m", "karras")
    tell("a cat --sampler 'DPM++ SDE Exponential'")
    assert (last(session).sampler, last(session).schedule) == ("dpmpp_sde", "exponential")


def test_loras_are_added_changed_and_taken_away(session, tell):
    tell("/lora pixel-art")
    tell("/lora pixel-art,scale=0.5")
    assert [(lora.ref, lora.scale) for lora in session.state.request.lora] == [("pixel-art", 0.5)]
    copy = shutil.copy(next(Path("/").joinpath(*tiny_lora().parts).parent.glob("*.safetensors")), "other.safetensors")
    tell(f"/lora {copy}")
    assert [lora.ref for lora in session.state.request.lora] == ["pixel-art", "other.safetensors"]
    assert "lora: none" in tell("/lora none")
    assert "There is no LoRA 'nowhere'" in tell("/lora nowhere")
    assert session.state.request.lora is None


def tiny_lora() -> Path:
    from mlxdiff import hub

    return hub.find_part("pixel-art", "lora")


def test_undo_reset_and_show(session, tell):
    assert tell("/show").split() == ["model", "emoji", "steps", "2", "height", "32", "width", "32"]
    tell("/steps 9", "/cfg 2", "/seed 4")
    assert "seed: random" in tell("/undo")
    assert "guidance-scale" in tell("/reset cfg")
    assert session.state.request == replace(START, steps=9)
    assert "guidance-scale: 2" in tell("/undo")
    tell("/undo")
    said = tell("/undo")
    assert "steps: 2" in said
    assert session.state.request == START
    assert "There is nothing to undo." in tell("/undo")
    tell("/steps 9", "/output there/")
    said = tell("/reset")
    assert "steps: 2" in said
    assert "output: here" in said
    assert session.state == session.start


def test_settings_that_do_not_go_together_change_nothing(session, tell):
    assert "There is a strength but no image." in tell("/strength 0.5")
    assert "no second pass" in tell("/hires-steps 3")
    assert "starts at 0.9 and ends at 0.5" in tell("/guidance-end 0.5", "/guidance-start 0.9")
    assert session.state.request == replace(START, guidance_end=0.5)


def test_what_is_wrong_from_the_start_can_be_put_right_one_by_one(session, tell):
    session.state = State(replace(START, strength=0.5))
    assert "warning: There is a strength but no image." in tell("/steps 3")
    assert session.state.request.steps == 3
    assert "There is a strength but no image." in tell("a cat")
    assert "error" not in tell("/strength default", "a cat")


def test_seeds_are_new_each_time_or_fixed_and_the_last_one_can_be_kept(session, tell):
    tell("a cat")
    first = last(session).seed
    tell("a cat")
    assert last(session).seed != first
    kept = last(session).seed
    assert f"seed: {kept}" in tell("/seed last")
    tell("a cat --steps 3")
    assert (last(session).seed, last(session).steps) == (kept, 3)
    tell("/again")
    assert (last(session).seed != kept, last(session).steps) == (True, 3)


def test_a_prompt_is_repeated_with_the_seed_that_is_set(tell):
    assert "There is no last prompt." in tell("/repeat")
    tell("a cat", "/seed last", "/steps 3", "/repeat")
    first, second = (read_picture(path).request for path in sorted(Path().glob("*.png"), key=os.path.getmtime))
    assert (first.seed, first.steps, first.prompt) == (second.seed, second.steps - 1, second.prompt)
    assert "is there already" in tell("/repeat")


def test_a_pictures_settings_are_taken_over_with_its_prompt(session, tell, tmp_path):
    tell("a cat --steps 3 --sampler euler --seed 7 --n-images 2 --output one.png")
    made = Path("one-8.png")
    tell("/reset", "a dog", "/lora pixel-art")
    said = tell("/from one-8.png")
    assert "prompt: a cat" in said
    assert "lora: none" in said
    assert (session.state.request.seed, session.state.request.steps) == (8, 3)
    tell("/repeat")
    with Image.open(made) as before, Image.open(session.last_picture()) as after:
        most = max(high for _, high in ImageChops.difference(before, after).getextrema())
        assert most <= 1, "it was one of a batch, which decides last bits"
    tell("/again")
    assert last(session).seed != 8
    assert "lora: pixel-art" in tell("/undo")
    for line, words in (("/from", "names no file"), ("/from no.png", "no.png"), ("/from /dev/zero", "a device")):
        assert words in tell(line)
    (tmp_path / "a.txt").write_text("{{a fox}}, {bird}\nSteps: 2, Sampler: Euler a, CFG scale: 3, Seed: 4, Size: 32x32")
    tell("/from a.txt", "/repeat")
    assert last(session).prompt == "{{a fox}}, {bird}"
    assert (last(session).seed, last(session).sampler) == (4, "euler_ancestral")


def test_the_last_picture_is_where_the_next_one_starts(session, tell):
    assert "There is no picture yet." in tell("/image last")
    tell("a cat")
    before = session.last_picture()
    tell("/image last", "/strength 0.5", "a dog")
    assert last(session).image == str(before)


def test_again_takes_the_settings_of_now_and_as_many_as_asked(session, tell):
    assert "There is no last prompt." in tell("/again")
    tell("a cat --n-images 2", "/steps 3")
    said = tell("/again 2")
    assert said.count(".png") == 4
    assert len(list(Path().glob("*.png"))) == 6
    assert last(session).steps == 3
    for wrong in ("x", "0", "-1", "1001", "2 3", "1e3"):
        assert "error" in tell(f"/again {wrong}")


def test_a_bad_line_is_no_last_prompt_and_a_comment_nothing(session, tell):
    tell("a cat")
    tell("a dog --stepz 3")
    assert tell("# a comment", "   ") == ""
    tell("/again")
    assert last(session).prompt == "a cat"


def test_json_lines_braces_and_outputs_of_lines(session, tell):
    tell('{"prompt": "a cat", "steps": 3, "output": "sub/cat.png"}')
    assert session.last_picture() == Path("sub/cat.png")
    assert last(session).steps == 3
    assert "is not JSON" in tell('{"prompt": ')
    assert "leaves the folder" in tell("a cat --output ../x.png")
    (Path() / "lists").mkdir()
    (Path() / "lists" / "fruit.txt").write_text("pear\n")
    tell("/wildcards lists", "a __fruit__")
    assert last(session).prompt == "a pear"
    (Path() / "lists" / "fruit.txt").write_text("plum\n")
    tell("a __fruit__")
    assert last(session).prompt == "a plum"
    assert "is not there" in tell("/wildcards nowhere")


def test_every_combination(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    session = Session(State(START), RunOptions(), every=True, with_model=lambda request: request)
    session.do(["a {red|green} {cat|dog}"])
    assert capsys.readouterr().out.count(".png") == 4


def test_a_folder_gets_a_journal_and_numbers_that_go_on(session, tell):
    tell("/output out", "a cat", "a dog --seed 3")
    tell("a dog --seed 3")
    assert [path.name[:6] for path in sorted(Path("out").glob("*.png"))] == ["00000-", "00001-"]
    assert "is there already" in tell("a dog --seed 3")
    assert Path("out/mlxdiff-journal.jsonl").is_file()
    other = Session(replace(session.start, output="out"), RunOptions(), every=False, with_model=lambda request: request)
    other.do(["a fox"])
    assert other.last_picture().name.startswith("00002-a-fox-")
    tell("a pear")
    assert "a-pear" in session.last_picture().name


def test_another_model_is_loaded_and_a_bad_one_keeps_the_old(session, tell, tmp_path):
    folder = shutil.copytree(tiny.EMOJI, tmp_path / "mine")
    bad = shutil.copytree(tiny.EMOJI, tmp_path / "bad") / "unet" / "diffusion_pytorch_model.safetensors"
    bad.write_bytes(bad.read_bytes()[:10_000])
    for reference, words in (("nobody/nothing", "mlxdiff pull"), ("./bad", "bad"), ("./nowhere", "no folder")):
        said = tell(f"/model {reference}")
        assert "error" in said
        assert words in said
        assert session.state.request.model == "emoji"
    tell("a cat")
    assert last(session).model == "emoji"
    # What was damaged is read again once it is another file.
    shutil.copy(folder / "unet" / bad.name, bad)
    assert "model: ./bad" in tell("/model ./bad")
    tell("a cat")
    assert last(session).model.endswith("bad")
    assert "model: emoji" in tell("/undo")
    tell("a cat --model ./mine", "a cat")
    assert last(session).model == "emoji"


def test_pictures_that_are_no_numbers_and_what_nobody_foresaw(session, tell, tmp_path, monkeypatch):
    nan = shutil.copytree(tiny.EMOJI, tmp_path / "nan") / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(nan)
    tensors["decoder.conv_out.bias"][:] = np.nan
    save_file(tensors, nan)
    said = tell("a cat --model ./nan --n-images 2 --seed 3")
    assert said.count("not numbers") == 2
    assert "error: seed 3: " in said
    assert not list(Path().glob("*.png"))
    assert ".png" in tell("a cat")

    def fail(*_, **__):
        raise ZeroDivisionError("by chance\x1b[2J")

    with monkeypatch.context() as patch:
        patch.setattr(type(session._lines), "work", fail)
        said = tell("a cat")
    assert "An unexpected error stopped this line (ZeroDivisionError: by chance)" in said
    assert "Traceback" not in said
    assert ".png" in tell("a cat")


def test_nothing_is_overwritten(session, tell):
    tell("/output one.png", "a cat --seed 1")
    bytes_before = Path("one-1.png").read_bytes()
    assert "one-1-2.png" in tell("a dog --seed 1")
    assert "one-1-3.png" in tell("a dog --seed 1 --steps 3")
    assert "one-1-2.png is there already" in tell("a dog --seed 1")
    assert Path("one-1.png").read_bytes() == bytes_before
    other = Session(
        replace(session.start, output="one.png"), RunOptions(), every=False, with_model=lambda request: request
    )
    other.do(["a dog --seed 1 --steps 3"])
    assert other.last_picture() == Path("one-1-3.png")
    assert len(list(Path().glob("*.png"))) == 3
    forced = Session(session.start, RunOptions(force=True), every=False, with_model=lambda request: request)
    forced.do(["/output one.png", "a pear --seed 1"])
    assert Path("one-1.png").read_bytes() != bytes_before


def test_a_profile_of_the_config_file(session, tell, tmp_path, monkeypatch):
    (tmp_path / "config.toml").write_text("[profile.fast]\nsteps = 1\nsampler = 'euler'\n")
    monkeypatch.setenv("MLXDIFF_CONFIG", str(tmp_path / "config.toml"))
    assert "profiles: fast" in tell("/profile")
    tell("/profile fast")
    assert (session.state.request.steps, session.state.request.sampler) == (1, "euler")
    assert "no profile 'fats'" in tell("/profile fats")
    tell("/undo")
    assert session.state.request == START


def test_info_and_help_and_a_settings_own_words(session, tell):
    tell("a cat")
    assert "a cat" in tell("/info")
    for name in COMMANDS:
        assert f"/{name}" in tell("/help")
        assert COMMANDS[name].help in tell(f"/help {name}")
    assert "Denoising steps." in tell("/help steps")
    assert "Did you mean /steps?" in tell("/help stepz")
    assert "sampler: the checkpoint's (ddim)" in tell("/sampler")
    assert "steps: 2" in tell("  /steps")
    assert "There is no preview" in tell("/preview on")
    assert not session.do(["/quit"])
    assert not session.do(["/exit"])


def test_options_of_the_run_hold_for_each_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = RunOptions(save_latents=True, json=True, metadata=False)
    session = Session(State(START), options, every=False, with_model=lambda request: request)
    session.do(["a cat"])
    out = capsys.readouterr().out
    assert '"event": "picture"' in out
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    assert read_picture(session.last_picture()).request is None
    dry = Session(State(START), RunOptions(dry_run=True), every=False, with_model=lambda request: request)
    dry.do(["a dog"])
    assert "left" in capsys.readouterr().out
    assert not list(tmp_path.glob("a-dog*"))
