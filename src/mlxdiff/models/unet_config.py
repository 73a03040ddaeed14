"""What a UNet's `config.json` says, checked and spelled out for each level of the U."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import CheckpointError, UnsupportedError
from . import config as read

_DOWN = ("DownBlock2D", "CrossAttnDownBlock2D")
_UP = ("UpBlock2D", "CrossAttnUpBlock2D")

# Feature maps of the finest level that are alive at once in a call: input, skip connections, an attention block.
MAPS = 24

# Refused before modules are made, which alone could fill the memory; SDXL has 6 resnet blocks on the way down and 70
# transformer layers.
MOST_BLOCKS = 1000

# What decides how large latents are; SDXL has 4 channels of 128 x 128 cells.
MOST_CHANNELS = 256
MOST_CELLS = 512

# Keys that change the maths and have few values that are implemented, diffusers' default first. All other keys mean
# nothing to these blocks, `resnet_out_scale_factor` among them, or are training's remains; diffusers ignores them too.
_IMPLEMENTED: dict[str, tuple[Any, ...]] = {
    "_class_name": ("UNet2DConditionModel",),
    "mid_block_type": ("UNetMidBlock2DCrossAttn", "UNetMidBlock2D", None),
    "addition_embed_type": (None, "text_time"),
    "act_fn": ("silu", "swish"),
    "time_embedding_type": ("positional",),
    "time_embedding_act_fn": (None,),
    "timestep_post_act": (None,),
    "class_embed_type": (None,),
    "num_class_embeds": (None,),
    "class_embeddings_concat": (False, None),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "num_attention_heads": (None,),
    "dual_cross_attention": (False, None),
    "attention_type": ("default", None),
    "cross_attention_norm": (None,),
    "resnet_time_scale_shift": ("default",),
    "resnet_skip_time_act": (False, None),
}


@dataclass(frozen=True)
class UNetConfig:
    """`config.json` of a UNet2DConditionModel. Tuples have one entry a level, from the top of the U to its bottom.

    sample_size              latent cells along the sides that it was trained on, one number if they are equal
    layers                   resnet blocks on the way down; the way up has one more
    heads                    attention heads (what diffusers' configs call attention_head_dim)
    down_transformers, up_transformers  transformer layers behind each resnet block; `up` too counts from the top
    mid_transformer          transformer layers at the bottom
    time_cond_proj_dim       width of the embedded guidance scale, for a UNet that takes it as an input (LCM)
    time_id_width            width of the embedding of one of SDXL's time ids; None if it takes none
    added_width              width of the pooled prompt and all embedded time ids together
    """

    sample_size: int | tuple[int, int]
    in_channels: int
    out_channels: int
    block_out_channels: tuple[int, ...]
    down_block_types: tuple[str, ...]
    mid_block_type: str | None
    up_block_types: tuple[str, ...]
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    down_transformers: tuple[tuple[int, ...], ...]
    mid_transformer: int
    up_transformers: tuple[tuple[int, ...], ...]
    cross_attention_dim: tuple[int, ...]
    only_cross_attention: tuple[bool, ...]
    use_linear_projection: bool
    upcast_attention: bool
    norm_num_groups: int
    norm_eps: float
    flip_sin_to_cos: bool
    freq_shift: float
    time_embed_dim: int
    time_cond_proj_dim: int | None
    time_id_width: int | None
    added_width: int | None
    conv_in_kernel: int
    conv_out_kernel: int
    downsample_padding: int
    mid_block_scale_factor: float
    center_input_sample: bool

    @property
    def latent_size(self) -> tuple[int, int]:
        """Default height and width in latent cells."""
        return (self.sample_size, self.sample_size) if isinstance(self.sample_size, int) else self.sample_size

    @property
    def uses_guidance_embedding(self) -> bool:
        """Whether the guidance scale is an input of the network (LCM)."""
        return self.time_cond_proj_dim is not None

    @property
    def merges_tokens(self) -> bool:
        """Whether there is attention in which tokens can merge."""
        return self.finest_attention is not None

    @property
    def can_be_perturbed(self) -> bool:
        """Whether there is attention at the bottom, which `Extra.perturbed` changes."""
        return "CrossAttn" in str(self.mid_block_type)

    def bytes_per_row(self, cells: int, itemsize: int, *, fused_attention: bool) -> int:
        """Bytes that one more row of a batch needs in a call, about, for latents of so many cells.

        The finest level decides: cells x channels x MAPS numbers. Attention that is not fused also writes its scores
        down in fp32, cells x cells for each of at most 8 heads: counted once, for one image at a time.
        """
        maps = cells * self.block_out_channels[0] * MAPS * itemsize
        return maps if fused_attention else maps + 8 * cells * cells * 4

    @property
    def levels(self) -> int:
        """Sizes of feature maps; each is half the one above."""
        return len(self.block_out_channels)

    @property
    def finest_attention(self) -> int | None:
        """The highest level with attention, counted from the top; None if there is none but perhaps at the bottom."""
        attends = zip(self.down_block_types, reversed(self.up_block_types), strict=True)
        return next((level for level, types in enumerate(attends) if any("CrossAttn" in t for t in types)), None)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> UNetConfig:
        """Reads a `config.json`; CheckpointError for a wrong value, UnsupportedError for one not implemented."""
        for key, implemented in _IMPLEMENTED.items():
            if (value := values.get(key, implemented[0])) not in implemented:
                raise _unsupported(key, value)
        if values.get("norm_num_groups", 32) is None:
            raise _unsupported("norm_num_groups", None)
        channels = read.wholes(values, "block_out_channels", (320, 640, 1280, 1280))
        levels = len(channels)
        if levels > 16:
            raise _inconsistent(f"{levels} block_out_channels, more than any picture has halvings")
        layers = _whole_per_level(values, "layers_per_block", 2, levels, high=100)
        down, mid, up = _transformers(values, layers)
        with_time_ids = values.get("addition_embed_type") is not None
        config = cls(
            sample_size=_sample_size(values),
            in_channels=read.whole(values, "in_channels", 4, high=MOST_CHANNELS),
            out_channels=read.whole(values, "out_channels", 4, high=MOST_CHANNELS),
            block_out_channels=channels,
            down_block_types=read.choices(values, "down_block_types", (*_DOWN[1:] * 3, _DOWN[0]), _DOWN),
            mid_block_type=values.get("mid_block_type", "UNetMidBlock2DCrossAttn"),
            up_block_types=read.choices(values, "up_block_types", (_UP[0], *_UP[1:] * 3), _UP),
            layers=layers,
            heads=_whole_per_level(values, "attention_head_dim", 8, levels),
            down_transformers=down,
            mid_transformer=mid,
            up_transformers=up,
            cross_attention_dim=_whole_per_level(values, "cross_attention_dim", 1280, levels),
            only_cross_attention=_flag_per_level(values, "only_cross_attention", levels),
            use_linear_projection=_flag(values, "use_linear_projection", False),
            upcast_attention=_flag(values, "upcast_attention", False),
            norm_num_groups=read.whole(values, "norm_num_groups", 32),
            norm_eps=read.positive(values, "norm_eps", 1e-5, high=1),
            flip_sin_to_cos=_flag(values, "flip_sin_to_cos", True),
            freq_shift=read.number(values, "freq_shift", 0),
            time_embed_dim=_optional_whole(values, "time_embedding_dim", 4 * channels[0]),
            time_cond_proj_dim=_optional_whole(values, "time_cond_proj_dim", None),
            time_id_width=read.whole(values, "addition_time_embed_dim", 0) if with_time_ids else None,
            added_width=read.whole(values, "projection_class_embeddings_input_dim", 0) if with_time_ids else None,
            conv_in_kernel=read.whole(values, "conv_in_kernel", 3, high=99),
            conv_out_kernel=read.whole(values, "conv_out_kernel", 3, high=99),
            downsample_padding=read.whole(values, "downsample_padding", 1, low=0, high=1),
            mid_block_scale_factor=read.number(values, "mid_block_scale_factor", 1.0),
            center_input_sample=_flag(values, "center_input_sample", False),
        )
        config._check()
        return config

    def _check(self) -> None:
        for key in ("down_block_types", "up_block_types"):
            if len(getattr(self, key)) != self.levels:
                raise _inconsistent(f"{len(getattr(self, key))} {key} for {self.levels} block_out_channels")
        for channels in self.block_out_channels:
            if channels % self.norm_num_groups != 0:
                raise _inconsistent(
                    f"{channels} channels, which norm_num_groups {self.norm_num_groups} does not divide"
                )
        for level, (channels, heads) in enumerate(zip(self.block_out_channels, self.heads, strict=True)):
            types = {self.down_block_types[level], self.up_block_types[-1 - level]}
            if level == self.levels - 1:
                types.add(str(self.mid_block_type))
            if channels % heads != 0 and any("CrossAttn" in name for name in types):
                raise _inconsistent(f"{channels} channels, which {heads} attention heads do not divide")
        transformers = self.mid_transformer + sum(map(sum, (*self.down_transformers, *self.up_transformers)))
        for count, what in ((sum(self.layers), "resnet blocks on the way down"), (transformers, "transformer layers")):
            if count > MOST_BLOCKS:
                raise _inconsistent(f"{count} {what}, more than any network has")
        if self.mid_block_scale_factor == 0:
            raise _inconsistent("mid_block_scale_factor 0")
        for key in ("conv_in_kernel", "conv_out_kernel"):
            if getattr(self, key) % 2 == 0:
                raise _inconsistent(f"{key} {getattr(self, key)}, which would change the size of the latents")
        # The frequencies of an embedding are powers of 1 / (width // 2 - shift).
        widths = {"block_out_channels": self.block_out_channels[0], "addition_time_embed_dim": self.time_id_width}
        for key, width in widths.items():
            if width is not None and width // 2 <= self.freq_shift:
                raise _inconsistent(f"{key} {width}, too narrow to embed a number with freq_shift {self.freq_shift:g}")
        if self.time_cond_proj_dim is not None and self.time_cond_proj_dim < 4:
            raise _inconsistent(f"time_cond_proj_dim {self.time_cond_proj_dim}, too narrow to embed a number")


def _transformers(
    values: Mapping[str, Any], layers: tuple[int, ...]
) -> tuple[tuple[tuple[int, ...], ...], int, tuple[tuple[int, ...], ...]]:
    """Transformer layers on the way down, at the bottom and on the way up, from `transformer_layers_per_block`.

    A level's entry is one number for all its resnet blocks or a list of theirs. The way up mirrors the way down, unless
    `reverse_transformer_layers_per_block` gives its own, in the order in which it is run.
    """
    key, reverse_key = "transformer_layers_per_block", "reverse_transformer_layers_per_block"
    entries = values.get(key, 1)
    entries = [entries] * len(layers) if not isinstance(entries, list | tuple) else list(entries)
    reverse = values.get(reverse_key)
    if reverse is None:
        if any(isinstance(entry, list | tuple) for entry in entries):
            raise _inconsistent(f"nested {key} and no {reverse_key}")
        reverse = entries[::-1]
    elif not isinstance(reverse, list | tuple):
        raise _inconsistent(f"{reverse_key} = {reverse!r}, which is no list")
    up = _spread(reverse_key, reverse, [n + 1 for n in reversed(layers)])
    down = _spread(key, entries, list(layers))
    return down, down[-1][0], up[::-1]


def _spread(key: str, entries: list[Any] | tuple[Any, ...], layers: list[int]) -> tuple[tuple[int, ...], ...]:
    if len(entries) != len(layers):
        raise _inconsistent(f"{len(entries)} {key} for {len(layers)} block_out_channels")
    spread = []
    for entry, n in zip(entries, layers, strict=True):
        counts = read.wholes({key: entry if isinstance(entry, list | tuple) else [entry] * n}, key, (), high=1000)
        if len(counts) != n:
            raise _inconsistent(f"{len(counts)} numbers in {key} for {n} layers")
        spread.append(counts)
    return tuple(spread)


def _whole_per_level(
    values: Mapping[str, Any], key: str, default: int, levels: int, *, high: int = 1_000_000
) -> tuple[int, ...]:
    if not isinstance(values.get(key, default), list | tuple):
        return (read.whole(values, key, default, high=high),) * levels
    numbers = read.wholes(values, key, (), high=high)
    if len(numbers) != levels:
        raise _inconsistent(f"{len(numbers)} {key} for {levels} block_out_channels")
    return numbers


def _flag_per_level(values: Mapping[str, Any], key: str, levels: int) -> tuple[bool, ...]:
    flags = values.get(key)
    if not isinstance(flags, list | tuple):
        return (_flag(values, key, False),) * levels
    if len(flags) != levels:
        raise _inconsistent(f"{len(flags)} {key} for {levels} block_out_channels")
    return tuple(read.flag({key: item}, key, False) for item in flags)


def _flag(values: Mapping[str, Any], key: str, default: bool) -> bool:
    """True or false; null, which published configs have, counts as false."""
    return False if key in values and values[key] is None else read.flag(values, key, default)


def _optional_whole(values: Mapping[str, Any], key: str, default: Any) -> Any:
    return default if values.get(key) is None else read.whole(values, key, 1)


def _sample_size(values: Mapping[str, Any]) -> int | tuple[int, int]:
    """Only the size of a picture that was asked for without one: SD 1.x's where a config has none."""
    if values.get("sample_size") is None:
        return 64
    if not isinstance(values["sample_size"], list | tuple):
        return read.whole(values, "sample_size", 64, high=MOST_CELLS)
    sides = read.wholes(values, "sample_size", (), high=MOST_CELLS)
    if len(sides) != 2:
        raise _inconsistent(f"{len(sides)} numbers in sample_size")
    return sides[0], sides[1]


def _unsupported(key: str, value: Any) -> UnsupportedError:
    return UnsupportedError(
        f"The UNet's config has {key} = {value!r}, which mlxdiff does not implement.",
        "Use another model, of Stable Diffusion 1, 2 or XL.",
    )


def _inconsistent(what: str) -> CheckpointError:
    return CheckpointError(f"The UNet's config has {what}.", "Download the model again.")
