"""The passes of a picture over the one loop: the first, one that enlarges it (hires fix), and a refiner's.

A pass is a value: which of the request's settings hold otherwise in it, its noise levels, how many of them it runs, and
what it starts from. `plan` makes them of a request; `view` is the request as a pass sees it. Nothing here computes.

                    steps of the second pass (n, strength s)    the refiner takes over
    A1111           the last n of int(n / s)                    at a call below the switch's timestep,
                                                                and the sampler goes on with its history
    ComfyUI         the last n of int(n / s)                    at step round(switch * steps)
    otherwise       the last n of int(n / s)                    at a step below the switch's timestep,
                                                                as a run of its own (diffusers')
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from .. import loras
from ..catalogue import Sampler, find_sampler
from ..diffusion.schedule import Schedule
from ..diffusion.scheduler_config import SchedulerConfig
from ..diffusion.space import VariancePreserving, training_sigmas
from ..errors import RequestError
from ..families import Checkpoint
from ..families.base import NOTHING
from ..request import MAX_STEPS, ONLY_WITH_HIRES, OPTIONS, Request, Resolved, Size
from . import scheduling

STRENGTH = 0.7
UPSCALER = "latent"
SWITCH = 0.8
_WHOLE = 0.999  # a strength above counts as this one
Start = Literal["request", "enlarged", "left"]


@dataclass(frozen=True)
class Pass:
    """One run of a sampler.

    levels        its noise levels
    n_steps       how many of its steps are run
    first         the first of them
    settings      of the request, those that hold otherwise: (name, value)
    start         `request`: noise, or the request's picture with noise; `enlarged`: the latents before it, enlarged,
                  with noise; `left`: the latents as the pass before left them
    enlarged_to   (height, width) in latent cells; what is beyond the pass's own size is cut off around the centre
    calls_before  calls of the network that its prompts have seen already
    first_calls   as Resolved.first_calls
    refines       whether the refiner is what denoises
    refined       the levels as the refiner sees them, which takes over within the pass (A1111); None: it does not
    """

    levels: Schedule
    n_steps: int
    first: int = 0
    settings: tuple[tuple[str, Any], ...] = ()
    start: Start = "request"
    enlarged_to: tuple[int, int] | None = None
    calls_before: int = 0
    first_calls: int | None = None
    refines: bool = False
    refined: Schedule | None = None

    @property
    def run_levels(self) -> Schedule:
        """The levels from the first step on."""
        return _from(self.levels, self.first)


def view(request: Resolved, each: Pass, levels: Schedule | None = None) -> Resolved:
    """The request as a pass sees it: its own size, sampler, prompts and noise levels."""
    changes: dict[str, Any] = dict(each.settings)
    if "prompt" in changes and isinstance(request.prompt, tuple):
        changes["prompt"] = (changes["prompt"],) * len(request.prompt)
    return request.replaced(
        **changes,
        noise_levels=each.levels if levels is None else levels,
        passes=(),
        first_calls=each.first_calls,
    )


def views(request: Resolved) -> list[tuple[Pass, Resolved]]:
    """Every pass of a request, and the request as it sees it."""
    return [(each, view(request, each)) for each in request.passes]


def settled(request: Request) -> dict[str, Any]:
    """The settings of stages with their defaults. Raises RequestError for some that mean nothing without others."""
    enlarges = request.hires is not None or request.hires_size is not None
    if request.hires is not None and request.hires_size is not None:
        raise RequestError("There are both hires and hires_size.", "Give a factor or a size.")
    if enlarges and (request.mask is not None or request.expand is not None):
        raise RequestError("There is a mask and a second pass.", "Repaint the picture first, then enlarge the result.")
    alone = next((name for name in ONLY_WITH_HIRES if getattr(request, name) is not None), None)
    if alone is not None and not enlarges:
        raise RequestError(f"There is a {alone} but no second pass.", "Give hires, the factor to enlarge by.")
    if request.refiner_switch is not None and request.refiner is None:
        raise RequestError("There is a refiner_switch but no refiner.", "Give the checkpoint that refines.")
    values: dict[str, Any] = {}
    if enlarges:
        values = {"hires_strength": STRENGTH, "hires_upscaler": UPSCALER}
    if request.refiner is not None:
        values["refiner_switch"] = SWITCH
    return {name: value for name, value in values.items() if getattr(request, name) is None}


def plan(
    request: Request, levels: Schedule, asked: Request, checkpoint: Checkpoint, refiner: Checkpoint | None
) -> tuple[Pass, ...]:
    """The passes of a request whose settings are filled in; `asked` is it before, `levels` are of its first pass.

    Raises RequestError where the passes cannot be run.
    """
    passes = [Pass(levels, levels.steps)]
    if request.hires is not None or request.hires_size is not None:
        passes.append(_second(request, asked, checkpoint))
    if refiner is not None:
        passes[-1:] = _refined(request, passes[-1], scheduling.config_of(refiner))
    return tuple(passes)


def schedule_of_second(request: Request, passes: tuple[Pass, ...]) -> str | None:
    """The schedule of the second pass as a record has to say it: where it is another than the first pass's."""
    if request.hires_schedule is not None:
        return request.hires_schedule
    return next((dict(each.settings).get("schedule") for each in passes if each.enlarged_to is not None), None)


