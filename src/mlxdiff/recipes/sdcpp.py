"""stable-diffusion.cpp's text where it is in XMP, as in WebP; in PNG it is `parameters`, and a1111.py reads both."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping

from . import a1111
from .drawthings import NAMES
from .recipe import FindModel, Recipe

_TEXT = re.compile(r"""sdcpp:parameters(?:\s*=\s*"([^"]*)"|\s*=\s*'([^']*)'|[^>]*>([^<]*)<)""")


def read(texts: Mapping[str, str], find_model: FindModel | None) -> Recipe | None:
    """The recipe of the text in XMP, or None."""
    for name in NAMES:
        found = _TEXT.search(texts.get(name, ""))
        if found is not None:
            return a1111.read(html.unescape(next(part for part in found.groups() if part is not None)), find_model)
    return None
