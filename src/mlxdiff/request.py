"""What to load and what to draw, as values: frozen, checked without MLX, and written as canonical JSON.

Model     what is loaded: a checkpoint and how its weights are held
Request   what is wanted: each field is a setting, declared here and nowhere else (declarations.py says what follows)
Resolved  what will be drawn: a Request of which the checkpoint has filled in every default
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from . import catalogue
from .adapter_settings import Embedding, Lora
from .controlling import Control, Preprocessing
from .declarations import (
    MAX_DIGITS,
    Choice,
    Number,
    Numbers,
    PartReference,
    Reference,
    Text,
    Whole,
    WholeChoice,
    declared,
    setting,
)
from .errors import RequestError
from .ip_adapter_setting import IPAdapterSetting
from .pictures import MaskSource, PictureSource
from .request_kinds import (
    MAX_IMAGES,
    MAX_SIDE,
    RANDOM_SEED,
    BatchPlace,
    BatchPlaces,
    Hashes,
    Margins,
    Prompts,
    Seeds,
    Sides,
    Size,
    Sizes,
    Upscalers,
    spelled,
)
from .structured import Structured

if TYPE_CHECKING:
    from .diffusion.schedule import Schedule
    from .stages import Pass

SAMPLERS = tuple(catalogue.SAMPLERS)
SCHEDULES = tuple(catalogue.SCHEDULES)
PROMPT_SYNTAXES = ("a1111", "comfyui", "compel", "plain")
SAMPLER_PAIRS = (("sampler", "schedule"), ("hires_sampler", "hires_schedule"))  # older names say both at once
RECORDED_SYNTAX = "plain"  # of requests that were recorded before there was a choice
FITS = ("crop", "pad", "stretch")
FILLS = ("original", "fill", "noise", "blank")
NOISE_SOURCES = ("torch", "mlx", "philox")
GUIDANCE_MODES = ("cfg", "cfgpp")
COMPAT = ("diffusers", "a1111", "comfyui")
OPTIONS = ("eta", "s_churn", "s_tmin", "s_tmax", "s_noise")  # settings that samplers take, where they do
ONLY_WITH_HIRES = (
    *("hires_strength", "hires_steps", "hires_upscaler", "hires_sampler", "hires_schedule"),
    *("hires_guidance_scale", "hires_prompt", "hires_negative_prompt"),
)
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
QUANTIZE_BITS = (8, 4)
DTYPES = ("fp16", "bf16", "fp32")
MAX_SEED = 2**64 - 1
SEEDS = 2**32  # that are drawn where none is given
MAX_STEPS = 1000
MAX_GUIDANCE_SCALE = 1e6
MAX_PAG_SCALE = 100
MAX_TOKEN_MERGING = 0.75  # one token of every four is what the others merge into
MAX_SIGMA = 1e10
MAX_CLIP_SKIP = 12
MAX_HIRES = 16
_FILLED: Any = None


@dataclass(frozen=True)
class Model:
    """What is loaded. `reference` is a built-in name, hub id, folder or file; None is the default model.

    The other fields are Request's settings of the same names.
    """

    reference: str | None = None
    revision: str | None = None
    dtype: str | None = None
    quantize: int | None = None
    vae: str | None = None
    prediction_type: str | None = None

    @property
    def place(self) -> str | None:
        """The reference with its revision: NAME@REVISION."""
        return self.reference if self.revision is None else f"{self.reference}@{self.revision}"


@dataclass(frozen=True)
class Request:
    """One call of the denoising loop: `len(prompt) * n_images` pictures of one size.

    Each field is a setting; docs/settings.md lists them. None means unset: the checkpoint's default, or off. Raises
    RequestError for values out of range.
    """

    prompt: str | tuple[str, ...] = setting(Prompts(), "What to draw.", group="Prompt", default="")
    negative_prompt: str | None = setting(
        Text(), "What to steer away from.", group="Prompt", unset="none", flags=("-n",)
    )
    prompt_syntax: str | None = setting(
        Choice(PROMPT_SYNTAXES), "How brackets and other marks in prompts are read.", group="Prompt", unset="a1111"
    )
    clip_skip: int | None = setting(
        Whole(1, MAX_CLIP_SKIP),
        "Layer of the text encoder that is used, counted from the last; 1 is the last.",
        group="Prompt",
        unset="1",
        neutral=1,
        a1111="Clip skip",
    )
    embedding: tuple[Embedding, ...] | None = setting(
        Structured(Embedding), "Textual inversion that prompts may name; repeatable.", group="Prompt", unset="none"
    )
    lora: tuple[Lora, ...] | None = setting(
        Structured(Lora),
        "LoRA to apply, with its scale, and that of its part for the text encoders; repeatable.",
        group="Adapters",
        unset="none",
    )
    steps: int | None = setting(Whole(1, MAX_STEPS), "Denoising steps.", unset="the checkpoint's", a1111="Steps")
    sampler: str | None = setting(
        Choice(SAMPLERS, lambda text: catalogue.find_sampler(text).name),
        "How each step is taken.",
        unset="the checkpoint's",
        a1111="Sampler",
    )
    schedule: str | None = setting(
        Choice(SCHEDULES, lambda text: catalogue.find_schedule(text).name),
        "How noise levels are spaced.",
        unset="the checkpoint's",
        a1111="Schedule type",
    )
    guidance_scale: float | None = setting(
        Number(0, MAX_GUIDANCE_SCALE),
        "How closely to follow the prompt; 1 turns guidance off.",
        unset="the checkpoint's",
        flags=("--cfg",),
        a1111="CFG scale",
    )
    seed: int | tuple[int, ...] | None = setting(
        Seeds(0, MAX_SEED),
        f"Same seed, same picture; image i takes seed + i. {RANDOM_SEED} is random.",
        unset="random",
        a1111="Seed",
    )
    n_images: int = setting(Whole(1, MAX_IMAGES), "Number of pictures.", default=1, unset="1", vary=False)
    batch_index: BatchPlace | tuple[BatchPlace | None, ...] | None = setting(
        BatchPlaces(),
        "Place in a batch of ComfyUI's, such as 2/4: the third of four images of one seed.",
        unset="counted with --compat comfyui",
        vary=False,
    )
    height: int | None = setting(Whole(8, MAX_SIDE), "Pixels.", unset="the checkpoint's")
    width: int | None = setting(Whole(8, MAX_SIDE), "Pixels.", unset="the checkpoint's")
    model: str | None = setting(
        Reference(),
        "Built-in name, hub id (owner/name[@revision]), folder or .safetensors file.",
        group="Model",
        scope="model",
        unset="MLXDIFF_MODEL, the one set by `pull --set-default`, or the built-in emoji",
        flags=("-m",),
    )
    revision: str | None = setting(
        Text(), "Branch, tag or commit of a hub model.", group="Model", scope="model", unset="main", vary=False
    )
    image: Any = setting(
        PictureSource(), "Picture to start from (image to image).", group="From a picture", unset="none"
    )
    strength: float | None = setting(
        Number(0, 1),
        "How far to go from --image: 0 keeps it, 1 redraws it.",
        group="From a picture",
        unset="0.8 with --image, and 1 where a part of it is repainted",
        a1111="Denoising strength",
    )
    mask: Any = setting(
        MaskSource(),
        "Picture of what to repaint of --image: white is repainted, black stays. `alpha` is its transparent part.",
        group="From a picture",
        unset="alpha where --image has a transparent part, else none",
    )
    mask_blur: float | None = setting(
        Number(0, 256),
        "Pixels over which the mask's edge is blurred, so that it fades into the rest.",
        group="From a picture",
        unset="0, and 4 with --compat a1111",
        a1111="Mask blur",
    )
    fit: str | None = setting(
        Choice(FITS),
        "How pictures of another shape are brought to the size: cut off, continued at the edges, or distorted.",
        group="From a picture",
        unset="crop",
        neutral="crop",
    )
    inpaint_fill: str | None = setting(
        spelled("inpaint_fill", FILLS, {"latent noise": "noise", "latent nothing": "blank"}),
        "What the repainted part starts from: what is there, noise, nothing, or the colors around it (fill).",
        group="From a picture",
        unset="original, and fill with --expand",
        a1111="Masked content",
    )
    inpaint_area: str | None = setting(
        spelled("inpaint_area", ("whole", "masked"), {"whole picture": "whole", "only masked": "masked"}),
        "What is rendered at the size asked for: the whole picture, or the masked part with some pixels around it.",
        group="From a picture",
        unset="whole",
        a1111="Inpaint area",
    )
    inpaint_padding: int | None = setting(
        Whole(0, 4096),
        "Pixels around the masked part that are rendered with it (--inpaint-area masked).",
        group="From a picture",
        unset="32",
        a1111="Masked area padding",
    )
    expand: Margins | None = setting(
        Sides(),
        "LEFT,TOP,RIGHT,BOTTOM: pixels to add to --image at each side, and to paint (outpainting).",
        group="From a picture",
        unset="none",
    )
    image_guidance_scale: float | None = setting(
        Number(0, MAX_GUIDANCE_SCALE),
        "How closely a model that edits by instructions keeps to --image.",
        group="Guidance",
        unset="1.5 with such a model",
        a1111="Image CFG scale",
    )
    depth: Any = setting(
        PictureSource(),
        "Depth map for a model that takes one: near is white, far is black.",
        group="From a picture",
        unset="none",
    )
    control: tuple[Control, ...] | None = setting(
        Structured(Control),
        "ControlNet or T2I-Adapter, and the picture that it follows; repeatable.",
        group="From a picture",
        unset="none",
    )
    control_preprocess: str | None = setting(
        Preprocessing(),
        "How control pictures are made from the pictures given, where a control does not say it: none, canny, ...",
        group="From a picture",
        unset="none",
    )
    ip_adapter: tuple[IPAdapterSetting, ...] | None = setting(
        Structured(IPAdapterSetting),
        "Picture as a prompt, through an IP-Adapter's file; repeatable.",
        group="Adapters",
        unset="none",
    )
    compat: str | None = setting(
        Choice(COMPAT),
        "Program whose pictures to reproduce: its noise, schedules, rounding and prompt syntax.",
        unset="diffusers, with A1111's prompt syntax",
    )
    rng: str | None = setting(
        Choice(NOISE_SOURCES),
        "Where noise comes from; torch gives diffusers' pictures on any chip.",
        unset="torch, and philox with --compat a1111",
        a1111="RNG",
    )
    variation_seed: int | None = setting(
        Whole(0, MAX_SEED), "Seed of another noise to mix in.", unset="0", neutral=0, a1111="Variation seed"
    )
    variation_strength: float | None = setting(
        Number(0, 1), "How much of that noise to mix in.", unset="0", neutral=0.0, a1111="Variation seed strength"
    )
    seed_resize: Size | None = setting(
        Sizes(), "WIDTHxHEIGHT of the picture whose composition to keep.", unset="off", a1111="Seed resize from"
    )
    ensd: int | None = setting(
        Whole(-(2**31), 2**31), "Number added to the seed for the noise of steps.", unset="0", neutral=0, a1111="ENSD"
    )
    rounding: str | None = setting(
        Choice(("nearest", "truncate")),
        "How colors become 8 bits.",
        unset="nearest, and truncate with --compat a1111 or comfyui",
        neutral="nearest",
    )
    sigmas: tuple[float, ...] | None = setting(
        Numbers(0, MAX_SIGMA, MAX_STEPS + 1), "Noise levels, in place of a schedule: 14.6,7,2.5,0.", unset="none"
    )
    eta: float | None = setting(
        Number(0, 10),
        "Noise added in each step, of samplers that add any; 0 is none.",
        unset="the sampler's",
        a1111="Eta",
    )
    s_churn: float | None = setting(
        Number(0, 1000), "Noise added before each step, of samplers that take it.", unset="0", a1111="Sigma churn"
    )
    s_tmin: float | None = setting(
        Number(0, MAX_SIGMA), "Lowest noise level at which s_churn adds noise.", unset="0", a1111="Sigma tmin"
    )
    s_tmax: float | None = setting(
        Number(0, MAX_SIGMA), "Highest noise level at which s_churn adds noise.", unset="no limit", a1111="Sigma tmax"
    )
    s_noise: float | None = setting(
        Number(0, 10), "Strength of the noise that steps add.", unset="1", a1111="Sigma noise"
    )
    guidance_start: float | None = setting(
        Number(0, 1),
        "Fraction of the steps before which there is no guidance.",
        group="Guidance",
        unset="0",
        neutral=0.0,
        a1111="Guidance start",
    )
    guidance_end: float | None = setting(
        Number(0, 1),
        "Fraction of the steps after which there is no guidance; such steps take half the time.",
        group="Guidance",
        unset="1",
        neutral=1.0,
        a1111="Guidance end",
    )
    guidance_rescale: float | None = setting(
        Number(0, 1),
        "How much of the contrast that guidance adds is taken back (Lin et al. 2024).",
        group="Guidance",
        unset="0",
        neutral=0.0,
        a1111="Guidance rescale",
    )
    guidance_mode: str | None = setting(
        Choice(GUIDANCE_MODES),
        "cfgpp takes the sampler's CFG++ form, which wants a guidance scale of about 1.",
        group="Guidance",
        unset="the sampler's own",
    )
    pag_scale: float | None = setting(
        Number(0, MAX_PAG_SCALE),
        "Perturbed-attention guidance (Ahn et al. 2024): sounder shapes for half more time; 0 is off, 3 is usual.",
        group="Guidance",
        unset="0",
        neutral=0.0,
        a1111="PAG scale",
    )
    hires: float | None = setting(
        Number(1, MAX_HIRES),
        "Enlarge the picture by this factor and go over it again (hires fix).",
        group="Stages",
        unset="off",
        a1111="Hires upscale",
    )
    hires_size: Size | None = setting(
        Sizes(),
        "WIDTHxHEIGHT to enlarge to, in place of a factor.",
        group="Stages",
        unset="off",
        a1111="Hires resize",
    )
    hires_strength: float | None = setting(
        Number(0, 1),
        "How far the second pass may go from the enlarged picture: 0 keeps it, 1 redraws it.",
        group="Stages",
        unset="0.7 with --hires",
        a1111="Hires strength",
    )
    hires_steps: int | None = setting(
        Whole(1, MAX_STEPS),
        "Steps that the second pass runs.",
        group="Stages",
        unset="those of the first",
        a1111="Hires steps",
    )
    hires_upscaler: str | None = setting(
        Upscalers("upscaler"),
        f"How to enlarge: {', '.join(catalogue.UPSCALERS)}, or the reference of an upscaler network.",
        group="Stages",
        unset="latent with --hires",
        a1111="Hires upscaler",
    )
    hires_sampler: str | None = setting(
        Choice(SAMPLERS, lambda text: catalogue.find_sampler(text).name),
        "Sampler of the second pass.",
        group="Stages",
        unset="that of the first",
        a1111="Hires sampler",
    )
    hires_schedule: str | None = setting(
        Choice(SCHEDULES, lambda text: catalogue.find_schedule(text).name),
        "Schedule of the second pass.",
        group="Stages",
        unset="that of the first",
        a1111="Hires schedule type",
    )
    hires_guidance_scale: float | None = setting(
        Number(0, MAX_GUIDANCE_SCALE),
        "Guidance scale of the second pass.",
        group="Stages",
        unset="that of the first",
        flags=("--hires-cfg",),
        a1111="Hires CFG Scale",
    )
    hires_prompt: str | None = setting(
        Text(), "Prompt of the second pass.", group="Stages", unset="that of the first", a1111="Hires prompt"
    )
    hires_negative_prompt: str | None = setting(
        Text(),
        "Negative prompt of the second pass.",
        group="Stages",
        unset="that of the first",
        a1111="Hires negative prompt",
    )
    refiner: str | None = setting(
        Reference(),
        "Another checkpoint of the same latents, such as SDXL's refiner, which takes the last steps.",
        group="Stages",
        unset="none",
        a1111="Refiner",
    )
    refiner_switch: float | None = setting(
        Number(0, 1),
        "Where the refiner takes over: 0.8 leaves it the last fifth of the timesteps.",
        group="Stages",
        unset="0.8 with --refiner",
        a1111="Refiner switch at",
    )
    upscaler: str | None = setting(
        PartReference("upscaler"),
        "Network (ESRGAN, Real-ESRGAN) that enlarges the finished picture: .safetensors file, name, or hub id.",
        group="Stages",
        unset="none",
        a1111="Postprocess upscaler",
    )
    cache_interval: int | None = setting(
        Whole(1, MAX_STEPS),
        "Compute the network's deep part in one call of this many, and reuse it in between (DeepCache); 1 is exact.",
        group="Speed",
        unset="1",
        neutral=1,
        a1111="Cache interval",
    )
    token_merging: float | None = setting(
        Number(0, MAX_TOKEN_MERGING),
        f"Fraction (0 to {MAX_TOKEN_MERGING:g}) of similar tokens merged before self-attention (ToMe); 0 is exact.",
        group="Speed",
        unset="0",
        neutral=0.0,
        a1111="Token merging ratio",
    )
    dtype: str | None = setting(
        Choice(DTYPES), "Precision of the networks.", group="Speed", scope="model", unset="fp16 on a GPU, fp32 on a CPU"
    )
    quantize: int | None = setting(
        WholeChoice(QUANTIZE_BITS, "bits"),
        "Bits of the linear layers: 8 or 4.",
        group="Speed",
        scope="model",
        unset="off",
    )
    vae: str | None = setting(
        PartReference("vae"),
        "VAE to use instead, also a tiny one (TAESD): folder, .safetensors file, name, or hub id.",
        group="Model",
        scope="model",
        unset="none",
    )
    prediction_type: str | None = setting(
        Choice(PREDICTION_TYPES),
        "What the network predicts, where its file does not say.",
        group="Model",
        scope="model",
        unset="the checkpoint's",
    )
    hashes: Any = setting(Hashes(), "Contents of the files named here.", scope="record", vary=False)

    def __post_init__(self) -> None:
        self._split_sampler()
        for declaration in declared(type(self)):
            value = getattr(self, declaration.name)
            if value is None and declaration.default is None:
                continue
            checked = declaration.kind.check(declaration.name, value)
            if checked is not value:
                object.__setattr__(self, declaration.name, checked)
        start, end = self.guidance_interval
        if start >= end:
            raise RequestError(
                f"Guidance starts at {start:g} and ends at {end:g} of the steps.",
                "Let it start before it ends, or turn it off with a guidance_scale of 1.",
            )
        if isinstance(self.seed, tuple) and len(self.seed) != self.batch_size:
            raise RequestError(
                f"There are {len(self.seed)} seeds for {self.batch_size} images.",
                "Give one seed, or one for each image.",
            )
        places = len(self.batch_index) if isinstance(self.batch_index, tuple) else 1
        if self.batch_index is not None and places != self.batch_size:
            raise RequestError(
                f"There are {self.batch_size} images and {places} places in a batch.", "Give one for each image."
            )

    def _split_sampler(self) -> None:
        """Older names say both at once: "DPM++ 2M Karras"."""
        for sampler, kind in SAMPLER_PAIRS:
            name = getattr(self, sampler)
            if isinstance(name, str) and name not in SAMPLERS and getattr(self, kind) is None:
                row, schedule = catalogue.split_sampler(name)
                object.__setattr__(self, sampler, row.name)
                if schedule is not None:
                    object.__setattr__(self, kind, schedule.name)

    @property
    def guidance_interval(self) -> tuple[float, float]:
        """Fractions of the steps between which guidance is applied: (0, 1) is all of them."""
        start = 0.0 if self.guidance_start is None else self.guidance_start
        return start, 1.0 if self.guidance_end is None else self.guidance_end

    @cached_property
    def prompts(self) -> tuple[str, ...]:
        """One prompt an image: each text `n_images` times, in the order of the list."""
        texts = self.prompt if isinstance(self.prompt, tuple) else (self.prompt,)
        return tuple(text for text in texts for _ in range(self.n_images))

    @property
    def batch_size(self) -> int:
        return self.n_images * (len(self.prompt) if isinstance(self.prompt, tuple) else 1)

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """One seed an image; needs `seed` to be set."""
        if self.seed is None:
            raise RequestError("The request has no seed yet.", "Set one, or let StableDiffusion.resolve draw one.")
        if isinstance(self.seed, tuple):
            return self.seed
        shared = self.n_images if self.compat == "comfyui" else 1  # images that ComfyUI draws from one seed
        return tuple((self.seed + i // shared) % (MAX_SEED + 1) for i in range(self.batch_size))

    @cached_property
    def batch_places(self) -> tuple[BatchPlace | None, ...]:
        """Each image's place in a batch that one seed is drawn for, which ComfyUI's have; None for an image alone."""
        if isinstance(self.batch_index, tuple):
            return self.batch_index
        if self.batch_index is not None:
            return (self.batch_index,)
        if self.compat != "comfyui" or self.n_images == 1 or isinstance(self.seed, tuple):
            return (None,) * self.batch_size
        return tuple(BatchPlace(i % self.n_images, self.n_images) for i in range(self.batch_size))

    @property
    def image_names(self) -> tuple[str, ...]:
        """What tells the images apart: their seeds, and their places where they share one."""
        pairs = zip(self.seeds, self.batch_places, strict=True)
        return tuple(f"{seed}" if place is None else f"{seed}-{place.index}" for seed, place in pairs)

    @property
    def keeps_a_part(self) -> bool:
        """Whether a part of the image is put back as it was, around what is repainted (StableDiffusion.finish)."""
        return self.image is not None and (self.mask is not None or self.expand is not None)

    @property
    def wanted_model(self) -> Model:
        """The model that this asks for; what is loaded may be another, and then that is what is recorded."""
        values = {item.name: getattr(self, item.name) for item in fields(Model) if item.name != "reference"}
        return Model(self.model, **values)

    def for_model(self, model: Model) -> Request:
        """The request with another model's fields."""
        values = {item.name: getattr(model, item.name) for item in fields(Model) if item.name != "reference"}
        return replace(self, model=model.reference, **values)

    def single(self, index: int) -> Any:
        """The request that renders image `index` of this one alone."""
        place = self.batch_places[index]
        return replace(self, prompt=self.prompts[index], seed=self.seeds[index], n_images=1, batch_index=place)

    def singles(self) -> Iterator[Any]:
        """The requests that render each image alone."""
        return (self.single(index) for index in range(self.batch_size))

    def values(self) -> dict[str, Any]:
        """Every setting that has a value, by name, as JSON holds it."""
        held = ((item, getattr(self, item.name)) for item in declared(type(self)))
        return {item.name: item.kind.to_json(value) for item, value in held if value is not None}

    def neutral_values(self) -> dict[str, Any]:
        """Of the settings that are unset, those with a value that changes nothing: a picture's text leaves it out."""
        unset = (item for item in declared(Request) if getattr(self, item.name) is None)
        return {item.name: item.neutral for item in unset if item.neutral is not None}

    def to_json(self) -> str:
        """Canonical JSON: keys sorted, nothing that is unset, ASCII only."""
        return json.dumps(self.values(), sort_keys=True, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Request:
        """Reads `to_json`; raises RequestError for anything that is not a request."""
        return cls.from_dict(_object_in(text))

    @classmethod
    def recorded(cls, text: str) -> Request:
        """Reads the JSON of a picture or of latents: as `from_json`, but older ones have plain prompts."""
        return cls.from_dict(as_recorded(_object_in(text)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Request:
        """A request of settings by name; raises RequestError for a name that is no setting."""
        check_names(values)
        return cls(**values)


@dataclass(frozen=True)
class Resolved(Request):
    """A request as `StableDiffusion.resolve` filled it in: it says the truth about the model that renders it.

    `noise_levels` is the schedule of its first pass; `passes` are all of them (stages.py). `first_calls` is of the view
    of a second pass: the calls of the network in the first, which its prompts count (A1111's prompt editing).
    `finished_size` is the (height, width) in pixels of the pictures that are kept, which differs from what is rendered
    where a part of a picture is, or an upscaler enlarges it. Fields that only apply with others stay None: `image`,
    `strength` without an image, `negative_prompt`, `schedule` and `sigmas` where the checkpoint's own are used.
    """

    noise_levels: Schedule = field(default=None, compare=False, repr=False)  # type: ignore[assignment]
    passes: tuple[Pass, ...] = field(default=(), compare=False, repr=False)
    first_calls: int | None = field(default=None, compare=False, repr=False)
    finished_size: tuple[int, int] = field(default=(0, 0), compare=False, repr=False)

    if TYPE_CHECKING:  # what resolve has filled in, for whoever reads the fields
        seed: int | tuple[int, ...] = _FILLED
        steps: int = _FILLED
        guidance_scale: float = _FILLED
        height: int = _FILLED
        width: int = _FILLED
        sampler: str = _FILLED
        rng: str = _FILLED
        variation_seed: int = _FILLED
        variation_strength: float = _FILLED
        ensd: int = _FILLED
        rounding: str = _FILLED
        prompt_syntax: str = _FILLED
        clip_skip: int = _FILLED
        model: str = _FILLED
        dtype: str = _FILLED
        guidance_start: float = _FILLED
        guidance_end: float = _FILLED
        guidance_rescale: float = _FILLED
        pag_scale: float = _FILLED
        cache_interval: int = _FILLED
        token_merging: float = _FILLED
        fit: str = _FILLED

    def values(self) -> dict[str, Any]:
        """As of any request, but what changes nothing is left out, so that a picture's text stays short."""
        neutral = {item.name: item.neutral for item in declared(Request) if item.neutral is not None}
        return {name: value for name, value in super().values().items() if neutral.get(name, ...) != value}

    def parts(self, size: int) -> Iterator[Resolved]:
        """The request cut into ones of at most `size` images."""
        for first in range(0, self.batch_size, size):
            part = slice(first, first + size)
            places = self.batch_places[part]
            yield replace(
                self,
                prompt=self.prompts[part],
                seed=self.seeds[part],
                n_images=1,
                batch_index=places if any(places) else None,
            )

    @property
    def n_steps(self) -> int:
        """Steps that the loop yields, of all passes: fewer than `steps` where an image starts it."""
        return sum(each.n_steps for each in self.passes) if self.passes else len(self.noise_levels.sigmas) - 1

    @property
    def final_size(self) -> tuple[int, int]:
        """Height and width of the decoded picture in pixels, which a second pass may have enlarged."""
        last = dict(self.passes[-1].settings) if self.passes else {}
        return last.get("height", self.height), last.get("width", self.width)


def check_names(values: Mapping[str, Any]) -> None:
    """Raises RequestError for a name that is no setting."""
    known = [item.name for item in declared(Request)]
    unknown = sorted(str(name) for name in set(values) - set(known))
    if unknown:
        raise RequestError(f"A request has no field {unknown[0]!r}.", f"The fields are {', '.join(sorted(known))}.")


def as_recorded(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as a file recorded them: prompts are plain where it does not say how to read them."""
    return {**values} if values.get("prompt_syntax") is not None else {**values, "prompt_syntax": RECORDED_SYNTAX}


def _object_in(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text, parse_int=_whole_number)
    except (ValueError, RecursionError) as error:
        raise RequestError(
            f"The request is not JSON ({type(error).__name__}).", "Check where the text comes from."
        ) from None
    if not isinstance(values, dict):
        raise RequestError("The request is not a JSON object.", "Check where the text comes from.")
    return values


def _whole_number(digits: str) -> int:
    """Python reads long numbers in quadratic time, and no field takes one."""
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)
