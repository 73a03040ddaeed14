"""Whole pictures beside diffusers': same prompt, seed and settings, from files that diffusers wrote."""

from __future__ import annotations

import inspect

import mlx.core as mx
import numpy as np
import pytest
import tiny
import torch
from arrays import psnr
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
)
from PIL import Image
from skimage import data

from mlxdiff import Request, StableDiffusion
from mlxdiff.errors import MlxdiffWarning, RequestError
from mlxdiff.kernels import native

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

# The class of each sampler, and what it must be told: mlxdiff's pndm is PLMS, as SD's own checkpoints ask for.
SCHEDULERS = {
    "ddim": (DDIMScheduler, {}),
    "pndm": (PNDMScheduler, {"skip_prk_steps": True}),
    "euler": (EulerDiscreteScheduler, {}),
    "euler_ancestral": (EulerAncestralDiscreteScheduler, {}),
    "heun": (HeunDiscreteScheduler, {}),
    "dpmpp_2m": (DPMSolverMultistepScheduler, {}),
    "dpmpp_2m_sde": (DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
    "lcm": (LCMScheduler, {}),
}
PROMPTS = ["a red apple", "a dog face on a blue background"]


def generators(seeds):
    return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]


def ours(folder, **arguments) -> np.ndarray:
    sd = StableDiffusion(str(folder), dtype="fp32")
    latents = None
    for latents in sd.generate_latents(**arguments):
        mx.eval(latents)
    return np.array(sd.decode(latents))


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}

    def folder(name: str):
        if name not in made:
            make = tiny.refiner if name == "refiner" else tiny.PIPELINES[name]
            made[name] = tiny.write(make, tmp_path_factory.mktemp(name))
        return made[name]

    return folder


def theirs_of(folder, name):
    kind = StableDiffusionPipeline if name.startswith(("sd1", "sd2")) else StableDiffusionXLPipeline
    return quiet(kind.from_pretrained(folder))


@pytest.mark.parametrize("negative", [None, "", "flat"], ids=["absent", "empty", "given"])
@pytest.mark.parametrize("name", list(tiny.PIPELINES))
def test_every_family_draws_the_picture_that_diffusers_draws(folders, name, negative):
    settings = {"guidance_scale": 5.0, "negative_prompt": negative, "height": 32, "width": 48}
    pipe = theirs_of(folders(name), name)
    expected = pipe(
        PROMPTS,
        num_inference_steps=5,
        generator=generators([3, 4]),
        output_type="np",
        **settings | {"negative_prompt": None if negative is None else [negative] * 2},
    ).images
    found = ours(folders(name), prompt=PROMPTS, steps=5, seed=3, **settings)
    assert expected.std() > 0.02, "a flat picture would prove nothing"
    assert psnr(found, expected) > 60


@pytest.mark.parametrize("name", ["sd15", "turbo"])
def test_without_guidance(folders, name):
    expected = theirs_of(folders(name), name)(
        PROMPTS[0], num_inference_steps=3, guidance_scale=0.0, generator=generators([9]), output_type="np"
    ).images
    found = ours(folders(name), prompt=PROMPTS[0], steps=3, guidance_scale=0.0, seed=9)
    assert psnr(found, expected) > 60


@pytest.mark.parametrize("sampler", list(SCHEDULERS))
def test_every_sampler_on_the_built_in_model(sampler):
    pipe = quiet(StableDiffusionPipeline.from_pretrained(tiny.EMOJI, torch_dtype=torch.float32))
    scheduler, options = SCHEDULERS[sampler]
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config, **options)
    expected = pipe(
        PROMPTS[0], num_inference_steps=8, guidance_scale=4.0, generator=generators([7]), output_type="np"
    ).images
    found = ours(tiny.EMOJI, prompt=PROMPTS[0], steps=8, guidance_scale=4.0, seed=7, sampler=sampler)
    assert psnr(found, expected) > 50


def test_the_built_in_model_with_its_own_settings():
    pipe = quiet(StableDiffusionPipeline.from_pretrained(tiny.EMOJI, torch_dtype=torch.float32))
    expected = pipe(
        PROMPTS, num_inference_steps=25, guidance_scale=1.5, generator=generators([0, 1]), output_type="np"
    ).images
    found = ours("emoji", prompt=PROMPTS, seed=0)
    assert psnr(found, expected) > 50


@pytest.mark.parametrize("strength", [0.3, 0.75, 1.0])
@pytest.mark.parametrize("name", ["sd21", "refiner"])
def test_image_to_image(folders, tmp_path, name, strength):
    picture = Image.fromarray(data.astronaut()).resize((32, 32), Image.Resampling.LANCZOS)
    picture.save(tmp_path / "start.png")
    kind = StableDiffusionImg2ImgPipeline if name == "sd21" else StableDiffusionXLImg2ImgPipeline
    expected = quiet(kind.from_pretrained(folders(name)))(
        PROMPTS[0],
        image=picture,
        strength=strength,
        num_inference_steps=6,
        guidance_scale=4.0,
        generator=generators([5]),
        output_type="np",
    ).images
    found = ours(
        folders(name),
        prompt=PROMPTS[0],
        image=str(tmp_path / "start.png"),
        strength=strength,
        steps=6,
        guidance_scale=4.0,
        seed=5,
        height=32,
        width=32,
    )
    assert psnr(found, expected) > 60


