"""A1111's text, as people share it, read into a Request; and what mlxdiff itself writes, back again."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import web_ui
from hypothesis import given, settings
from hypothesis import strategies as st

import mlxdiff
from mlxdiff.errors import MlxdiffError, MlxdiffWarning, RequestError
from mlxdiff.images import write_picture
from mlxdiff.metadata import picture_text
from mlxdiff.metadata.parameters import parameters_text, parse_parameters
from mlxdiff.recipes.names import sampler_name, schedule_name
from mlxdiff.request import NOISE_SOURCES, SAMPLERS, SCHEDULES, Request, Resolved
from mlxdiff.request.declarations import declared
from mlxdiff.request.presets import applied as resolved_presets
from mlxdiff.text.syntax.a1111 import split_networks


def parsed(text: str, find_model=None) -> tuple[Request, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        request = parse_parameters(text, find_model)
    assert all(warning.category is MlxdiffWarning for warning in caught)
    return request, [str(warning.message) for warning in caught]


def settings_of(line: str) -> Request:
    """The request of a text with these settings, which warn of nothing."""
    request, said = parsed(f"a\n{line}")
    assert said == []
    return request


# -- texts as they are shared -----------------------------------------------------------------------------------------


def test_a_picture_of_an_old_version():
    text = (
        "portrait of a lighthouse keeper, oil on canvas,\n"
        "(warm light:1.2), highly detailed\n"
        "Negative prompt: blurry, lowres,\n"
        "extra fingers\n"
        "Steps: 28, Sampler: DPM++ 2M Karras, CFG scale: 6.5, Seed: 2847561920, Size: 512x768, Model hash: 1a2b3c4d"
    )
    request, said = parsed(text)
    assert request == Request(
        prompt="portrait of a lighthouse keeper, oil on canvas,\n(warm light:1.2), highly detailed",
        negative_prompt="blurry, lowres,\nextra fingers",
        prompt_syntax="a1111",
        compat="a1111",
        steps=28,
        sampler="dpmpp_2m",
        schedule="karras",
        guidance_scale=6.5,
        seed=2847561920,
        width=512,
        height=768,
        rng="philox",
    )
    assert said == [
        "The picture was made with a model with the hash 1a2b3c4d, which says too little to find it."
        " Name it with --model."
    ]


def test_a_picture_of_a_new_version_with_much_that_mlxdiff_does_not_do():
    text = (
        "<lora:inkSketch_v2:0.7> fox in the snow\r\n"
        "Negative prompt: frame\r\n"
        "Steps: 20, Sampler: Euler a, Schedule type: Automatic, CFG scale: 7, Seed: 7, Size: 640x512, "
        'Model hash: 6ce0161689, Model: "v1-5, pruned: emaonly", VAE hash: 735e4c3a44, VAE: ft-mse.safetensors, '
        'Denoising strength: 0.45, Clip skip: 2, Hires upscale: 2, Hires steps: 12, Hires upscaler: "4x, sharp", '
        'ControlNet 0: "Module: canny, Model: control_v11p [d14c016b], Weight: 1, Steps: 99", '
        'Lora hashes: "inkSketch_v2: 0f1e2d3c", Hashes: {"model": "6ce0161689", "lora:x": "Seed: 5"}, '
        "RNG: CPU, Version: v1.10.1"
    )
    asked = []
    request, said = parsed(text, lambda name: asked.append(name) or "owner/v1-5")
    assert asked == ["v1-5, pruned: emaonly"]
    assert request == Request(
        prompt="<lora:inkSketch_v2:0.7> fox in the snow",
        negative_prompt="frame",
        prompt_syntax="a1111",
        compat="a1111",
        clip_skip=2,
        steps=20,
        sampler="euler_ancestral",
        schedule="uniform",
        guidance_scale=7.0,
        seed=7,
        width=640,
        height=512,
        rng="torch",
        model="owner/v1-5",
        hires=2.0,
        hires_strength=0.45,
        hires_steps=12,
        hires_upscaler="lanczos",  # instead of the network, which is named
    )
    (warning,) = said
    for part in (
        "Hires upscaler: 4x, sharp",
        "ControlNet 0: Module: canny",
        "VAE: ft-mse",
    ):
        assert part in warning
    for part in ("Lora hashes", "<lora", "Steps", "Seed", "Version", "VAE hash", "Model hash", "RNG", "Size"):
        assert f"{part}:" not in warning.replace("Steps: 9...", "")


def test_a_picture_of_a_gallery_with_lists_in_its_line():
    text = (
        "a teapot\nSteps: 30, Sampler: DPM++ 2M SDE, CFG scale: 5, Seed: 11, Size: 1024x1024, Clip skip: 1, "
        'Created Date: 2024-09-11T10:15:30.123Z, Civitai resources: [{"type":"checkpoint","modelVersionId":1,'
        '"modelName":"Seed: 3, Steps: 9"}], Civitai metadata: {}'
    )
    request = settings_of(text.removeprefix("a teapot\n"))
    assert (request.steps, request.seed, request.sampler, request.width) == (30, 11, "dpmpp_2m_sde", 1024)


def test_image_to_image_keeps_its_strength():
    assert settings_of("Steps: 20, Sampler: DDIM, Seed: 1, Denoising strength: 0.75").strength == 0.75


def test_lines_after_the_settings_and_prompts_that_look_like_settings():
    request, said = parsed(
        "Style: baroque, Mood: calm\nSteps: of marble\nNegative prompt: Size: huge\n"
        "Steps: 12, Sampler: Heun, CFG scale: 3, Seed: 5\nTemplate: __style__ apple"
    )
    assert said == []
    assert request.prompt == "Style: baroque, Mood: calm\nSteps: of marble"
    assert request.negative_prompt == "Size: huge"
    assert (request.steps, request.sampler) == (12, "heun")


@pytest.mark.parametrize(
    ("name", "sampler", "schedule"),
    [
        ("Euler", "euler", None),
        ("Euler a", "euler_ancestral", None),
        ("euler A", "euler_ancestral", None),
        ("k_euler_a", "euler_ancestral", None),
        ("Heun", "heun", None),
        ("DDIM", "ddim", None),
        ("PLMS", "pndm", None),
        ("LCM", "lcm", None),
        ("DPM++ 2M", "dpmpp_2m", None),
        ("DPM++ 2M Karras", "dpmpp_2m", "karras"),
        ("DPM++ 2M SDE", "dpmpp_2m_sde", None),
        ("DPM++ 2M SDE Karras", "dpmpp_2m_sde", "karras"),
        ("DPM++ 2M SDE Exponential", "dpmpp_2m_sde", "exponential"),
        ("DPM++ 2M, Schedule type: Karras", "dpmpp_2m", "karras"),
        ("DPM++ 2M, Schedule type: Automatic", "dpmpp_2m", "karras"),
        ("DPM++ 2M SDE, Schedule type: Automatic", "dpmpp_2m_sde", "exponential"),
        ("Euler, Schedule type: Automatic", "euler", "uniform"),
        ("Euler, Schedule type: Beta", "euler", "beta"),
        ("Euler, Schedule type: Uniform", "euler", "uniform"),
        ("Euler, Schedule type: SGM Uniform", "euler", "sgm_uniform"),
    ],
)
def test_samplers_and_schedules(name, sampler, schedule):
    request = settings_of(f"Steps: 4, Sampler: {name}, Seed: 1")
    assert (request.sampler, request.schedule) == (sampler, schedule)


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("Sampler: Dream 3 Karras", "Sampler: Dream 3 Karras"),
        ("Sampler: Dream 3", "Sampler: Dream 3"),
        ("Schedule type: Spiral", "Schedule type: Spiral"),
        ("Clip skip: 2", "Clip skip: 2"),
        ("ENSD: 31337", "ENSD: 31337"),
        ("Variation seed: 4", "Variation seed: 4"),
        ("Face restoration: CodeFormer", "Face restoration: CodeFormer"),
        ("Refiner: xl [7440]", "Refiner: xl [7440]"),
        ("RNG: dice", "RNG: dice"),
    ],
)
def test_what_makes_another_picture_is_named(line, part):
    choices = ("sampler", "schedule", "rng")
    if line.partition(":")[0] in {item.a1111 for item in declared(Request) if item.name not in choices}:
        pytest.skip("it is a setting by now")
    _, said = parsed(f"a\nSteps: 4, {line}, Seed: 1")
    assert said == [f"The picture was made with {part}, which mlxdiff leaves out. Expect another picture."]


@pytest.mark.parametrize(("rng", "source"), [("RNG: CPU", "torch"), ("RNG: NV", "philox"), ("RNG: GPU", "philox")])
def test_where_noise_came_from(rng, source):
    assert settings_of(f"Steps: 1, Sampler: Euler, {rng}").rng == source
    assert settings_of("Steps: 1, Sampler: Euler").rng == "philox"  # the web UI says nothing of its default, the GPU


@pytest.mark.parametrize("text", ["", "a red apple", "a\nb: c, d: e, f: g", "Steps: many"])
def test_texts_without_settings(text):
    with pytest.raises(RequestError, match="no line of settings"):
        parse_parameters(text)


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("Steps: many, Sampler: Euler", ("steps",)),
        ("Steps: 0, Sampler: Euler", ("steps",)),
        ("Steps: 4, Seed: -2", ("seed",)),
        ("Steps: 4, Seed: " + "9" * 20, ("seed",)),
        ("Steps: 4, Seed: " + "9" * 10_000, ("seed",)),
        ("Steps: 4, Size: big", ("width", "height")),
        ("Steps: 4, Size: 512x", ("width", "height")),
        ("Steps: 4, Size: 0x0", ("width", "height")),
        ("Steps: 4, Size: 512x99999999", ("width", "height")),
        ("Steps: 4, Size: 512x99999", ("height",)),
        ("Steps: 4, CFG scale: nan", ("guidance_scale",)),
        ("Steps: 4, CFG scale: 1.2.3", ("guidance_scale",)),
        ("Steps: 4, CFG scale: 1e999", ("guidance_scale",)),
        ("Steps: 4, Denoising strength: 2", ("strength",)),
    ],
    ids=lambda value: str(value)[-20:],
)
def test_one_bad_value_loses_that_value_and_not_the_text(line, names):
    text = f"an apple\n{line}, Size: 640x512, CFG scale: 3, Seed: 8, RNG: CPU"
    request, said = parsed(text)
    held = {"steps": 4, "width": 640, "height": 512, "guidance_scale": 3.0, "seed": 8, "prompt": "an apple"}
    for name in ("steps", "width", "height", "guidance_scale", "seed", "strength", "prompt"):
        if "Size" in line and name in ("width", "height"):  # of a name that stands there twice, the first one counts
            assert getattr(request, name) == (None if name in names else 512)
        elif name not in names:
            assert getattr(request, name) in (held.get(name), None)
            assert name == "strength" or getattr(request, name) is not None
        else:
            assert getattr(request, name) is None
    assert len(said) == len(names)
    for saying in said:
        assert len(saying) < 500
        assert "The text says" in saying
        assert "which is left out" in saying


# -- round trip -------------------------------------------------------------------------------------------------------


def some(strategy):
    return st.none() | strategy


def carried(text: str) -> bool:
    """Whether the format can hold the text: it has no mark for where a prompt ends but the next heading."""
    return not re.search(r"\r|^\s*Negative prompt:", text, re.MULTILINE)


texts = (st.text(st.characters(codec="utf-8") | st.sampled_from(',:"\\{[ <>\n'), max_size=40)).filter(carried)
sizes = st.none() | st.tuples(st.integers(8, 65_536), st.integers(8, 65_536))


@pytest.mark.parametrize("prompt", ["\ufeff", "\ufeffa red apple", "\ufeff\ufeffa"])
def test_a_prompt_that_begins_with_a_byte_order_mark_comes_back(prompt):
    found, _ = parsed(parameters_text(Request(prompt=prompt, steps=3)))
    assert found.prompt == prompt


@settings(max_examples=300)
@given(
    texts,
    some(texts),
    some(st.integers(1, 1000)),
    some(st.floats(0, 1e6)),
    some(st.integers(0, 2**63 - 1)),
    sizes,
    some(st.sampled_from(SAMPLERS)),
    some(st.sampled_from(SCHEDULES)),
    some(st.floats(0, 1)),
    st.sampled_from(NOISE_SOURCES),
    some(texts),
    st.fixed_dictionaries(
        {
            "guidance_start": some(st.floats(0, 0.4)),
            "guidance_end": some(st.floats(0.5, 1)),
            "cache_interval": some(st.integers(1, 1000)),
            "token_merging": some(st.floats(0, 0.75)),
        }
    ),
)
def test_what_mlxdiff_writes_comes_back(
    prompt, negative, steps, guidance, seed, size, sampler, schedule, strength, rng, model, approximations
):
    width, height = (None, None) if size is None else size
    request = Request(
        prompt=prompt,
        negative_prompt=negative,
        steps=steps,
        guidance_scale=guidance,
        seed=seed,
        width=width,
        height=height,
        sampler=sampler,
        schedule=schedule,
        strength=strength,
        rng=rng,
        model=model,
        **approximations,
    )
    text = parameters_text(request)
    found, _ = parsed(text, lambda name: f"found {name}")
    same = ("prompt", "steps", "guidance_scale", "seed", "width", "height", "sampler", "strength", "rng")
    for name in (*same, *approximations):
        assert getattr(found, name) == getattr(request, name), (name, text)
    assert found.negative_prompt == (negative if negative else None)
    assert found.schedule == schedule  # under mlxdiff's own name where the web UI has none
    if found.model is not None:
        assert found.model.removeprefix("found ") in request.model


def test_tokens_that_another_program_merged_are_said_and_left_out():
    line = "Steps: 20, Sampler: Euler, Seed: 1, Token merging ratio: 0.5, Model: a, Version: "
    request, (said,) = parsed(f"a cat\n{line}v1.10.1", lambda name: name)
    assert request.token_merging is None
    assert "Token merging ratio: 0.5, which mlxdiff leaves out" in said
    request, said = parsed(f"a cat\n{line}mlxdiff 1.0", lambda name: name)
    assert request.token_merging == 0.5
    assert said == []


def test_a_model_comes_back_by_its_bare_name():
    text = parameters_text(Request(prompt="a", model='/home/a/b, "c": d.safetensors'))
    request, said = parsed(text, {'b, "c": d': "owner/b"}.get)
    assert (request.model, said) == ("owner/b", [])
    request, said = parsed(text)
    assert request.model is None
    assert said == [
        'The picture was made with a model called b, "c": d, which says too little to find it. Name it with --model.'
    ]


def test_tags_in_a_prompt_of_mlxdiff_stay():
    request = Request(prompt=" <lora:a:1> b ", seed=1)
    assert parsed(parameters_text(request))[0].prompt == request.prompt


# -- texts of anybody -------------------------------------------------------------------------------------------------

NAMES = ["Steps", "Sampler", "Seed", "CFG scale", "Size", "Schedule type", "RNG", "Model", "Version", "Clip skip", "x"]
values = st.text(max_size=8) | st.sampled_from(
    ['"a, b', '{"a": [', "1", "1e5", "512x512", "Euler a", "-0", "٣", "\x1b[2J"]
)
lines = st.lists(st.tuples(st.sampled_from(NAMES), values), max_size=8).map(
    lambda pairs: ", ".join(f"{name}: {value}" for name, value in pairs)
)


@settings(max_examples=400)
@given(st.lists(st.text(max_size=20) | lines | st.just("Negative prompt: x"), max_size=4).map("\n".join))
def test_any_text_is_a_request_or_an_error(text):
    try:
        request, _ = parsed(text)
    except MlxdiffError:
        return
    assert Request.from_json(request.to_json()) == request


@pytest.mark.parametrize(
    "text",
    [
        "Steps: 1, " + "a: {, " * 100_000,
        "Steps: 1, " + 'a: "' * 100_000,
        "Steps: 1, " + "a:[" * 100_000,
        "Steps: 1, a: " + "[" * 500_000,
        "Steps: 1, a: " + '{"a":' * 100_000,
        "Steps: 1, " + "a" * 500_000,
        "Steps: 1, a: " + "9" * 500_000,
        "Steps: 1, a: [" + "9" * 500_000 + "]",
        "Steps: 1, " + "a " * 250_000,
        "Steps: 1" + "," * 500_000,
        "Steps: x\n" * 50_000,
        "Negative prompt:\n" * 30_000 + "Steps: 1",
        "<lora:" * 80_000 + "\nSteps: 1",
        "Steps: 1, Sampler: " + "karras " * 70_000,
        "Steps: 1, CFG scale: " + "1" * 500_000,
    ],
    ids=lambda text: f"{text[:12]}-{text[-8:]}",
)
def test_no_text_takes_long(text):
    start = time.process_time()
    with contextlib.suppress(MlxdiffError):
        parsed(text)
    assert time.process_time() - start < 1.5


def test_a_quoted_value_is_what_json_says():
    value = 'a, "b": \\ é\n'
    request, _ = parsed(f"x\nSteps: 1, Model: {json.dumps(value)}, Seed: 3", str)
    assert (request.model, request.seed) == (value, 3)


# -- settings that are declared tomorrow, and readers that others use -------------------------------------------------

TOMORROW = """
import json, sys
from mlxdiff.metadata.parameters import parameters_text, parse_parameters
from mlxdiff.request import Request
made = Request(prompt="a", steps=3, seed=1, rng="torch", vividness=0.25, inks=("red", "blue, dark"))
text = parameters_text(made)
assert "Vividness: 0.25, Inks: " in text, text
assert parse_parameters(text) == made, parse_parameters(text)
other = parse_parameters("a\\nSteps: 3, Seed: 1, Vividness: 0.25, RNG: CPU")
assert other == Request(
    prompt="a", steps=3, seed=1, vividness=0.25, rng="torch", prompt_syntax="a1111", compat="a1111"
), other
"""
KIND = """
@dataclass(frozen=True)
class Inks(Text):
    many = True

    def check(self, name, value):
        return tuple(super(Inks, self).check(name, one) for one in ([value] if isinstance(value, str) else value))

    def parse(self, name, text):
        return self.check(name, [text])

    def to_json(self, value):
        return list(value)

    def show(self, value):
        return value[0]


