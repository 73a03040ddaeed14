"""The second pass and the refiner in A1111's text, read and written."""

from __future__ import annotations

import pytest
import web_ui
from metadata.test_parameters import parsed

from mlxdiff import recipes
from mlxdiff.metadata.parameters import parameters_text, parse_parameters
from mlxdiff.request import Request, Size

HIRES = (
    "a fox\nSteps: 20, Sampler: Euler a, Schedule type: Automatic, CFG scale: 7, Seed: 7, Size: 512x768, "
    "Denoising strength: 0.5, {}, RNG: CPU, Version: v1.10.1"
)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("Hires upscale: 1.5, Hires upscaler: Latent (bicubic)", {"hires": 1.5, "hires_upscaler": "latent-bicubic"}),
        ("Hires resize: 1024x1536, Hires upscaler: Latent", {"hires_size": Size(1536, 1024)}),
        ("Hires resize: 1024x0, Hires upscaler: Latent", {"hires_size": Size(1536, 1024)}),
        ("Hires upscale: 2, Hires steps: 0", {"hires": 2.0, "hires_steps": None}),
        ("Hires upscale: 2, Hires sampler: DPM++ 2M", {"hires_sampler": "dpmpp_2m", "hires_schedule": None}),
        ("Hires upscale: 2, Hires sampler: DPM++ 2M Karras", {"hires_schedule": "karras"}),
        ("Hires upscale: 2, Hires schedule type: Karras", {"hires_sampler": None, "hires_schedule": "karras"}),
        (
            "Hires upscale: 2, Hires sampler: Use same sampler, Hires schedule type: Use same scheduler",
            {"hires_sampler": None, "hires_schedule": None},
        ),
        ('Hires upscale: 2, Hires prompt: "a fox, sharp", Hires CFG Scale: 3', {"hires_prompt": "a fox, sharp"}),
        ("Hires upscale: 2, Hires upscaler: Lanczos", {"hires_upscaler": "lanczos"}),
    ],
)
def test_a_second_pass_is_read(written, expected):
    request, said = parsed(HIRES.format(written))
    assert (request.hires_strength, request.strength, said) == (0.5, None, [])
    assert {name: getattr(request, name) for name in expected} == expected


def test_the_size_of_a_second_pass_in_texts_until_2023():
    text = "a\nSteps: 20, Sampler: Euler a, Seed: 1, Size: 1024x1536, Denoising strength: 0.7, First pass size: 512x768"
    request, said = parsed(text)
    assert (request.width, request.height, request.hires_size, said) == (512, 768, Size(1536, 1024), [])


def test_a_refiner_is_read_where_its_checkpoint_is_known():
    text = "a\nSteps: 20, Sampler: Euler, Seed: 1, Refiner: sd_xl_refiner_1.0 [7440042bbd], Refiner switch at: 0.8"
    request, said = parsed(text, lambda name: f"owner/{name}")
    assert (request.refiner, request.refiner_switch, said) == ("owner/sd_xl_refiner_1.0", 0.8, [])
    recipe = recipes.read({"parameters": text}, None)
    assert recipe is not None
    request, said = recipes.finished(recipe)
    assert (request.refiner, request.refiner_switch) == (None, None)
    assert "Refiner: sd_xl_refiner_1.0" in said[0]
    assert said[1] == "The text's refiner_switch is left out: it has no pass to hold for."


def test_the_switch_holds_for_a_refiner_that_is_given():
    text = "a\nSteps: 20, Sampler: Euler, Seed: 1, Refiner: sd_xl_refiner_1.0 [7440042bbd], Refiner switch at: 0.6"
    recipe = recipes.read({"parameters": text}, None)
    assert recipe is not None
    request, said = recipes.finished(recipe, {"refiner": "mine"})
    assert (request.refiner, request.refiner_switch, said) == ("mine", 0.6, [])


def test_what_is_written_of_stages_is_what_a1111_reads():
    request = Request(
        "a fox",
        seed=1,
        hires=1.5,
        hires_strength=0.55,
        hires_steps=9,
        hires_upscaler="latent-antialiased",
        hires_sampler="dpmpp_2m",
        hires_schedule="karras",
        hires_prompt="a fox, sharp",
        refiner="/home/me/xl/sd_xl_refiner_1.0.safetensors",
        refiner_switch=0.7,
    )
    found = web_ui.parse(parameters_text(request))
    assert {name: found[name] for name in found if name.startswith(("Hires", "Refiner", "Denoising"))} == {
        "Hires upscale": "1.5",
        "Denoising strength": "0.55",
        "Hires steps": "9",
        "Hires upscaler": "Latent (antialiased)",
        "Hires sampler": "DPM++ 2M",
        "Hires schedule type": "Karras",
        "Hires prompt": "a fox, sharp",
        "Refiner": "sd_xl_refiner_1.0",
        "Refiner switch at": "0.7",
    }
    again, said = parsed(parameters_text(request), lambda name: f"owner/{name}")
    assert (again.hires, again.hires_strength, again.strength) == (1.5, 0.55, None)
    assert (again.refiner, said) == ("owner/sd_xl_refiner_1.0", [])
    both = Request("a", seed=1, image="a.png", strength=0.3, hires=2, hires_strength=0.6)
    again = parse_parameters(parameters_text(both))
    assert (again.strength, again.hires_strength) == (0.3, 0.6)
