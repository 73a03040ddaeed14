"""How many bytes of memory this process may take: the machine's, or what a container or `ulimit -v` leaves of them."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from functools import cache

from . import control_groups

# Address space that `ulimit -v` counts and a process hardly fills: libraries, and for each core the stacks,
# the buffers of the BLAS and an arena of the C library. Measured: 625 MB with two cores;
# with 640 MiB set aside, four pictures of 128x128 pixels still faulted within 1.02 GB.
_ADDRESSES, _ADDRESSES_A_CORE = 3 * 2**28, 2**26


def allowed() -> int:
    """Bytes that this process may take, whoever else does."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([physical, *_group_limits(), *_address_limit()])


@cache
def _group_limits() -> tuple[int, ...]:
    """Bytes that control groups grant, read once: every request that is resolved asks. Empty without a limit."""
    found = []
    for path in control_groups.files("memory", "memory.max", "memory.limit_in_bytes"):
        text = path.read_text(encoding="ascii").strip() if path.is_file() else ""
        if text.isdigit():  # without a limit version 2 says "max"
            found.append(int(text))
    return tuple(found)


def _address_limit() -> Iterator[int]:
    """Bytes that `ulimit -v` leaves for data; nothing without that limit."""
    addresses = resource.getrlimit(resource.RLIMIT_AS)[0]
    if addresses != resource.RLIM_INFINITY:
        yield max(0, addresses - _ADDRESSES - _ADDRESSES_A_CORE * (os.cpu_count() or 1))
