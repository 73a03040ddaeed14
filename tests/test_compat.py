"""`--compat`: A1111's and ComfyUI's pictures beside their rules written down again in torch, on the built-in model."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import mlx.core as mx
import numpy as np
import pytest
import tiny
import torch
from diffusers import StableDiffusionPipeline

from mlxdiff import Request, StableDiffusion, backend
from mlxdiff.diffusion.noise import NoiseStream
from mlxdiff.errors import MlxdiffWarning, RequestError
from mlxdiff.passes.randomness import Randomness

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
PROMPT, SCALE, SEED, SIDE, STEPS = "a red apple", 4.0, 2**63 + 5, 64, 6


@pytest.fixture(scope="module")
def sd() -> StableDiffusion:
    return StableDiffusion("emoji", dtype="fp32")


@pytest.fixture(scope="module")
def pipe():
    made = StableDiffusionPipeline.from_pretrained(tiny.EMOJI, torch_dtype=torch.float32)
    made.set_progress_bar_config(disable=True)
    return made


class Program:
    """k-diffusion's view of the model: D(x, sigma) with guidance; `rounds` takes whole timesteps as ComfyUI does."""

    def __init__(self, pipe, *, rounds: bool) -> None:
        self.pipe, self.rounds = pipe, rounds
        config = pipe.scheduler.config
        betas = torch.linspace(config.beta_start**0.5, config.beta_end**0.5, 1000, dtype=torch.float64) ** 2
        alphas = torch.cumprod(1 - betas, 0).numpy()
        if config.rescale_betas_zero_snr:  # both programs' zero terminal SNR
            signal = np.sqrt(alphas)
            alphas = ((signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])) ** 2
            alphas[-1] = 4.8973451890853435e-08
        self.sigmas = np.sqrt((1 - alphas) / alphas)
        self.prediction = config.prediction_type
        positive, negative = pipe.encode_prompt(PROMPT, "cpu", 1, True)
        self.context = torch.cat([negative, positive])

    def timestep(self, sigma: float) -> float:
        t = float(np.interp(math.log(sigma), np.log(self.sigmas), np.arange(1000)))
        return float(np.argmin(np.abs(np.log(self.sigmas) - math.log(sigma)))) if self.rounds else t

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        scaled = torch.cat([x, x]) / math.hypot(sigma, 1)
        with torch.no_grad():
            output = self.pipe.unet(scaled, torch.tensor(self.timestep(sigma)), self.context).sample
        if self.prediction == "epsilon":
            denoised = torch.cat([x, x]) - sigma * output
        else:
            denoised = torch.cat([x, x]) / (sigma**2 + 1) - output * sigma / math.hypot(sigma, 1)
        negative, positive = denoised.chunk(2)
        return negative + (positive - negative) * SCALE

    def picture(self, x: torch.Tensor) -> np.ndarray:
        with torch.no_grad():
            decoded = self.pipe.vae.decode(x / self.pipe.vae.config.scaling_factor + shift(self.pipe.vae)).sample
        clamped = ((decoded + 1) / 2).clamp(0, 1)
        return (255 * clamped[0].permute(1, 2, 0).numpy()).astype(np.uint8)  # cut off, not rounded


def shift(vae) -> float:
    value = vae.config.get("shift_factor")
    return 0.0 if value is None else value


