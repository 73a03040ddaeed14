"""The count of operations that benchmarks divide by a time, against torch's own count of diffusers' UNet."""

import checkpoints
import flops
import pytest
import torch
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from mlxdiff.models.unet import UNetConfig


@pytest.mark.parametrize(("model", "height", "width"), [("sd15", 64, 64), ("sd21", 64, 96), ("sdxl", 128, 128)])
def test_counts_what_torch_counts(model, height, width):
    config = checkpoints.published(model)["unet"]
    if model == "sdxl":
        config["transformer_layers_per_block"] = [1, 2, 3]  # of 10, which take torch seconds to make
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        unet = UNet2DConditionModel(**{key: value for key, value in config.items() if key != "_class_name"})
        told = {"text_embeds": torch.empty(2, 1280), "time_ids": torch.empty(2, 6)} if model == "sdxl" else None
        context = torch.empty(2, 77, config["cross_attention_dim"])
        unet(torch.empty(2, 4, height, width), torch.tensor(1.0), context, added_cond_kwargs=told)
    assert flops.unet(UNetConfig.from_dict(config), 2, height, width) == counter.get_total_flops()
