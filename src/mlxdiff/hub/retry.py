"""Which failures of a connection pass by themselves, and how long to wait before the next try."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import TypeVar

from .client import Refused, TooSlow, Unreachable

TRIES = 5  # while a file is coming
TRIES_TO_ASK = 3  # before anything has come, when someone waits for the plan
SLOW_TRIES = 2  # each of them has cost long already
PAUSE = 0.5  # seconds before the second try in a row; doubled for each one after that
LONGEST = 120.0  # seconds; if the hub asks for more, that is an error rather than a long wait
PASSING = (408, 429, 500, 502, 503, 504)

Result = TypeVar("Result")


def pause_before_retry(error: BaseException, failures: int, tries: int = TRIES) -> float | None:
    """Seconds to wait after `failures` failures in a row; None for what another try would not help.

    The hub's own word (Retry-After, or the reset of its rate limit) goes before the doubling pause.
    """
    if failures >= (min(tries, SLOW_TRIES) if isinstance(error, TooSlow) else tries):
        return None
    if isinstance(error, Refused):
        if error.status not in PASSING:
            return None
        said = _asked_for(error.headers)
        if said is not None:
            return said if said <= LONGEST else None
    elif not isinstance(error, Unreachable):
        return None
    # Spread, so that those whom one failure hit do not come back together.
    return PAUSE * (2**failures - 1) * random.uniform(0.75, 1.25)


def retried(call: Callable[[], Result], deadline: float) -> Result:
    """What `call` returns, tried again while its failures are of those that pass and `time.monotonic()` allows."""
    failures = 0
    while True:
        failures += 1
        try:
            return call()
        except Exception as error:
            pause = pause_before_retry(error, failures, TRIES_TO_ASK)
            if pause is None or time.monotonic() + pause > deadline:
                raise
            time.sleep(pause)


def _asked_for(headers: Mapping[str, str]) -> float | None:
    """Seconds, from Retry-After (a number or a date) or `RateLimit: "api";r=0;t=55`."""
    value = headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    if value:
        try:
            return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
        except (ValueError, TypeError, OverflowError):
            return None
    match = re.search(r";\s*r=0\s*;\s*t=(\d{1,6})", headers.get("RateLimit", ""))
    return float(match[1]) if match else None
