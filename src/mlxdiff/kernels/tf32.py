"""Whether fp32 may be rounded to TF32, which has 10 of its 23 bits behind the point."""

from __future__ import annotations

import os
import re

VARIABLE = "MLX_ENABLE_TF32"


def asked() -> bool:
    """Whether the environment asks for it. MLX reads the variable once, as C's atoi would, and takes none as a yes."""
    number = re.match(r"\s*[+-]?\d+", os.environ.get(VARIABLE, "1"))
    return number is not None and int(number[0]) != 0