def drawn(stream: NoiseStream) -> torch.Tensor:
    return torch.from_numpy(np.array(stream.standard_normal((4, SIDE // 4, SIDE // 4))))[None]


def euler_ancestral(denoise: Program, x: torch.Tensor, sigmas: list[float], stream: NoiseStream) -> torch.Tensor:
    for a, b in pairwise(sigmas):
        up = min(b, math.sqrt(b**2 * (a**2 - b**2) / a**2))
        down = math.sqrt(b**2 - up**2)
        slope = (x - denoise(x, a)) / a
        x = x + slope * (down - a)
        if b > 0:
            x = x + drawn(stream) * up
    return x


def dpmpp_2m(denoise: Program, x: torch.Tensor, sigmas: list[float]) -> torch.Tensor:
    before, last = None, None
    for a, b in pairwise(sigmas):
        d = denoise(x, a)
        if b == 0:
            return d
        h = math.log(a / b)
        target = d if before is None else d * (1 + h / (2 * last)) - before * (h / (2 * last))
        x = (b / a) * x - math.expm1(-h) * target
        before, last = d, h
    return x


def karras(low: float, high: float, n: int) -> list[float]:
    ramp = np.linspace(0, 1, n)
    return [*((high ** (1 / 7) + ramp * (low ** (1 / 7) - high ** (1 / 7))) ** 7).tolist(), 0.0]


def ours(sd: StableDiffusion, **settings) -> np.ndarray:
    size = {"height": SIDE, "width": SIDE, "steps": STEPS, "guidance_scale": SCALE, "seed": SEED}
    return np.asarray(sd.generate(PROMPT, **size, **settings)[0])


def close(found: np.ndarray, expected: np.ndarray) -> bool:
    """A level of 8 bits apart where floating-point rounding decides, and that in few places."""
    difference = np.abs(found.astype(int) - expected.astype(int))
    return difference.max() <= 1 and (difference > 0).mean() < 0.01 and expected.std() > 20


def test_a1111_euler_a(sd, pipe):
    denoise, stream = Program(pipe, rounds=False), NoiseStream(SEED, "philox")
    steps = np.interp(np.linspace(999, 0, STEPS), np.arange(1000), np.log(denoise.sigmas))
    sigmas = [*np.exp(steps).tolist(), 0.0]
    x = euler_ancestral(denoise, drawn(stream) * sigmas[0], sigmas, stream)
    assert close(ours(sd, sampler="Euler a", compat="a1111"), denoise.picture(x))


def test_a1111_dpmpp_2m_karras_with_its_cpu_noise(sd, pipe):
    denoise, stream = Program(pipe, rounds=False), NoiseStream(SEED, "torch")
    sigmas = karras(denoise.sigmas[0], denoise.sigmas[-1], STEPS)
    x = dpmpp_2m(denoise, drawn(stream) * sigmas[0], sigmas)
    assert close(ours(sd, sampler="DPM++ 2M Karras", rng="torch", compat="a1111"), denoise.picture(x))


def test_comfyui_euler_ancestral_repeats_its_noise_and_rounds_timesteps(sd, pipe):
    denoise = Program(pipe, rounds=True)
    sigmas = karras(denoise.sigmas[0], denoise.sigmas[-1], STEPS)
    x = drawn(NoiseStream(SEED, "torch")) * math.hypot(sigmas[0], 1)
    x = euler_ancestral(denoise, x, sigmas, NoiseStream(SEED, "torch"))
    found = ours(sd, sampler="euler_ancestral", schedule="karras", compat="comfyui")
    assert close(found, denoise.picture(x))


def test_every_value_that_a_preset_decides_is_recorded(sd):
    resolved = sd.resolve(Request(PROMPT, sampler="Euler a", compat="a1111", seed=1))
    recorded = resolved.values()
    assert {name: recorded[name] for name in ("compat", "rng", "rounding", "schedule")} == {
        "compat": "a1111",
        "rng": "philox",
        "rounding": "truncate",
        "schedule": "uniform",
    }
    own = sd.resolve(Request(PROMPT, compat="a1111", rng="torch", rounding="nearest", seed=1))
    assert (own.rng, own.rounding) == ("torch", "nearest")


def test_an_image_does_not_depend_on_its_batch_with_brownian_noise_and_variations(sd):
    for settings in ({"sampler": "dpmpp_sde", "compat": "a1111"}, {"variation_strength": 0.4, "variation_seed": 9}):
        size = {"height": SIDE, "width": SIDE, "steps": 3}
        together = sd.generate(PROMPT, n_images=2, seed=4, **size, **settings)[1]
        alone = sd.generate(PROMPT, seed=5, **size, **settings)[0]
        assert np.abs(np.asarray(together).astype(int) - np.asarray(alone).astype(int)).max() <= 1


@pytest.mark.parametrize("sampler", ["restart", "dpm_adaptive", "dpm_fast", "euler_cfg_pp", "dpmpp_sde", "lms"])
def test_samplers_with_steps_of_their_own_end_in_a_picture(sd, sampler):
    *_, last = sd.denoise(Request(PROMPT, sampler=sampler, steps=STEPS, height=SIDE, width=SIDE, seed=1))
    mx.eval(last.latents)
    assert mx.isfinite(last.latents).all()


@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_sde"])
def test_an_image_of_comfyuis_batch_is_rendered_alone_and_in_any_other_batch(sd, sampler):
    size = {"height": SIDE, "width": SIDE, "steps": 3, "sampler": sampler, "compat": "comfyui"}
    request = sd.resolve(Request(PROMPT, n_images=3, seed=4, **size))
    assert request.seeds == (4, 4, 4)
    together = [np.asarray(picture).astype(int) for picture in sd.generate(PROMPT, n_images=3, seed=4, **size)]
    record = Request.recorded(request.single(2).to_json())
    assert (record.seed, str(record.batch_index)) == (4, "2/3")
    alone = list(sd.denoise(sd.resolve(record)))[-1].latents
    pair = list(sd.denoise(next(iter(request.parts(2)))))[-1].latents
    for index, latents in ((2, alone), (0, pair[:1]), (1, pair[1:])):
        picture = np.array(sd.decode(latents))[0] * 255
        assert np.abs(picture - together[index]).max() < 2
    assert np.abs(together[0] - together[1]).max() > 20


def test_it_is_said_where_a1111_counts_another_seed(sd, recwarn):
    told = {"variation_strength": 0.4, "variation_seed": 9, "height": SIDE, "width": SIDE}
    for silent in ({"compat": "a1111"}, {"n_images": 2}, {"compat": "a1111", "n_images": 2, "variation_strength": 0.0}):
        sd.resolve(Request(PROMPT, seed=4, **{**told, **silent}))
    sd.resolve(Request((PROMPT, PROMPT), seed=(4, 4), compat="a1111", **told))
    assert not [each for each in recwarn if "counts the variation seed" in str(each.message)]
    with pytest.warns(MlxdiffWarning, match="counts the variation seed; here image i takes seed . i"):
        sd.resolve(Request(PROMPT, seed=4, n_images=2, compat="a1111", **told))


def test_comfyuis_batch_is_drawn_by_one_generator(sd):
    request = sd.resolve(Request(PROMPT, n_images=2, seed=4, height=SIDE, width=SIDE, compat="comfyui", steps=1))
    drawn_ = torch.randn(2, 4, SIDE // 4, SIDE // 4, generator=torch.Generator().manual_seed(4))
    found = Randomness(request, (SIDE // 4, SIDE // 4, 4)).start()
    np.testing.assert_allclose(np.array(found).transpose(0, 3, 1, 2), drawn_.numpy(), atol=2e-6)


def test_a_place_in_a_batch_needs_comfyui(sd):
    with pytest.raises(RequestError, match="only ComfyUI"):
        sd.resolve(Request(PROMPT, batch_index="1/2"))
    for bad in ("2/2", "x", "-1", "1/2/3", 1.5):
        with pytest.raises(RequestError, match="batch_index"):
            Request(PROMPT, batch_index=bad)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"seed_resize": "65536x65536"}, r"Noise of 65536x65536 pixels \(seed_resize\) needs 85.9"),
        ({"rng": "philox", "batch_index": "0/100000"}, r"Noise of 100000 images \(batch_index\) needs"),
        ({"sampler": "dpmpp_2m_sde", "batch_index": "99999"}, r"Noise of 100000 images \(batch_index\) needs"),
    ],
)
def test_noise_that_would_not_fit_is_refused_before_it_is_drawn(sd, asked, words, monkeypatch):
    monkeypatch.setattr(backend, "memory_size", lambda: 2 * 10**9)
    request = Request("x", height=SIDE, width=SIDE, compat="comfyui", **asked)
    with pytest.raises(RequestError, match=words):
        sd.resolve(request)
    sd.resolve(replace(request, rng=None, sampler=None, seed_resize=None, batch_index="0/100000"))
