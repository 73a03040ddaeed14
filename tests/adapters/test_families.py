"""Adapters beside models of full size: which family each is of, and what is said where they differ."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import ldm_layout
import mlx.core as mx
import numpy as np
import pytest
import recipe_numbers
from safetensors.numpy import save_file
from torch_weights import parameter_shapes

from mlxdiff.adapters import Shapes, match, read_adapter, scaled
from mlxdiff.adapters.family import of_model
from mlxdiff.adapters.names import original_names
from mlxdiff.checkpoint.single_file import PUBLISHED
from mlxdiff.errors import CheckpointError, RequestError
from mlxdiff.models.clip import CLIPTextConfig, CLIPTextModel
from mlxdiff.models.unet import UNet2DConditionModel, UNetConfig

ATTENTION = "transformer_blocks_0_attn2_to_k"
FIRST = {"sd1": "input_blocks_1_1", "sd2": "input_blocks_1_1", "sdxl": "input_blocks_4_1"}
WIDTHS = {"sd1": (320, 768), "sd2": (320, 1024), "sdxl": (640, 2048)}


@cache
def shapes_of(family: str) -> Shapes:
    """Of a published model; nothing is evaluated."""
    configs = json.loads((PUBLISHED / f"{family}.json").read_text())
    shapes = {}
    for component in ("unet", "text_encoder", "text_encoder_2"):
        if component not in configs:
            continue
        if component == "unet":
            module = UNet2DConditionModel(UNetConfig.from_dict(configs[component]))
        else:
            config = CLIPTextConfig.from_dict(configs[component])
            module = CLIPTextModel(config, with_projection=component == "text_encoder_2")
        shapes[component] = parameter_shapes(module)
    return shapes


def lora_shapes(name: str, out: int, width: int, rank: int = 4) -> dict[str, tuple[int, ...]]:
    return {f"{name}.lora_up.weight": (out, rank), f"{name}.lora_down.weight": (rank, width)}


def of_family(family: str, path: Path) -> Path:
    """A LoRA of two layers of zeros, as people train it for a family."""
    text = "lora_te1" if family == "sdxl" else "lora_te"
    out, width = WIDTHS[family]
    te = 1024 if family == "sd2" else 768
    tensors = lora_shapes(f"lora_unet_{FIRST[family]}_{ATTENTION}", out, width)
    tensors |= lora_shapes(f"{text}_text_model_encoder_layers_3_self_attn_q_proj", te, te)
    if family == "sdxl":
        tensors |= lora_shapes("lora_te2_text_model_encoder_layers_31_mlp_fc1", 5120, 1280)
    return ldm_layout.write_sparse(path, tensors)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_a_lora_fits_its_own_family(family, tmp_path):
    adapter = read_adapter(of_family(family, tmp_path / "style.safetensors"))
    assert adapter.base == family
    assert of_model(shapes_of(family)) == family
    changes = match(adapter, shapes_of(family))
    block = "down_blocks.1" if family == "sdxl" else "down_blocks.0"
    assert list(changes["unet"]) == [f"{block}.attentions.0.transformer_blocks.0.attn2.to_k.weight"]
    assert list(changes["text_encoder"]) == ["encoder.layers.3.self_attn.q_proj.weight"]


@pytest.mark.parametrize(
    ("made", "model", "said"),
    [
        ("sdxl", "sd1", r"\(it is for SDXL, the model is SD 1.x\): the model has no 'lora_te2_"),
        ("sd1", "sdxl", r"\(it is for SD 1.x, the model is SDXL\): the model has no"),
        ("sd1", "sd2", r"SD 1.x, the model is SD 2.x\): '.*has the shape \(320, 768\).*\(320, 1024\) \(and 1"),
        ("sd2", "sd1", r"\(it is for SD 2.x, the model is SD 1.x\)"),
    ],
)  # fmt: skip
def test_another_familys_lora_is_refused_and_both_are_named(made, model, said, tmp_path):
    adapter = read_adapter(of_family(made, tmp_path / "style.safetensors"))
    with pytest.raises(CheckpointError, match=said):
        match(adapter, shapes_of(model))


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("lora_unet_double_blocks_0_img_attn_proj", "FLUX"),
        ("transformer.single_transformer_blocks.0.proj_out", "FLUX"),
        ("lora_unet_joint_blocks_0_x_block_attn_qkv", "Stable Diffusion 3"),
        ("transformer.transformer_blocks.0.attn.to_q", "a transformer, not for a UNet"),
        ("diffusion_model.layers.0.attention.qkv", "a transformer"),
        ("down_blocks.0.motion_modules.0.proj_in", "AnimateDiff"),
    ],
)
def test_families_without_a_unet_are_named(key, what, tmp_path):
    path = ldm_layout.write_sparse(tmp_path / "style.safetensors", lora_shapes(key, 3072, 3072))
    with pytest.raises(CheckpointError, match=rf"\(it is for {what}.*, the model is SD 1.x\): the model has no"):
        match(read_adapter(path), shapes_of("sd1"))


@pytest.mark.parametrize(
    ("said", "base"),
    [("sd_v1", "sd1"), ("sd_v2_768_v", "sd2"), ("sdxl_base_v1-0", "sdxl"), ("stable-diffusion-v1", "sd1"), ("x", None)],
)
def test_metadata_decide_where_shapes_do_not(said, base, tmp_path):
    tensors = lora_shapes("lora_te_text_model_encoder_layers_0_mlp_fc1", 3072, 768)
    for key in ("ss_base_model_version", "modelspec.architecture"):
        path = ldm_layout.write_sparse(tmp_path / f"{key}.safetensors", tensors, metadata={key: said})
        assert read_adapter(path).base == base


@pytest.mark.filterwarnings("ignore:.*without PEFT's")
def test_one_lora_of_text_encoders_alone_is_told_by_its_widths(tmp_path):
    """PEFT's files do not say which text encoder they are for."""
    path = ldm_layout.write_sparse(
        tmp_path / "style.safetensors", lora_shapes("base_model.model.encoder.layers.0.mlp.fc1", 5120, 1280)
    )
    adapter = read_adapter(path)
    assert adapter.base == "sdxl"
    assert list(match(adapter, shapes_of("sdxl"))) == ["text_encoder_2"]


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_names_of_blocks(family):
    """The original implementation's names of all blocks of the full-size UNets."""
    paths = {path.rpartition(".")[0] for path in shapes_of(family)["unet"]}
    names = original_names(paths)
    assert names.keys() == paths
    known = recipe_numbers.lora(f"sgm_to_diffusers_{family}")
    seen = set()
    for path, original in names.items():
        head = "_".join(original.split(".")[:3] if "blocks" in original else original.split(".")[:2])
        if head in known:
            assert path.startswith(f"{known[head]}.")
            seen.add(head)
    assert seen == known.keys()


