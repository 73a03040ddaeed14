"""`mlxdiff info`: this machine, one model, or what a picture was made with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from . import options, output

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FILE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".safetensors")


def info(
    subject: Annotated[
        str | None, typer.Argument(help="A model, or a picture or latents file.", metavar="MODEL_OR_FILE")
    ] = None,
    json: options.Json = False,
) -> None:
    """Show the device, versions and cache; or a MODEL; or what a FILE was made with."""
    if subject is None:
        values = about_machine()
    elif Path(subject).is_file():
        values = about_file(Path(subject))
    elif Path(subject).suffix.lower() in FILE_SUFFIXES:
        raise InputError(f"There is no file {subject}.", "Check its name and folder.")
    else:
        values = about_model(subject)
    if json:
        output.say_json(values)
    else:
        show(values)


def about_machine() -> dict[str, Any]:
    from .. import backend, hub
    from .cache import described

    models = [described(model) for model in hub.cached_models()]
    return {**backend.describe(), "default model": hub.default_model(), "models": models}


def about_model(reference: str) -> dict[str, Any]:
    from ..pipeline import StableDiffusion

    sd = StableDiffusion(reference)
    checkpoint, defaults = sd.checkpoint, sd.defaults
    return {
        "model": sd.snapshot.reference,
        "revision": sd.snapshot.revision,
        "path": str(sd.snapshot.path),
        "family": sd.family.name,
        "pipeline": checkpoint.index.class_name,
        "size": f"{defaults.width}x{defaults.height}",
        "steps": defaults.steps,
        "guidance_scale": defaults.guidance_scale,
        "scheduler": checkpoint.scheduler.get("_class_name"),
        "prediction_type": checkpoint.scheduler.get("prediction_type", "epsilon"),
        "latents": f"{checkpoint.vae.latent_channels} channels, {checkpoint.scale_factor} pixels a cell",
        "components": sorted(checkpoint.index.components),
    }


def about_file(path: Path) -> dict[str, Any]:
    if path.suffix != ".safetensors":
        return about_picture(path)
    from ..latents import holds_latents

    return about_latents(path) if holds_latents(path) else about_model(str(path))


def about_picture(path: Path) -> dict[str, Any]:
    from ..metadata import read_picture

    found = read_picture(path)
    for remark in found.notes:
        output.note(remark, style="yellow")
    values: dict[str, Any] = {"file": str(path), "format": found.format, "size": f"{found.size[0]}x{found.size[1]}"}
    return values | made_with(found.request, found.parameters)


def about_latents(path: Path) -> dict[str, Any]:
    from ..latents import load_latents

    saved = load_latents(path)
    return {"file": str(path), "shape": list(saved.array.shape)} | made_with(saved.request, None)


def made_with(request: Any, parameters: str | None) -> dict[str, Any]:
    import json

    values: dict[str, Any] = {}
    if request is not None:
        values["request"] = json.loads(request.to_json())
    if parameters is not None:
        values["parameters"] = parameters
    return values


def show(values: Mapping[str, Any]) -> None:
    """A table of names and values; what is nested gets a line each."""
    from rich.table import Table
    from rich.text import Text

    from ..metadata import printable

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value in _rows(values):
        table.add_row(Text(printable(name), style="bold"), Text(printable(value)))
    output.out_console().print(table)


def _rows(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield name, ""
            yield from ((f"  {key}", str(item)) for key, item in value.items())
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            yield name, ""
            yield from (("", "  ".join(str(part) for part in item.values())) for item in value)
        elif isinstance(value, list):
            yield name, ", ".join(str(item) for item in value) or "none"
        else:
            yield name, "-" if value is None else str(value)
