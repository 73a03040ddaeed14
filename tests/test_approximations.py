"""A guidance interval, step caching and token merging in whole runs: what they compute, and what they leave alone."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
import tiny
import torch
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from merging import averages, copies, owners
from program import mlxdiff

from mlxdiff import Request, StableDiffusion
from mlxdiff.errors import MlxdiffWarning, RequestError
from mlxdiff.metadata import read_picture
from mlxdiff.models.backbone import Extra

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
    network, batches = emoji.networks.backbone.network, []
    predict = network.predict

    def counting(sample, *arguments):
        batches.append(sample.shape[0])
        return predict(sample, *arguments)

    monkeypatch.setattr(network, "predict", counting)
    monkeypatch.setattr(emoji.networks.backbone, "_calls", None)
    return batches


# -- all of them --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(NEUTRAL))
def test_at_its_neutral_setting_the_picture_is_the_exact_one(emoji, name):
    settings = {"prompt": PROMPTS, "steps": 2, "seed": 3, "sampler": "heun", **SMALL}
    assert np.array_equal(last_latents(emoji, **settings, **{name: NEUTRAL[name]}), last_latents(emoji, **settings))


def test_a_picture_says_what_was_left_out_and_is_rendered_again_the_same(tmp_path):
    size = ("--height", "64", "--width", "64", "--steps", "4", "--seed", "1")
    asked = ("--guidance-start", "0.25", "--cache-interval", "2", "--token-merging", "0.5")
    varied = ("--vary", "guidance-end=0.75,1", "--save-cells", "cells", "-o", "sheet.png")
    mlxdiff("grid", "--prompt", "a cat", *size, *asked, *varied, cwd=tmp_path)
    first, second = sorted((tmp_path / "cells").iterdir())
    request = read_picture(first).request
    assert (request.guidance_start, request.guidance_end) == (0.25, 0.75)
    assert (request.cache_interval, request.token_merging) == (2, 0.5)
    mlxdiff("generate", "--from", first, "-o", "again.png", cwd=tmp_path)
    assert (tmp_path / "again.png").read_bytes() == first.read_bytes()
    assert second.read_bytes() != first.read_bytes()


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


# -- step caching -------------------------------------------------------------------------------------------------


def caching(unet, interval: int) -> None:
    """Makes a UNet of diffusers keep what its coarser levels give to the finest one's way up."""
    kept = []

    def instead(_, __, output):
        if len(kept) % interval == 0:
            kept.append(output)
        else:
            kept.append(kept[-1])
        return kept[-1]

    unet.up_blocks[-2].register_forward_hook(instead)


@pytest.mark.parametrize(
    ("name", "scheduler", "sampler", "interval"),
    [
        ("sd21", DDIMScheduler, "ddim", 2),
        ("sd21", HeunDiscreteScheduler, "heun", 3),
        ("sdxl", EulerDiscreteScheduler, "euler", 4),
    ],
)
def test_step_caching_is_diffusers_with_its_deep_features_kept(tmp_path, name, scheduler, sampler, interval):
    settings = {"guidance_scale": 5.0, "height": 32, "width": 48}
    folder = tiny.write(tiny.PIPELINES[name], tmp_path / name)
    pipe = (StableDiffusionPipeline if name == "sd21" else StableDiffusionXLPipeline).from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)

    def theirs() -> np.ndarray:
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in (3, 4)]
        latents = pipe(PROMPTS, num_inference_steps=5, generator=generators, output_type="latent", **settings).images
        return latents.numpy().transpose(0, 2, 3, 1)

    exact = theirs()
    caching(pipe.unet, interval)
    expected = theirs()
    sd = StableDiffusion(str(folder), dtype="fp32")
    found = last_latents(sd, prompt=PROMPTS, steps=5, seed=3, sampler=sampler, cache_interval=interval, **settings)
    size = np.abs(expected).max()
    assert np.abs(found - expected).max() < 1e-4 * size
    assert np.abs(exact - expected).max() > 1e-2 * size, "what is kept must matter, or this proves nothing"


def test_runs_and_batches_do_not_share_what_is_kept(emoji):
    settings = {"prompt": "a red apple", "steps": 3, "cache_interval": 2, **SMALL}
    alone = last_latents(emoji, seed=1, **settings)
    last_latents(emoji, seed=2, **settings)
    assert np.array_equal(last_latents(emoji, seed=1, **settings), alone)
    # Steps of two runs in turns.
    both = zip(emoji.generate_latents(seed=2, **settings), emoji.generate_latents(seed=1, **settings), strict=True)
    assert np.array_equal(np.array(list(both)[-1][1]), alone)


