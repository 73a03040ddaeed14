"""A part of a picture that stays: for every sampler, whatever its steps are made of."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlxdiff.catalogue import SAMPLERS
from mlxdiff.diffusion.guidance import Unguided, guided
from mlxdiff.diffusion.keeping import A1111, A1111_TIMESTEPS, COMFYUI, DIFFUSERS, Keeping, Rule
from mlxdiff.diffusion.samplers import sample
from mlxdiff.diffusion.schedule import SchedulerConfig, make_schedule

SHAPE = (1, 4, 4, 2)
MASK = mx.array((np.arange(16).reshape(4, 4) % 3 == 0).astype(np.float32))[None, :, :, None]
STAYS = np.broadcast_to(np.array(MASK) == 0, SHAPE)


def random(seed: int) -> mx.array:
    return mx.random.normal(SHAPE, key=mx.random.key(seed))


PICTURE, NOISE = random(1), random(2)


class Mixing:
    """A network that mixes cells, and writes down what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[float, np.ndarray]] = []

    def __call__(self, latents: mx.array, sigma: float, names: tuple[str, ...]) -> dict[str, mx.array]:
        self.asked.append((sigma, np.array(latents)))
        mean = mx.mean(latents, axis=(1, 2), keepdims=True)
        return dict.fromkeys(names, (latents * 0.6 + mean * 0.4) * (0.25 / (0.25 + sigma**2)) + 0.3)


def run(name: str, rule: Rule | None, network: Mixing, start: mx.array, mask: mx.array = MASK):
    row = SAMPLERS[name]
    schedule = make_schedule(SchedulerConfig.from_dict({"_class_name": "DDIMScheduler"}, name), 6)
    keeping = None if rule is None else Keeping(rule, mask, PICTURE, NOISE, schedule.sigmas[0])
    always = ("negative",) if row.unconditional else ()
    draws = iter(mx.random.split(mx.random.key(3), 500))
    noise = lambda *_: mx.random.normal(SHAPE, key=next(draws))  # noqa: E731
    denoise = guided(network, Unguided(), always)
    return keeping, list(sample(row, denoise, start * schedule.init_noise_sigma, schedule, noise, keeping=keeping))


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_network_sees_the_picture_where_it_stays_in_every_call_of_every_sampler(name):
    network = Mixing()
    keeping, steps = run(name, DIFFUSERS, network, NOISE)
    assert len(network.asked) >= len(steps)
    for sigma, latents in network.asked[1:]:
        if sigma < keeping.from_noise:
            expected = np.array(PICTURE + NOISE * sigma)
            assert np.abs(latents - expected)[STAYS].max() < 1e-5 * max(1.0, sigma)
    for step in steps:
        if step.sigma >= keeping.from_noise:  # an evaluation of dpm_fast that completes no step
            continue
        expected = np.array(PICTURE + NOISE * step.sigma)
        assert np.abs(np.array(step.latents) - expected)[STAYS].max() < 1e-5 * max(1.0, step.sigma)
        if name not in ("lcm",):  # which mixes its prediction with the latents
            assert np.abs(np.array(step.denoised - PICTURE))[STAYS].max() < 1e-5
    ended = np.array(keeping.ended(steps[-1].latents))
    assert (ended[STAYS] == np.array(PICTURE)[STAYS]).all()
    assert np.isfinite(ended).all()


def test_what_is_repainted_is_what_replacing_the_latents_after_each_step_gives():
    """Euler's method with diffusers' rule, written down."""
    network, oracle = Mixing(), Mixing()
    keeping, steps = run("euler", DIFFUSERS, network, NOISE)
    levels = [sigma for sigma, _ in network.asked] + [0.0]
    latents = NOISE * keeping.from_noise
    for step, sigma, sigma_next in zip(steps, levels, levels[1:], strict=False):
        denoised = oracle(latents, sigma, ("positive",))["positive"]
        latents = latents + (latents - denoised) / sigma * (sigma_next - sigma)
        latents = latents * MASK + (PICTURE + NOISE * sigma_next) * (1 - MASK)
        assert np.abs(np.array(latents - step.latents)).max() < 1e-4


@pytest.mark.parametrize("name", ["ddim_cfg_pp", "dpmpp_sde", "heun", "pndm", "unipc"])
def test_where_everything_is_repainted_nothing_changes(name):
    _, plain = run(name, None, Mixing(), NOISE)
    for rule in (DIFFUSERS, COMFYUI, A1111, A1111_TIMESTEPS):
        keeping, steps = run(name, rule, Mixing(), NOISE, mx.ones_like(MASK))
        for step, expected in zip(steps, plain, strict=True):
            assert mx.array_equal(step.latents, expected.latents)
        assert mx.array_equal(keeping.ended(steps[-1].latents), plain[-1].latents)
