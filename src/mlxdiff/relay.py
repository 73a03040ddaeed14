"""The passes of a run, each with what the prompts say in it: to the model, and to a refiner."""

from __future__ import annotations

from dataclasses import dataclass

from . import stages
from .encoding import EncodedPrompts, EncodedRequest
from .request import Resolved


@dataclass(frozen=True, eq=False)
class Leg:
    """A pass of a run.

    request  as the pass sees it (`stages.view`)
    encoded  what the prompts tell the model; None where the refiner does the whole pass
    refined  what they tell the refiner; None where it has no part in the pass
    """

    stage: stages.Pass
    request: Resolved
    encoded: EncodedRequest | None
    refined: EncodedRequest | None


def own_views(request: Resolved) -> list[Resolved]:
    """The request as each pass of the model itself sees it."""
    return [view for stage, view in stages.views(request) if not stage.refines]


def refined_views(request: Resolved) -> list[Resolved]:
    """The request as each pass sees it in which the refiner has a part."""
    return [view for stage, view in stages.views(request) if stage.refines or stage.refined is not None]


def legs(request: Resolved, prompts: EncodedPrompts, refiner: EncodedPrompts | None) -> list[Leg]:
    """All passes of a request. The prompts are encoded now, so that no text encoder is needed between two of them."""
    told = iter(prompts.of(own_views(request)))
    refined = iter(() if refiner is None else refiner.of(refined_views(request)))
    return [
        Leg(
            stage,
            view,
            None if stage.refines else next(told),
            next(refined) if stage.refines or stage.refined is not None else None,
        )
        for stage, view in stages.views(request)
    ]
