"""Adapter files that are hostile, damaged or something else: one error in words, or a change of finite numbers."""

from __future__ import annotations

import json
import random
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import ldm_layout
import mlx.core as mx
import mutations
import numpy as np
import pytest
import torch
from safetensors.numpy import save, save_file
from safetensors.torch import save_file as save_torch

from mlxdiff.adapters import match, read_adapter
from mlxdiff.checkpoint import single_file
from mlxdiff.checkpoint.inversion import vectors_for
from mlxdiff.errors import CheckpointError, MlxdiffError, UnsupportedError

Arrays = dict[str, np.ndarray]
SHAPES = {
    "unet": {"conv.weight": (6, 3, 3, 4), "conv.bias": (6,), "fc.weight": (6, 4), "norm.weight": (6,)}
    | {"square.weight": (6, 1, 1, 6)}
    | {f"{name}.weight": (6, 4) for name in ("oft", "ia3", "glora")},
    "text_encoder": {"encoder.layers.0.mlp.fc1.weight": (8, 4)},
}


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def lora(name: str = "lora_unet_fc", rank: int = 2, out: int = 6, width: int = 4, **more: np.ndarray) -> Arrays:
    up, down = normal(out, rank), normal(rank, width)
    return {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down} | {
        f"{name}.{part}": array for part, array in more.items()
    }


def number(value: float, dtype=np.float32) -> np.ndarray:
    return np.array(value, dtype)


def with_nan(value: float) -> Arrays:
    arrays = lora()
    arrays["lora_unet_fc.lora_up.weight"][3, 1] = value
    return arrays


