"""What to load and what to draw, as values: frozen, checked without MLX, and written as canonical JSON.

prompts        what the prompt says, and the files that it may name
sampling       steps, sampler, seeds, number and size
from_pictures  image to image, repainting, controls, pictures as prompts
noise          where noise comes from, its levels, and what steps add
guidance       when guidance works, and its forms
stages         the second pass, the refiner, the upscaler
model          Model: what is loaded, a checkpoint and how its weights are held; and the settings of the networks
request        Request: what is wanted, all these settings together
resolved       Resolved: what will be drawn, a Request of which the checkpoint has filled in every default

Each field of a group is a setting, declared there and nowhere else:

declarations   how a setting is declared, and what follows from it; the sorts of plain values
kinds          the sorts of values that only requests have, and what several groups allow
structured     settings that have parts; adapters, controls and ip_adapters: those parts
pictures       a picture as a setting: a path, or pixels

presets        compat as other settings
option_texts   a request as the options of a command line
keywords       the settings as keyword arguments, for editors
"""

from .adapters import Embedding, Lora
from .declarations import declared
from .kinds import (
    MAX_IMAGES,
    MAX_SEED,
    MAX_SIDE,
    MAX_STEPS,
    RANDOM_SEED,
    SAMPLERS,
    SCHEDULES,
    BatchPlace,
    Margins,
    Size,
)
from .model import Model
from .noise import NOISE_SOURCES, OPTIONS
from .prompts import PROMPT_SYNTAXES
from .request import SAMPLER_PAIRS, Request, as_recorded, check_names
from .resolved import Resolved
from .sampling import SEEDS
from .stages import ONLY_WITH_HIRES

__all__ = [
    "MAX_IMAGES",
    "MAX_SEED",
    "MAX_SIDE",
    "MAX_STEPS",
    "NOISE_SOURCES",
    "ONLY_WITH_HIRES",
    "OPTIONS",
    "PROMPT_SYNTAXES",
    "RANDOM_SEED",
    "SAMPLERS",
    "SAMPLER_PAIRS",
    "SCHEDULES",
    "SEEDS",
    "BatchPlace",
    "Embedding",
    "Lora",
    "Margins",
    "Model",
    "Request",
    "Resolved",
    "Size",
    "as_recorded",
    "check_names",
    "declared",
]
