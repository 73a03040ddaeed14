"""Which of IPTC's source types a picture is that mlxdiff writes: made by a model, or only in part.

The term follows from the request, and for a picture that was repainted in part from what that picture says of itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from .. import __version__
from ..containers import xmp
from ..errors import MlxdiffError
from ..request import Request
from ..request.pictures import Pixels
from .texts import source_type_in, texts_in

TOOL = f"mlxdiff {__version__}"


def source_type(request: Request) -> str:
    """The term for a picture of the request.

    Where a mask or margins leave a part of another picture as it was, the model made a part of it only; unless a model
    made the other picture as well, which it then says of itself. All else is a model's in every pixel, also where a
    picture was its beginning.
    """
    if not request.keeps_a_part:
        return xmp.TRAINED
    image = request.image
    said = image.source_type if isinstance(image, Pixels) else said_by(image)
    return xmp.TRAINED if said == xmp.TRAINED else xmp.EDITED


def said_by(path: str | Path) -> str | None:
    """The term that a picture file names, or that its request means; None where it says nothing that can be read."""
    try:
        texts = texts_in(path)[2]
        said = source_type_in(texts)
        if said is None and "mlxdiff" in texts:
            return xmp.EDITED if Request.recorded(texts["mlxdiff"]).keeps_a_part else xmp.TRAINED
    except MlxdiffError:
        return None
    return said


def of_sheet(paths: Iterable[str | Path]) -> str | None:
    """The term for a sheet of these picture files; None where none of them says that a model had a part in it."""
    said = {said_by(path) for path in paths}
    if said == {xmp.TRAINED}:
        return xmp.TRAINED
    return xmp.MIXED if said & {xmp.TRAINED, xmp.EDITED, xmp.MIXED} else None


def text(source: str | None = xmp.TRAINED) -> dict[str, str]:
    """The text to write into a picture of that source type, by name; none for None."""
    return {} if source is None else {xmp.NAME: xmp.packet(source, TOOL)}


def text_alone(request: Request) -> dict[str, str]:
    """Nothing but the source type of a picture of the request, by name."""
    return text(source_type(request))
