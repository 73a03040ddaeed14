"""The random checkpoint that whole generations are timed with, and plain MLX on it, against diffusers."""

import checkpoints
import mlx.core as mx
import numpy as np
import plain
import pytest
import torch
from diffusers import StableDiffusionPipeline

from mlxdiff import StableDiffusion

# diffusers' own, under the newest numpy and transformers
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

PROMPT, STEPS, GUIDANCE, SIZE = "a red apple", 4, 7.5, 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return checkpoints.write("tiny", tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(0).standard_normal((2, SIZE // 8, SIZE // 8, 4), np.float32)


@pytest.fixture(scope="module")
def expected(folder, noise):
    """What diffusers makes of the noise, (2, SIZE, SIZE, 3)."""
    pipe = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    latents = torch.from_numpy(noise.transpose(0, 3, 1, 2).copy())
    settings = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "latents": latents, "output_type": "np"}
    return pipe([PROMPT] * 2, **settings).images


def test_mlxdiff_draws_what_diffusers_draws(folder, noise, expected):
    sd = StableDiffusion(str(folder), dtype="fp32")
    latents = mx.zeros(())
    for latents in sd.generate_latents(
        [PROMPT] * 2, steps=STEPS, guidance_scale=GUIDANCE, height=SIZE, width=SIZE, latents=mx.array(noise)
    ):
        mx.eval(latents)
    np.testing.assert_allclose(np.array(sd.decode(latents)), expected, atol=1e-3)


def test_plain_mlx_draws_what_diffusers_draws(folder, noise, expected):
    configs = checkpoints.published("tiny")
    unet, decoder = plain.UNet(configs["unet"]), plain.VAEDecoder(configs["vae"])
    file = "diffusion_pytorch_model.safetensors"
    plain.load(unet, folder / "unet" / file, mx.float32, "")
    plain.load(decoder, folder / "vae" / file, mx.float32, "decoder.", "post_quant_conv.")
    sd = StableDiffusion(str(folder), dtype="fp32")
    context = mx.concatenate([sd.encode_prompt([text] * 2).context for text in ("", PROMPT)])
    latents = mx.zeros(())
    for latents in plain.sample(unet, checkpoints.scheduler(), mx.array(noise), STEPS, GUIDANCE, context=context):
        mx.eval(latents)
    np.testing.assert_allclose(np.array(decoder(latents)), expected, atol=1e-3)
