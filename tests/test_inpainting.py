"""Repainted, edited and depth-guided pictures beside diffusers' own pipelines, from files that diffusers wrote."""

from __future__ import annotations

import diffusers
import lora_files
import mlx.core as mx
import numpy as np
import pytest
import tiny
import tiny_controls
import torch
from arrays import psnr
from PIL import Image
from skimage import data
from steering.test_controls import as_kind

from mlxdiff import Request, StableDiffusion

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
PROMPT, SIDE, SEED = "a red apple", 32, 5
SIZE = {"height": SIDE, "width": SIDE}
MAKERS = {
    "sd15": (tiny.sd15, diffusers.StableDiffusionInpaintPipeline),
    "sdxl": (tiny.sdxl, diffusers.StableDiffusionXLInpaintPipeline),
    "sd15_inpainting": (tiny.sd15_inpainting, diffusers.StableDiffusionInpaintPipeline),
    "sd21_inpainting": (tiny.sd21_inpainting, diffusers.StableDiffusionInpaintPipeline),
    "sdxl_inpainting": (tiny.sdxl_inpainting, diffusers.StableDiffusionXLInpaintPipeline),
    "sd15_editing": (tiny.sd15_editing, diffusers.StableDiffusionInstructPix2PixPipeline),
    "sdxl_editing": (tiny.sdxl_editing, diffusers.StableDiffusionXLInstructPix2PixPipeline),
    "depth": (tiny.depth, diffusers.StableDiffusionDepth2ImgPipeline),
}


def photo(side: int = SIDE) -> Image.Image:
    return Image.fromarray(data.astronaut()).resize((side, side), Image.Resampling.LANCZOS)


def box_mask(side: int = SIDE, box=(12, 8, 30, 24)) -> Image.Image:
    mask = Image.new("L", (side, side), 0)
    mask.paste(255, box)
    return mask


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """By name: diffusers' pipeline, and ours of the same files."""
    made = {}

    def model(name: str):
        if name not in made:
            make, kind = MAKERS[name]
            folder = tiny.write(make, tmp_path_factory.mktemp(name))
            pipe = kind.from_pretrained(folder)
            pipe.set_progress_bar_config(disable=True)
            made[name] = pipe, StableDiffusion(str(folder), dtype="fp32")
        return made[name]

    return model


def raw(sd: StableDiffusion, **settings) -> np.ndarray:
    """What the VAE makes of the last latents, before anything is pasted."""
    latents = mx.array([])
    for latents in sd.generate_latents(PROMPT, seed=SEED, **settings):
        mx.eval(latents)
    return np.array(sd.decode(latents))


def theirs(pipe, **settings) -> np.ndarray:
    made = pipe(PROMPT, generator=torch.Generator().manual_seed(SEED), output_type="np", **settings).images
    assert made.std() > 0.02, "a flat picture would prove nothing"
    return made


def request(**settings) -> Request:
    return Request(PROMPT, seed=SEED, **settings)


@pytest.mark.parametrize("strength", [0.5, 0.8, 1.0])
@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd15_inpainting", "sd21_inpainting", "sdxl_inpainting"])
def test_a_part_is_repainted_as_diffusers_does_it(models, name, strength):
    pipe, sd = models(name)
    settings = {"strength": strength, "guidance_scale": 4.0, **SIZE}
    expected = theirs(pipe, image=photo(), mask_image=box_mask(), num_inference_steps=6, **settings)
    found = raw(sd, image=photo(), mask=box_mask(), steps=6, **settings)
    assert psnr(found, expected) > 60


@pytest.mark.parametrize("name", ["sd15", "sdxl_inpainting"])
def test_a_lora_counts_where_a_part_is_repainted(models, tmp_path, name):
    _, sd = models(name)
    pipe = MAKERS[name][1].from_pretrained(sd.snapshot.path)
    pipe.set_progress_bar_config(disable=True)
    file = lora_files.by_kohya(pipe, tmp_path / "style.safetensors", seed=2)
    settings = {"strength": 0.8, "guidance_scale": 4.0, **SIZE}
    without = theirs(pipe, image=photo(), mask_image=box_mask(), num_inference_steps=4, **settings)
    pipe.load_lora_weights(tmp_path, weight_name=file.name)
    expected = theirs(pipe, image=photo(), mask_image=box_mask(), num_inference_steps=4, **settings)
    found = raw(sd, image=photo(), mask=box_mask(), steps=4, lora=[str(file)], **settings)
    assert psnr(expected, without) < 50
    assert psnr(found, expected) > 60


