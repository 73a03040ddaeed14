"""Few-step LoRAs: what their public names ask for, and that it is what diffusers' recipes for them draw."""

from __future__ import annotations

from pathlib import Path

import lora_files
import mlx.core as mx
import numpy as np
import pytest
import tiny
import torch
from diffusers import (
    DDIMScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    StableDiffusionPipeline,
    TCDScheduler,
)

from mlxdiff import Request, StableDiffusion
from mlxdiff.errors import MlxdiffWarning
from mlxdiff.few_steps import filled, row_of

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

OFF = 1.0
# The files' names on the hub, and what their pages say: sampler, schedule, steps, guidance, eta.
NAMES = {
    "latent-consistency/lcm-lora-sdv1-5": ("lcm", None, 4, OFF, None),
    "latent-consistency/lcm-lora-sdxl": ("lcm", None, 4, OFF, None),
    "LCM_LoRA_Weights_SD15": ("lcm", None, 4, OFF, None),
    "sdxl_lightning_2step_lora": ("euler", "trailing", 2, OFF, None),
    "sdxl_lightning_4step_lora": ("euler", "trailing", 4, OFF, None),
    "sdxl_lightning_8step_lora": ("euler", "trailing", 8, OFF, None),
    "Hyper-SD15-1step-lora": ("tcd", None, 1, OFF, 1.0),
    "Hyper-SDXL-1step-lora": ("tcd", None, 1, OFF, 1.0),
    "Hyper-SDXL-2steps-lora": ("ddim", "trailing", 2, OFF, None),
    "Hyper-SD15-8steps-lora": ("ddim", "trailing", 8, OFF, None),
    "Hyper-SD15-8steps-CFG-lora": ("ddim", "trailing", 8, None, None),
    "Hyper-SDXL-12steps-CFG-lora": ("ddim", "trailing", 12, None, None),
    "h1t/TCD-SDXL-LoRA": ("tcd", None, 4, OFF, 0.3),
    "h1t/TCD-SD15-LoRA": ("tcd", None, 4, OFF, 0.3),
    "h1t/TCD-SD21-base-LoRA": ("tcd", None, 4, OFF, 0.3),
    "pcm_sd15_smallcfg_4step_converted": ("ddim", "trailing", 4, OFF, None),
    "pcm_sdxl_normalcfg_8step_converted": ("ddim", "trailing", 8, None, None),
    "pcm_sdxl_lcmlike_lora_converted": ("lcm", None, 4, OFF, None),
    "dmd2_sdxl_4step_lora_fp16": ("lcm", None, 4, OFF, None),
    "jasperai/flash-sdxl": ("lcm", None, 4, OFF, None),
    "emoji-4steps": ("ddim", "trailing", 4, OFF, None),
    "sd_xl_turbo_lora_v1": ("euler_ancestral", "trailing", 4, OFF, None),
}
OTHERS = (
    "pytorch_lora_weights",
    "hyperrealistic_v2",
    "lightning_bolts_style",
    "turbo_car_911",
    "step_by_step_4steps",
    "watercolour",
    "hyper_detailer_sd15",
    "flash_photography",
    "welcome-style",
)


@pytest.mark.parametrize("name", NAMES)
def test_public_files_are_known_by_their_names(name):
    row, plain = row_of([name])
    request, said = filled(Request("a"), row, plain)
    found = (request.sampler, request.schedule, request.steps, request.guidance_scale, request.eta)
    assert found == NAMES[name]
    assert said.keys() == {key for key in said if getattr(request, key) is not None}


@pytest.mark.parametrize("name", OTHERS)
def test_styles_with_such_words_are_no_few_step_loras(name):
    assert row_of([name]) is None


def test_what_is_asked_for_stays():
    row, name = row_of(["Hyper-SD15-1step-lora"])
    request, said = filled(Request("a", sampler="euler", steps=7), row, name)
    assert (request.sampler, request.steps, request.guidance_scale, request.eta) == ("euler", 7, OFF, None)
    assert said == {"guidance_scale": OFF}
    row, name = row_of(["sdxl_lightning_4step_lora"])
    request, _ = filled(Request("a", sigmas=(14.0, 1.0, 0.0)), row, name)
    assert (request.steps, request.schedule, request.sampler) == (None, None, "euler")
    assert filled(Request("a", compat="a1111"), row, name)[0].schedule == "sgm_uniform"
    row, name = row_of(["Hyper-SD15-8steps-lora"])
    request, _ = filled(Request("a", compat="comfyui"), row, name)
    assert (request.sampler, request.schedule) == ("euler", "sgm_uniform")


