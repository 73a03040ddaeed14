"""A guidance interval, step caching and token merging in whole runs: what they compute, and what they leave alone."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
import tiny
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from mlxdiff import Request, StableDiffusion
from mlxdiff.errors import MlxdiffWarning, RequestError

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

PROMPTS = ["a red apple", "a dog face on a blue background"]
SMALL = {"height": 64, "width": 64}
NEUTRAL = {"guidance_start": 0.0, "guidance_end": 1.0, "cache_interval": 1, "token_merging": 0.0}


def last_latents(sd: StableDiffusion, **settings) -> np.ndarray:
    latents = None
    for latents in sd.generate_latents(**settings):
        mx.eval(latents)
    return np.array(latents)


@pytest.fixture(scope="module")
def emoji() -> StableDiffusion:
    return StableDiffusion("emoji", dtype="fp32")


@pytest.fixture
def calls(emoji, monkeypatch) -> list[int]:
    """The batch of each call of the UNet, filled as the calls come."""
    predict, seen = emoji._predict, []

    def counting(sample, *arguments):
        seen.append(sample.shape[0])
        return predict(sample, *arguments)

    monkeypatch.setitem(emoji.__dict__, "_predict", counting)
    return seen


# -- all of them --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(NEUTRAL))
def test_at_its_neutral_setting_the_picture_is_the_exact_one(emoji, name):
    settings = {"prompt": PROMPTS, "steps": 2, "seed": 3, "sampler": "heun", **SMALL}
    assert np.array_equal(last_latents(emoji, **settings, **{name: NEUTRAL[name]}), last_latents(emoji, **settings))


# -- guidance in an interval --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "start", "end"), [("sd21", 0.0, 0.5), ("sd21", 0.5, 1.0), ("sd21", 0.2, 0.7), ("sdxl", 0.2, 0.7)]
)
def test_a_guidance_interval_is_diffusers_with_its_scale_changed_between_steps(tmp_path, name, start, end):
    steps, scale = 6, 5.0
    folder = tiny.write(tiny.PIPELINES[name], tmp_path / name)
    kind = StableDiffusionPipeline if name == "sd21" else StableDiffusionXLPipeline
    pipe = kind.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    told = conditionings(pipe, PROMPTS[0], size=32)

    def change(pipe, index, _, __):
        guided = start <= (index + 1) / steps < end
        pipe._guidance_scale = scale if guided else 1.0
        return dict(told[guided])

    expected = pipe(
        PROMPTS[0],
        num_inference_steps=steps,
        guidance_scale=scale if start == 0 else 1.0,
        generator=torch.Generator("cpu").manual_seed(3),
        height=32,
        width=32,
        output_type="latent",
        callback_on_step_end=change,
    ).images
    found = last_latents(
        StableDiffusion(str(folder), dtype="fp32"),
        prompt=PROMPTS[0],
        steps=steps,
        guidance_scale=scale,
        seed=3,
        height=32,
        width=32,
        guidance_start=start,
        guidance_end=end,
    )
    assert np.abs(found - expected.numpy().transpose(0, 2, 3, 1)).max() < 1e-4 * np.abs(found).max()


def conditionings(pipe, prompt, *, size) -> dict[bool, dict[str, torch.Tensor]]:
    """What a loop of diffusers is told without guidance (False) and with it (True)."""
    if isinstance(pipe, StableDiffusionPipeline):
        positive, negative = pipe.encode_prompt(prompt, "cpu", 1, True)
        return {False: {"prompt_embeds": positive}, True: {"prompt_embeds": torch.cat([negative, positive])}}
    positive, negative, pooled, negative_pooled = pipe.encode_prompt(prompt, device="cpu")
    ids = torch.tensor([[size, size, 0, 0, size, size]], dtype=positive.dtype)
    return {
        False: {"prompt_embeds": positive, "add_text_embeds": pooled, "add_time_ids": ids},
        True: {
            "prompt_embeds": torch.cat([negative, positive]),
            "add_text_embeds": torch.cat([negative_pooled, pooled]),
            "add_time_ids": ids.repeat(2, 1),
        },
    }


@pytest.mark.parametrize(
    ("sampler", "batches"),
    [
        ("euler", [2, 4, 4, 2, 2]),
        # Two calls a step, each at its own sigma; one in the last.
        ("heun", [2, 4, 4, 4, 4, 2, 2, 2, 2]),
    ],
)
def test_outside_the_interval_the_negative_half_is_not_computed(emoji, calls, sampler, batches):
    last_latents(
        emoji,
        prompt=PROMPTS,
        steps=5,
        seed=0,
        sampler=sampler,
        schedule="karras",
        guidance_start=0.2,
        guidance_end=0.6,
        **SMALL,
    )
    assert calls == batches


def test_an_interval_without_a_step_is_refused_and_one_without_guidance_is_said(emoji):
    with pytest.raises(RequestError, match="None of 4 steps begins"):
        emoji.resolve(Request("a cat", steps=4, guidance_start=0.6, guidance_end=0.7))
    with pytest.warns(MlxdiffWarning, match="guidance interval does nothing at guidance scale 1"):
        last_latents(emoji, prompt="a cat", steps=1, guidance_scale=1.0, guidance_end=0.5, **SMALL)
