"""Numbers of configs that no network has: refused in words when the config is read, not met as memory or NaN later."""

from __future__ import annotations

import pytest
import tiny_unets

from mlxdiff.errors import CheckpointError
from mlxdiff.models.clip import CLIPTextConfig
from mlxdiff.models.unet_config import UNetConfig
from mlxdiff.models.vae import VAEConfig

NO_NUMBERS = [float("nan"), float("inf"), -float("inf"), 1e300, 10**400, "1e-5", None, True, [1e-5], {}]
UNET = tiny_unets.config("sd1")


@pytest.mark.parametrize("value", [0, 0.0, -1e-5, -1, 1e-300, 2, *NO_NUMBERS], ids=repr)
@pytest.mark.parametrize(
    ("read", "key"),
    [(CLIPTextConfig, "layer_norm_eps"), (UNetConfig, "norm_eps"), (VAEConfig, "scaling_factor")],
)
def test_what_is_divided_by_is_positive(read, key, value):
    if key == "scaling_factor" and value == 2:
        return
    with pytest.raises(CheckpointError, match=key):
        read.from_dict((UNET if read is UNetConfig else {}) | {key: value})


@pytest.mark.parametrize("value", [v for v in NO_NUMBERS if v is not None], ids=repr)
@pytest.mark.parametrize(
    ("read", "key"), [(UNetConfig, "freq_shift"), (UNetConfig, "mid_block_scale_factor"), (VAEConfig, "shift_factor")]
)
def test_other_numbers_are_of_a_size_that_fp32_computes_with(read, key, value):
    with pytest.raises(CheckpointError, match=key):
        read.from_dict((UNET if read is UNetConfig else {}) | {key: value})


@pytest.mark.parametrize(
    ("read", "changes", "message"),
    [
        (UNetConfig, {"sample_size": 8192}, "sample_size = 8192. It should be a whole number from 1 to 512"),
        (UNetConfig, {"sample_size": [64, 8192]}, "sample_size = 8192"),
        (UNetConfig, {"in_channels": 100_000}, "in_channels = 100000"),
        (UNetConfig, {"out_channels": 100_000}, "out_channels = 100000"),
        (UNetConfig, {"conv_in_kernel": 2}, "conv_in_kernel 2"),
        (UNetConfig, {"conv_out_kernel": 4}, "conv_out_kernel 4"),
        (UNetConfig, {"freq_shift": 8}, "too narrow to embed a number with freq_shift 8"),
        (UNetConfig, {"time_cond_proj_dim": 2}, "time_cond_proj_dim 2, too narrow"),
        (UNetConfig, tiny_unets.config("sdxl", addition_time_embed_dim=1), "addition_time_embed_dim 1, too narrow"),
        (VAEConfig, {"latent_channels": 100_000}, "latent_channels = 100000"),
        (
            VAEConfig,
            {
                "block_out_channels": [32] * 9,
                "down_block_types": ["DownEncoderBlock2D"] * 9,
                "up_block_types": ["UpDecoderBlock2D"] * 9,
            },
            "9 block_out_channels, more than 8",
        ),
        (VAEConfig, {"latents_mean": [0.0] * 4, "latents_std": [1, 1, -1, 1]}, "a latents_std of -1"),
        (CLIPTextConfig, {"max_position_embeddings": 30_000}, "max_position_embeddings = 30000"),
    ],
)
def test_what_decides_memory_is_bounded(read, changes, message):
    with pytest.raises(CheckpointError, match=message):
        read.from_dict((UNET if read is UNetConfig else {}) | changes)
