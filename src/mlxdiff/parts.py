"""The parts of a checkpoint in the diffusers layout: one row for each, read by hub, loader, quantizer and single files.

Names only: nothing here reads a file or needs MLX.
"""

from __future__ import annotations

from dataclasses import dataclass

MODEL_INDEX = "model_index.json"
SETTINGS = "mlxdiff.json"

_TOKENIZER_FILES = (
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
)


@dataclass(frozen=True)
class Part:
    """One part of a checkpoint; its name is also its folder's.

    classes    the classes of model_index.json that are implemented; empty where another reader decides
    files      the small files that are loaded, all beside the weights
    essential  what to call the file or files without which there is no such part
    weights    how its writer's library calls a weight file, without `.safetensors`; None for a part without weights
    needed     whether no checkpoint is complete without it
    quantized  whether its linear layers are quantized
    rename     which table of checkpoint.rename takes old names to today's; None for none
    """

    name: str
    classes: tuple[str, ...]
    files: tuple[str, ...]
    essential: str
    weights: str | None = None
    needed: bool = False
    quantized: bool = False
    rename: str | None = None

    @property
    def config(self) -> str:
        """The file that says how the part is built."""
        return self.files[0]

    @property
    def is_tokenizer(self) -> bool:
        return self.files is _TOKENIZER_FILES


def _network(name: str, classes: str, weights: str, **more: bool | str) -> Part:
    return Part(name, tuple(classes.split()), ("config.json",), "config.json", weights, **more)  # pyright: ignore


def _tokenizer(name: str) -> Part:
    return Part(name, ("CLIPTokenizer", "CLIPTokenizerFast"), _TOKENIZER_FILES, "its vocabulary")


_DIFFUSERS, _TRANSFORMERS = "diffusion_pytorch_model", "model"

PARTS = (
    Part("scheduler", (), ("scheduler_config.json",), "scheduler_config.json", needed=True),
    _tokenizer("tokenizer"),
    _tokenizer("tokenizer_2"),
    _network("unet", "UNet2DConditionModel", _DIFFUSERS, needed=True, quantized=True),
    _network("vae", "AutoencoderKL AutoencoderTiny", _DIFFUSERS, needed=True, rename="old_vae_attention"),
    _network("text_encoder", "CLIPTextModel", _TRANSFORMERS, quantized=True, rename="text_model_prefix"),
    _network(
        "text_encoder_2", "CLIPTextModelWithProjection", _TRANSFORMERS, quantized=True, rename="text_model_prefix"
    ),
)

# The part that denoises.
BACKBONE = "unet"

BY_NAME = {part.name: part for part in PARTS}

# What weight files are called: old and new diffusers, then transformers.
STEMS = (_DIFFUSERS, _TRANSFORMERS)