# What is wrong with a file, and what is said of it.
HOSTILE: dict[str, tuple[Arrays, str]] = {
    "nothing": ({}, "holds no tensors"),
    "no weights": ({"lora_unet_fc.alpha": number(1)}, "is no LoRA"),
    "rank 0": (lora(rank=0), "it is empty"),
    "alpha 0": (lora(alpha=number(0)), "alpha of 0 for 'lora_unet_fc'"),
    "alpha NaN": (lora(alpha=number(np.nan)), "alpha' = nan"),
    "alpha infinite": (lora(alpha=number(np.inf, np.float16)), "alpha' = inf"),
    "alpha of many": (lora(alpha=normal(3)), "where one number belongs"),
    "alpha of none": (lora(alpha=normal(0)), "it is empty"),
    "scale 0": (lora(scale=number(0)), "alpha of 0"),
    "NaN": (with_nan(np.nan), "NaN or infinity in 'lora_unet_fc.lora_up.weight'"),
    "infinity": (with_nan(-np.inf), "NaN or infinity in 'lora_unet_fc.lora_up.weight'"),
    "integers": ({"lora_unet_fc.lora_up.weight": np.ones((6, 2), np.int32)} | lora("lora_unet_f"), "as integers"),
    "half": ({"lora_unet_fc.lora_up.weight": normal(6, 2)}, "not complete: 'lora_unet_fc' has half a LoRA"),
    "ranks differ": (lora() | {"lora_unet_fc.lora_down.weight": normal(3, 4)}, "ranks differ"),
    "too wide": (lora(width=5), r"has the shape \(6, 5\), where the model has \(6, 4\)"),
    "too long": (lora(out=7), r"has the shape \(7, 4\), where the model has \(6, 4\)"),
    "for a norm": (lora("lora_unet_norm"), r"where the model has \(6,\)"),
    "of one axis": ({f"lora_unet_fc.lora_{half}.weight": normal(4) for half in ("up", "down")}, "where the model has"),
    "of five axes": (lora() | {"lora_unet_fc.lora_up.weight": normal(6, 2, 1, 1, 1)}, "where the model has"),
    "another kernel": (
        {"lora_unet_conv.lora_up.weight": normal(6, 2, 1, 1), "lora_unet_conv.lora_down.weight": normal(2, 4, 5, 5)},
        r"has the shape \(6, 4, 5, 5\), where the model has \(6, 4, 3, 3\)",
    ),
    "a large up": (
        {"lora_unet_conv.lora_up.weight": normal(6, 2, 3, 3), "lora_unet_conv.lora_down.weight": normal(2, 4, 1, 1)},
        "where the model has",
    ),
    "another core": (lora() | {"lora_unet_fc.lora_mid.weight": normal(3, 2, 3, 3)}, "lora_mid is"),
    "half a LoHa": (
        {"lora_unet_fc.hada_w1_a": normal(6, 2), "lora_unet_fc.hada_w1_b": normal(2, 4)},
        "has only a part of hada_w2",
    ),
    "a LoHa of another size": (
        {f"lora_unet_fc.hada_w{n}_{half}": normal(*s) for n in "12" for half, s in (("a", (5, 2)), ("b", (2, 4)))},
        r"a LoHa of \(5, 4\)",
    ),
    "a LoKr of another size": ({"lora_unet_fc.lokr_w1": normal(2, 2), "lora_unet_fc.lokr_w2": normal(3, 3)}, "LoKr of"),
    "a LoKr of one axis": ({"lora_unet_fc.lokr_w1": normal(2), "lora_unet_fc.lokr_w2": normal(3, 2)}, "LoKr of"),
    "both a LoKr and its halves": (
        {f"lora_unet_fc.lokr_{n}": normal(2, 2) for n in ("w1", "w1_a", "w1_b", "w2")},
        "both lokr_w1 and its halves",
    ),
    "a DoRA of a bias": (
        {"lora_unet_conv.dora_scale": normal(6, 1), "lora_unet_conv.diff_b": normal(6)},
        "has a DoRA of nothing",
    ),
    "a DoRA of another size": (lora(dora_scale=normal(5, 1)), r"a DoRA of \(5, 1\)"),
    "an IA3 of another size": (
        {"lora_unet_fc.weight": normal(5), "lora_unet_fc.on_input": number(1)},
        "an IA3 of 5 factors",
    ),
    "an IA3 of a square kernel": (
        {"base_model.model.square.ia3_l": normal(1, 6, 1, 1)},
        "adapter_config.json beside the file says which",
    ),
    "an IA3 without factors": ({"lora_unet_fc.on_input": number(1), **lora("lora_unet_oft")}, "an IA3 without factors"),
    "an alpha alone": (lora() | {"lora_unet_norm.alpha": number(1)}, "'lora_unet_norm' has an alpha, and no change"),
    "a difference of another size": ({"lora_unet_fc.diff": normal(6, 5)}, r"has the shape \(6, 5\)"),
    "a bias where there is none": ({"lora_unet_fc.diff_b": normal(6)}, "changes a bias, and the model has none"),
    "a BOFT": ({"lora_unet_fc.oft_blocks": normal(2, 3, 2, 2)}, "is a BOFT, which mlxdiff does not read"),
    "an OFT without an inverse": ({"lora_unet_fc.oft_blocks": 1e20 * normal(2, 3, 3)}, "an OFT of numbers above 1000"),
    "an OFT of another size": ({"lora_unet_fc.oft_blocks": normal(2, 2, 2)}, "an OFT of 4 rows"),
    "an old GLoRA": (
        {f"lora_unet_fc.{n}.weight": normal(*s) for n, s in
         (("a1", (2, 6)), ("a2", (4, 2)), ("b1", (2, 4)), ("b2", (6, 2)))},
        "GLoRA",
    ),
    "two changes of one weight": (lora() | {"lora_unet_fc.diff": normal(6, 4)}, "more than one form"),
    "a layer twice": (
        lora() | {key: 2 * array for key, array in lora("unet.fc").items()},
        "changes 'fc.weight' twice",
    ),
    "a layer twice in two forms": (lora() | {"unet.fc.diff": normal(6, 4)}, "changes 'fc.weight' twice"),
    "another alpha": (lora() | lora("unet.fc", alpha=number(1)), "changes 'fc.weight' twice"),
    "the same key twice": (lora() | {"lora_unet_fc.lora_B.weight": normal(6, 2)}, "under two names"),
    "a module that is not there": (lora("lora_unet_other"), "the model has no 'lora_unet_other'"),
    "many that are not there": (
        {key: array for n in range(9) for key, array in lora(f"lora_unet_{n}").items()},
        "'lora_unet_0', 'lora_unet_1', 'lora_unet_2' and 6 more keys",
    ),
    "keys of no form": (lora() | {"lora_unet_fc.reshape_weight": normal(2)}, "reshape_weight', which no form"),
    "a key of control characters": ({"\x1b[2J.lora_up.weight": normal(6, 2)}, "the model has no"),
    "an embedding that is none": (lora() | {"bundle_emb.x.other": normal(2, 8, 2)}, "no textual inversion"),
    "an embedding twice": (
        lora() | {"bundle_emb.x.emb_params": normal(2, 8), "bundle_emb.x.string_to_param.*": normal(2, 8)},
        "no textual inversion",
    ),
    "an uneven embedding": (
        lora() | {"bundle_emb.x.clip_l": normal(2, 8), "bundle_emb.x.clip_g": normal(3, 8)},
        "uneven textual inversion 'x'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_in_words(name, tmp_path):
    arrays, said = HOSTILE[name]
    path = tmp_path / "style.safetensors"
    save_file(arrays, path)
    with pytest.raises(MlxdiffError, match=said) as caught:
        match(read_adapter(path), SHAPES)
    assert caught.value.exit_code == 1
    assert str(path) in caught.value.problem
    assert len(caught.value.problem) < 600


def test_the_files_of_the_table_are_sound_but_for_one_thing(tmp_path):
    path = tmp_path / "style.safetensors"
    save_file(lora() | lora("lora_te_text_model_encoder_layers_0_mlp_fc1", out=8), path)
    changes = match(read_adapter(path), SHAPES)
    assert {name: list(found) for name, found in changes.items()} == {
        "unet": ["fc.weight"],
        "text_encoder": ["encoder.layers.0.mlp.fc1.weight"],
    }


def test_a_layer_under_two_names_counts_once(tmp_path):
    save_file(lora(), tmp_path / "one.safetensors")
    save_file(lora() | lora("unet.fc"), tmp_path / "two.safetensors")
    one, two = (
        match(read_adapter(tmp_path / f"{name}.safetensors"), SHAPES)["unet"]["fc.weight"] for name in ("one", "two")
    )
    assert mx.array_equal(one.delta(mx.zeros((6, 4)), 1), two.delta(mx.zeros((6, 4)), 1))


def test_embeddings_that_a_file_brings_along(tmp_path):
    path = tmp_path / "style.safetensors"
    one, left, right = normal(2, 768), normal(3, 768), normal(3, 1280)
    bundled = {"bundle_emb.cat.string_to_param.*": one, "bundle_emb.dog.emb_params": one[0]}
    bundled |= {"bundle_emb.both.clip_l": left, "bundle_emb.both.clip_g": right}
    save_file(lora() | bundled, path)
    found = {inversion.name: inversion for inversion in read_adapter(path).inversions}
    assert {name: inversion.count for name, inversion in found.items()} == {"cat": 2, "dog": 1, "both": 3}
    (vectors,) = vectors_for(found["cat"], [768])
    assert np.array_equal(np.array(vectors), one)
    assert [np.array(rows).shape for rows in vectors_for(found["both"], [768, 1280])] == [left.shape, right.shape]


@pytest.mark.parametrize("dtype", [torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_alpha_may_be_of_any_type(dtype, tmp_path):
    tensors = {key: torch.from_numpy(array) for key, array in lora().items()}
    path = tmp_path / "style.safetensors"
    save_torch(tensors | {"lora_unet_fc.alpha": torch.tensor(3, dtype=dtype)}, path)
    change = match(read_adapter(path), SHAPES)["unet"]["fc.weight"]
    assert (change.alpha, change.rank) == (3, 2)
    expected = 1.5 * lora()["lora_unet_fc.lora_up.weight"] @ lora()["lora_unet_fc.lora_down.weight"]
    np.testing.assert_allclose(np.array(change.delta(mx.zeros((6, 4)), 1)), expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_may_be_of_any_float_type(dtype, tmp_path):
    tensors = {key: torch.from_numpy(array).to(dtype) for key, array in lora().items()}
    save_torch(tensors, tmp_path / "style.safetensors")
    change = match(read_adapter(tmp_path / "style.safetensors"), SHAPES)["unet"]["fc.weight"]
    up, down = (tensors[f"lora_unet_fc.lora_{half}.weight"].float() for half in ("up", "down"))
    delta = change.delta(mx.zeros((6, 4)), 1)
    assert delta.dtype == mx.float32
    np.testing.assert_allclose(np.array(delta), (up @ down).numpy(), rtol=1e-5, atol=1e-6)


CHECKPOINT = {
    single_file.FIRST_CONV: (320, 4, 3, 3),
    "first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3),
    "cond_stage_model.transformer.text_model.final_layer_norm.weight": (768,),
}
OTHER_FILES: dict[str, tuple[dict[str, tuple[int, ...]], str]] = {
    "checkpoint": (CHECKPOINT, "is a whole checkpoint, not a LoRA. Give it as --model"),
    "VAE": ({"decoder.conv_in.weight": (512, 4, 3, 3), "encoder.conv_in.bias": (128,)}, "is a VAE"),
    "UNet": ({"time_embedding.linear_1.weight": (8, 8), "conv_in.weight": (8, 4, 3, 3)}, "is a UNet"),
    "text encoder": ({"text_model.embeddings.token_embedding.weight": (9, 8), "x.bias": (8,)}, "is a text encoder"),
    "ControlNet": ({"controlnet_cond_embedding.conv_in.weight": (8, 3, 3, 3), "x.bias": (8,)}, "is a ControlNet"),
    "embedding": ({"emb_params": (2, 768)}, "is a textual inversion, not a LoRA. Give it as --embedding"),
    "SDXL embedding": ({"clip_l": (2, 768), "clip_g": (2, 1280)}, "is a textual inversion"),
    "something": ({"a.weight": (8, 8), "b.weight": (8,)}, "is no LoRA: it holds 'a.weight', 'b.weight'"),
}


@pytest.mark.parametrize("name", OTHER_FILES)
def test_other_files_are_named(name, tmp_path):
    shapes, said = OTHER_FILES[name]
    path = ldm_layout.write_sparse(tmp_path / "file.safetensors", shapes)
    with pytest.raises(UnsupportedError, match=said):
        read_adapter(path)


@pytest.mark.parametrize("ending", ["pt", "bin", "ckpt", "safetensors"])
def test_pickles_are_refused_unopened(ending, tmp_path):
    path = tmp_path / f"style.{ending}"
    torch.save({"lora_unet_fc.lora_up.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(UnsupportedError, match="pickle"):
        read_adapter(path)


@pytest.mark.parametrize("length", [10 * 2**30, 2**63, 2**64 - 1, 17 * 2**20])
def test_a_huge_header_is_refused_unread(length, tmp_path):
    path = tmp_path / "style.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", length) + b"{}")
        file.truncate(min(length + 8, 11 * 2**30))  # a sparse file
    with pytest.raises(CheckpointError, match="its header would be"):
        read_adapter(path)


@pytest.mark.parametrize("keep", [0, 4, 8, 60, -1, -40])
def test_truncated_files_are_refused(keep, tmp_path):
    path = tmp_path / "style.safetensors"
    path.write_bytes(save(lora())[:keep])
    with pytest.raises(CheckpointError):
        read_adapter(path)


def test_folders(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no .safetensors file"):
        read_adapter(tmp_path)
    (tmp_path / "adapter_model.bin").write_bytes(b"x")
    with pytest.raises(UnsupportedError, match=r"adapter_model\.bin is a pickle"):
        read_adapter(tmp_path)
    save_file(lora(), tmp_path / "one.safetensors")
    assert read_adapter(tmp_path).name == "one"
    save_file(lora(), tmp_path / "two.safetensors")
    with pytest.raises(CheckpointError, match=r"holds 2 files \(one.safetensors, two.safetensors\)"):
        read_adapter(tmp_path)
    save_file(lora(), tmp_path / "pytorch_lora_weights.safetensors")
    assert read_adapter(tmp_path).name == "pytorch_lora_weights"


# What stands in adapter_config.json, and what is said of it; None where it is read.
PEFT_CONFIGS: dict[str, tuple[object, str | None]] = {
    "sound": ({"r": 2, "lora_alpha": 4}, None),
    "empty": ({}, None),
    "rank 0": ({"r": 0, "lora_alpha": 4}, "gives 'fc' the rank 0 and the alpha 4"),
    "a negative rank": ({"r": -3}, "gives 'fc' the rank -3"),
    "alpha 0": ({"r": 2, "lora_alpha": 0}, "alpha 0"),
    "alpha NaN": ({"r": 2, "lora_alpha": float("nan")}, "has lora_alpha = nan"),
    "alpha infinite": ({"r": 2, "lora_alpha": float("inf")}, "has lora_alpha = inf"),
    "alpha a text": ({"r": 2, "lora_alpha": "4"}, "has lora_alpha = 4"),
    "a rank beyond floats": ({"r": 10**400}, "has r = 1000"),
    "true": ({"r": True}, "has r = True"),
    "a list": ([1], "not an object"),
    "a pattern that takes forever": ({"r": 2, "alpha_pattern": {"(a+)+$": 3}}, "does not read"),
    "a pattern of many stars": ({"r": 2, "alpha_pattern": {".*.*.*.*.*.*x": 3}}, "does not read"),
    "a pattern of another": ({"r": 2, "lora_alpha": 2, "alpha_pattern": {"other": 5}}, None),
    "no pattern": ({"r": 2, "alpha_pattern": 3}, None),
    "PiSSA": ({"r": 2, "init_lora_weights": "pissa_niter_4"}, "the model was changed for this adapter too"),
}


@pytest.mark.parametrize("name", PEFT_CONFIGS)
def test_configs_of_peft(name, tmp_path):
    values, said = PEFT_CONFIGS[name]
    save_file(lora("base_model.model.fc"), tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(values))
    if said is None:
        assert match(read_adapter(tmp_path), SHAPES)["unet"]["fc.weight"].rank == 2
        return
    with pytest.raises(MlxdiffError, match=said):
        match(read_adapter(tmp_path), SHAPES)


@pytest.mark.parametrize("text", ["", "[]", "nonsense", "[" * 100_000, '{"unet.r": 2, "unet.lora_alpha": "x"}'])
def test_configs_in_the_header(text, tmp_path):
    save_file(lora("unet.fc"), tmp_path / "a.safetensors", {"lora_adapter_metadata": text})
    with pytest.raises(CheckpointError, match="lora_a"):
        read_adapter(tmp_path / "a.safetensors")


GLORA = {"a1": (4, 2), "a2": (2, 4), "b1": (6, 2), "b2": (2, 4)}


def forms() -> Arrays:
    """A file with a layer of most forms."""
    arrays = lora("lora_unet_fc", alpha=number(1), dora_scale=normal(6, 1))
    arrays |= {"lora_unet_conv.hada_w1_a": normal(6, 2), "lora_unet_conv.hada_w1_b": normal(2, 36)}
    arrays |= {"lora_unet_conv.hada_w2_a": normal(6, 2), "lora_unet_conv.hada_w2_b": normal(2, 36)}
    arrays |= {"lora_unet_oft.oft_blocks": normal(2, 3, 3), "lora_unet_ia3.weight": normal(4)}
    arrays |= {f"lora_unet_glora.{n}.weight": normal(*s) for n, s in GLORA.items()} | {
        "lora_unet_ia3.on_input": number(1)
    }
    arrays |= {"lora_unet_conv.diff_b": normal(6), "lora_unet_norm.w_norm": normal(6)}
    te = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    arrays |= {f"{te}.lokr_w1": normal(2, 2), f"{te}.lokr_w2_a": normal(4, 2), f"{te}.lokr_w2_b": normal(2, 2)}
    return arrays


def read_all(path: Path) -> int:
    """Reads, matches and computes every change; the number of layers."""
    adapter = read_adapter(path)
    changes = match(adapter, SHAPES)
    for component, by_path in changes.items():
        for name, change in by_path.items():
            shape = SHAPES[component][name]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # numbers may overflow
                delta = change.delta(mx.ones(shape), 0.5)
            mx.eval(delta, change.low_rank())
            assert (tuple(delta.shape), delta.dtype) == (shape, mx.float32)
    return len(adapter.layers)


def test_mutated_files_are_read_or_refused(tmp_path):
    sound = save(forms(), {"ss_base_model_version": "sd_v1", "lora_adapter_metadata": '{"unet.r": 2}'})
    path = tmp_path / "style.safetensors"
    refused = 0
    for seed in range(400):
        path.unlink(missing_ok=True)  # MLX may still have the one before mapped
        path.write_bytes(mutations.mutate(path.name, sound, random.Random(seed)))
        try:
            read_all(path)
        except MlxdiffError:
            refused += 1
    assert 200 < refused < 400
    path.unlink()
    path.write_bytes(sound)
    assert read_all(path) == 7


def test_mutated_configs_are_read_or_refused(tmp_path):
    save_file(lora("base_model.model.fc"), tmp_path / "adapter_model.safetensors")
    values = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "alpha_pattern": {"fc": 3}, "rank_pattern": {".*c": 2}}
    sound = json.dumps(values | {"use_rslora": True, "init_lora_weights": True}).encode()
    mutate: Callable[[bytes, random.Random], bytes] = mutations.change_json
    refused = 0
    for seed in range(300):
        (tmp_path / "adapter_config.json").write_bytes(mutate(sound, random.Random(seed)))
        try:
            read_all(tmp_path)
        except MlxdiffError:
            refused += 1
    assert 50 < refused < 290


# Sound layers for a weight (6, 4), by the shapes of their parts.
LAYERS: list[dict[str, tuple[int, ...]]] = [
    {"lora_up.weight": (6, 2), "lora_down.weight": (2, 4), "alpha": ()},
    {"lora_up.weight": (6, 2), "lora_down.weight": (2, 4), "dora_scale": (1, 4)},
    {"lora_A.weight": (2, 4), "lora_B.weight": (6, 2), "lora_magnitude_vector": (6,), "scale": ()},
    {"hada_w1_a": (6, 2), "hada_w1_b": (2, 4), "hada_w2_a": (6, 2), "hada_w2_b": (2, 4), "dora_scale": (6, 1)},
    {"lokr_w1": (2, 2), "lokr_w2_a": (3, 1), "lokr_w2_b": (1, 2), "alpha": ()},
    {"lokr_w1_a": (2, 1), "lokr_w1_b": (1, 2), "lokr_w2": (3, 2)},
    {"diff": (6, 4)},
    {"weight": (4,), "on_input": ()},
    {"ia3_l": (6, 1)},
    {"oft_blocks": (2, 3, 3), "rescale": (6, 1), "alpha": ()},
    {"a1.weight": (4, 2), "a2.weight": (2, 4), "b1.weight": (6, 2), "b2.weight": (2, 4)},
    {"lora_embedding_A": (2, 6), "lora_embedding_B": (4, 2)},
    {"set_weight": (6, 4)},
]


def test_layers_of_random_parts_and_shapes_are_read_or_refused(tmp_path):
    rng = random.Random(0)
    parts = sorted({part for layer in LAYERS for part in layer} | {"lora_mid.weight", "hada_t1", "lokr_t2", "diff_b"})
    path = tmp_path / "style.safetensors"
    read = 0
    for _ in range(800):
        layer = dict(rng.choice(LAYERS))
        for _ in range(rng.choice((0, 1, 1, 2))):
            shape = tuple(rng.choice((1, 2, 3, 4, 6, 9)) for _ in range(rng.randrange(6)))
            match rng.randrange(3):
                case 0:
                    layer[rng.choice(list(layer))] = shape
                case 1:
                    layer[rng.choice(parts)] = shape
                case _ if len(layer) > 1:
                    del layer[rng.choice(list(layer))]
        name = rng.choice(("unet.fc", "unet.fc", "unet.fc", "unet.conv", "unet.norm", "text_encoder.x"))
        path.unlink(missing_ok=True)
        save_file({f"{name}.{part}": np.asarray(0.1 + normal(*shape)) for part, shape in layer.items()}, path)
        try:
            read += read_all(path)
        except MlxdiffError:
            continue
    assert 100 < read < 500
