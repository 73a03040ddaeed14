"""What `mlxdiff info` says of a picture, of a text with its settings, and of latents: names and values for a page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MlxdiffError
from ..request import Request, declared
from . import output

if TYPE_CHECKING:
    from ..culling import Picture
    from ..metadata import PictureInfo


def described(picture: Picture) -> dict[str, Any]:
    """A picture of a list, as `about_picture` describes it alone, without the remarks."""
    return _described(picture.path, picture.info)


def about_text(path: Path) -> dict[str, Any]:
    """A text of A1111's parameters, as the request that it is read as."""
    from ..metadata import request_from_file

    return {"file": str(path), "format": "text"} | made_with(request_from_file(path), None)


def about_picture(path: Path) -> dict[str, Any]:
    from ..metadata import read_picture
    from ..recipes import sayings

    found = read_picture(path)
    for remark in found.notes:
        output.note(f"{path}: {remark}", style="yellow")
    try:
        recipe = None if found.request is not None or found.sheet is not None else found.recipe()
        said = [] if recipe is None else sayings(recipe)
    except MlxdiffError as error:
        said = [str(error)]
    for saying in said:
        output.note(f"{path}: {saying}", style="yellow")
    return _described(path, found)


def _described(path: Path, found: PictureInfo) -> dict[str, Any]:
    """What a picture says, in words and values."""
    values: dict[str, Any] = {"file": str(path), "format": found.format}
    if found.format != "text":
        values["size"] = f"{found.size[0]}x{found.size[1]}"
    if found.sheet is not None:
        values |= {"sheet": found.sheet.described, "again": found.sheet.remedy}
    if found.provenance is not None:
        values["provenance"] = found.provenance
    values |= made_with(found.request, found.parameters)
    return values if found.request is not None or found.sheet is not None else values | made_elsewhere(found)


def made_elsewhere(found: PictureInfo) -> dict[str, Any]:
    """What another program's texts ask for, as far as they can be used."""
    try:
        recipe = found.recipe()
    except MlxdiffError:
        return {}
    if recipe is None:
        return {}
    kinds = {item.name: item.kind for item in declared(Request)}
    settings = {name: kinds[name].to_json(value) for name, value in recipe.settings.items()}
    return {"program": recipe.program, "settings": settings}


def about_latents(path: Path) -> dict[str, Any]:
    from ..latents import read_info

    saved = read_info(path)
    return {"file": str(path), "shape": list(saved.shape)} | made_with(saved.request, None)


def made_with(request: Any, parameters: str | None) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if request is not None:
        values["request"] = json.loads(request.to_json())
    if parameters is not None:
        values["parameters"] = parameters
    return values
