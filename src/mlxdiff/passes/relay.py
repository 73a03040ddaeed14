"""The passes of one run, one after the other: what each starts from, who denoises in it, and when a refiner takes over.

The loop itself is `StableDiffusion.denoise`; here is what it hands its steps on from pass to pass with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice

import mlx.core as mx

from .. import memory
from ..catalogue import find_sampler
from ..conditioning import Strand
from ..diffusion import guidance, samplers
from ..diffusion.keeping import Keeping
from ..diffusion.schedule import Schedule
from ..diffusion.step import BranchedDenoiser, Step
from ..families import Checkpoint
from ..families.base import PICTURE
from ..loras import Adapters, adapters_of
from ..networks import Networks
from ..prompts.encoding import EncodedPrompts, EncodedRequest, branch_count
from ..request import OPTIONS, Resolved
from ..steering.additions import NOTHING, Steering
from ..steering.controls import Controls
from ..steering.picture_prompts import PicturePrompts
from . import stages
from .branches import Branches
from .enlarging import enlarged
from .guiding import guidance_of
from .handover import Handover
from .randomness import Randomness
from .starting import Start


@dataclass(frozen=True, eq=False)
class Runner:
    """What a pass needs of a model.

    start      (request, randomness, branches, given noise or None) -> what a first pass starts from
    row_bytes  (request) -> what a row of a batch needs in a call of the backbone
    """

    networks: Networks
    checkpoint: Checkpoint
    prompts: EncodedPrompts
    controls: Controls
    pictures: PicturePrompts
    start: Callable[[Resolved, Randomness, Iterable[str], mx.array | None], Start]
    row_bytes: Callable[[Resolved], int]


@dataclass(frozen=True, eq=False)
class Leg:
    """A pass of a run: the request as it sees it, and what the prompts tell the model and the refiner in it."""

    stage: stages.Pass
    request: Resolved
    told: EncodedRequest | None
    refined: EncodedRequest | None


def own_views(request: Resolved) -> list[Resolved]:
    """The request as each pass of the model itself sees it."""
    return [view for stage, view in stages.views(request) if not stage.refines]


def refined_views(request: Resolved) -> list[Resolved]:
    """The request as the refiner sees it in each pass that it has a part in.

    LoRAs, controls, IP-Adapters and textual inversions are made for the model itself: the refiner reads names as words.
    """
    taken = [view for stage, view in stages.views(request) if stage.refines or stage.refined is not None]
    return [view.replaced(lora=None, embedding=None) for view in taken]


def keeps_both(base: Networks, refiner: Networks) -> bool:
    """Whether the networks of both stay in memory while the refiner works."""
    return memory.keeps_both(base.working_bytes, refiner.working_bytes)


class Relay:
    """A run whose prompts are encoded, and whose passes have been found to fit into memory; nothing else is computed.

    base, refiner  the model and the one that refines, if the request has one
    """

    def __init__(self, base: Runner, refiner: Runner | None, request: Resolved) -> None:
        self._base, self._refiner = base, refiner
        self._keeping: Keeping | None = None  # what stays of a picture, until a pass enlarges it
        for stage, view in stages.views(request):
            runner = refiner if refiner is not None and stage.refines else base
            memory.check_denoising(runner.row_bytes(view), branch_count(view) * view.batch_size)
        if refiner is not None and not keeps_both(base.networks, refiner.networks):
            refiner.networks.let_go("backbone")  # of an earlier run
        base.controls.map(request)
        # All now, so that no text encoder is needed between two passes.
        told = iter(base.prompts.of(own_views(request)))
        refined = iter(() if refiner is None else refiner.prompts.of(refined_views(request)))
        self._legs = [
            Leg(
                stage,
                view,
                None if stage.refines else next(told),
                next(refined) if stage.refines or stage.refined is not None else None,
            )
            for stage, view in stages.views(request)
        ]

    def steps(self, latents: mx.array | None) -> Iterator[Step]:
        """The steps of all passes, counted on, each unevaluated; `latents` is noise that replaces the drawn one."""
        index, randomness = 0, None
        for leg in self._legs:
            if randomness is None or leg.stage.start != "left":
                randomness = Randomness(leg.request, self._shape(leg.request))
            for step in self._of(leg, randomness, latents):
                latents = step.latents
                yield replace(step, index=index)
                index += 1

    def _of(self, leg: Leg, randomness: Randomness, latents: mx.array | None) -> Iterator[Step]:
        """The steps of one pass. `latents` are those of the pass before it; of the first, the noise that is given."""
        stage, view = leg.stage, leg.request
        levels, row = stage.run_levels, find_sampler(view.sampler)
        steering = NOTHING
        if stage.start == "request":
            told = leg.refined if leg.told is None else leg.told
            assert told is not None
            start = self._base.start(view, randomness, _branches(self._base, told), latents)
            latents, steering, self._keeping = start.latents, start.steering, start.keeping
        assert latents is not None
        if stage.start == "enlarged" and stage.enlarged_to is not None:
            self._keeping = None
            large = enlarged(self._base.networks, latents, view, stage.enlarged_to)
            latents = levels.start(randomness.start(), large)
        runner, adapters = self._base, adapters_of(view)
        if stage.refines and self._refiner is not None:
            runner, adapters = self._refiner, ()
            denoise: BranchedDenoiser = self._taken_over(leg, levels, latents, stage.calls_before)
        else:
            size = view.height, view.width
            controls = self._base.controls.of(view, view.noise_levels, size)
            pictures = self._base.pictures.of(view, self._shape(view)[:2])
            steering = replace(steering, controls=controls, pictures=pictures)
            own = _denoiser(self._base, view, levels, leg.told, adapters, steering)
            denoise = own if stage.refined is None else _adapting(own, self._base.networks, adapters)
            del own
        refined, switch = stage.refined, view.refiner_switch
        if refined is not None and switch is not None:
            due = stages.takes_over(switch, levels)
            denoise = Handover(denoise, due, lambda held, calls: self._taken_over(leg, refined, held, calls))
        options = dict(row.a1111_defaults) if view.compat == "a1111" else {}
        options |= {name: getattr(view, name) for name in OPTIONS}
        keeping = self._keeping
        noise = randomness.steps(levels.sigmas[: stage.n_steps + 1])
        steps = samplers.sample(row, denoise, latents, levels, noise, options, keeping)
        del denoise, latents
        if stage.n_steps < levels.steps:
            steps = islice(steps, stage.n_steps)
        if refined is None:  # else the backbone may be let go on the way, and `_adapting` does the same
            steps = runner.networks.stepping(steps, runner.networks.adapted("backbone", adapters), adapters)
        end = levels.ends[0] if row.own_levels else levels.sigmas[-1]
        for step in steps:
            if step.sigma <= end * (1 + 1e-9):
                last = levels.end(step.latents)
                step = replace(step, latents=last if keeping is None else keeping.ended(last))
            yield step

    def _taken_over(self, leg: Leg, levels: Schedule, latents: mx.array, calls_before: int) -> guidance.Guided:
        """The refiner's denoiser. Where memory is scarce `latents` are evaluated, and the base's backbone is let go."""
        base, refiner = self._base, self._refiner
        assert refiner is not None
        if not keeps_both(base.networks, refiner.networks):
            mx.eval(latents)
            base.networks.let_go("backbone")
        view = leg.request if leg.stage.refines else leg.request.replaced(noise_levels=levels)
        return _denoiser(refiner, view, levels, leg.refined, (), NOTHING, calls_before)

    def _shape(self, request: Resolved) -> tuple[int, int, int]:
        """(h, w, C) of one image's latents."""
        factor, vae = self._base.checkpoint.scale_factor, self._base.checkpoint.vae
        return request.height // factor, request.width // factor, vae.latent_channels