SCHEDULERS = {  # KDPM2's notes the level after the next one for its halfway point: another picture
    "DDIMScheduler": {"clip_sample": False},
    "EulerAncestralDiscreteScheduler": {},
    "HeunDiscreteScheduler": {},
    "DPMSolverMultistepScheduler": {},
    "UniPCMultistepScheduler": {},
    "LCMScheduler": {},
}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_with_samplers_of_every_kind(models, monkeypatch, scheduler):
    pipe, sd = models("sd15")
    other = getattr(diffusers, scheduler).from_config(pipe.scheduler.config, **SCHEDULERS[scheduler])
    monkeypatch.setattr(pipe, "scheduler", other)
    settings = {"strength": 0.7, "guidance_scale": 4.0, **SIZE}
    expected = theirs(pipe, image=photo(), mask_image=box_mask(), num_inference_steps=6, **settings)
    found = raw(sd, image=photo(), mask=box_mask(), steps=6, sampler=scheduler, **settings)
    assert psnr(found, expected) > 60


@pytest.mark.parametrize("scales", [(4.0, 1.7), (4.0, 0.9), (1.0, 1.5)])
@pytest.mark.parametrize("name", ["sd15_editing", "sdxl_editing"])
def test_an_instruction_edits_a_picture_as_diffusers_does_it(models, name, scales):
    pipe, sd = models(name)
    settings = {"guidance_scale": scales[0], "image_guidance_scale": scales[1]}
    size = SIZE if name == "sdxl_editing" else {}
    expected = theirs(pipe, image=photo(), num_inference_steps=5, **settings, **size)
    found = raw(sd, image=photo(), steps=5, **settings, **SIZE)
    assert psnr(found, expected) > 60


def test_the_defaults_of_an_editing_model_are_diffusers(models):
    _, sd = models("sd15_editing")
    resolved = sd.resolve(request(image=photo()))
    assert (resolved.steps, resolved.guidance_scale, resolved.image_guidance_scale) == (100, 7.5, 1.5)
    assert resolved.strength is None


@pytest.mark.parametrize("side", [SIDE, 24])
def test_a_depth_map_guides_as_diffusers_does_it(models, side):
    pipe, sd = models("depth")
    levels = np.arange(side * side, dtype=np.float32).reshape(side, side) * 37 % 251
    settings = {"strength": 0.7, "guidance_scale": 4.0}
    given = torch.from_numpy(levels)[None]
    expected = theirs(pipe, image=photo(), depth_map=given, num_inference_steps=6, **settings)
    depth = Image.fromarray(levels.astype(np.uint8))
    found = raw(sd, image=photo(), depth=depth, steps=6, **settings, **SIZE)
    assert psnr(found, expected) > 60


def test_only_the_masked_part_is_rendered_and_put_back_as_diffusers_does_it(models):
    pipe, sd = models("sd15")
    whole, mask = photo(80), box_mask(80, (21, 30, 47, 44))
    settings = {"strength": 0.8, "guidance_scale": 4.0, **SIZE}
    expected = pipe(
        PROMPT,
        image=whole,
        mask_image=mask,
        num_inference_steps=5,
        padding_mask_crop=6,
        generator=torch.Generator().manual_seed(SEED),
        **settings,
    ).images[0]
    area = {"inpaint_area": "masked", "inpaint_padding": 6}
    found = sd.generate(PROMPT, image=whole, mask=mask, steps=5, seed=SEED, **area, **settings)[0]
    assert found.size == (80, 80)
    assert psnr(np.asarray(found) / 255, np.asarray(expected) / 255) > 60
    kept = np.asarray(mask) == 0
    assert (np.asarray(found)[kept] == np.asarray(whole)[kept]).all()
    assert (np.asarray(found)[~kept] != np.asarray(whole)[~kept]).mean() > 0.9


@pytest.mark.parametrize("name", ["sd15", "sd15_inpainting", "sdxl"])
def test_a_part_is_repainted_under_a_controlnet_as_diffusers_does_it(models, tmp_path, name):
    pipe, sd = models(name)
    network = tiny_controls.controlnet(pipe.unet, 0)
    folder = tiny_controls.write(network, tmp_path / "control")
    xl = name.startswith("sdxl")
    kind = getattr(diffusers, f"StableDiffusion{'XL' if xl else ''}ControlNetInpaintPipeline")
    both = as_kind(kind, pipe, controlnet=network)
    both.scheduler = diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    edges = Image.fromarray(data.coffee()).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    edges.save(tmp_path / "edges.png")
    settings = {"strength": 0.75, "guidance_scale": 4.0, **SIZE}
    more = {"control_image": edges, "controlnet_conditioning_scale": 1.0, "num_inference_steps": 4}
    expected = theirs(both, image=photo(), mask_image=box_mask(), **more, **settings)
    ours = {"image": photo(), "mask": box_mask(), "steps": 4, "sampler": "euler"}
    found = raw(sd, control=f"{folder}={tmp_path / 'edges.png'}", **ours, **settings)
    assert psnr(found, expected) > 60
    assert psnr(raw(sd, **ours, **settings), expected) < 50, "a control that does nothing would prove nothing"
