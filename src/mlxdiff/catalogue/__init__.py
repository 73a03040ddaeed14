"""What samplers and schedules there are, as data, without MLX: the command line and the settings read their names here.

rows       what a row says: names, options, the diffusers classes it stands for
samplers   the table of samplers
schedules  the table of schedules
upscalers  the table of ways to enlarge between two passes
find       a row from any name that A1111, ComfyUI or diffusers gives it
"""

from .find import find_sampler, find_schedule, find_scheduler_class, split_sampler
from .rows import Option, Sampler, ScheduleRow
from .samplers import SAMPLERS
from .schedules import SCHEDULES
from .upscalers import UPSCALERS, Upscaler, find_upscaler

__all__ = [
    "SAMPLERS",
    "SCHEDULES",
    "UPSCALERS",
    "Option",
    "Sampler",
    "ScheduleRow",
    "Upscaler",
    "find_sampler",
    "find_schedule",
    "find_scheduler_class",
    "find_upscaler",
    "split_sampler",
]
