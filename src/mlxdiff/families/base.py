"""What every family offers the pipeline: configs read from the checkpoint, its networks, and how it encodes a prompt.

A family is a value, not a class to inherit from. It knows its text encoders and its defaults; it knows neither the
sampler nor the loop. docs/adding-a-family.md walks through one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..checkpoint import transform
from ..checkpoint.detect import ModelIndex, check_parts
from ..checkpoint.load import LoadedNetwork
from ..checkpoint.rename import TABLES
from ..checkpoint.single_file import read_single_file
from ..conditioning import Conditioning
from ..errors import CheckpointError, MlxdiffWarning, RequestError, UnsupportedError
from ..models import autoencoders
from ..models.autoencoders import Autoencoder, AutoencoderConfig
from ..models.backbone import Backbone, BackboneConfig
from ..models.clip import CLIPOutput, CLIPTextConfig, CLIPTextModel
from ..models.unet import UNet2DConditionModel, UNetConfig
from ..models.unet_backbone import UNetBackbone
from ..parts import BACKBONE, BY_NAME
from ..text import emphasis
from ..text.chunking.chunk import Chunk, Names
from ..text.encode import Encoder
from ..text.inversion import token_vectors
from ..text.tokenizer import Tokenizer
from .source import FileSource, FolderSource, Source, WithVAE

LARGEST_SETTING = 100_000


Branches = Mapping[str, "Sequence[str] | None"]
"""Texts by the name of a branch of guidance: one an image, or one for all; None where there is no such text."""


Vectors = Mapping[str, tuple[mx.array, ...]]
"""Textual inversions by the names that prompts give them: (n, D) for each text encoder."""


@dataclass(frozen=True)
class PromptEncoder:
    """A family's text encoders.

    encode        (branches, *, height, width, clip_skip) -> Conditioning of each branch: plain texts of one chunk
    encoders      (clip_skip, vectors) -> the text encoders as text.encode wants them, for all other prompts
    conditioning  (branch, context (B, S, C), pooled (B, P), height, width) -> Conditioning
    loaded        the text encoders by component, with what changes their adapters
    tokenizers    one a text encoder

    Sizes are in pixels; a clip_skip of 1 skips no layer.
    """

    encode: Callable[..., dict[str, Conditioning]]
    encoders: Callable[[int, Vectors], list[Encoder]]
    conditioning: Callable[[str, mx.array, mx.array, int, int], Conditioning]
    loaded: Mapping[str, LoadedNetwork[CLIPTextModel]]
    tokenizers: tuple[Tokenizer, ...]

    @property
    def networks(self) -> tuple[CLIPTextModel, ...]:
        """The modules that hold the weights."""
        return tuple(loaded.module for loaded in self.loaded.values())

    @property
    def widths(self) -> tuple[int, ...]:
        """The hidden size of each text encoder."""
        return tuple(network.config.hidden_size for network in self.networks)

    def __call__(self, branches: Branches, *, height: int, width: int, clip_skip: int = 1) -> dict[str, Conditioning]:
        return self.encode(branches, height=height, width=width, clip_skip=clip_skip)


@dataclass(frozen=True)
class Defaults:
    """What the checkpoint asks for when the caller is silent: steps, guidance, and the size in pixels."""

    steps: int
    guidance_scale: float
    height: int
    width: int


@dataclass(frozen=True)
class Checkpoint:
    """The configs of one checkpoint: everything that can be known without reading a weight."""

    source: Source
    index: ModelIndex
    backbone: BackboneConfig
    vae: AutoencoderConfig
    scheduler: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The checkpoint's folder, or its single file."""
        return self.source.path

    @property
    def scheduler_class(self) -> str:
        """The scheduler's class, as model_index.json names it."""
        return self.index.components["scheduler"].class_name

    @property
    def scale_factor(self) -> int:
        """Pixels a latent cell spans in each direction."""
        return self.vae.scale_factor

    @property
    def has_tiny_vae(self) -> bool:
        """Whether the VAE is a tiny one, which decodes in a fraction of a step's time."""
        return isinstance(self.vae, autoencoders.TinyVAEConfig)

    @property
    def takes(self) -> str:
        """What the backbone takes behind the latents, as the number of its channels says; see TAKES."""
        extra = self.backbone.in_channels - self.vae.latent_channels
        known = {0: NOTHING, 1: DEPTH, self.vae.latent_channels: PICTURE, self.vae.latent_channels + 1: MASKED}
        return known.get(extra, UNKNOWN)


NOTHING, DEPTH, PICTURE, MASKED, UNKNOWN = TAKES = ("nothing", "depth", "picture", "masked picture", "unknown")
"""nothing: it draws from text; depth: a depth map; picture: one to edit by an instruction; masked picture: one to
repaint and its mask."""


