"""Prompts to conditionings, kept for requests that say the same."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import mlx.core as mx

from .conditioning import Conditioning
from .errors import MlxdiffWarning
from .networks import Networks
from .request import Resolved

KEPT = 8  # encoded requests

Conditionings = dict[str, Conditioning]
"""A conditioning of B rows for each branch of guidance, by its name."""


class EncodedPrompts:
    """What the text encoders make of requests; the last KEPT of them are kept.

    Whole batches are kept, not prompts: a prompt's last bits depend on its neighbours, and a picture is the same
    however often it is rendered. Runs that differ only in steps, seed, sampler or scale are conditioned alike.
    """

    def __init__(self, networks: Networks) -> None:
        self._networks = networks
        self._kept: dict[tuple, Conditionings] = {}

    def of(self, requests: Sequence[Resolved]) -> list[Conditionings]:
        """The conditionings of each request, evaluated. More than KEPT requests push out their own first."""
        found = [self._of(request) for request in requests]
        mx.eval([branch.arrays() for branches in found for branch in branches.values()])
        self._networks.prompts_are_encoded()
        return found

    def _of(self, request: Resolved) -> Conditionings:
        branches = branches_of(request, self._networks.checkpoint.backbone.uses_guidance_embedding)
        key = (*branches.items(), request.height, request.width)
        if key in self._kept:  # what was used last goes last
            self._kept[key] = self._kept.pop(key)
        else:
            if len(self._kept) == KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = self._networks.encoder(branches, height=request.height, width=request.width)
        return self._kept[key]


def is_guided(request: Resolved, *, embedded: bool) -> bool:
    """Whether a second branch is computed. Guidance at 1 or below changes nothing and costs half the time.

    `embedded`: the network takes the guidance scale as an input, and needs no second branch.
    """
    return request.guidance_scale > 1 and not embedded


def branches_of(request: Resolved, embedded: bool) -> dict[str, tuple[str, ...] | None]:
    """The texts of each branch of guidance, the negative one first."""
    guided = is_guided(request, embedded=embedded)
    idle = "negative prompt" if request.negative_prompt else ""
    idle = "guidance interval" if not idle and request.guidance_interval != (0, 1) else idle
    if idle and not guided:
        warnings.warn(
            MlxdiffWarning(f"The {idle} does nothing at guidance scale {request.guidance_scale:g}."), stacklevel=2
        )
    if not guided:
        return {"positive": request.prompts}
    return {
        "negative": None if request.negative_prompt is None else (request.negative_prompt,),
        "positive": request.prompts,
    }
