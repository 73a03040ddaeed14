"""Settings of a picture that is made from other pictures: image to image, repainting, controls, pictures as prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .controls import Control, Preprocessing
from .declarations import Choice, Number, Whole, setting
from .ip_adapters import IPAdapterSetting
from .kinds import MAX_GUIDANCE_SCALE, Margins, Sides, spelled
from .pictures import MaskSource, PictureSource
from .structured import Structured

FITS = ("crop", "pad", "stretch")
FILLS = ("original", "fill", "noise", "blank")


@dataclass(frozen=True)
class FromPictures:
    """The pictures that one is made from, and how closely it keeps to them."""

    image: Any = setting(
        PictureSource(), "Picture to start from (image to image).", group="From a picture", unset="none"
    )
    strength: float | None = setting(
        Number(0, 1),
        "How far to go from --image: 0 keeps it, 1 redraws it.",
        group="From a picture",
        unset="0.8 with --image, and 1 where a part of it is repainted",
        a1111="Denoising strength",
    )
    mask: Any = setting(
        MaskSource(),
        "Picture of what to repaint of --image: white is repainted, black stays. `alpha` is its transparent part.",
        group="From a picture",
        unset="alpha where --image has a transparent part, else none",
    )
    mask_blur: float | None = setting(
        Number(0, 256),
        "Pixels over which the mask's edge is blurred, so that it fades into the rest.",
        group="From a picture",
        unset="0, and 4 with --compat a1111",
        a1111="Mask blur",
    )
    fit: str | None = setting(
        Choice(FITS),
        "How pictures of another shape are brought to the size: cut off, continued at the edges, or distorted.",
        group="From a picture",
        unset="crop",
        neutral="crop",
    )
    inpaint_fill: str | None = setting(
        spelled("inpaint_fill", FILLS, {"latent noise": "noise", "latent nothing": "blank"}),
        "What the repainted part starts from: what is there, noise, nothing, or the colors around it (fill).",
        group="From a picture",
        unset="original, and fill with --expand",
        a1111="Masked content",
    )
    inpaint_area: str | None = setting(
        spelled("inpaint_area", ("whole", "masked"), {"whole picture": "whole", "only masked": "masked"}),
        "What is rendered at the size asked for: the whole picture, or the masked part with some pixels around it.",
        group="From a picture",
        unset="whole",
        a1111="Inpaint area",
    )
    inpaint_padding: int | None = setting(
        Whole(0, 4096),
        "Pixels around the masked part that are rendered with it (--inpaint-area masked).",
        group="From a picture",
        unset="32",
        a1111="Masked area padding",
    )
    expand: Margins | None = setting(
        Sides(),
        "LEFT,TOP,RIGHT,BOTTOM: pixels to add to --image at each side, and to paint (outpainting).",
        group="From a picture",
        unset="none",
    )
    image_guidance_scale: float | None = setting(
        Number(0, MAX_GUIDANCE_SCALE),
        "How closely a model that edits by instructions keeps to --image.",
        group="Guidance",
        unset="1.5 with such a model",
        a1111="Image CFG scale",
    )
    depth: Any = setting(
        PictureSource(),
        "Depth map for a model that takes one: near is white, far is black.",
        group="From a picture",
        unset="none",
    )
    control: tuple[Control, ...] | None = setting(
        Structured(Control),
        "ControlNet or T2I-Adapter, and the picture that it follows; repeatable.",
        group="From a picture",
        unset="none",
    )
    control_preprocess: str | None = setting(
        Preprocessing(),
        "How control pictures are made from the pictures given, where a control does not say it: none, canny, ...",
        group="From a picture",
        unset="none",
    )
    ip_adapter: tuple[IPAdapterSetting, ...] | None = setting(
        Structured(IPAdapterSetting),
        "Picture as a prompt, through an IP-Adapter's file; repeatable.",
        group="Adapters",
        unset="none",
    )

    @property
    def keeps_a_part(self) -> bool:
        """Whether a part of the image is put back as it was, around what is repainted (StableDiffusion.finish)."""
        return self.image is not None and (self.mask is not None or self.expand is not None)
