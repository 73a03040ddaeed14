"""Step caching: what the deep part of a network gave is used again in the next calls (Ma et al. 2023, "DeepCache").

Deep features change little from one noise level to the next. This knows no network, only that the first axis is the
batch.
"""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx


class StepCache:
    """The deep features of one run, computed in every `interval`-th of its calls. Make one for each run.

    Branches of guidance that are called apart need one each: calls share features by their place in the batch.

    Calls are counted, not steps: a sampler that asks twice a step refreshes after as many calls as any other.
    """

    def __init__(self, interval: int) -> None:
        self._interval = interval
        self._calls = 0
        self._kept: mx.array | None = None

    def __call__(self, compute: Callable[[], mx.array], batch: int) -> mx.array:
        """What `compute` gives, (batch, ...), now or in an earlier call; unevaluated.

        A call for fewer rows than are kept takes the last `batch` of them: without guidance, the prompts' half. For
        more rows than are kept it is computed anew.
        """
        if self._kept is None or self._calls == self._interval or self._kept.shape[0] < batch:
            self._kept, self._calls = compute(), 0
        self._calls += 1
        return self._kept[-batch:]
