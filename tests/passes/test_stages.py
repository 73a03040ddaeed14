"""Pictures of several passes beside the same passes put together from diffusers' pipelines, or written in torch."""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise

import mlx.core as mx
import numpy as np
import part_files
import pytest
import tiny
import torch
import torchsde
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
)
from PIL import Image
from test_pipeline import generators, psnr, quiet
from torch_upscalers import SRVGGNetCompact, seeded, write

from mlxdiff import Request, StableDiffusion, memory, upscaling
from mlxdiff.diffusion.noise import NoiseStream
from mlxdiff.errors import ModelNotFoundError, RequestError, UnsupportedError
from mlxdiff.passes import stages

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
PROMPTS = ["a red apple", "a dog face"]
PICTURE = np.zeros((32, 32, 3), np.uint8) + np.uint8(255)
SIZE = {"height": 32, "width": 32}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    makers = {**tiny.PIPELINES, "refiner": tiny.refiner}
    return cache(lambda name: tiny.write(makers[name], tmp_path_factory.mktemp(name)))


@pytest.fixture(scope="module")
def sd21(folder) -> StableDiffusion:
    return StableDiffusion(folder("sd21"), dtype="fp32")


@pytest.fixture(scope="module")
def sdxl(folder) -> StableDiffusion:
    return StableDiffusion(folder("sdxl"), dtype="fp32")


def ours(sd: StableDiffusion, **settings) -> np.ndarray:
    latents = None
    for latents in sd.generate_latents(**settings):
        mx.eval(latents)
    return np.array(sd.decode(latents))


