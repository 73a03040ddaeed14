"""What the options of a command say about going about a run, the same for every command. Knows no MLX."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RunOptions:
    """How pictures are rendered, kept and announced.

    batch_size       images denoised at once; None is what memory allows
    save_latents     whether NAME.safetensors is written beside each picture
    save_trajectory  whether NAME.trajectory.safetensors is
    metadata         whether pictures say how they were made
    force            whether what is in the way is overwritten
    skip_existing    whether any picture of the right name counts as done
    retries          how often a picture is tried again when it could not be written, or memory ran out
    fail_fast        whether the first failure ends the run
    limit            how many pictures this process renders at most
    until            when it is to be over, in seconds since 1970
    min_battery      percent below which the run ends on a machine that runs on battery
    max_temperature  degrees Celsius above which it waits
    dry_run          whether pictures are only listed, and nothing is rendered or written
    json             whether results are printed as JSON
    progress         how it is shown: `bar`, `json` or `none`
    open             whether the system's viewer is to show the result
    bell             whether the terminal is rung at the end; None: after a long run
    preview          whether pictures are drawn in the terminal as they emerge
    preview_vae      a VAE to decode these with, best a tiny one; implies `preview`
    """

    batch_size: int | None = None
    decode_batch_size: int = 1
    tile: int | None = None
    save_latents: bool = False
    save_trajectory: bool = False
    metadata: bool = True
    force: bool = False
    skip_existing: bool = False
    retries: int = 0
    fail_fast: bool = False
    limit: int | None = None
    until: float | None = None
    min_battery: int | None = None
    max_temperature: int | None = None
    dry_run: bool = False
    json: bool = False
    progress: str = "bar"
    open: bool = False
    bell: bool | None = None
    preview: bool = False
    preview_vae: str | None = None

    @property
    def shows(self) -> bool:
        return self.preview or self.preview_vae is not None
