from __future__ import annotations

from fractions import Fraction

import mlx.core as mx
import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from hypothesis import given
from hypothesis import strategies as st

from mlxdiff.diffusion.guidance import (
    ClassifierFree,
    Composed,
    InInterval,
    Perturbed,
    Pix2Pix,
    Rescaled,
    Unguided,
    guided,
    interval_of,
    positives,
)
from mlxdiff.diffusion.space import VariancePreserving
from mlxdiff.errors import RequestError

SHAPE = (3, 4, 4, 4)


def array(seed: int) -> mx.array:
    return mx.random.normal(SHAPE, key=mx.random.key(seed))


def tensor(x: mx.array) -> torch.Tensor:
    return torch.from_numpy(np.array(x)).permute(0, 3, 1, 2)


def branches(*names: str) -> dict[str, mx.array]:
    return {name: array(i + 10) for i, name in enumerate(names)}


def combine(guidance, denoised, latents=None, sigma=2.0) -> np.ndarray:
    assert set(guidance.branches(sigma)) <= set(denoised)
    return np.array(guidance.combine(denoised, array(0) if latents is None else latents, sigma))


@pytest.mark.parametrize("scale", [0.0, 1.0, 7.5])
def test_classifier_free_guidance_goes_from_the_negative_prediction_past_the_positive(scale):
    d = branches("negative", "positive")
    negative, positive = (np.array(d[name], dtype=np.float64) for name in ("negative", "positive"))
    assert np.allclose(combine(ClassifierFree(scale), d), negative + scale * (positive - negative), atol=1e-5)


def test_each_image_may_have_its_own_scale():
    d = {"negative": mx.zeros(SHAPE), "positive": mx.ones(SHAPE)}
    found = combine(ClassifierFree(mx.array([1.0, 3.0, 5.0]).reshape(3, 1, 1, 1)), d)
    assert np.array_equal(found[:, 0, 0, 0], [1.0, 3.0, 5.0])