def _denoiser(
    runner: Runner,
    view: Resolved,
    levels: Schedule,
    told: EncodedRequest | None,
    adapters: Adapters,
    steering: Steering,
    calls_before: int = 0,
) -> guidance.Guided:
    """What the sampler of a pass calls: the backbone, with what the prompts say and guidance."""
    assert told is not None
    predict = Branches(
        runner.networks.adapted("backbone", adapters).network,
        _branches(runner, told),
        levels,
        view.guidance_scale,
        token_merging=view.token_merging,
        cache_interval=view.cache_interval,
        steering=steering,
        calls_before=calls_before,
    )
    always = (guidance.NEGATIVE,) if find_sampler(view.sampler).unconditional else ()
    return guidance.guided(predict, guidance_of(view, runner.checkpoint, told.weights), always)


def _adapting(denoise: guidance.Guided, networks: Networks, adapters: Adapters) -> guidance.Guided:
    """The model's denoiser, each call of it with these adapters, whatever other runs put on between them."""
    held, predict = networks.adapted("backbone", adapters), denoise.predict

    def adapted(latents: mx.array, sigma: float, names: tuple[str, ...]) -> Mapping[str, mx.array]:
        networks.put_on(held, adapters)
        return predict(latents, sigma, names)

    return replace(denoise, predict=adapted)


def _branches(runner: Runner, told: EncodedRequest) -> Mapping[str, tuple[Strand, ...]]:
    """What each branch is told; the one of an editing model that sees the picture alone hears the negative prompt."""
    branches = told.branches
    if runner.checkpoint.takes == PICTURE and guidance.NEGATIVE in branches:
        return {**branches, guidance.IMAGE: branches[guidance.NEGATIVE]}
    return branches