def test_blocks_have_strengths_of_their_own(tmp_path):
    tensors = {
        **lora_shapes(f"lora_unet_input_blocks_4_1_{ATTENTION}", 640, 768),
        **lora_shapes(f"lora_unet_output_blocks_11_1_{ATTENTION}", 320, 768),
        **lora_shapes(f"lora_unet_middle_block_1_{ATTENTION}", 1280, 768),
        **lora_shapes("lora_unet_time_embed_0", 1280, 320),
        **lora_shapes("lora_te_text_model_encoder_layers_3_self_attn_q_proj", 768, 768),
    }
    shapes = shapes_of("sd1")
    changes = match(read_adapter(ldm_layout.write_sparse(tmp_path / "style.safetensors", tensors)), shapes)
    found = scaled(changes, shapes, {"in4": 0.5, "OUT11": 2, "M00": 0, "base": 0.25})
    factors = {path: change.factor for by_path in found.values() for path, change in by_path.items()}
    assert factors == {
        "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight": 0.5,
        "up_blocks.3.attentions.2.transformer_blocks.0.attn2.to_k.weight": 2,
        "time_embedding.linear_1.weight": 0.25,
        "encoder.layers.3.self_attn.q_proj.weight": 0.25,
    }
    with pytest.raises(RequestError, match=r"has no block 'IN12'. Its blocks are BASE, IN00, .*, IN11, MID, OUT00"):
        scaled(changes, shapes, {"IN12": 1})


def test_a_factor_scales_both_forms_of_a_change(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {"unet.mid.fc.lora_B.weight": (6, 2), "unet.mid.fc.lora_A.weight": (2, 4)}
    save_file({key: rng.normal(size=s).astype(np.float32) for key, s in arrays.items()}, tmp_path / "a.safetensors")
    shapes = {"unet": {"mid.fc.weight": (6, 4)}}
    changes = match(read_adapter(tmp_path / "a.safetensors"), shapes)
    half = scaled(changes, shapes, {"BASE": 0.5})["unet"]["mid.fc.weight"]
    whole = changes["unet"]["mid.fc.weight"].delta(mx.zeros((6, 4)), 1.0)
    halves = half.low_rank()
    assert halves is not None
    down, up = halves
    np.testing.assert_allclose(np.array(half.delta(mx.zeros((6, 4)), 1.0)), 0.5 * np.array(whole), rtol=1e-6)
    np.testing.assert_allclose(np.array(up @ down), 0.5 * np.array(whole), rtol=1e-5, atol=1e-6)
