"""`mlxdiff decode`: saved latents to pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import RequestError
from . import options, output
from .generate import Keep, picture_paths


def decode(
    files: Annotated[list[Path], typer.Argument(help="Files that `generate --save-latents` wrote.", metavar="LATENTS")],
    model: options.Model = None,
    output_path: options.Output = None,
    decode_batch_size: options.DecodeBatchSize = 1,
    tile: options.Tile = None,
    dtype: options.Dtype = None,
    force: options.Force = False,
    no_metadata: options.NoMetadata = False,
    json: options.Json = False,
) -> None:
    """Decode saved LATENTS into pictures, with the model that they were made with.

    NAME.safetensors becomes NAME.png, or NAME-SEED.png for each image where it holds several.
    """
    from ..latents import load_latents

    saved = [load_latents(path) for path in files]
    if output_path is not None and len(saved) > 1:
        raise RequestError(f"There are {len(saved)} files of latents and one --output.", "Decode them without it.")
    from .. import images
    from ..batch import Rendered, decode_images
    from ..files import check_writable

    keep = Keep(force=force, metadata=not no_metadata, latents=False, json=json)
