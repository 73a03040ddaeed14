"""What keeps a run from beginning its next batch: enough pictures, the hour, an empty battery; or heat, for a while."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from ..computer import power
from .events import Cooling, Policy, Stopped
from .jobs import Job

LOOK = 2.0  # seconds between looks at a hot machine, and at least between two looks at any
COOLER = 5.0  # degrees below the limit before a hot machine goes on


class Limits:
    """Asked before each batch; `stopped` says why nothing more begins."""

    def __init__(
        self,
        policy: Policy,
        *,
        battery: Callable[[], power.Battery | None] = power.battery,
        temperature: Callable[[], float | None] = power.temperature,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.stopped: Stopped | None = None
        self._policy = policy
        self._battery, self._temperature, self._sleep = battery, temperature, sleep
        self._begun = 0  # pictures
        self._looked = -LOOK

    def cool(self) -> Iterator[Cooling]:
        """Waits while the machine is too hot, and says so once; cut short where the run is to end."""
        limit = self._policy.max_temperature
        if limit is None or not self._looks():
            return
        found = self._temperature()
        if found is None or found <= limit:
            return
        yield Cooling(found, limit)
        while found is not None and found > limit - COOLER and not self._policy.stop():
            self._sleep(LOOK)
            if self._policy.until is not None and time.time() >= self._policy.until:
                return
            found = self._temperature()

    def admitted(self, jobs: Sequence[Job], missing: tuple[Job, ...]) -> tuple[Job, ...]:
        """Those of a batch's missing pictures that may be rendered: of the last batch so many as the limit leaves."""
        policy = self._policy
        if policy.min_battery is not None:
            found = self._battery()
            if found is not None and found.discharging and found.percent < policy.min_battery:
                self.stopped = Stopped("battery")
                return ()
        if policy.until is not None:
            seconds = policy.pace.total(job.request for job in jobs)
            if time.time() + (0 if seconds is None else seconds) >= policy.until:
                self.stopped = Stopped("until")
                return ()
        if policy.limit is not None:
            room = policy.limit - self._begun
            if len(missing) > room:
                self.stopped = Stopped("limit")
                missing = missing[:room]
        self._begun += len(missing)
        return missing

    def _looks(self) -> bool:
        """Whether it is time: asking takes milliseconds, and small batches take no longer."""
        now = time.monotonic()
        if now - self._looked < LOOK:
            return False
        self._looked = now
        return True