def test_without_guidance_only_the_prompt_is_asked():
    d = branches("positive")
    assert Unguided().branches(1.0) == ("positive",)
    assert np.array_equal(combine(Unguided(), d), np.array(d["positive"]))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("factor", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("sigma", [0.1, 3.0, 14.6])
def test_rescaling_is_diffusers_on_the_networks_output(prediction_type, factor, sigma):
    space = VariancePreserving(prediction_type)
    latents = array(0) * sigma
    outputs = {"negative": array(1), "positive": array(2) * 1.2}
    d = {name: space.to_denoised(output, latents, sigma) for name, output in outputs.items()}
    guidance = Rescaled(ClassifierFree(7.5), factor, space.to_output, space.to_denoised)
    found = space.to_output(guidance.combine(d, latents, sigma), latents, sigma)
    negative, positive = tensor(outputs["negative"]), tensor(outputs["positive"])
    expected = rescale_noise_cfg(negative + 7.5 * (positive - negative), positive, guidance_rescale=factor)
    assert np.allclose(np.array(found), expected.permute(0, 2, 3, 1).numpy(), atol=2e-4)


def test_rescaling_leaves_steps_without_guidance_alone():
    inside = InInterval(ClassifierFree(7.5), 1.0, 5.0)
    space = VariancePreserving("epsilon")
    d = branches("positive")
    assert np.array_equal(
        combine(Rescaled(inside, 1.0, space.to_output, space.to_denoised), d, sigma=0.5), d["positive"]
    )


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_pix2pix_is_diffusers_formula_whatever_is_predicted(prediction_type):
    space, sigma, latents = VariancePreserving(prediction_type), 2.0, array(0)
    text, image, nothing = (array(i) for i in (1, 2, 3))
    d = {
        name: space.to_denoised(output, latents, sigma)
        for name, output in (("positive", text), ("image", image), ("negative", nothing))
    }
    expected = nothing + 7.5 * (text - image) + 1.5 * (image - nothing)  # StableDiffusionInstructPix2PixPipeline
    found = space.to_output(Pix2Pix(7.5, 1.5).combine(d, latents, sigma), latents, sigma)
    assert Pix2Pix(7.5, 1.5).branches(sigma) == ("positive", "image", "negative")
    assert np.allclose(np.array(found), np.array(expected), atol=1e-4)


def test_perturbed_attention_is_diffusers_formula():
    """PAGMixin: uncond + g (text - uncond) + pag (text - perturbed), and text + pag (text - perturbed) alone."""
    d = branches("negative", "positive", "perturbed")
    u, t, p = (np.array(d[name], dtype=np.float64) for name in ("negative", "positive", "perturbed"))
    both = Perturbed(ClassifierFree(5.0), 3.0)
    assert both.branches(1.0) == ("negative", "positive", "perturbed")
    assert np.allclose(combine(both, d), u + 5 * (t - u) + 3 * (t - p), atol=1e-5)
    alone = Perturbed(Unguided(), 3.0)
    assert alone.branches(1.0) == ("positive", "perturbed")
    assert np.allclose(combine(alone, d), t + 3 * (t - p), atol=1e-5)


def test_several_prompts_are_added_by_weight():
    """A1111's combine_denoised: uncond + the sum of (cond - uncond) * weight * scale."""
    names = positives(3)
    assert names == ("positive", "positive.1", "positive.2")
    d = branches("negative", *names)
    u = np.array(d["negative"], dtype=np.float64)
    expected = u + sum((np.array(d[name]) - u) * w * 7.0 for name, w in zip(names, (1.0, 0.5, -0.2), strict=True))
    guidance = Composed(7.0, (1.0, 0.5, -0.2))
    assert guidance.branches(1.0) == ("negative", *names)
    assert np.allclose(combine(guidance, d), expected, atol=1e-4)
    one = {name: d[name] for name in ("negative", "positive")}
    assert np.allclose(combine(Composed(7.0, (1.0,)), one), combine(ClassifierFree(7.0), one), atol=1e-5)


def test_a_guided_denoiser_asks_once_for_what_the_guidance_needs_and_gives_the_branches():
    calls = []

    def predict(latents, sigma, names):
        calls.append((sigma, names))
        return {name: latents * (i + 1) for i, name in enumerate(names)}

    denoise = guided(predict, ClassifierFree(3.0))
    latents = mx.ones((1, 1, 1, 1))
    assert denoise(latents, 2.0).item() == 1 + 3 * (2 - 1)
    combined, each = denoise.branches(latents, 1.0)
    assert (combined.item(), each["negative"].item(), each["positive"].item()) == (4, 1, 2)
    assert calls == [(2.0, ("negative", "positive")), (1.0, ("negative", "positive"))]


def test_branches_that_a_sampler_always_needs_are_asked_for_at_every_level():
    asked = []

    def predict(latents, _, names):
        asked.append(names)
        return dict.fromkeys(names, latents)

    denoise = guided(predict, Unguided(), always=("negative",))
    assert set(denoise.branches(mx.ones((1, 1, 1, 1)), 1.0)[1]) == {"negative", "positive"}
    assert asked == [("negative", "positive")]


SIGMAS = [8.0, 4.0, 2.0, 1.0, 0.5, 0.0]  # five steps


@pytest.mark.parametrize(
    ("start", "end", "inside"),
    [
        (0.0, 1.0, [8.0, 4.0, 2.0, 1.0, 0.5, 0.0]),
        (0.0, 0.4, [8.0, 4.0]),
        (0.4, 1.0, [2.0, 1.0, 0.5, 0.0]),
        (0.2, 0.6, [4.0, 2.0]),
        (0.3, 0.8, [2.0, 1.0]),
        (0.19, 0.2001, [4.0]),
    ],
)
def test_the_interval_is_that_of_the_steps_which_begin_in_it(start, end, inside):
    interval = interval_of(SIGMAS, start, end)
    guidance = InInterval(ClassifierFree(2.0), *interval)
    assert [sigma for sigma in SIGMAS if guidance.branches(sigma) == ("negative", "positive")] == inside
    assert all(guidance.branches(sigma) == ("positive",) for sigma in SIGMAS if sigma not in inside)


@given(st.integers(1, 200), st.integers(0, 100), st.integers(0, 100))
def test_fractions_of_the_steps_are_exact(n, first, last):
    sigmas = [float(n - i) for i in range(n + 1)]
    expected = [n - i for i in range(n) if Fraction(first, 100) <= Fraction(i, n) < Fraction(last, 100)]
    if not expected:
        with pytest.raises(RequestError, match=f"None of {n} steps"):
            interval_of(sigmas, first / 100, last / 100)
        return
    low, high = interval_of(sigmas, first / 100, last / 100)
    assert [sigma for sigma in sigmas[:-1] if low < sigma <= high] == expected


def test_outside_the_interval_the_prompts_own_prediction_counts():
    d = branches("negative", "positive")
    guidance = InInterval(ClassifierFree(2.0), *interval_of(SIGMAS, 0.2, 0.6))
    for sigma in SIGMAS:
        expected = ClassifierFree(2.0).combine(d, array(0), sigma) if sigma in (4.0, 2.0) else d["positive"]
        assert np.array_equal(combine(guidance, d, sigma=sigma), np.array(expected))
