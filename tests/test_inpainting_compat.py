"""Inpainting under `--compat`: A1111's and ComfyUI's rules written down again in torch, on the built-in model."""

from __future__ import annotations

import math
from itertools import pairwise

import cv2
import numpy as np
import pytest
import tiny
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageOps
from skimage import data
from test_compat import PROMPT, SCALE, SEED, SIDE, STEPS, Program, close, drawn, shift

from mlxdiff import Request, StableDiffusion, images, masks
from mlxdiff.diffusion.noise import NoiseStream

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
CELLS = SIDE // 4
SIZE = {"height": SIDE, "width": SIDE, "steps": STEPS, "guidance_scale": SCALE, "seed": SEED}


@pytest.fixture(scope="module")
def sd() -> StableDiffusion:
    return StableDiffusion("emoji", dtype="fp32")


@pytest.fixture(scope="module")
def pipe():
    made = StableDiffusionPipeline.from_pretrained(tiny.EMOJI, torch_dtype=torch.float32)
    made.set_progress_bar_config(disable=True)
    return made


def photo() -> Image.Image:
    return Image.fromarray(data.astronaut()).resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def box_mask() -> Image.Image:
    mask = Image.new("L", (SIDE, SIDE), 0)
    mask.paste(255, (20, 14, 50, 45))
    return mask


def encoded(pipe, picture: Image.Image) -> torch.Tensor:
    pixels = torch.from_numpy(np.asarray(picture, np.float32) / 255).permute(2, 0, 1)[None] * 2 - 1
    with torch.no_grad():
        mean = pipe.vae.encode(pixels).latent_dist.mean
    return (mean - shift(pipe.vae)) * pipe.vae.config.scaling_factor


def a1111_blur(mask: Image.Image, blur: int) -> Image.Image:
    """modules/processing.py: one pass along each axis, each rounded to 8 bits."""
    kernel = 2 * int(2.5 * blur + 0.5) + 1
    levels = cv2.GaussianBlur(np.array(mask), (kernel, 1), blur)
    return Image.fromarray(cv2.GaussianBlur(levels, (1, kernel), blur))


def a1111_cells(mask: Image.Image) -> torch.Tensor:
    small = np.asarray(mask.convert("RGB").resize((CELLS, CELLS)), np.float32)[:, :, 0] / 255
    return torch.from_numpy(np.around(small))[None, None]


def a1111_pasted(picture: Image.Image, mask: Image.Image, made: np.ndarray) -> np.ndarray:
    """The overlay of the whole picture: what it covers is twice the blurred mask's rest."""
    doubled = Image.fromarray(np.clip(np.asarray(mask, np.float32) * 2, 0, 255).astype(np.uint8))
    overlay = Image.new("RGBa", picture.size)
    overlay.paste(picture.convert("RGBA").convert("RGBa"), mask=ImageOps.invert(doubled))
    result = Image.fromarray(made).convert("RGBA")
    result.alpha_composite(overlay.convert("RGBA"))
    return np.asarray(result.convert("RGB"))


def both(sd: StableDiffusion, **settings) -> tuple[np.ndarray, np.ndarray]:
    """What the VAE makes of the last latents, and the finished picture."""
    request = sd.resolve(Request(PROMPT, **settings, **SIZE))
    *_, last = sd.denoise(request)
    decoded = sd.decode(last.latents)[0]
    return images.to_uint8(decoded, "truncate"), sd.finish(request, decoded)


@pytest.mark.parametrize("blur", [1, 4, 9])
def test_the_blur_is_a1111s(blur):
    ours = np.asarray(masks.blurred(box_mask(), blur), int)
    # OpenCV works with weights of 8 bits.
    assert np.abs(ours - np.asarray(a1111_blur(box_mask(), blur), int)).max() <= 2