def test_an_image_does_not_depend_on_its_batch():
    together = ours("emoji", prompt=PROMPTS, seed=[11, 4], steps=6)
    alone = np.concatenate(
        [ours("emoji", prompt=text, seed=s, steps=6) for text, s in zip(PROMPTS, (11, 4), strict=True)]
    )
    assert psnr(together, alone) > 80


@pytest.mark.skipif(native.serving() is None, reason=f"the extension is {native.state()}")
@pytest.mark.parametrize("size", [(64, 64), (48, 72), (128, 128)])
def test_with_the_extension_a_picture_has_the_same_bytes_in_a_batch(size):
    height, width = size
    settings = {"steps": 2, "height": height, "width": width}
    together = ours("emoji", prompt=[*PROMPTS, "a cat"], seed=[11, 4, 5], **settings)
    for i, (text, seed) in enumerate(zip([*PROMPTS, "a cat"], (11, 4, 5), strict=True)):
        np.testing.assert_array_equal(ours("emoji", prompt=text, seed=seed, **settings)[0], together[i])


def test_nothing_happens_before_somebody_iterates(monkeypatch):
    sd = StableDiffusion("emoji")
    monkeypatch.setattr(StableDiffusion, "resolve", lambda *_: pytest.fail("computed too early"))
    iterator = sd.generate_latents("a cat")
    assert inspect.isgenerator(iterator)
    with pytest.raises(pytest.fail.Exception):
        next(iterator)


def test_latents_are_yielded_once_a_step_and_in_fp32():
    sd = StableDiffusion("emoji")
    steps = list(sd.generate_latents("a cat", steps=3, seed=0, n_images=2))
    assert [latents.shape for latents in steps] == [(2, 32, 32, 4)] * 3
    assert {latents.dtype for latents in steps} == {mx.float32}


def test_given_noise_replaces_the_drawn_noise():
    from mlxdiff.diffusion.noise import standard_normal

    noise = mx.transpose(standard_normal((4, 32, 32), 21), (1, 2, 0))[None]
    assert (
        psnr(ours("emoji", prompt="a cat", steps=3, latents=noise), ours("emoji", prompt="a cat", steps=3, seed=21))
        > 80
    )
    with pytest.raises(RequestError, match="shape"):
        ours("emoji", prompt="a cat", steps=3, latents=noise[:, :16])


def test_sizes_must_be_multiples_of_the_vae_factor():
    sd = StableDiffusion("emoji")
    with pytest.raises(RequestError, match=r"height is 130.*multiple of 4.*Try 128") as caught:
        sd.resolve(Request("a cat", height=130))
    assert caught.value.exit_code == 2


def test_a_negative_prompt_without_guidance_is_said():
    sd = StableDiffusion("emoji")
    with pytest.warns(MlxdiffWarning, match="negative prompt does nothing"):
        next(sd.generate_latents("a cat", negative_prompt="dog", guidance_scale=1.0, steps=1))


def test_encode_is_the_inverse_of_decode():
    picture = np.asarray(Image.fromarray(data.chelsea()).resize((128, 128)), np.float32)[None] / 255
    sd = StableDiffusion("emoji", dtype="fp32")
    again = np.array(sd.decode(sd.encode(mx.array(picture))))
    assert psnr(again, picture) > 24


def test_runs_that_say_the_same_encode_it_once(monkeypatch):
    sd = StableDiffusion("emoji")
    encoder, calls = sd.networks.encoder, []

    def counting(branches, **options):
        calls.append(tuple(branches["positive"]))
        return encoder(branches, **options)

    monkeypatch.setattr(sd.networks._held["encoder"], "network", counting)
    alone = [list(sd.generate_latents("a cat", seed=1, steps=steps))[-1] for steps in (2, 3)]
    assert calls == [("a cat",)]
    fresh = list(StableDiffusion("emoji").generate_latents("a cat", seed=1, steps=3))[-1]
    assert mx.array_equal(alone[1], fresh)
    for changed in ({"negative_prompt": "a dog"}, {"guidance_scale": 1.0}, {"height": 64}, {"n_images": 2}):
        list(sd.generate_latents("a cat", seed=1, steps=1, **changed))
    assert len(calls) == 5
    for i in range(10):
        list(sd.generate_latents(f"a {i}", seed=1, steps=1))
    assert len(sd._prompts._kept) <= 8