@dataclass(frozen=True)
class StageSettings:
"""


def test_a_setting_declared_tomorrow_is_written_and_read_with_no_edit_elsewhere(tmp_path):
    package = Path(mlxdiff.__file__).parent
    ignored = shutil.ignore_patterns("assets", "*.so", "__pycache__")
    shutil.copytree(package, tmp_path / "mlxdiff", ignore=ignored)
    source = (tmp_path / "mlxdiff/request/stages.py").read_text()
    source = source.replace("\n@dataclass(frozen=True)\nclass StageSettings:\n", KIND)
    source = source.replace(
        "    hires: float",
        '    vividness: float | None = setting(Number(0, 1), "Colour.", a1111="Vividness")\n'
        '    inks: Any = setting(Inks(), "Inks.", a1111="Inks")\n'
        "    hires: float",
        1,
    )
    (tmp_path / "mlxdiff/request/stages.py").write_text(source)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, "-c", TOMORROW], check=True, env=environment)


def test_a_resolved_request_leaves_out_what_changes_nothing():
    values = {"guidance_start": 0.0, "guidance_end": 1.0, "cache_interval": 1, "token_merging": 0.0}
    assert parameters_text(Resolved(prompt="a", steps=2, **values)) == parameters_text(Request(prompt="a", steps=2))


FULL = Request(
    prompt="a red apple, (oil:1.2)\non canvas",
    negative_prompt="worm, bad",
    steps=25,
    sampler="dpmpp_2m",
    schedule="karras",
    guidance_scale=6.5,
    seed=7,
    width=64,
    height=96,
    model="owner/v1-5",
)


@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
def test_sd_parsers_reads_it(tmp_path, kind):
    sd_parsers = pytest.importorskip("sd_parsers")
    path = tmp_path / f"a.{kind}"
    write_picture(path, np.zeros((8, 8, 3), np.uint8), picture_text(FULL))
    found = sd_parsers.ParserManager().parse(path)
    (sampler,) = found.samplers
    assert (sampler.name, sampler.model.name) == ("DPM++ 2M", "v1-5")
    assert sampler.parameters == {"scheduler": "Karras", "cfg_scale": "6.5", "seed": "7", "steps": "25"}
    assert [prompt.value for prompt in (*sampler.prompts, *sampler.negative_prompts)] == [
        FULL.prompt,
        FULL.negative_prompt,
    ]
    assert found.metadata["Size"] == "64x96"


def reader_of_sd_prompt_reader(text: str) -> dict[str, str]:
    """As sd-prompt-reader takes the settings apart: all behind the last "Steps:" line, split at commas and colons."""
    return dict(re.findall(r"\s*([^:,]+):\s*([^,]+)", text[text.find("\nSteps:") :].strip()))


def test_sd_prompt_reader_reads_it():
    found = reader_of_sd_prompt_reader(parameters_text(FULL))
    assert [found[name] for name in ("Model", "Sampler", "Seed", "CFG scale", "Steps", "Size")] == [
        "v1-5", "DPM++ 2M", "7", "6.5", "25", "64x96",
    ]  # fmt: skip


@settings(max_examples=200)
@given(
    st.fixed_dictionaries(
        {
            "steps": st.integers(1, 1000),
            "guidance_scale": st.floats(0, 100),
            "seed": st.integers(0, 2**63 - 1),
            "sampler": st.sampled_from(SAMPLERS),
            "schedule": st.sampled_from(["karras", "exponential", "beta"]),
            "strength": some(st.floats(0, 1)),
            "model": some(st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)),
        }
    )
)
def test_the_web_uis_own_grammar_gives_back_every_field(values):
    request = Request(prompt="a, b: c", negative_prompt="d", width=64, height=96, **values)
    found = web_ui.parse(parameters_text(request))
    assert int(found["Steps"]) == values["steps"]
    assert float(found["CFG scale"]) == values["guidance_scale"]
    assert int(found["Seed"]) == values["seed"]
    assert (found["Size-1"], found["Size-2"]) == ("64", "96")
    assert float(found.get("Denoising strength", "nan")) == values["strength"] or values["strength"] is None
    assert (found["Prompt"], found["Negative prompt"]) == ("a, b: c", "d")
    assert found["Sampler"] == sampler_name(values["sampler"])
    assert found["Schedule type"] == schedule_name(values["schedule"])


# -- layouts and names of others --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["512x768", "512 x 768", "512×768", "512X768", "512 × 768", "512*768"])
def test_sizes(size):
    request = settings_of(f"Steps: 4, Size: {size}, Seed: 1")
    assert (request.width, request.height) == (512, 768)


@pytest.mark.parametrize("seed", [2**63 - 1, 2**63, 2**64 - 1, 2**80])
def test_seeds_beyond_what_is_possible_lose_the_seed_alone(seed):
    request, said = parsed(f"a\nSteps: 4, Seed: {seed}, RNG: CPU")
    assert request.steps == 4
    if request.seed is None:
        assert len(said) == 1
        assert f"Seed: {seed}" in said[0]
    else:
        assert (request.seed, said) == (seed, [])


@pytest.mark.parametrize(
    ("written", "sampler", "schedule"),
    [
        ("dpmpp_2m", "dpmpp_2m", None),
        ("dpmpp_2m_sde_gpu", "dpmpp_2m_sde", None),
        ("dpmpp_2m_karras", "dpmpp_2m", "karras"),
        ("dpmpp_2m_k", "dpmpp_2m", "karras"),
        ("dpm++2m karras", "dpmpp_2m", "karras"),
        ("DPM++ 2M SGMUniform", "dpmpp_2m", "sgm_uniform"),
        ("euler_a", "euler_ancestral", None),
        ("euler_a discrete", "euler_ancestral", None),
        ("euler_ancestral", "euler_ancestral", None),
        ("k_heun", "heun", None),
        ("plms", "pndm", None),
    ],
)
def test_samplers_by_the_names_of_other_programs(written, sampler, schedule):
    request = settings_of(f"Steps: 4, Sampler: {written}, Seed: 1")
    assert (request.sampler, request.schedule) == (sampler, schedule)


def test_whole_numbers_with_decimals():
    assert settings_of("Steps: 20.000000, Seed: 7.0, Sampler: Euler").steps == 20
    request, said = parsed("a\nSteps: 20.5, Seed: 7, Sampler: Euler")
    assert (request.steps, len(said)) == (None, 1)


def test_whatever_nobody_took_is_named_whether_known_or_not():
    _, (said,) = parsed("a <new:x:1> b\nSteps: 4, Seed: 1, Feature of 2031: on, Tiling: True\nand a line", str)
    for part in ("<new:x:1>", "Feature of 2031: on", "Tiling: True", "and a line"):
        assert part in said


WEB_UI = json.loads((Path(__file__).parents[1] / "recipes/web_ui.json").read_text("utf-8"))


@pytest.mark.parametrize("case", WEB_UI["a1111_extra_networks"], ids=lambda case: case["prompt"])
def test_tags_are_found_as_the_web_ui_finds_them(case):
    request, said = parsed(f"{case['prompt']}\nSteps: 4, Seed: 1")
    assert split_networks(request.prompt)[0].strip() == case["stripped"].strip()
    for kind, networks in case["networks"].items():
        assert len(networks) == 1
        assert f"<{kind}:" in (request.prompt if kind == "lora" else said[0])  # LoRAs are for the prompt's syntax
    assert bool(said) == bool(case["networks"].keys() - {"lora"})


def test_what_asks_for_nothing_is_not_named():
    line = "Clip skip: 1, Emphasis: Original, VAE: Automatic, Hires resize: 0x0, Civitai metadata: {}, Refiner: None"
    _, said = parsed(f"a\nSteps: 4, Seed: 1, {line}")
    assert said == []
    sdcpp = "Steps: 20, CFG scale: 7.000000, Guidance: 3.500000, Eta: 0.000000, Seed: 24, Size: 64x64, RNG: cuda, "
    _, said = parsed(f"a\n{sdcpp}Sampler RNG: cuda, Sampler: euler_a, Version: stable-diffusion.cpp")
    assert said == []


def test_files_beside_the_model_are_named_unless_the_text_names_them():
    hashes = '{"model": "1", "lora:ink": "2", "embed:bad": "3"}'
    _, (said,) = parsed(f"a\nNegative prompt: bad\nSteps: 4, Seed: 1, Hashes: {hashes}")
    assert "Hashes: lora:ink," in said
    assert "embed:bad" not in said


@pytest.mark.parametrize("syntax", [None, "plain", "a1111", "comfyui", "compel"])
@pytest.mark.parametrize("compat", [None, "diffusers", "a1111", "comfyui"])
def test_the_program_and_the_syntax_come_back_from_a_text(compat, syntax):
    made = resolved_presets(Request("(a:1.2) cat", steps=4, seed=1, compat=compat, prompt_syntax=syntax))
    back = resolved_presets(parse_parameters(parameters_text(made)))
    names = ("compat", "rng", "rounding")
    assert [getattr(back, name) for name in names] == [getattr(made, name) for name in names]
    assert (back.prompt_syntax or "a1111") == (made.prompt_syntax or "a1111")