@dataclass(frozen=True)
class Family:
    """One family of checkpoints.

    pipelines     the `_class_name`s of model_index.json that it serves
    load_encoder  (checkpoint, dtype, quantize) -> PromptEncoder
    tokenizers    (checkpoint) -> its tokenizers, one a text encoder: no weight is read
    usual         (checkpoint) -> (steps, guidance_scale) that the family is known to want
    upcasts_vae   whether `force_upcast` in the VAE's config is obeyed: decode in fp32
    """

    name: str
    pipelines: tuple[str, ...]
    load_encoder: Callable[[Checkpoint, mx.Dtype, int | None], PromptEncoder]
    tokenizers: Callable[[Checkpoint], tuple[Tokenizer, ...]]
    usual: Callable[[Checkpoint], tuple[int, float]]
    upcasts_vae: bool


def open_source(path: Path, *, vae: Path | None = None, prediction_type: str | None = None) -> Source:
    """The source of a checkpoint: a folder in the diffusers layout, or a file in the original one.

    vae              a folder or file whose VAE replaces the checkpoint's
    prediction_type  what the UNet predicts, where a file does not say it
    """
    if path.is_file():
        file = read_single_file(path, prediction_type)
        if file.assumed:
            warnings.warn(
                MlxdiffWarning(
                    f"{path} does not say what its UNet predicts: taken for v_prediction, as Stable Diffusion 2.1 at"
                    " 768 pixels does. If pictures are noise, say prediction_type epsilon, as the base models need."
                ),
                stacklevel=2,
            )
        source: Source = FileSource(file)
    else:
        source = FolderSource(path)
    return source if vae is None else WithVAE(source, vae)


def read_checkpoint(source: Source | Path, *, prediction_type: str | None = None) -> Checkpoint:
    """Reads every config of a source, or of what is at a path. Raises CheckpointError or UnsupportedError.

    `prediction_type` overrules what the scheduler's config says that the UNet predicts.
    """
    if isinstance(source, Path):
        source = open_source(source)
    index = source.index()
    _refuse_variations(index, source.path)
    check_parts(index, source.path)
    # diffusers makes the class that model_index.json names, from a config that another class may have written.
    scheduler = {**source.config("scheduler"), "_class_name": index.components["scheduler"].class_name}
    return Checkpoint(
        source=source,
        index=index,
        backbone=UNetConfig.from_dict(source.config(BACKBONE)),
        vae=autoencoders.read_config(source.config("vae")),
        scheduler=scheduler if prediction_type is None else {**scheduler, "prediction_type": prediction_type},
        settings=source.settings(),
    )


def _refuse_variations(index: ModelIndex, path: Path) -> None:
    """Raises UnsupportedError for what draws from a picture's CLIP embedding; its UNet is refused in other words."""
    if index.class_name in _VARIATIONS:
        raise UnsupportedError(
            f"{path} makes variations of a picture ({index.class_name}): its network takes a picture's CLIP embedding,"
            " which mlxdiff does not give it.",
            "Use a text-to-image checkpoint with --image instead.",
        )


_VARIATIONS = (
    "StableDiffusionImageVariationPipeline",
    "StableUnCLIPPipeline",
    "StableUnCLIPImg2ImgPipeline",
    "UnCLIPPipeline",
    "UnCLIPImageVariationPipeline",
)


def defaults(family: Family, checkpoint: Checkpoint) -> Defaults:
    """The checkpoint's `mlxdiff.json` decides, then what the family is known to want."""
    steps, guidance_scale = family.usual(checkpoint)
    height, width = checkpoint.backbone.latent_size
    values = {
        "steps": steps,
        "guidance_scale": guidance_scale,
        "height": height * checkpoint.scale_factor,
        "width": width * checkpoint.scale_factor,
    }
    for key, value in checkpoint.settings.items():
        # NaN passes neither comparison, and no picture needs a number as large as the upper one.
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if key not in values or not is_number or not 0 <= value <= LARGEST_SETTING:
            raise CheckpointError(
                f"{checkpoint.folder / 'mlxdiff.json'} has {key!r}: {value!r}.",
                f"It may hold numbers up to {LARGEST_SETTING} named {', '.join(values)}.",
            )
        values[key] = type(values[key])(value)
    return Defaults(**values)


