"""What a checkpoint says of itself: its defaults, its pipeline, its scheduler, beside diffusers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
import tiny
import torch
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    StableDiffusionPipeline,
)

import mlxdiff
from mlxdiff import StableDiffusion
from mlxdiff.checkpoint.detect import parse_model_index
from mlxdiff.errors import CheckpointError, UnsupportedError
from mlxdiff.families import base, family_of

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

EMOJI = Path(mlxdiff.__file__).parent / "assets/emoji"


@pytest.mark.parametrize(
    "value", ["NaN", "Infinity", "-Infinity", "-1", "1e308", "1" * 400, "true", "null", '"25"', "[25]"]
)
@pytest.mark.parametrize("key", ["steps", "guidance_scale", "height"])
def test_a_default_that_is_no_sensible_number_is_refused(tmp_path, key, value):
    folder = shutil.copytree(EMOJI, tmp_path / "model", symlinks=True)
    (folder / "mlxdiff.json").write_text(f'{{"{key}": {value}}}')
    with pytest.raises(CheckpointError, match="It may hold numbers"):
        StableDiffusion(str(folder))


def last_latents(sd: StableDiffusion, **settings) -> np.ndarray:
    latents = None
    for latents in sd.generate_latents(seed=3, height=32, width=32, **settings):
        mx.eval(latents)
    return np.array(latents)


def theirs(pipe, **settings) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(3)
    found = pipe(height=32, width=32, generator=generator, output_type="latent", **settings).images
    return found.numpy().transpose(0, 2, 3, 1)


def lcm() -> LatentConsistencyModelPipeline:
    pipe = tiny.sd15()
    parts = {
        **{name: getattr(pipe, name) for name in ("vae", "text_encoder", "tokenizer")},
        "unet": tiny.unet(time_cond_proj_dim=16),
        "scheduler": LCMScheduler(**tiny.BETAS),
    }
    return LatentConsistencyModelPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )


@pytest.mark.parametrize("guidance_scale", [8.5, 1.0])
def test_a_latent_consistency_pipeline_is_diffusers(tmp_path, guidance_scale):
    folder = tiny.write(lcm, tmp_path / "lcm")
    pipe = LatentConsistencyModelPipeline.from_pretrained(folder)
    expected = theirs(pipe, prompt="a red apple", guidance_scale=guidance_scale)  # 4 steps, its own default
    sd = StableDiffusion(str(folder), dtype="fp32")
    assert (sd.defaults.steps, sd.defaults.guidance_scale) == (4, 8.5)
    found = last_latents(sd, prompt="a red apple", guidance_scale=guidance_scale)
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("scheduler", [EulerDiscreteScheduler, DDIMScheduler])
def test_the_schedulers_class_is_the_one_that_the_model_index_names(tmp_path, scheduler):
    folder = tiny.write(tiny.sd15, tmp_path / "sd15")
    index = json.loads((folder / "model_index.json").read_text())
    assert json.loads((folder / "scheduler/scheduler_config.json").read_text())["_class_name"] == "PNDMScheduler"
    index["scheduler"][1] = scheduler.__name__
    (folder / "model_index.json").write_text(json.dumps(index))
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    assert type(pipe.scheduler) is scheduler
    expected = theirs(pipe, prompt="a red apple", num_inference_steps=5)
    sd = StableDiffusion(str(folder), dtype="fp32")
    assert sd.checkpoint.scheduler_class == scheduler.__name__
    found = last_latents(sd, prompt="a red apple", steps=5)
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_a_refused_pipeline_is_answered_with_pipelines_that_are_not_refused():
    index = parse_model_index(Path("model_index.json"), {"_class_name": "KandinskyPipeline"})
    with pytest.raises(UnsupportedError) as caught:
        family_of(SimpleNamespace(index=index, folder="here"))
    listed = caught.value.remedy.removeprefix("It implements ").rstrip(".").split(", ")
    assert "LatentConsistencyModelPipeline" in listed
    assert not any("Inpaint" in name or "Pix2Pix" in name for name in listed)
    for name in listed:
        index = parse_model_index(Path("model_index.json"), {"_class_name": name})
        assert name in family_of(SimpleNamespace(index=index)).pipelines


def test_a_unet_that_takes_something_unknown_is_refused_by_its_channels(tmp_path):
    def seven():
        pipe = tiny.sd15()
        pipe.unet = tiny.unet(in_channels=7)
        return pipe

    checkpoint = base.read_checkpoint(tiny.write(seven, tmp_path / "seven"))
    with pytest.raises(UnsupportedError, match="takes 7 channels, the VAE has 4: it expects something beside the"):
        base.load_backbone(checkpoint, mx.float32, None)


@pytest.mark.parametrize("name", ["StableUnCLIPImg2ImgPipeline", "StableDiffusionImageVariationPipeline"])
def test_a_checkpoint_of_variations_is_refused_by_what_it_is(tmp_path, name):
    folder = tiny.write(tiny.sd15, tmp_path / "variations")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": name}))
    with pytest.raises(UnsupportedError, match=f"makes variations of a picture .{name}.*CLIP embedding"):
        StableDiffusion(str(folder))
