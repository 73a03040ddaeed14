"""What a runner is asked to do, and what it says has happened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ..errors import MlxdiffError
from .jobs import Job
from .pace import Pace
from .render import Denoised, Rendered


@dataclass(frozen=True)
class Written:
    """The job's picture is on disk. `found`: it was before, or another process made it.

    seconds      the picture's share of the time that its batch took; None where it was found
    peak_memory  bytes that MLX held at most meanwhile
    """

    job: Job
    found: bool = False
    seconds: float | None = None
    peak_memory: int | None = None


@dataclass(frozen=True)
class Failed:
    """The job has no picture, after all retries."""

    job: Job
    error: MlxdiffError


@dataclass(frozen=True)
class Stopped:
    """The run ends although pictures are missing, because of `limit`, `until` or `battery`."""

    why: str


@dataclass(frozen=True)
class Cooling:
    """The machine is hotter than the limit, in degrees Celsius: the run waits, and goes on by itself."""

    temperature: float
    limit: float


Event = Denoised | Rendered | Written | Failed | Stopped | Cooling


@dataclass(frozen=True)
class Policy:
    """How a run goes about it.

    retries    how often a picture is tried again when it could not be written, or memory ran out
    fail_fast  whether the first failure ends the run; a full disk ends it in any case
    stop       asked between batches; once it says yes, what is under way is finished and the run ends
    limit      how many pictures are tried at most
    until      seconds since 1970: no batch is begun after it, nor one of which is known that it would end after it
    min_battery      percent: on battery no batch is begun with less
    max_temperature  degrees Celsius: no batch is begun on a hotter machine until it has cooled down
    pace       how long pictures take; what the run measures is added to it
    is_ours    whether this process renders a batch at all, by its number
    waits      whether to wait for pictures that other processes have, and take over those that they give up
    """

    decode_batch_size: int = 1
    tile: int | None = None
    retries: int = 0
    fail_fast: bool = False
    stop: Callable[[], bool] = lambda: False
    limit: int | None = None
    until: float | None = None
    min_battery: int | None = None
    max_temperature: int | None = None
    pace: Pace = field(default_factory=Pace)
    is_ours: Callable[[int], bool] = lambda _: True
    waits: bool = True
