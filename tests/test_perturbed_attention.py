"""Perturbed-attention guidance beside diffusers' pipelines of it: whole pictures of tiny random models."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
import tiny
import tiny_ip_adapters
import tiny_unets
import torch
from arrays import psnr
from diffusers import StableDiffusionPAGPipeline, StableDiffusionXLPAGPipeline
from PIL import Image
from skimage import data

from mlxdiff import Request, StableDiffusion
from mlxdiff.errors import RequestError
from mlxdiff.models.unet_config import UNetConfig

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
KINDS = {"sd15": StableDiffusionPAGPipeline, "sdxl": StableDiffusionXLPAGPipeline}
PROMPTS = ["a red apple", "a dog face on a blue background"]
SIZE = {"height": 32, "width": 48}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    made = {}

    def model(name: str):
        if name not in made:
            folder = tiny.write(tiny.PIPELINES[name], tmp_path_factory.mktemp(name))
            pipe = KINDS[name].from_pretrained(folder, pag_applied_layers=["mid"])
            pipe.set_progress_bar_config(disable=True)
            made[name] = StableDiffusion(str(folder), dtype="fp32"), pipe
        return made[name]

    return model


def ours(sd, prompt=PROMPTS, seed=3, **settings) -> np.ndarray:
    latents = None
    for latents in sd.generate_latents(prompt, steps=4, seed=seed, **SIZE, **settings):
        mx.eval(latents)
    return np.array(sd.decode(latents))


def theirs(pipe, prompt=PROMPTS, **settings) -> np.ndarray:
    generators = [torch.Generator("cpu").manual_seed(3 + i) for i in range(len(prompt))]
    return pipe(prompt, num_inference_steps=4, generator=generators, output_type="np", **SIZE, **settings).images


CASES = [
    {"guidance_scale": 5.0, "pag_scale": 12.0},
    {"guidance_scale": 1.0, "pag_scale": 12.0},
    {"guidance_scale": 5.0, "pag_scale": 12.0, "guidance_rescale": 0.7},
]


@pytest.mark.parametrize("settings", CASES, ids=["guided", "alone", "rescaled"])
@pytest.mark.parametrize("name", list(KINDS))
def test_pictures_are_diffusers(models, name, settings):
    sd, pipe = models(name)
    found = ours(sd, **settings)
    assert psnr(found, ours(sd, **settings | {"pag_scale": 0.0})) < 40, "what changes nothing would prove nothing"
    assert psnr(found, theirs(pipe, **settings)) > 100


def test_with_a_picture_as_a_prompt(models, tmp_path):
    sd, pipe = models("sd15")
    adapters = tiny_ip_adapters.write(pipe.unet, tmp_path, ("plain",))
    photo = Image.fromarray(data.chelsea())
    pipe.load_ip_adapter(str(adapters), subfolder="", weight_name="plain.safetensors")
    settings = {"guidance_scale": 5.0, "pag_scale": 12.0}
    try:
        expected = theirs(pipe, PROMPTS[:1], ip_adapter_image=photo, **settings)
    finally:
        pipe.unload_ip_adapter()
        pipe._set_pag_attn_processor(["mid"], True)
    asked = {"ref": adapters / "plain.safetensors", "image": photo}
    assert psnr(ours(sd, PROMPTS[:1], ip_adapter=asked, **settings), expected) > 100


def test_an_image_does_not_depend_on_its_batch(models):
    sd, _ = models("sd15")
    together = ours(sd, guidance_scale=5.0, pag_scale=12.0)
    alone = ours(sd, PROMPTS[:1], guidance_scale=5.0, pag_scale=12.0)
    assert psnr(together[:1], alone) > 100


def test_compiled_calls_perturb_the_same(models, monkeypatch):
    sd, _ = models("sdxl")
    expected = ours(sd, guidance_scale=5.0, pag_scale=12.0, guidance_end=0.5)
    monkeypatch.setattr(sd.networks.backbone, "_compiles", True)
    monkeypatch.setattr(sd.networks.backbone, "_calls", None)
    assert psnr(ours(sd, guidance_scale=5.0, pag_scale=12.0, guidance_end=0.5), expected) > 80


def test_outside_the_interval_there_is_none(models):
    sd, _ = models("sdxl")
    late = ours(sd, guidance_scale=5.0, pag_scale=12.0, guidance_start=0.5)
    assert psnr(late, ours(sd, guidance_scale=5.0, guidance_start=0.5)) < 60
    assert psnr(late, ours(sd, guidance_scale=5.0, pag_scale=12.0)) < 60


def test_prompts_of_different_lengths_and_parts_are_perturbed_too(models):
    sd, _ = models("sd15")
    prompts = [PROMPTS[0], " ".join(["a red apple on a blue table,"] * 20), "a dog AND a cat"]
    settings = {"guidance_scale": 5.0, "pag_scale": 12.0}
    together = ours(sd, prompts, **settings)
    for i, prompt in enumerate(prompts):
        assert psnr(together[i : i + 1], ours(sd, [prompt], seed=3 + i, **settings)) > 80


def test_step_caching_goes_on(models):
    sd, _ = models("sd15")
    assert np.isfinite(ours(sd, guidance_scale=5.0, pag_scale=12.0, cache_interval=2, guidance_end=0.5)).all()


def test_a_model_without_attention_at_the_bottom_is_refused(models, monkeypatch):
    sd, _ = models("sd15")
    assert [
        UNetConfig.from_dict(tiny_unets.config(name)).can_be_perturbed for name in ("sd1", "plain-mid", "no-mid")
    ] == [
        True,
        False,
        False,
    ]
    monkeypatch.setattr(UNetConfig, "can_be_perturbed", False)
    with pytest.raises(RequestError, match="no attention at the bottom"):
        sd.resolve(Request("a cat", pag_scale=12.0))