def is_distilled(checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint is a few-step (Turbo) one.

    Adversarially distilled checkpoints say so only through their scheduler: an Euler class with trailing spacing.
    """
    return (
        checkpoint.scheduler_class in ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")
        and checkpoint.scheduler.get("timestep_spacing") == "trailing"
        and not checkpoint.scheduler.get("rescale_betas_zero_snr")  # which asks for trailing spacing too
    )


def load_backbone(checkpoint: Checkpoint, dtype: mx.Dtype, bits: int | None) -> Backbone:
    """The denoiser. Raises UnsupportedError for one that takes what no kind of checkpoint does."""
    if checkpoint.takes == UNKNOWN:
        raise UnsupportedError(
            f"The UNet of {checkpoint.folder} takes {checkpoint.backbone.in_channels} channels, the VAE has"
            f" {checkpoint.vae.latent_channels}: it expects something beside the latents that mlxdiff does not know.",
            "Use a checkpoint that draws from text, inpaints, edits by instructions, or takes a depth map.",
        )
    loaded = load_network(checkpoint, BACKBONE, dtype, bits, finish=(transform.fuse(), transform.pack()))
    return UNetBackbone(loaded.module, reload=loaded.reload)


def load_vae(family: Family, checkpoint: Checkpoint, dtype: mx.Dtype) -> Autoencoder:
    """The VAE in `dtype`, or in fp32 where fp16 would overflow (SDXL's)."""
    if family.upcasts_vae and checkpoint.vae.force_upcast:
        dtype = mx.float32
    return load_network(checkpoint, "vae", dtype).module


def each_once(encode: Callable[[list[str]], list[mx.array]], texts: Sequence[str]) -> list[mx.array]:
    """Runs `encode` on each different text once and spreads the rows: outputs have one row a text of `texts`."""
    distinct = list(dict.fromkeys(texts))
    rows = mx.array([distinct.index(text) for text in texts])
    return [array[rows] for array in encode(distinct)]


State = Callable[[CLIPOutput], mx.array]
"""Which of a text encoder's hidden states a prompt's context is made of."""


def encoders_of(
    pairs: Sequence[tuple[Tokenizer, CLIPTextModel]], states: Sequence[State], vectors: Vectors
) -> list[Encoder]:
    """Text encoders as functions of chunks, which hear textual inversions by name."""

    def made(index: int) -> Encoder:
        (tokenizer, clip), state = pairs[index], states[index]
        own = {name: each[index] for name, each in vectors.items()}

        def encode(chunks: Sequence[Chunk]) -> tuple[mx.array, mx.array]:
            inserted = token_vectors(chunks, clip.embeddings.token_embedding, own)
            output = clip(emphasis.ids_of(chunks), vectors=inserted, hidden=emphasis.hidden_of(chunks))
            return state(output), output.pooled

        return Encoder(tokenizer, encode, Names({name: rows.shape[0] for name, rows in own.items()}, tokenizer))

    return [made(index) for index in range(len(pairs))]


def check_clip_skip(clip_skip: int, networks: Sequence[CLIPTextModel]) -> None:
    """Raises RequestError where a text encoder has no such layer."""
    layers = min(network.config.num_hidden_layers for network in networks)
    if clip_skip > layers:
        raise RequestError(
            f"clip_skip is {clip_skip}, and this model's text encoder has {layers} layers.",
            f"Give a number from 1, which skips none, to {layers}.",
        )


def read_tokenizer(checkpoint: Checkpoint, suffix: str) -> Tokenizer:
    """The tokenizer of a text encoder; `suffix` is "" or "_2"."""
    return checkpoint.source.tokenizer(f"tokenizer{suffix}")


def load_text_encoder(
    checkpoint: Checkpoint, suffix: str, dtype: mx.Dtype, bits: int | None
) -> tuple[Tokenizer, LoadedNetwork[CLIPTextModel]]:
    """A tokenizer and its text encoder; `suffix` is "" or "_2", which also projects the pooled text."""
    source, component = checkpoint.source, f"text_encoder{suffix}"
    tokenizer = read_tokenizer(checkpoint, suffix)
    config = CLIPTextConfig.from_dict(source.config(component))
    # MLX would read past the table without a word.
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"The tokenizer{suffix} of {source.path} has {tokenizer.vocab_size} tokens, its {component}"
            f" {config.vocab_size}.",
            "They belong to different models: download the model again.",
        )
    return tokenizer, load_network(checkpoint, component, dtype, bits)


def build_network(checkpoint: Checkpoint, component: str) -> nn.Module:
    """The network of a component, with its initial, unevaluated values."""
    config = checkpoint.source.config(component)
    classes = BY_NAME[component].classes
    named = config.get("_class_name")
    return _NETWORKS[named if named in classes else classes[0]](config)


def load_network(
    checkpoint: Checkpoint,
    component: str,
    dtype: mx.Dtype | None,
    bits: int | None = None,
    *,
    finish: Sequence[transform.Transformation] = (),
) -> LoadedNetwork[Any]:
    """The network of a component with its weights, unevaluated; `reload` changes its adapters.

    With dtype None weights stay as they are stored. Raises CheckpointError where they do not fit the config.
    """
    return LoadedNetwork(
        lambda: build_network(checkpoint, component),
        lambda: checkpoint.source.weights(component),
        dtype=dtype,
        table=TABLES[BY_NAME[component].rename],
        bits=bits,
        finish=finish,
    )


_NETWORKS: Mapping[str, Callable[[Mapping[str, Any]], nn.Module]] = {
    "UNet2DConditionModel": lambda config: UNet2DConditionModel(UNetConfig.from_dict(config)),
    "AutoencoderKL": lambda config: autoencoders.build(autoencoders.read_config(config)),
    "AutoencoderTiny": lambda config: autoencoders.build(autoencoders.read_config(config)),
    "CLIPTextModel": lambda config: CLIPTextModel(CLIPTextConfig.from_dict(config)),
    "CLIPTextModelWithProjection": lambda config: CLIPTextModel(CLIPTextConfig.from_dict(config), with_projection=True),
}
"""Class names of parts.py to what builds them from a config.json."""
