"""How each program reads a seed. Knows no MLX."""

from __future__ import annotations

from ..errors import RequestError

RANDOM = -1
"""A1111's seed for "another one each time"."""

_BITS = 2**64


def read_seed(value: int | str, program: str) -> int | None:
    """A seed as a whole number from 0 to 2**64 - 1; None where the program would draw one.

    program  `a1111`    -1 or an empty text: drawn
             `comfyui`  0 to 2**64 - 1
             `diffusers`  what torch takes: below 0, the number of 64 bits with that sign (-1 is 2**64 - 1)

    Raises RequestError for what the program does not take.
    """
    if program == "a1111" and str(value).strip() in ("", str(RANDOM)):
        return None
    try:
        seed = int(value)
    except (TypeError, ValueError):
        raise RequestError(f"The seed is {str(value)[:80]!r}.", "It is a whole number.") from None
    low = -(2**63) if program == "diffusers" else 0
    if not low <= seed < _BITS:
        raise RequestError(f"The seed is {str(value)[:80]}.", f"For {program} it lies between {low} and {_BITS - 1}.")
    return seed % _BITS
