"""Options that several commands share, so that each is worded once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..request import NOISE_SOURCES, PREDICTION_TYPES, SAMPLERS, SCHEDULES

DTYPES = ("fp16", "bf16", "fp32")


def _one_of(choices: tuple[str, ...]):
    def complete(incomplete: str) -> list[str]:
        return [choice for choice in choices if choice.startswith(incomplete)]

    return complete


Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="Built-in name, hub id (owner/name[@revision]), folder or .safetensors file. Default: MLXDIFF_MODEL,"
        " the one set by `pull --set-default`, or the built-in emoji.",
        show_default=False,
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(help=f"{', '.join(DTYPES)}. Default: fp16 on a GPU, fp32 on a CPU.", autocompletion=_one_of(DTYPES)),
]
Quantize = Annotated[int | None, typer.Option("--quantize", "-q", help="Bits of the linear layers: 8 or 4.")]
Vae = Annotated[
    str | None,
    typer.Option(help="Folder or .safetensors file with a VAE to use instead of the model's own.", show_default=False),
]
PredictionType = Annotated[
    str | None,
    typer.Option(
        help=f"What the UNet predicts, if its file does not say: {', '.join(PREDICTION_TYPES)}.",
        autocompletion=_one_of(PREDICTION_TYPES),
        show_default=False,
    ),
]
Sampler = Annotated[
    str | None,
    typer.Option(
        help=f"{', '.join(SAMPLERS)}. Default: what the checkpoint asks for.", autocompletion=_one_of(SAMPLERS)
    ),
]
Schedule = Annotated[
    str | None,
    typer.Option(
        help=f"How the noise levels are spaced: {', '.join(SCHEDULES)}. Default: what the checkpoint asks for.",
        autocompletion=_one_of(SCHEDULES),
    ),
]
GuidanceStart = Annotated[
    float | None,
    typer.Option(help="Part of the steps, from 0 to 1, before which there is no guidance. Default: 0."),
]
GuidanceEnd = Annotated[
    float | None,
    typer.Option(
        help="Part of the steps after which there is no guidance; a step without skips the negative half. Default: 1."
    ),
]
CacheInterval = Annotated[
    int | None,
    typer.Option(
        help="Compute the UNet's deep part once in so many calls, and reuse it between (DeepCache). Default: 1, exact."
    ),
]
TokenMerging = Annotated[
    float | None,
    typer.Option(
        help="Part of the tokens, up to 0.75, that merge with their likes in the finest self-attention (ToMe)."
        " Default: 0, exact."
    ),
]
Rng = Annotated[
    str,
    typer.Option(
        help=f"Where noise comes from: {', '.join(NOISE_SOURCES)}. torch gives diffusers' pictures on any chip.",
        autocompletion=_one_of(NOISE_SOURCES),
    ),
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Picture to write: .png, .jpg or .webp.", show_default=False)
]
OutputPattern = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        help="Picture to write (.png, .jpg, .webp), a folder, or a template such as"
        " out/{index:04d}-{prompt:.30}-{seed}.png.",
        show_default=False,
    ),
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Overwrite what is there.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, one object a line.")]
NoMetadata = Annotated[bool, typer.Option("--no-metadata", help="Leave out how the picture was made.")]
DecodeBatchSize = Annotated[int, typer.Option(min=1, help="Images decoded at once.")]
Tile = Annotated[
    int | None,
    typer.Option(
        min=64,
        help="Decode in strips of this many pixels squared, to save memory; the picture is the same. Default: as a"
        " whole where memory allows.",
        show_default=False,
    ),
]