def test_with_all_of_them_nothing_is_computed_before_it_is_asked_for(emoji):
    emoji.load()
    latents = list(emoji.generate_latents("a cat", steps=2, seed=0, token_merging=0.5, cache_interval=2))
    mx.eval(latents)
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    latents = list(emoji.generate_latents("a cat", steps=2, seed=0, token_merging=0.5, cache_interval=2))
    unasked = mx.get_peak_memory() - before
    mx.eval(latents)
    assert unasked < 2**20 < (mx.get_peak_memory() - before) / 4


# -- token merging ------------------------------------------------------------------------------------------------


def merged(block, size, ratio: float) -> None:
    """Makes a transformer block of diffusers attend among merged tokens, matched by what comes in."""
    found = []

    def remember(_, arguments, options):
        tokens = arguments[0] if arguments else options["hidden_states"]
        found[:] = [owners(image, size, ratio) for image in tokens.numpy()]

    def attend(tokens, *arguments, **options):
        fewer = torch.stack([torch.from_numpy(averages(o)).float() @ t for o, t in zip(found, tokens, strict=True)])
        out = attention(fewer, *arguments, **options)
        return torch.stack([torch.from_numpy(copies(o)).float() @ t for o, t in zip(found, out, strict=True)])

    attention = block.attn1.forward
    block.register_forward_pre_hook(remember, with_kwargs=True)
    block.attn1.forward = attend


@pytest.mark.parametrize(("name", "level"), [("sd15", 0), ("sdxl", 1)])
@pytest.mark.parametrize("ratio", [0.3, 0.75])
def test_token_merging_is_diffusers_with_the_tokens_of_its_finest_attention_merged(tmp_path, name, level, ratio):
    folder = tiny.write(tiny.PIPELINES[name], tmp_path / name)
    kind = StableDiffusionPipeline if name == "sd15" else StableDiffusionXLPipeline
    pipe = kind.from_pretrained(folder)
    sd = StableDiffusion(str(folder), dtype="fp32")
    encoded = sd.encode_prompt(PROMPTS)
    latents = np.random.default_rng(0).standard_normal((2, 10, 14, 4)).astype(np.float32)
    told = None
    if encoded.pooled is not None:
        pooled, ids = (torch.from_numpy(np.array(array)) for array in (encoded.pooled, encoded.time_ids))
        told = {"text_embeds": pooled, "time_ids": ids}

    def theirs() -> np.ndarray:
        sample = torch.from_numpy(latents.transpose(0, 3, 1, 2))
        with torch.no_grad():
            context = torch.from_numpy(np.array(encoded.context))
            return pipe.unet(sample, 601.0, context, added_cond_kwargs=told).sample.numpy().transpose(0, 2, 3, 1)

    exact = theirs()
    for blocks in (pipe.unet.down_blocks[level], pipe.unet.up_blocks[-1 - level]):
        for transformer in blocks.attentions:
            for block in transformer.transformer_blocks:
                merged(block, (10 >> level, 14 >> level), ratio)
    expected = theirs()
    prepared = sd.networks.backbone.prepare(encoded, [601.0], guidance_scale=1.0)
    found = np.array(sd.networks.backbone(mx.array(latents), 601.0, prepared, Extra(token_merging=ratio)))
    size = np.abs(expected).max()
    assert np.abs(found - expected).max() < 1e-4 * size
    assert np.abs(exact - expected).max() > 1e-3 * size, "merging must matter, or this proves nothing"


def test_an_image_with_merged_tokens_does_not_depend_on_its_batch(emoji):
    settings = {"steps": 3, "token_merging": 0.5, **SMALL}
    together = last_latents(emoji, prompt=PROMPTS, seed=[11, 4], **settings)
    alone = last_latents(emoji, prompt=PROMPTS[1], seed=4, **settings)
    assert np.abs(together[1:] - alone).max() < 1e-3


def test_a_model_without_attention_has_no_tokens_to_merge(tmp_path):
    def plain():
        pipe = tiny.sd15()
        pipe.unet = tiny.unet(down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)
        return pipe

    sd = StableDiffusion(str(tiny.write(plain, tmp_path / "plain")))
    with pytest.raises(RequestError, match="no attention in which tokens could merge"):
        sd.resolve(Request("a cat", token_merging=0.5))
    sd.resolve(Request("a cat", token_merging=0.0))
