"""`mlxdiff grid`: pictures that exist, on one contact sheet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import RequestError
from . import options, output


def grid(
    pictures: Annotated[list[Path], typer.Argument(help="Pictures, in reading order.", metavar="IMAGES")],
    output_path: options.Output = None,
    n_rows: Annotated[int | None, typer.Option(min=1, help="Rows. Default: about square.")] = None,
    gap: Annotated[int, typer.Option(min=0, help="Pixels between pictures.")] = 0,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Put IMAGES on one contact sheet."""
    if output_path is None:
        raise RequestError("There is no place for the sheet.", "Name it with --output.")
    if n_rows is None:
        n_rows = max(1, round(len(pictures) ** 0.5))
    if n_rows > len(pictures):
        raise RequestError(f"{len(pictures)} pictures do not fill {n_rows} rows.", "Ask for fewer rows.")
    from .. import files, images

    files.check_writable(output_path, force=force)
    sheet = images.contact_sheet(
        [images.to_uint8(images.load_picture(path)[None])[0] for path in pictures], n_rows, gap=gap
    )
    images.write_picture(output_path, sheet, None, force=force)
    height, width = sheet.shape[:2]
    if json:
        output.say_json({"path": str(output_path), "height": height, "width": width, "images": len(pictures)})
    else:
        output.say(str(output_path))