@pytest.mark.parametrize("fill", ["original", "noise", "blank"])
def test_a1111_blends_the_prediction_and_the_end(sd, pipe, fill):
    denoise, stream, strength = Program(pipe, rounds=False), NoiseStream(SEED, "philox"), 0.75
    t_enc = int(strength * STEPS)
    ramp = np.interp(np.linspace(999, 0, STEPS), np.arange(1000), np.log(denoise.sigmas))
    sigmas = [*np.exp(ramp).tolist(), 0.0][STEPS - t_enc - 1 :]
    mask = masks.blurred(box_mask(), 4)
    cells = a1111_cells(mask)
    start = photo() if fill == "original" else masks.colour_filled(photo(), mask)
    init, noise = encoded(pipe, start), drawn(stream)
    if fill != "original":
        init = init * (1 - cells) + (noise * cells if fill == "noise" else 0)
    x = init + noise * sigmas[0]
    for a, b in pairwise(sigmas):  # Euler a, whose prediction outside the mask is the picture
        d = denoise(x, a) * cells + init * (1 - cells)
        up = min(b, math.sqrt(b**2 * (a**2 - b**2) / a**2))
        x = x + (x - d) / a * (math.sqrt(b**2 - up**2) - a)
        x = x + drawn(stream) * up if b > 0 else x
    x = x * cells + init * (1 - cells)
    given = {"image": photo(), "mask": box_mask(), "strength": strength, "inpaint_fill": fill}
    made, found = both(sd, sampler="Euler a", compat="a1111", **given)
    assert close(made, denoise.picture(x))
    expected = a1111_pasted(photo(), mask, denoise.picture(x))
    assert np.abs(found.astype(int) - expected).max() <= 2  # the overlay is rounded to 8 bits on its way


def test_a1111s_ddim_sees_the_clean_picture(sd, pipe):
    denoise, stream, strength = Program(pipe, rounds=False), NoiseStream(SEED, "philox"), 0.75
    timesteps = np.clip(np.arange(0, 1000, 1000 // STEPS) + 1, 0, 999)
    t_enc = min(int(strength * STEPS), STEPS - 1)
    mask = masks.blurred(box_mask(), 4)
    cells, init = a1111_cells(mask), encoded(pipe, photo())

    def alpha(t: int) -> float:
        return 1 / (1 + float(denoise.sigmas[t]) ** 2)

    first = alpha(int(timesteps[t_enc + 1]))
    x = math.sqrt(first) * init + math.sqrt(1 - first) * drawn(stream)
    for i in range(t_enc + 1, 0, -1):
        now, before = alpha(int(timesteps[i])), alpha(int(timesteps[i - 1]))
        seen = x * cells + init * (1 - cells)
        sigma = math.sqrt((1 - now) / now)
        d = denoise(seen / math.sqrt(now), sigma)
        eps = (seen - math.sqrt(now) * d) / math.sqrt(1 - now)
        x = math.sqrt(before) * (x - math.sqrt(1 - now) * eps) / math.sqrt(now) + math.sqrt(1 - before) * eps
    x = x * cells + init * (1 - cells)
    given = {"image": photo(), "mask": box_mask(), "strength": strength}
    assert close(both(sd, sampler="DDIM", compat="a1111", **given)[0], denoise.picture(x))


@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_comfyui_blends_before_and_after_the_call_with_a_soft_mask(sd, pipe, strength):
    denoise = Program(pipe, rounds=True)
    total = STEPS if strength == 1 else int(STEPS / strength)
    ramp = np.interp(np.linspace(999, 0, total), np.arange(1000), np.log(denoise.sigmas))
    sigmas = [*np.exp(ramp).tolist(), 0.0][-(STEPS + 1) :]
    whole = torch.from_numpy(np.asarray(box_mask(), np.float32) / 255)[None, None]
    cells = torch.nn.functional.interpolate(whole, (CELLS, CELLS), mode="bilinear")
    assert float(((cells > 0) & (cells < 1)).sum()) > 0, "a hard mask would not show the difference"
    init, noise = encoded(pipe, photo()), drawn(NoiseStream(SEED, "torch"))
    x = init + noise * (math.hypot(sigmas[0], 1) if strength == 1 else sigmas[0])
    for a, b in pairwise(sigmas):
        seen = x * cells + (init + noise * a) * (1 - cells)
        d = denoise(seen, a) * cells + init * (1 - cells)
        x = x + (x - d) / a * (b - a)
    given = {"image": photo(), "mask": box_mask(), "strength": strength}
    assert close(both(sd, sampler="euler", compat="comfyui", **given)[0], denoise.picture(x))
