"""Steps as they are evaluated: on a GPU the next one is launched while the GPU computes this one.

A step is prepared on the CPU in about a millisecond, in which the GPU would have nothing to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import mlx.core as mx

from . import backend
from .diffusion.step import Step


def evaluated(steps: Iterable[Step]) -> Iterator[Step]:
    """The same steps, each when its latents are evaluated; on a GPU one more has begun by then."""
    if not backend.is_gpu():
        for step in steps:
            mx.eval(step.latents)
            yield step
        return
    last: Step | None = None
    for step in steps:
        mx.async_eval(step.latents)
        if last is not None:
            mx.eval(last.latents)
            yield last
        last = step
    if last is not None:
        mx.eval(last.latents)
        yield last
