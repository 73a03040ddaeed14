"""Which schedule a run takes, and its noise levels: the checkpoint's own, or those of the program that is asked for."""

from __future__ import annotations

from ..catalogue import SCHEDULES
from ..diffusion.programs import PROGRAMS, program_schedule
from ..diffusion.schedule import Schedule, make_schedule
from ..diffusion.scheduler_config import SchedulerConfig
from ..families import Checkpoint
from ..request import Request


def config_of(checkpoint: Checkpoint, sampler: str | None = None) -> SchedulerConfig:
    """What the checkpoint's scheduler says to a sampler; None is its own."""
    return SchedulerConfig.from_dict(checkpoint.scheduler, sampler, class_name=checkpoint.scheduler_class)


def schedule_name(request: Request, config: SchedulerConfig, checkpoint: Checkpoint) -> str | None:
    """The schedule by its name; None is the checkpoint's own, or where noise levels are given."""
    name = request.schedule
    if name is None and request.sigmas is None and request.compat in PROGRAMS:
        name = config.row.automatic if request.compat == "a1111" else "uniform"
    if name is not None and checkpoint.index.class_name.startswith("StableDiffusionXL"):
        own = SCHEDULES[name].sdxl
        return name if own is None else own
    return name


def levels_of(request: Request, config: SchedulerConfig, checkpoint: Checkpoint) -> Schedule:
    """The schedule of the run, made as the program makes it whose picture is asked for."""
    wanted = {"steps": request.steps, "schedule": request.schedule, "sigmas": request.sigmas}
    if request.compat in PROGRAMS:
        return program_schedule(request.compat, config, strength=request.strength, **wanted)
    # A consistency model's own pipeline spreads the steps over the strength's part; all others leave steps out.
    if checkpoint.index.class_name.startswith("LatentConsistencyModel") and config.row.placement.distilled:
        return make_schedule(config, span=request.strength, **wanted)
    return make_schedule(config, strength=request.strength, **wanted)
