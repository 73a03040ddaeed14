"""`--until HH:MM` as a moment."""

from __future__ import annotations

import datetime
import re

from ..errors import RequestError


def moment(text: str, now: datetime.datetime | None = None) -> float:
    """Seconds since 1970 of the next time that the clock shows HH:MM: of tomorrow where that is over today."""
    found = re.fullmatch(r"\s*([0-9]{1,2}):([0-9]{2})\s*", text)
    if found is None or int(found[1]) > 23 or int(found[2]) > 59:
        raise RequestError(f"--until is {text!r}.", "It is a time of day, HH:MM: 07:00.")
    now = datetime.datetime.now() if now is None else now
    wanted = now.replace(hour=int(found[1]), minute=int(found[2]), second=0, microsecond=0)
    return (wanted if wanted > now else wanted + datetime.timedelta(days=1)).timestamp()


def clock(moment: float) -> str:
    """`07:00`."""
    return datetime.datetime.fromtimestamp(moment).strftime("%H:%M")
