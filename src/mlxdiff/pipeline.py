"""StableDiffusion: prompts to latents to pictures, lazily; the only place that knows all the parts.

prompt -> conditioning -> [noise, sigmas -> sampler(denoise, ...) -> Step ...] -> decode -> (B, H, W, 3) in [0, 1]
There is one denoising loop, `StableDiffusion.denoise`; everything else prepares it or looks at what it yields.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from functools import cached_property, lru_cache
from typing import TypeVar

from . import backend

backend.require_mlx()

import mlx.core as mx  # noqa: E402  (after the check, which says what to install)
import numpy as np  # noqa: E402

from . import hub, images, memory, quantized  # noqa: E402
from .diffusion import guidance, noise, samplers  # noqa: E402
from .diffusion.prediction import Network, denoiser  # noqa: E402
from .diffusion.samplers import Step  # noqa: E402
from .diffusion.schedule import Schedule, SchedulerConfig, make_schedule  # noqa: E402
from .diffusion.step_cache import StepCache  # noqa: E402
from .errors import InputError, MlxdiffWarning, RequestError  # noqa: E402
from .families import Conditioning, base, family_of  # noqa: E402
from .models.layers import timestep_embedding  # noqa: E402
from .models.tiling import decode_tiled  # noqa: E402
from .models.unet import UNet2DConditionModel  # noqa: E402
from .models.vae import AutoencoderKL  # noqa: E402
from .request import Model, Request, Resolved  # noqa: E402

SEEDS = 2**32
KEPT_CONDITIONINGS = 8

T = TypeVar("T")
Predict = Callable[..., mx.array]


class StableDiffusion:
    """A checkpoint that renders.

    model     built-in name, hub id[@revision], folder in the diffusers layout, or one .safetensors file in the original
              (LDM) layout; None is the default model
    dtype     mx.float16, mx.bfloat16, mx.float32 or their names; None is fp16 on a GPU and fp32 on a CPU
    quantize  8 or 4 bits for the linear layers of the UNet and the text encoders; None leaves them as they are.
              A stored copy in these bits is used if there is one (see quantized.store): the pictures are the same
    vae       a folder or one .safetensors file (of either layout) whose VAE replaces the checkpoint's
    prediction_type  what the UNet predicts (epsilon, v_prediction, sample), where the checkpoint is wrong or silent

    Reads only configs; each network's weights are mapped when it is first needed, all of them by `load`. Where memory
    is scarce (see memory.py), a network is let go when its phase is over, and mapped again when it is needed again.
    Raises ModelNotFoundError, CheckpointError or UnsupportedError.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        dtype: mx.Dtype | str | None = None,
        quantize: int | None = None,
        vae: str | None = None,
        prediction_type: str | None = None,
    ) -> None:
        self.snapshot = hub.resolve(hub.default_model() if model is None else model)
        self.quantize = Request(quantize=quantize, vae=vae, prediction_type=prediction_type).quantize
        stored = None if self.quantize is None else quantized.find(self.snapshot, self.quantize)
        self.vae_reference, self.prediction_type = vae, prediction_type
        source = base.open_source(
            self.snapshot.path if stored is None else stored,
            vae=None if vae is None else hub.resolve_vae(vae),
            prediction_type=prediction_type,
        )
        self.checkpoint = base.read_checkpoint(source, prediction_type=prediction_type)
        if self.quantize is None:
            self.quantize = quantized.bits_of(self.snapshot.path)  # a quantized copy by its own path
        self.family = family_of(self.checkpoint)
        self.defaults = base.defaults(self.family, self.checkpoint)
        self.dtype = backend.default_dtype() if dtype is None else backend.parse_dtype(dtype)
        if self.dtype != mx.float32 and not backend.is_gpu():
            name = backend.dtype_name(self.dtype)
            warnings.warn(MlxdiffWarning(f"On a CPU {name} is about 50 times slower than fp32."), stacklevel=2)
        self._conditioned: dict[tuple, Conditioning] = {}
        backend.limit_cache()

    @classmethod
    def open(cls, model: Model) -> StableDiffusion:
        """The model that a value describes; reads configs only."""
        return cls(
            model.place,
            dtype=model.dtype,
            quantize=model.quantize,
            vae=model.vae,
            prediction_type=model.prediction_type,
        )

    def unload(self) -> None:
        """Lets all weights go; they are mapped again when they are needed again."""
        self._let_go("_encode", "unet", "vae", "_predict", "_predict_in_parts")
        self._conditioned.clear()
        mx.clear_cache()

    @cached_property
    def unet(self) -> UNet2DConditionModel:
        return base.load_unet(self.checkpoint, self.dtype, self.quantize)

    @cached_property
    def vae(self) -> AutoencoderKL:
        return base.load_vae(self.family, self.checkpoint, self.dtype)

    @cached_property
    def _encode(self) -> base.PromptEncoder:
        encoder = self.family.load_encoder(self.checkpoint, self.dtype, self.quantize)
        self._encoder_bytes = memory.size_of(*encoder.networks)
        return encoder

    def load(self) -> StableDiffusion:
        """Maps and checks every weight now, so that a damaged file is found before minutes are spent."""
        _ = self._encode, self.unet, self.vae
        return self

    def resolve(self, request: Request) -> Resolved:
        """The request with every None that the checkpoint has a default for filled in, and a seed drawn.

        Raises RequestError where the request does not fit the checkpoint.
        """
        config = SchedulerConfig.from_dict(self.checkpoint.scheduler, request.sampler)
        if request.strength is not None and request.image is None:
            raise RequestError("There is a strength but no image.", "Give the image to start from.")
        filled = {
            "steps": self.defaults.steps,
            "guidance_scale": self.defaults.guidance_scale,
            "height": self.defaults.height,
            "width": self.defaults.width,
            "sampler": config.sampler,
            "seed": secrets.randbelow(SEEDS) if request.seed is None else request.seed,
            "strength": 0.8 if request.image is not None else None,
            "model": self.snapshot.reference,
            "revision": self.snapshot.revision,
        }
        unset = {name: value for name, value in filled.items() if getattr(request, name) is None}
        request = replace(request, **unset, **self._loaded_as())
        factor = self.checkpoint.scale_factor
        for name in ("height", "width"):
            value = getattr(request, name)
            if value % factor != 0:
                near = max(factor, round(value / factor) * factor)
                raise RequestError(
                    f"{name} is {value}, which is not a multiple of {factor}, the VAE's factor.", f"Try {near}."
                )
        guidance.interval_of(self._schedule(request).sigmas, *request.guidance_interval)
        if request.token_merging and self.checkpoint.unet.finest_attention is None:
            raise RequestError("This model has no attention in which tokens could merge.", "Leave token_merging out.")
        files = [file for file in (request.image, request.vae) if isinstance(file, str)]
        hashes = tuple(sorted((file, _sha256(file)) for file in files if os.path.isfile(file)))
        values: dict = {item.name: getattr(request, item.name) for item in fields(Request)} | {"hashes": hashes or None}
        return Resolved(**values, noise_levels=self._schedule(request))

    def _loaded_as(self) -> dict[str, str | int | None]:
        """The fields of a request that this object settled when it was made."""
        return {
            "dtype": backend.dtype_name(self.dtype),
            "quantize": self.quantize,
            "vae": self.vae_reference,
            "prediction_type": self.prediction_type,
        }

    def n_steps(self, request: Request) -> int:
        """How many steps `denoise` yields for a resolved request: fewer than its `steps` where an image starts it."""
        return len(self._schedule(request).sigmas) - 1

    def generate_latents(
        self,
        prompt: str | Sequence[str],
        *,
        negative_prompt: str | None = None,
        n_images: int = 1,
        steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int | Sequence[int] | None = None,
        height: int | None = None,
        width: int | None = None,
        sampler: str | None = None,
        schedule: str | None = None,
        latents: mx.array | None = None,
        image: str | None = None,
        strength: float | None = None,
        rng: str = "torch",
        guidance_start: float | None = None,
        guidance_end: float | None = None,
        cache_interval: int | None = None,
        token_merging: float | None = None,
    ) -> Iterator[mx.array]:
        """Yields the latents (B, H/f, W/f, C) of each step, unevaluated; B is len(prompt) * n_images.

        Nothing is computed before the first is asked for. `latents` is unit-variance Gaussian noise that replaces the
        drawn noise. The other arguments are `Request`'s. All but the last latents still carry noise of their sigma.
        """
        request = Request(
            prompt=prompt if isinstance(prompt, str) else tuple(prompt),
            negative_prompt=negative_prompt,
            n_images=n_images,
            steps=steps,
            guidance_scale=guidance_scale,
            seed=seed if seed is None or isinstance(seed, int) else tuple(seed),
            height=height,
            width=width,
            sampler=sampler,
            schedule=schedule,
            image=image,
            strength=strength,
            rng=rng,
            guidance_start=guidance_start,
            guidance_end=guidance_end,
            cache_interval=cache_interval,
            token_merging=token_merging,
        )
        return (step.latents for step in self.denoise(request, latents=latents))

    def denoise(self, request: Request, *, latents: mx.array | None = None) -> Iterator[Step]:
        """The denoising loop: yields each `Step(index, sigma, latents, denoised)` unevaluated.

        The caller evaluates each step (`mx.eval(step.latents)`), and so sees the work happen. Only the conditioning is
        evaluated here, at the first step.
        """
        request = request if isinstance(request, Resolved) else self.resolve(request)
        schedule = request.noise_levels
        conditioning = self.encode_ahead([request])[0]
        streams = [noise.NoiseStream(seed, request.rng) for seed in request.seeds]
        start = self._start(request, schedule, streams, latents)
        predict = self._predictor(request)
        denoise = denoiser(self._network(request, conditioning, schedule, predict), schedule)
        if self._is_guided(request):
            denoise = guidance.classifier_free(denoise, _filled(request.guidance_scale))
            if request.guidance_interval != (0, 1):
                alone = self._network(request, conditioning.positive(), schedule, predict)
                interval = guidance.interval_of(schedule.sigmas, *request.guidance_interval)
                denoise = guidance.in_interval(denoise, denoiser(alone, schedule), interval)
        shape = start.shape[1:]
        steps = samplers.sample(
            _filled(request.sampler), denoise, start, schedule, noise=lambda: noise.batch_noise(streams, *shape)
        )
        for step in steps:
            last = step.index == len(schedule.sigmas) - 2
            yield step._replace(latents=schedule.to_signal(step.latents)) if last else step

    def encode_ahead(self, requests: Sequence[Request]) -> list[Conditioning]:
        """Encodes the prompts of resolved requests now, and keeps them: their `denoise` needs no text encoder then.

        More than KEPT_CONDITIONINGS requests push out their own first.
        """
        conditionings = [self._condition(request) for request in requests]
        mx.eval([conditioning.arrays() for conditioning in conditionings])
        if not self.keeps_encoders:
            self._let_go("_encode")
        mx.clear_cache()  # the encoders' buffers have sizes that the loop never asks for, and MLX keeps them
        return conditionings

    @cached_property
    def keeps_encoders(self) -> bool:
        """Whether the text encoders stay in memory once prompts are encoded. Maps the UNet, to know its size."""
        if not hasattr(self, "_encoder_bytes"):
            _ = self._encode
        return memory.keeps_encoders(self._encoder_bytes, memory.size_of(self.unet))

    @property
    def working_bytes(self) -> int:
        """Bytes of the weights that are in memory while the UNet works."""
        return memory.size_of(self.unet) + (self._encoder_bytes if self.keeps_encoders else 0)

    def _let_go(self, *parts: str) -> None:
        for part in parts:
            self.__dict__.pop(part, None)

    def encode_prompt(
        self,
        prompt: str | Sequence[str],
        *,
        negative_prompt: str | None = None,
        guided: bool = True,
        height: int | None = None,
        width: int | None = None,
    ) -> Conditioning:
        """What the UNet is told of the prompts: context (B, 77, D) and, for SDXL, pooled (B, P) and time ids.

        When guided, B is doubled: the negative half comes first.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        height = self.defaults.height if height is None else height
        width = self.defaults.width if width is None else width
        return self._encode(prompts, negative_prompt, guided=guided, height=height, width=width)

    def decode(self, latents: mx.array, *, tile: int | None = None) -> mx.array:
        """Latents (B, h, w, C) to pictures (B, H, W, 3), float in [0, 1], unevaluated unless decoded in strips.

        `tile` (pixels) decodes in strips of at most tile x tile, one picture at a time: the same picture but for
        rounding, in a fraction of the memory. They are evaluated one by one. None decodes as a whole if that takes no
        more than half of the memory.
        """
        channels = self.checkpoint.vae.latent_channels
        if latents.ndim != 4 or latents.shape[-1] != channels:
            raise InputError(
                f"The latents have shape {tuple(latents.shape)}.",
                f"This model decodes (images, height, width, {channels}).",
            )
        vae = self.vae
        z = vae.denormalize(latents.astype(mx.float32)).astype(vae.dtype)
        tile = memory.tile_for(vae.config, z.shape, z.itemsize) if tile is None else tile
        if tile is None:
            return _shown(vae.decode(z))
        mx.eval(z)
        if "unet" in self.__dict__ and not memory.keeps_unet(
            memory.size_of(self.unet), memory.in_strips(vae.config, z.shape, z.itemsize)
        ):
            self._let_go("unet", "_predict", "_predict_in_parts")
        with backend.small_cache():
            return _shown(decode_tiled(vae, z, tile))

    def encode(self, images: mx.array) -> mx.array:
        """Pictures (B, H, W, 3) in [0, 1] to latents (B, H/f, W/f, C): the mean of the VAE's posterior."""
        mean, _ = self._posterior(images)
        return self.vae.normalize(mean)

    def _posterior(self, pictures: mx.array) -> tuple[mx.array, mx.array]:
        mean, logvar = self.vae.encode((pictures * 2 - 1).astype(self.vae.dtype))
        return mean.astype(mx.float32), logvar.astype(mx.float32)

    def _schedule(self, request: Request) -> Schedule:
        config = SchedulerConfig.from_dict(self.checkpoint.scheduler, request.sampler)
        return make_schedule(config, _filled(request.steps), schedule=request.schedule, strength=request.strength)

    def _is_guided(self, request: Request) -> bool:
        """Guidance at 1 or below changes nothing and costs half the time, so it is left out, as in diffusers."""
        return _filled(request.guidance_scale) > 1 and self.checkpoint.unet.time_cond_proj_dim is None

    def _condition(self, request: Request) -> Conditioning:
        guided = self._is_guided(request)
        idle = "negative prompt" if request.negative_prompt else ""
        idle = "guidance interval" if not idle and request.guidance_interval != (0, 1) else idle
        if idle and not guided:
            warnings.warn(
                MlxdiffWarning(f"The {idle} does nothing at guidance scale {request.guidance_scale:g}."), stacklevel=2
            )
        # Runs that differ only in steps, seed, sampler or scale are told the same. Whole batches are kept, not prompts:
        # a prompt's last bits depend on its neighbours, and a picture is the same however often it is rendered.
        height, width = _filled(request.height), _filled(request.width)
        key = (request.prompts, request.negative_prompt, guided, height, width)
        if key in self._conditioned:  # what was used last goes last
            self._conditioned[key] = self._conditioned.pop(key)
        else:
            if len(self._conditioned) == KEPT_CONDITIONINGS:
                del self._conditioned[next(iter(self._conditioned))]
            self._conditioned[key] = self._encode(
                request.prompts, request.negative_prompt, guided=guided, height=height, width=width
            )
        return self._conditioned[key]

    @cached_property
    def _predict(self) -> Predict:
        return _compiled(self.unet.predict)

    @cached_property
    def _predict_in_parts(self) -> tuple[Callable[..., list[mx.array]], Predict, Predict]:
        return _compiled(self.unet.enter), _compiled(self.unet.deep), _compiled(self.unet.leave)

    def _predictor(self, request: Request) -> Predict:
        """(sample, shifts, seen) -> output, for the calls of one run: they share what step caching keeps."""
        merging = 0.0 if request.token_merging is None else float(request.token_merging)
        if request.cache_interval is None or request.cache_interval == 1:
            whole = self._predict  # a run keeps its UNet, also where a decode on the way lets go of it
            return lambda sample, shifts, seen: whole(sample, shifts, seen, merging)
        enter, deep, leave = self._predict_in_parts
        kept = StepCache(request.cache_interval)

        def predict(sample: mx.array, shifts: list, seen: list) -> mx.array:
            maps = enter(sample, shifts, seen, merging)
            x = kept(lambda: deep(maps, shifts, seen, merging), sample.shape[0])
            return leave(x, maps, shifts, seen, merging)

        return predict

    def _network(self, request: Request, conditioning: Conditioning, schedule: Schedule, predict: Predict) -> Network:
        """The UNet as prediction.denoiser wants it: (scaled latents, timestep) -> output.

        What the prompt and the timesteps alone decide is computed once, for all steps of the schedule.
        """
        unet, times = self.unet, mx.array(schedule.timesteps, dtype=mx.float32)
        known: list[float] = np.array(times).tolist()
        batch = conditioning.context.shape[0]
        width = self.checkpoint.unet.time_cond_proj_dim
        told = {"pooled": conditioning.pooled, "time_ids": conditioning.time_ids}
        if width is not None:
            # Distilled with guidance as an input (Meng et al. 2023), embedded as if it were a timestep of 1000 w.
            scales = mx.full((batch,), 1000 * (_filled(request.guidance_scale) - 1))
            told["timestep_cond"] = timestep_embedding(scales, width, flip_sin_to_cos=False, freq_shift=1)
        told = {name: mx.tile(array, (len(known), 1)) for name, array in told.items() if array is not None}
        rows = batch if told else 1  # of what a timestep adds: one serves all images, unless they are told more
        shifts = unet.shifts(mx.repeat(times, rows), **told)
        seen = unet.look_at(conditioning.context)
        dtype = self.dtype

        def network(scaled: mx.array, timestep: mx.array) -> mx.array:
            first = known.index(float(np.array(timestep))) * rows  # a number that the schedule gave, not a computation
            here = [[shift[first : first + rows] for shift in level] for level in shifts]
            return predict(scaled.astype(dtype), here, seen)

        return network

    def _start(
        self, request: Request, schedule: Schedule, streams: list[noise.NoiseStream], latents: mx.array | None
    ) -> mx.array:
        """Where the loop starts: noise of the first sigma, alone or on top of the encoded picture."""
        factor = self.checkpoint.scale_factor
        height, width = _filled(request.height), _filled(request.width)
        shape = (height // factor, width // factor, self.checkpoint.vae.latent_channels)
        if latents is not None and tuple(latents.shape) != (request.batch_size, *shape):
            raise RequestError(
                f"The noise given has shape {tuple(latents.shape)}.", f"It must be {(request.batch_size, *shape)}."
            )

        def drawn() -> mx.array:
            return noise.batch_noise(streams, *shape)

        if request.image is None:
            return (drawn() if latents is None else latents.astype(mx.float32)) * schedule.init_noise_sigma
        picture = images.read_source(request.image, size=(height, width))
        mean, logvar = self._posterior(mx.array(picture)[None])
        # The posterior's noise comes first from each image's stream, then the noise of the start: diffusers' order.
        encoded = self.vae.normalize(mean + mx.exp(0.5 * logvar) * drawn())
        return encoded + (drawn() if latents is None else latents.astype(mx.float32)) * schedule.sigmas[0]


def _compiled(function: Callable[..., T]) -> Callable[..., T]:
    """On a GPU compiled, once a shape, into fewer kernels that Python need not ask for one by one.

    On a CPU the compiler runs for longer than a picture takes.
    """
    return mx.compile(function) if backend.is_gpu() else function


def _shown(pictures: mx.array) -> mx.array:
    """What a VAE decodes to, about [-1, 1], as float in [0, 1]."""
    return mx.clip(pictures.astype(mx.float32) / 2 + 0.5, 0, 1)


def _filled(value: T | None) -> T:
    """A field of a request that `resolve` has been through."""
    if value is None:
        raise RequestError("The request is not resolved.", "Pass it through StableDiffusion.resolve first.")
    return value


def _sha256(path: str) -> str:
    stat = os.stat(path)
    return _sha256_of(path, stat.st_mtime_ns, stat.st_size, stat.st_ino)


@lru_cache(maxsize=1000)
def _sha256_of(path: str, *_: int) -> str:
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()