def calls(request: Request) -> int:
    """How often the network is called in a pass, as the steps of prompt editing count it."""
    assert request.steps is not None
    return evaluations(request.sampler) * request.steps


def evaluations(sampler: str | None) -> int:
    """Calls of the network in a step, as the steps of prompt editing count them."""
    return 2 if sampler is not None and find_sampler(sampler).evaluations == 2 else 1


def sizes(request: Request, factor: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Of the second pass: (height, width) in cells to enlarge to, and what is kept of them around the centre."""
    height, width = request.height, request.width
    assert height is not None
    assert width is not None
    if request.hires is not None:
        if request.compat == "comfyui":  # which counts in cells
            target = round(height // factor * request.hires), round(width // factor * request.hires)
        else:
            target = int(height * request.hires) // factor, int(width * request.hires) // factor
        return target, target
    asked = request.hires_size
    assert isinstance(asked, Size)
    if width / height < asked.width / asked.height:
        cover = asked.width * height // width, asked.width
    else:
        cover = asked.height, asked.height * width // height
    enlarged = cover[0] // factor, cover[1] // factor
    cut = max(0, cover[0] - asked.height) // factor, max(0, cover[1] - asked.width) // factor
    return enlarged, (enlarged[0] - cut[0], enlarged[1] - cut[1])


def _second(request: Request, asked: Request, checkpoint: Checkpoint) -> Pass:
    """The pass over the enlarged picture."""
    if checkpoint.takes != NOTHING:
        raise RequestError("This model draws from a picture, which a second pass has none of.", "Leave hires out.")
    factor = checkpoint.scale_factor
    enlarged, kept = sizes(request, factor)
    config = scheduling.config_of(checkpoint, _own(request, "sampler"))
    steps, strength = _own(request, "steps"), request.hires_strength
    if strength == 0:
        raise RequestError(f"Of {steps} steps, a hires_strength of 0 leaves none.", "Ask for a higher one.")
    settings: dict[str, Any] = {
        "height": kept[0] * factor,
        "width": kept[1] * factor,
        "steps": steps,
        "sampler": config.sampler,
        "sigmas": None,
        "image": None,
        "strength": None,
        **{name: _option(request, name, config.row) for name in OPTIONS},
        **{name: _own(request, name) for name in ("guidance_scale", "negative_prompt")},
    }
    if request.hires_prompt is not None:
        settings |= _prompted(request, request.hires_prompt)
    schedule = asked.schedule if request.hires_schedule is None else request.hires_schedule
    own_timesteps = request.compat == "a1111" and config.row.automatic is None and config.sampler != request.sampler
    if own_timesteps and request.hires_schedule is None:
        schedule = None  # which A1111 takes then, whatever the first pass has
    wanted = request.replaced(schedule=schedule, **{name: settings[name] for name in ("sampler", "sigmas", "image")})
    settings["schedule"] = scheduling.schedule_name(wanted, config, checkpoint)
    wanted = wanted.replaced(schedule=settings["schedule"], **_length(request, steps, strength))
    levels = scheduling.levels_of(wanted, config, checkpoint)
    # Its own prompt is said even where the first pass has the same: that one may be another's of a batch.
    settings = {name: value for name, value in settings.items() if name == "prompt" or value != getattr(request, name)}
    first_calls = calls(request)
    return Pass(
        levels,
        levels.steps,
        settings=tuple(settings.items()),
        start="enlarged",
        enlarged_to=enlarged,
        first_calls=first_calls,
    )


def _prompted(request: Request, prompt: str) -> dict[str, Any]:
    """The second pass's own prompt, and its LoRAs: those of the first, but for what its tags name at another scale."""
    told = loras.with_tags(request.replaced(prompt=prompt, lora=None, seed=None, batch_index=None, n_images=1))
    named = {loras.file_of(lora) for lora in told.lora or ()}
    kept = [lora for lora in request.lora or () if loras.file_of(lora) not in named]
    return {"prompt": told.prompt, "lora": (*kept, *(told.lora or ())) or None}


def _option(request: Request, name: str, row: Sampler) -> Any:
    """An option of the second pass's sampler: the first one's where it has it, but for what that has from A1111."""
    if name not in {option.name for option in row.options}:
        return None
    value = getattr(request, name)
    if request.compat != "a1111" or request.sampler == row.name:
        return value
    first = find_sampler(str(request.sampler))
    if value in (None, dict(first.a1111_defaults).get(name)):
        return dict(row.a1111_defaults).get(name)
    return value


def _own(request: Request, name: str) -> Any:
    """A setting of the second pass, or else of the first."""
    value = getattr(request, f"hires_{name}")
    return getattr(request, name) if value is None else value


def _length(request: Request, steps: int, strength: Any) -> dict[str, Any]:
    """Steps and strength of a schedule whose last `steps` steps are run.

    Raises RequestError for one of more than MAX_STEPS.
    """
    if steps / strength >= MAX_STEPS + 1:
        raise RequestError(
            f"{steps} steps at a hires_strength of {strength:g} are the last of more than {MAX_STEPS}.",
            "Ask for a higher strength, or for fewer steps.",
        )
    if request.compat == "comfyui":
        return {"steps": steps, "strength": strength}
    total = max(steps, int(steps / min(strength, _WHOLE)))
    if request.compat == "a1111":  # which runs one step more than the strength's part
        return {"steps": total, "strength": (steps - 0.5) / total}
    return {"steps": total, "strength": None if total == steps else (steps + 0.5) / total}


def _refined(request: Request, last: Pass, refiner: SchedulerConfig) -> list[Pass]:
    """The last pass, of which the refiner takes the end."""
    switch = request.refiner_switch
    assert switch is not None
    levels = last.levels
    row = find_sampler(dict(last.settings).get("sampler", request.sampler))
    if request.compat == "a1111" or row.own_levels:  # a sampler with levels of its own cannot be run in two parts
        return [replace(last, refined=_as_refiner(levels, refiner))]
    if request.compat == "comfyui":
        base = round(switch * last.n_steps)
    else:
        cutoff = round(refiner.num_train_timesteps * (1 - switch))
        base = sum(timestep >= cutoff for timestep in levels.timesteps)
    rest = replace(
        last,
        levels=_as_refiner(levels, refiner),
        n_steps=last.n_steps - base,
        first=base,
        start="left" if base else last.start,
        calls_before=base * evaluations(row.name),
        refines=True,
    )
    before = [replace(last, n_steps=base)] if base else []
    return [*before, *([rest] if rest.n_steps else [])]


def takes_over(switch: float, levels: Schedule) -> Callable[[float], bool]:
    """A1111's rule: whether the refiner is to denoise at a level, by the nearest level of training."""
    space = levels.space
    assert isinstance(space, VariancePreserving)
    table = training_sigmas(space.training)
    return lambda sigma: bool((len(table) - 1 - np.argmin(np.abs(table - sigma))) / len(table) >= switch)


def _from(levels: Schedule, first: int) -> Schedule:
    """The levels from step `first` on."""
    if first == 0:
        return levels
    arrivals = None if levels.arrivals is None else levels.arrivals[first:]
    return replace(
        levels,
        sigmas=levels.sigmas[first:],
        timesteps=levels.timesteps[first:],
        arrivals=arrivals,
        departure=None,
        rehearsal=None,
    )


def _as_refiner(levels: Schedule, refiner: SchedulerConfig) -> Schedule:
    """The same levels in the space that another network was trained in."""
    space = levels.space
    assert isinstance(space, VariancePreserving)
    training = refiner.training(infinite=False)
    other = replace(space, prediction_type=refiner.prediction_type, training=training)
    if replace(training, terminal_alpha_bar=None) == replace(space.training, terminal_alpha_bar=None):
        return replace(levels, space=other)
    return replace(levels, space=other, timesteps=tuple(other.timestep(sigma) for sigma in levels.sigmas[:-1]))