@pytest.fixture(scope="module")
def lora(tmp_path_factory) -> Path:
    pipe = StableDiffusionPipeline.from_pretrained(tiny.EMOJI)
    return lora_files.by_kohya(pipe, tmp_path_factory.mktemp("lora") / "any.safetensors", components=["unet"])


RECIPES = {
    "lcm-lora-sdv1-5": (LCMScheduler, {}, {"num_inference_steps": 4}),
    "sdxl_lightning_4step_lora": (EulerDiscreteScheduler, {"timestep_spacing": "trailing"}, {"num_inference_steps": 4}),
    "Hyper-SD15-1step-lora": (TCDScheduler, {}, {"num_inference_steps": 1, "eta": 1.0}),
    "Hyper-SD15-8steps-lora": (DDIMScheduler, {"timestep_spacing": "trailing"}, {"num_inference_steps": 8}),
    "TCD-SD15-LoRA": (TCDScheduler, {}, {"num_inference_steps": 4, "eta": 0.3}),
    "sd_xl_turbo_lora_v1": (
        EulerAncestralDiscreteScheduler,
        {"timestep_spacing": "trailing"},
        {"num_inference_steps": 4},
    ),
}


@pytest.mark.parametrize("name", RECIPES)
def test_the_picture_is_that_of_diffusers_recipe(lora, tmp_path, name):
    path = tmp_path / f"{name}.safetensors"
    path.write_bytes(lora.read_bytes())
    pipe = StableDiffusionPipeline.from_pretrained(tiny.EMOJI, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(str(path))
    pipe.set_adapters(pipe.get_active_adapters(), 0.2)
    kind, options, call = RECIPES[name]
    pipe.scheduler = kind.from_config(pipe.scheduler.config, **options)
    generator = torch.Generator().manual_seed(3)
    size = {"height": 32, "width": 32}
    expected = pipe("a red apple", guidance_scale=0, generator=generator, output_type="np", **call, **size).images
    sd = StableDiffusion("emoji", dtype="fp32")
    said = f"{name} is a few-step LoRA .*: sampler .*, steps {call['num_inference_steps']}"
    with pytest.warns(MlxdiffWarning, match=said):
        request = sd.resolve(Request("a red apple", seed=3, lora=f"{path},scale=0.2", **size))
    latents = None
    for step in sd.denoise(request):
        mx.eval(latents := step.latents)
    found = np.array(sd.decode(latents))
    error = np.mean((found.astype(np.float64) - expected) ** 2)
    assert -10 * np.log10(error) > 60


@pytest.mark.parametrize("prompt", ["a red apple", "a castle", "a rocket, twemoji style on a blue background"])
def test_the_built_in_one_draws_in_four_steps_what_the_model_draws_in_25(prompt):
    sd = StableDiffusion("emoji")
    (whole,) = sd.generate(prompt, seed=7)
    with pytest.warns(MlxdiffWarning, match=r"emoji-4steps is a few-step LoRA \(built in\): sampler ddim, .*steps 4"):
        (quick,) = sd.generate(prompt, seed=7, lora="emoji-4steps")
    error = np.mean((np.asarray(whole, np.float64) - np.asarray(quick)) ** 2)
    assert 10 * np.log10(255**2 / error) > 28


def test_a_folders_name_and_the_metadata_count_too(lora, tmp_path):
    folder = tmp_path / "lcm-lora-sdv1-5"
    folder.mkdir()
    (folder / "pytorch_lora_weights.safetensors").write_bytes(lora.read_bytes())
    sd = StableDiffusion("emoji", dtype="fp32")
    for reference in (folder, folder / "pytorch_lora_weights.safetensors"):
        with pytest.warns(MlxdiffWarning, match="few-step"):
            assert sd.resolve(Request("a", lora=str(reference))).sampler == "lcm"
    plain = sd.resolve(Request("a", lora=f"{folder},scale=0"))
    assert plain.sampler == sd.resolve(Request("a")).sampler