def pixels_of(pipe, latents: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
    return ((decoded + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1).numpy()


# -- a second pass over the enlarged picture --------------------------------------------------------------------------


def hires_of(folder, scheduler, enlarge, *, steps: int, hires_steps: int, strength: float) -> np.ndarray:
    """diffusers' text to image, its latents through `enlarge(pipe, latents)`, and diffusers' image to image."""
    pipe = quiet(StableDiffusionPipeline.from_pretrained(folder))
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    told = {"guidance_scale": 4.0, "output_type": "latent"}
    latents = pipe(PROMPTS, num_inference_steps=steps, generator=generators([3, 4]), **SIZE, **told).images
    again = quiet(StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False))
    total = int(hires_steps / strength)
    last = again(
        PROMPTS,
        image=enlarge(pipe, latents),
        strength=(hires_steps + 0.5) / total,
        num_inference_steps=total,
        generator=generators([3, 4]),
        **told,
    ).images
    return pixels_of(pipe, last)


@pytest.mark.parametrize(
    ("sampler", "scheduler"),
    [("ddim", DDIMScheduler), ("dpmpp_2m", DPMSolverMultistepScheduler), ("euler_a", EulerAncestralDiscreteScheduler)],
)
def test_latents_are_enlarged_and_gone_over_again(folder, sd21, sampler, scheduler):
    def enlarge(_pipe, latents):
        return torch.nn.functional.interpolate(latents, size=(24, 24), mode="bilinear")

    expected = hires_of(folder("sd21"), scheduler, enlarge, steps=4, hires_steps=3, strength=0.6)
    settings = {"hires": 1.5, "hires_steps": 3, "hires_strength": 0.6, "sampler": sampler}
    found = ours(sd21, prompt=PROMPTS, seed=3, steps=4, guidance_scale=4.0, **SIZE, **settings)
    assert found.shape == (2, 48, 48, 3)
    assert expected.std() > 0.02
    assert psnr(found, expected) > 80


def test_a_decoded_picture_is_enlarged_by_lanczos(folder, sd21):
    def enlarge(pipe, latents):
        small = (pixels_of(pipe, latents) * 255).round().astype(np.uint8)
        large = [np.asarray(Image.fromarray(one).resize((48, 48), Image.Resampling.LANCZOS)) for one in small]
        tensor = torch.from_numpy(np.stack(large)).permute(0, 3, 1, 2) / 127.5 - 1
        with torch.no_grad():
            return pipe.vae.encode(tensor).latent_dist.mean * pipe.vae.config.scaling_factor

    expected = hires_of(folder("sd21"), DDIMScheduler, enlarge, steps=3, hires_steps=3, strength=0.7)
    settings = {"hires": 1.5, "hires_upscaler": "Lanczos", "sampler": "ddim"}
    found = ours(sd21, prompt=PROMPTS, seed=3, steps=3, guidance_scale=4.0, **SIZE, **settings)
    assert psnr(found, expected) > 60


def test_a_decoded_picture_is_enlarged_by_a_network(folder, sd21, tmp_path):
    """A network of factor 4 on a picture that is to be 1.5 times as large: Pillow makes it smaller again."""
    network = seeded(SRVGGNetCompact)
    path = write(network, tmp_path / "x4.safetensors")

    def enlarge(pipe, latents):
        small = (pixels_of(pipe, latents) * 255).round()
        with torch.no_grad():
            large = network(torch.from_numpy(small / 255).permute(0, 3, 1, 2)).clamp(0, 1)
        rounded = (large * 255).round().permute(0, 2, 3, 1).numpy().astype(np.uint8)
        sized = [np.asarray(Image.fromarray(one).resize((48, 48), Image.Resampling.LANCZOS)) for one in rounded]
        tensor = torch.from_numpy(np.stack(sized)).permute(0, 3, 1, 2) / 127.5 - 1
        with torch.no_grad():
            return pipe.vae.encode(tensor).latent_dist.mean * pipe.vae.config.scaling_factor

    expected = hires_of(folder("sd21"), DDIMScheduler, enlarge, steps=3, hires_steps=3, strength=0.7)
    settings = {"hires": 1.5, "hires_upscaler": str(path), "sampler": "ddim", "guidance_scale": 4.0}
    found = ours(sd21, prompt=PROMPTS, seed=3, steps=3, **SIZE, **settings)
    assert psnr(found, expected) > 60
    assert str(path) in dict(sd21.resolve(Request("a cat", **settings)).hashes)


# -- a refiner --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("switch", [0.3, 0.8])
@pytest.mark.parametrize(
    ("sampler", "scheduler"), [("euler", EulerDiscreteScheduler), ("dpmpp_2m", DPMSolverMultistepScheduler)]
)
def test_a_refiner_takes_the_last_steps(folder, sdxl, sampler, scheduler, switch):
    base = quiet(StableDiffusionXLPipeline.from_pretrained(folder("sdxl")))
    refiner = quiet(StableDiffusionXLImg2ImgPipeline.from_pretrained(folder("refiner")))
    for pipe in (base, refiner):
        pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    told = {"num_inference_steps": 6, "guidance_scale": 4.0, "negative_prompt": ["flat"] * 2}
    latents = base(
        PROMPTS, denoising_end=switch, output_type="latent", generator=generators([3, 4]), **SIZE, **told
    ).images
    expected = refiner(
        PROMPTS, image=latents, denoising_start=switch, output_type="np", generator=generators([3, 4]), **told
    ).images
    settings = {"refiner": str(folder("refiner")), "refiner_switch": switch, "sampler": sampler, "guidance_scale": 4.0}
    found = ours(sdxl, prompt=PROMPTS, negative_prompt="flat", seed=3, steps=6, **SIZE, **settings)
    assert psnr(found, expected) > 60
    alone = ours(sdxl, prompt=PROMPTS, negative_prompt="flat", seed=3, steps=6, **SIZE, sampler=sampler)
    assert psnr(found, alone) < 46, "the refiner must have changed something"


def test_a_refiner_takes_the_end_of_the_second_pass(sdxl, folder):
    settings = {"hires": 1.5, "hires_steps": 4, "refiner": str(folder("refiner")), "refiner_switch": 0.8}
    resolved = sdxl.resolve(Request("a cat", seed=1, steps=3, **SIZE, **settings))
    assert [(each.start, each.n_steps, each.refines) for each in resolved.passes] == [
        ("request", 3, False),
        ("enlarged", 3, False),
        ("left", 1, True),
    ]
    steps = list(sdxl.denoise(resolved))
    assert [step.index for step in steps] == list(range(7))
    assert resolved.n_steps == 7
    assert [step.latents.shape[1] for step in steps] == [16] * 3 + [24] * 4


def test_comfyuis_refiner_takes_over_at_a_step(sdxl, folder):
    told = {"refiner": str(folder("refiner")), "compat": "comfyui", "sampler": "euler", "schedule": "karras"}
    resolved = sdxl.resolve(Request("a cat", seed=1, steps=20, refiner_switch=0.8, **SIZE, **told))
    assert [(each.first, each.n_steps, each.refines) for each in resolved.passes] == [(0, 16, False), (16, 4, True)]


def test_comfyuis_second_pass_counts_in_cells_and_runs_all_its_steps(sd21):
    told = {"compat": "comfyui", "hires": 1.1, "hires_strength": 0.5, "hires_steps": 6, "sampler": "euler"}
    resolved = sd21.resolve(Request("a cat", seed=1, steps=4, **SIZE, **told))
    assert resolved.passes[1].enlarged_to == (18, 18)  # of 16 cells, where 35 pixels would be 17
    whole = sd21.resolve(Request("a cat", seed=1, steps=12, **SIZE, compat="comfyui", sampler="euler"))
    assert resolved.passes[1].levels.sigmas == whole.noise_levels.sigmas[-7:]


def test_where_memory_is_scarce_base_and_refiner_take_turns(folder, sdxl, monkeypatch):
    settings = {"refiner": str(folder("refiner")), "refiner_switch": 0.5, "seed": 3, "steps": 4, "prompt": "a cat"}
    expected = ours(sdxl, **settings, **SIZE)
    monkeypatch.setattr(memory, "keeps_both", lambda *_: False)
    sd, held = StableDiffusion(folder("sdxl"), dtype="fp32"), []
    for latents in sd.generate_latents(**settings, **SIZE):
        mx.eval(latents)
        assert sd._refiner is not None
        held.append((sd.networks.holds("backbone"), sd._refiner[1].networks.holds("backbone")))
    assert held == [(True, False), (True, False), (False, True), (False, True)]
    assert psnr(np.array(sd.decode(latents)), expected) > 100


# -- A1111's rules ----------------------------------------------------------------------------------------------------


class Torch:
    """D(x, sigma) of a diffusers UNet with guidance, as k-diffusion sees it."""

    def __init__(self, pipe, prompt: str, scale: float, *, xl: dict | None = None) -> None:
        self.pipe, self.scale = pipe, scale
        config = pipe.scheduler.config
        betas = np.linspace(config.beta_start**0.5, config.beta_end**0.5, 1000) ** 2
        alphas = np.cumprod(1 - betas)
        self.sigmas = np.sqrt((1 - alphas) / alphas)
        self.prediction = config.prediction_type
        self.added = {}
        if xl is None:
            positive, negative = pipe.encode_prompt(prompt, "cpu", 1, True)
        else:
            zeros = pipe.config.get("force_zeros_for_empty_prompt")
            positive, negative, pooled, no_pooled = pipe.encode_prompt(prompt, device="cpu")
            assert zeros is not None
            ids = [torch.tensor([xl["negative"]]), torch.tensor([xl["positive"]])]
            self.added = {"text_embeds": torch.cat([no_pooled, pooled]), "time_ids": torch.cat(ids).float()}
        self.context = torch.cat([negative, positive])

    def timestep(self, sigma: float) -> float:
        return float(np.interp(math.log(sigma), np.log(self.sigmas), np.arange(1000)))

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        both = torch.cat([x, x])
        time = torch.tensor(self.timestep(sigma))
        with torch.no_grad():
            out = self.pipe.unet(
                both / math.hypot(sigma, 1), time, self.context, added_cond_kwargs=self.added or None
            ).sample
        if self.prediction == "epsilon":
            denoised = both - sigma * out
        else:
            denoised = both / (sigma**2 + 1) - out * sigma / math.hypot(sigma, 1)
        negative, positive = denoised.chunk(2)
        return negative + (positive - negative) * self.scale


def drawn(stream: NoiseStream, side: int) -> torch.Tensor:
    return torch.from_numpy(np.array(stream.standard_normal((4, side, side))))[None]


def uniform(denoise: Torch, steps: int) -> list[float]:
    return [
        *np.exp(np.interp(np.linspace(999, 0, steps), np.arange(1000), np.log(denoise.sigmas))).tolist(),
        0.0,
    ]


def karras(denoise: Torch, steps: int) -> list[float]:
    low, high = denoise.sigmas[0] ** (1 / 7), denoise.sigmas[-1] ** (1 / 7)
    return [*((high + np.linspace(0, 1, steps) * (low - high)) ** 7).tolist(), 0.0]


def xl_networks(kind: type[Torch], folder, guidance_scale: float) -> tuple[Torch, Torch]:
    """SDXL and its refiner, which hear "a cat"."""
    base = quiet(StableDiffusionXLPipeline.from_pretrained(folder("sdxl")))
    refiner = quiet(StableDiffusionXLImg2ImgPipeline.from_pretrained(folder("refiner")))
    sizes = {"positive": [32, 32, 0, 0, 32, 32], "negative": [32, 32, 0, 0, 32, 32]}
    scores = {"positive": [32, 32, 0, 0, 6.0], "negative": [32, 32, 0, 0, 2.5]}
    return kind(base, "a cat", guidance_scale, xl=sizes), kind(refiner, "a cat", guidance_scale, xl=scores)


def euler_a(denoise: Torch, x: torch.Tensor, sigmas: list[float], stream: NoiseStream) -> torch.Tensor:
    for a, b in pairwise(sigmas):
        up = min(b, math.sqrt(b**2 * (a**2 - b**2) / a**2))
        x = x + (x - denoise(x, a)) / a * (math.sqrt(b**2 - up**2) - a)
        x = x + drawn(stream, x.shape[-1]) * up if b > 0 else x
    return x


def test_a1111s_second_pass(folder, sd21):
    """Steps that really run, the same seed's noise at the new shape, prompts of its own."""
    pipe = quiet(StableDiffusionPipeline.from_pretrained(folder("sd21")))
    first, second = Torch(pipe, "a red apple", 4.0), Torch(pipe, "a dog face", 3.0)
    stream = NoiseStream(7, "philox")
    sigmas = uniform(first, 4)
    x = euler_a(first, drawn(stream, 16) * sigmas[0], sigmas, stream)
    x = torch.nn.functional.interpolate(x, size=(24, 24), mode="bicubic", antialias=True)
    fresh = NoiseStream(7, "philox")
    sigmas = uniform(second, int(3 / 0.7))[-4:]
    x = euler_a(second, x + drawn(fresh, 24) * sigmas[0], sigmas, fresh)
    found = ours(
        sd21,
        prompt="a red apple",
        hires_prompt="a dog face",
        hires_guidance_scale=3.0,
        hires=1.5,
        hires_steps=3,
        hires_upscaler="Latent (bicubic antialiased)",
        sampler="Euler a",
        compat="a1111",
        negative_prompt=None,
        prompt_syntax="plain",
        seed=7,
        steps=4,
        guidance_scale=4.0,
        **SIZE,
    )
    assert psnr(found, pixels_of(pipe, x)) > 80


@pytest.mark.parametrize("switch", [0.5, 0.8])
def test_a1111s_refiner_takes_over_within_the_run(folder, sdxl, switch):
    """By the nearest timestep before each call; the sampler goes on with its history."""
    base, refiner = xl_networks(Torch, folder, 4.0)
    sigmas = karras(base, 6)
    x, before, last, used = drawn(NoiseStream(5, "philox"), 16) * sigmas[0], None, None, []
    for a, b in pairwise(sigmas):
        due = (999 - int(np.argmin(np.abs(base.sigmas - a)))) / 1000 >= switch
        used.append(due)
        d = (refiner if due else base)(x, a)
        if b == 0:
            x = d
            break
        h = math.log(a / b)
        target = d if before is None else d * (1 + h / (2 * last)) - before * (h / (2 * last))
        x, before, last = (b / a) * x - math.expm1(-h) * target, d, h
    assert {True, False} == set(used)
    found = ours(
        sdxl,
        prompt="a cat",
        refiner=str(folder("refiner")),
        refiner_switch=switch,
        sampler="DPM++ 2M Karras",
        compat="a1111",
        seed=5,
        steps=6,
        guidance_scale=4.0,
        **SIZE,
    )
    assert psnr(found, pixels_of(refiner.pipe, x)) > 60


class Whole(Torch):
    """With whole timesteps, as ComfyUI has them."""

    def timestep(self, sigma: float) -> float:
        return float(np.argmin(np.abs(np.log(self.sigmas) - math.log(sigma))))


def dpmpp_2m_sde(denoise: Torch, x: torch.Tensor, sigmas: list[float], seed: int) -> torch.Tensor:
    """ComfyUI's, whose Brownian path is over the levels that are given and no others."""
    positive = torch.tensor([sigma for sigma in sigmas if sigma > 0])
    before, last, tree = None, 1.0, None
    if len(positive) > 1:
        tree = torchsde.BrownianTree(positive.min(), torch.zeros_like(x), positive.max(), entropy=seed)
    for a, b in pairwise(sigmas):
        d = denoise(x, a)
        if b == 0:
            return d
        h = math.log(a / b)
        x = b / a * math.exp(-h) * x - math.expm1(-2 * h) * d
        if before is not None:
            x = x - 0.5 * math.expm1(-2 * h) * h / last * (d - before)
        assert tree is not None
        up, down = torch.tensor(a), torch.tensor(b)
        x = x - tree(down, up) / (up - down).sqrt() * b * math.sqrt(-math.expm1(-2 * h))
        before, last = d, h
    return x


@pytest.mark.filterwarnings("ignore:Should have t")
@pytest.mark.parametrize("switch", [0.5, 0.8])
def test_comfyuis_refiner_has_a_path_of_its_own_as_each_half_of_the_run(folder, sdxl, switch):
    base, refiner = xl_networks(Whole, folder, 1.0)
    sigmas = karras(base, 5)
    x = drawn(NoiseStream(5, "torch"), 16) * math.hypot(sigmas[0], 1)
    end = round(5 * switch)
    x = dpmpp_2m_sde(base, x, sigmas[: end + 1], 5)
    x = dpmpp_2m_sde(refiner, x, sigmas[end:], 5)
    told = {"sampler": "dpmpp_2m_sde", "schedule": "karras", "compat": "comfyui", "seed": 5, "steps": 5}
    found = ours(
        sdxl, prompt="a cat", guidance_scale=1.0, refiner=str(folder("refiner")), refiner_switch=switch, **told, **SIZE
    )
    assert psnr(found, pixels_of(refiner.pipe, x)) > 80


def test_prompt_editing_counts_on_in_the_second_pass(sd21):
    """A fraction below 1 is over when the second pass begins; one above 1 counts that pass."""
    told = {"seed": 1, "steps": 4, "hires": 1.5, "hires_steps": 4, "sampler": "euler", **SIZE}
    edited = ours(sd21, prompt="a [red:green:0.5] apple", **told)
    same = ours(sd21, prompt="a [red:green:0.5] apple", hires_prompt="a green apple", **told)
    assert psnr(edited, same) > 100
    later = ours(sd21, prompt="a [red:green:1.5] apple", **told)
    same = ours(sd21, prompt="a red apple", hires_prompt="a [red:green:1.5] apple", **told)
    assert psnr(later, same) > 100
    assert psnr(later, edited) < 60


# -- what a request says ----------------------------------------------------------------------------------------------


def test_what_a_second_pass_decides_is_recorded_and_renders_again(sd21):
    resolved = sd21.resolve(Request("a cat", seed=1, steps=3, hires=1.5, **SIZE))
    said = resolved.values()
    assert (said["hires"], said["hires_strength"], said["hires_upscaler"]) == (1.5, 0.7, "latent")
    assert resolved.final_size == (48, 48)
    again = sd21.resolve(Request.recorded(resolved.to_json()))
    assert again == resolved
    assert again.passes == resolved.passes


def test_an_image_of_several_passes_does_not_depend_on_its_batch(sd21):
    told = {"steps": 2, "hires": 1.5, "hires_upscaler": "lanczos", **SIZE}
    together = ours(sd21, prompt=PROMPTS, seed=[11, 4], **told)
    assert psnr(together[1:], ours(sd21, prompt=PROMPTS[1], seed=4, **told)) > 80


def test_a_size_of_another_shape_is_covered_and_cut(sd21):
    resolved = sd21.resolve(Request("a cat", seed=1, steps=2, hires_size="64x48", **SIZE))
    assert resolved.passes[1].enlarged_to == (32, 32)
    *_, last = sd21.denoise(resolved)
    assert last.latents.shape == (1, 24, 32, 4)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"hires_strength": 0.5}, "no second pass"),
        ({"hires": 2, "hires_size": "64x64"}, "both hires and hires_size"),
        ({"hires": 2, "hires_strength": 0}, "leaves none"),
        ({"refiner_switch": 0.5}, "no refiner"),
        ({"hires": 16, "hires_steps": 1000, "hires_strength": 0.1}, "1000 steps at a hires_strength of 0.1"),
        ({"hires": 2, "steps": 3, "hires_strength": 1e-7}, "3 steps at a hires_strength of 1e-07"),
        ({"hires": 2, "steps": 3, "hires_strength": 1e-300, "compat": "comfyui"}, "3 steps at a hires_strength"),
        ({"hires_size": "7x64"}, "each from 8 to"),
        ({"refiner": "emoji"}, "latents of another kind"),
        ({"hires": 2, "image": PICTURE, "mask": PICTURE}, "a mask and a second pass"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused_before_anything_is_computed(sd21, settings, said):
    with pytest.raises(RequestError, match=said):
        sd21.resolve(Request("a cat", **SIZE, **settings))


def test_an_upscaler_that_is_not_there_is_said_at_once(sd21):
    with pytest.raises(ModelNotFoundError, match=r"nowhere\.safetensors"):
        sd21.resolve(Request("a cat", hires=2, hires_upscaler="nowhere.safetensors", **SIZE))


def test_an_upscaler_that_is_none_or_makes_too_much_is_said_at_once(sd21, tmp_path, monkeypatch):
    (tmp_path / "none.safetensors").write_bytes(part_files.lora())
    with pytest.raises(UnsupportedError, match="no upscaler"):
        sd21.resolve(Request("a cat", hires=2, hires_upscaler=str(tmp_path / "none.safetensors"), **SIZE))
    large = write(seeded(SRVGGNetCompact, factor=8), tmp_path / "large.safetensors")
    told = {"hires_upscaler": str(large), **SIZE}
    sd21.resolve(Request("a cat", hires=2, **told))
    monkeypatch.setattr("mlxdiff.upscaling.MAX_SIDE", 1024)
    sd21.resolve(Request("a cat", hires=2, **told))
    with pytest.raises(RequestError, match="Enlarged 8 times the picture has 2048x2048"):  # 32, 256, 2048
        sd21.resolve(Request("a cat", hires=9, **told))


def test_the_network_computes_in_the_models_precision(sd21, tmp_path, monkeypatch):
    path, seen, plain = write(seeded(SRVGGNetCompact), tmp_path / "x4.safetensors"), [], upscaling.load
    monkeypatch.setattr("mlxdiff.upscaling.load", lambda path, dtype=None: seen.append(dtype) or plain(path, dtype))
    ours(sd21, prompt="a cat", seed=1, steps=1, hires=1.5, hires_upscaler=str(path), **SIZE)
    assert seen == [sd21.dtype]


@pytest.mark.parametrize(
    ("first", "second", "etas"),
    [
        ("euler", "dpm_fast", (None, 1.0)),  # A1111's own
        ("dpm_fast", "dpm_fast", (1.0, 1.0)),
        ("dpm_fast", "ddim", (1.0, None)),  # 0
        ("dpm_fast", "euler", (1.0, None)),
    ],
)
def test_each_pass_has_its_own_samplers_defaults_of_a1111(sd21, first, second, etas):
    told = {"seed": 1, "steps": 2, "hires": 1.5, "compat": "a1111", **SIZE}
    resolved = sd21.resolve(Request("a cat", sampler=first, hires_sampler=second, **told))
    assert tuple(view.eta for _, view in stages.views(resolved)) == etas
    again = sd21.resolve(Request.recorded(resolved.to_json()))
    assert again.passes == resolved.passes


@pytest.mark.parametrize("schedule", [None, "karras", "uniform"])
@pytest.mark.parametrize(
    ("first", "second", "own"),
    [
        ("dpmpp_2m", "euler", ("karras", "uniform")),
        ("euler", "dpmpp_2m", ("uniform", "karras")),
        ("euler", "ddim", ("uniform", None)),
        ("ddim", "dpmpp_sde", (None, "karras")),
    ],
)
def test_each_pass_has_its_own_schedule_of_a1111_and_the_record_says_which(sd21, first, second, own, schedule):
    told = {"seed": 1, "steps": 2, "hires": 1.5, "compat": "a1111", "schedule": schedule, **SIZE}
    resolved = sd21.resolve(Request("a cat", sampler=first, hires_sampler=second, **told))
    expected = own if schedule is None else (schedule, None if second == "ddim" else schedule)
    assert tuple(view.schedule for _, view in stages.views(resolved)) == expected
    assert sd21.resolve(Request.recorded(resolved.to_json())).passes == resolved.passes
    assert sd21.resolve(resolved).passes == resolved.passes


def test_an_option_that_is_asked_for_holds_in_both_passes(sd21):
    told = {"seed": 1, "steps": 2, "hires": 1.5, "eta": 0.3, **SIZE}
    for compat in ("a1111", None):
        resolved = sd21.resolve(Request("a cat", sampler="ddim", hires_sampler="euler_a", compat=compat, **told))
        assert [view.eta for _, view in stages.views(resolved)] == [0.3, 0.3]


def test_loops_that_alternate_keep_their_own_loras_until_a1111s_refiner_takes_over():
    sd = StableDiffusion("emoji", dtype="fp32")
    told = {"seed": 1, "steps": 4, "sampler": "euler", **SIZE}
    refined = {"compat": "a1111", "refiner": "emoji", "refiner_switch": 0.5, "lora": "pixel-art", **told}
    alone = [np.array(step.latents) for step in sd.denoise(Request("a cat", **refined))]
    loops = [sd.denoise(Request("a cat", **settings)) for settings in (refined, told)]
    found = []
    for _ in range(4):
        steps = [next(loop) for loop in loops]
        mx.eval([step.latents for step in steps])
        found.append(np.array(steps[0].latents))
    assert all(map(np.array_equal, found, alone))


def test_a_picture_that_is_drawn_from_is_enlarged_too(sd21):
    told = {"seed": 1, "steps": 4, "image": PICTURE, "strength": 0.5, "hires": 1.5, "hires_steps": 2, **SIZE}
    steps = list(sd21.denoise(Request("a cat", **told)))
    assert [step.latents.shape[1] for step in steps] == [16, 16, 24, 24]


def test_a_refiner_keeps_what_a_mask_keeps(sdxl, folder):
    mask = np.zeros((32, 32, 3), np.uint8)
    mask[:, 16:] = 255
    told = {"image": PICTURE, "mask": mask, "strength": 0.9, "refiner": str(folder("refiner")), "refiner_switch": 0.5}
    picture = sdxl.generate("a cat", seed=1, steps=4, sampler="euler", mask_blur=0, **SIZE, **told)[0]
    assert (np.asarray(picture)[:, :14] == 255).all()
    assert np.asarray(picture)[:, 18:].std() > 1


def test_nothing_of_the_second_pass_is_computed_before_it_is_asked_for(sd21, monkeypatch):
    steps = sd21.denoise(Request("a cat", seed=1, steps=2, hires=1.5, hires_upscaler="lanczos", **SIZE))
    monkeypatch.setattr("mlxdiff.passes.relay.enlarged", lambda *_: pytest.fail("enlarged too early"))
    for _ in range(2):
        mx.eval(next(steps).latents)
    with pytest.raises(pytest.fail.Exception):
        next(steps)


def test_a_lora_that_the_second_passs_prompt_names_at_another_scale_holds_in_it():
    sd = StableDiffusion("emoji", dtype="fp32")
    told = {"seed": 1, "steps": 2, "hires": 1.5, **SIZE}
    resolved = sd.resolve(Request("a cat", lora="pixel-art", hires_prompt="a cat <lora:pixel-art:0.3>", **told))
    first, second = (view for _, view in stages.views(resolved))
    assert [[(lora.ref, lora.scale) for lora in view.lora] for view in (first, second)] == [
        [("pixel-art", 1.0)],
        [("pixel-art", 0.3)],
    ]
    assert second.prompt == "a cat"
    with_it = ours(sd, prompt="a cat", lora="pixel-art", hires_prompt="a cat <lora:pixel-art:0.3>", **told)
    without = ours(sd, prompt="a cat", lora="pixel-art", **told)
    assert psnr(with_it, without) < 60
    spelled = sd.resolve(Request("a cat", lora="pixel-art", hires_prompt="a cat <lora:Pixel-Art:0.3>", **told))
    assert [lora.scale for lora in list(stages.views(spelled))[1][1].lora] == [0.3], "the same file by another name"
    named = sd.resolve(Request("a cat", hires_prompt="a cat <lora:pixel-art:0.3>", **told))
    assert named.lora is None
    assert "pixel-art" in dict(named.hashes)
