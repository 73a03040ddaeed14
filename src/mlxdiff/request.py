"""What to render, as a value: frozen, validated without MLX, and written as canonical JSON.

`None` means the checkpoint's own default, which only the pipeline knows; `StableDiffusion.resolve` fills it in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from .errors import RequestError

SAMPLERS = ("ddim", "pndm", "euler", "euler_ancestral", "heun", "dpmpp_2m", "dpmpp_2m_sde", "lcm")
SCHEDULES = ("leading", "linspace", "trailing", "karras", "exponential", "beta")
NOISE_SOURCES = ("torch", "mlx", "philox")
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
QUANTIZE_BITS = (8, 4)
MAX_SEED = 2**63 - 1
MAX_DIGITS = 30
MAX_STEPS = 1000
MAX_IMAGES = 100_000
MAX_SIDE = 65_536
MAX_GUIDANCE_SCALE = 1e6
MAX_TOKEN_MERGING = 0.75  # one token of every four is what the others merge into


@dataclass(frozen=True)
class Request:
    """One call of the denoising loop: `len(prompt) * n_images` pictures of one size.

    prompt            one text, or a tuple of texts (one image each, times `n_images`)
    negative_prompt   None is no negative prompt, which for SDXL differs from an empty one
    seed              image i uses seed + i; a tuple gives each image its own
    height, width     pixels
    image, strength   path of the picture to start from, and how much of the schedule (0 to 1] is run on it
    rng               where the noise comes from: torch, mlx or philox
    model             reference of the checkpoint, recorded so that the picture can be rendered again
    vae               reference of the VAE used instead of the checkpoint's own
    prediction_type   what the UNet was told to predict, against or without the checkpoint's word

    Approximations, which are off when None:
    guidance_start, guidance_end  fractions of the steps between which guidance is applied (Kynkäänniemi et al. 2024)
    cache_interval    the UNet's deep part is computed in one call of so many (Ma et al. 2023, DeepCache); 1 is exact
    token_merging     fraction of the tokens merged in the finest self-attention (Bolya and Hoffman 2023); 0 is exact
    """

    prompt: str | tuple[str, ...] = ""
    negative_prompt: str | None = None
    n_images: int = 1
    steps: int | None = None
    guidance_scale: float | None = None
    seed: int | tuple[int, ...] | None = None
    height: int | None = None
    width: int | None = None
    sampler: str | None = None
    schedule: str | None = None
    image: str | None = None
    strength: float | None = None
    rng: str = "torch"
    model: str | None = None
    revision: str | None = None
    dtype: str | None = None
    quantize: int | None = None
    vae: str | None = None
    prediction_type: str | None = None
    guidance_start: float | None = None
    guidance_end: float | None = None
    cache_interval: int | None = None
    token_merging: float | None = None

    def __post_init__(self) -> None:
        for name in ("prompt", "seed"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        _check_text("prompt", self.prompt if isinstance(self.prompt, tuple) else (self.prompt,))
        if isinstance(self.prompt, tuple) and not self.prompt:
            raise RequestError("The list of prompts is empty.", "Give at least one prompt.")
        for name in ("negative_prompt", "image", "model", "revision", "dtype", "vae"):
            if getattr(self, name) is not None:
                _check_text(name, (getattr(self, name),))
        if self.quantize is not None and (isinstance(self.quantize, bool) or self.quantize not in QUANTIZE_BITS):
            raise RequestError(f"quantize is {self.quantize!r}.", "It is 8 or 4 bits.")
        _check_whole("n_images", self.n_images, low=1, high=MAX_IMAGES)
        if self.steps is not None:
            _check_whole("steps", self.steps, low=1, high=MAX_STEPS)
        for name in ("height", "width"):
            if getattr(self, name) is not None:
                _check_whole(name, getattr(self, name), low=8, high=MAX_SIDE)
        if self.guidance_scale is not None:
            _check_number("guidance_scale", self.guidance_scale, low=0.0, high=MAX_GUIDANCE_SCALE)
        if self.strength is not None:
            _check_number("strength", self.strength, low=0.0, high=1.0)
        self._check_approximations()
        self._check_seed()
        _check_choice("sampler", self.sampler, SAMPLERS)
        _check_choice("schedule", self.schedule, SCHEDULES)
        _check_choice("rng", "" if self.rng is None else self.rng, NOISE_SOURCES)
        _check_choice("prediction_type", self.prediction_type, PREDICTION_TYPES)

    def _check_approximations(self) -> None:
        for name in ("guidance_start", "guidance_end"):
            if getattr(self, name) is not None:
                _check_number(name, getattr(self, name), low=0.0, high=1.0)
        start, end = self.guidance_interval
        if start >= end:
            raise RequestError(
                f"Guidance starts at {start:g} and ends at {end:g} of the steps.",
                "Let it start before it ends, or turn it off with a guidance_scale of 1.",
            )
        if self.cache_interval is not None:
            _check_whole("cache_interval", self.cache_interval, low=1, high=MAX_STEPS)
        if self.token_merging is not None:
            _check_number("token_merging", self.token_merging, low=0.0, high=MAX_TOKEN_MERGING)

    def _check_seed(self) -> None:
        seeds = self.seed if isinstance(self.seed, tuple) else () if self.seed is None else (self.seed,)
        for seed in seeds:
            _check_whole("seed", seed, low=0, high=MAX_SEED)
        if isinstance(self.seed, tuple) and len(self.seed) != self.batch_size:
            raise RequestError(
                f"There are {len(self.seed)} seeds for {self.batch_size} images.",
                "Give one seed, or one for each image.",
            )

    @property
    def guidance_interval(self) -> tuple[float, float]:
        """Fractions of the steps between which guidance is applied: (0, 1) is all of them."""
        start = 0.0 if self.guidance_start is None else self.guidance_start
        return start, 1.0 if self.guidance_end is None else self.guidance_end

    @property
    def prompts(self) -> tuple[str, ...]:
        """One prompt an image: each text `n_images` times, in the order of the list."""
        texts = self.prompt if isinstance(self.prompt, tuple) else (self.prompt,)
        return tuple(text for text in texts for _ in range(self.n_images))

    @property
    def batch_size(self) -> int:
        return self.n_images * (len(self.prompt) if isinstance(self.prompt, tuple) else 1)

    @property
    def seeds(self) -> tuple[int, ...]:
        """One seed an image; needs `seed` to be set."""
        if self.seed is None:
            raise RequestError("The request has no seed yet.", "Set one, or let StableDiffusion.resolve draw one.")
        if isinstance(self.seed, tuple):
            return self.seed
        return tuple(self.seed + i for i in range(self.batch_size))

    def single(self, index: int) -> Request:
        """The request that renders image `index` of this one alone."""
        return replace(self, prompt=self.prompts[index], seed=self.seeds[index], n_images=1)

    def to_json(self) -> str:
        """Canonical JSON: keys sorted, nothing that is unset, ASCII only."""
        values = {key: value for key, value in asdict(self).items() if value is not None}
        return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Request:
        """Reads `to_json`; raises RequestError for anything that is not a request."""
        try:
            values = json.loads(text, parse_int=_whole_number)
        except (ValueError, RecursionError) as error:
            raise RequestError(
                f"The request is not JSON ({type(error).__name__}).", "Check where the text comes from."
            ) from None
        if not isinstance(values, dict):
            raise RequestError("The request is not a JSON object.", "Check where the text comes from.")
        return cls.from_dict(values)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Request:
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise RequestError(f"A request has no field {unknown[0]!r}.", f"The fields are {', '.join(sorted(known))}.")
        return cls(**values)


def _whole_number(digits: str) -> int:
    """Python reads long numbers in quadratic time, and no field takes one."""
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _check_text(name: str, texts: tuple[Any, ...]) -> None:
    for text in texts:
        if not isinstance(text, str):
            raise RequestError(f"{name} is {type(text).__name__}, not text.", "Give a string or a list of strings.")


def _check_whole(name: str, value: Any, *, low: int, high: int) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not low <= value <= high:
        raise RequestError(f"{name} is {_shown(value)}.", f"It is a whole number from {low} to {high}.")


def _shown(value: Any) -> str:
    """The value in an error, cut where it is long; Python refuses to write whole numbers of over 4300 digits."""
    if isinstance(value, int) and abs(value) >= 10**60:
        return "a number of over 60 digits"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _check_number(name: str, value: Any, *, low: float, high: float) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high:  # also false for NaN; huge whole numbers compare without overflow
        raise RequestError(f"{name} is {_shown(value)}.", f"It is a number from {low:g} to {high:g}.")


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value is not None and value not in choices:
        raise RequestError(f"There is no {name} {_shown(value)}.", f"Choose one of {', '.join(choices)}.")
