"""Every form of change against the weights that A1111 and ComfyUI merge (data/recipes/README.md)."""

from __future__ import annotations

from pathlib import Path

import adapter_oracle as oracle
import mlx.core as mx
import numpy as np
import pytest
import recipe_numbers
from safetensors.numpy import save_file

from mlxdiff.adapters import Change, match, read_adapter

CASES = {case["case"]: case for case in recipe_numbers.lora("maths")}
# A1111 measures rows along the other axis, ComfyUI before they change; LyCORIS is the oracle there (test_lycoris.py).
ODD = {"dora_out_axis", "dora_conv_out_axis"}


def array(given: dict) -> np.ndarray:
    return np.array(given["values"], np.float32).reshape(given["shape"])


def change_of(case: dict, folder: Path) -> tuple[Change, np.ndarray]:
    """The change that the tensors of a case make, and the weight."""
    weight = array({"values": case["weight"], "shape": case["weight_shape"]})
    path = folder / "one.safetensors"
    save_file({f"unet.conv.{part}": array(given) for part, given in case["tensors"].items()}, path)
    changes = match(read_adapter(path), {"unet": {"conv.weight": oracle.mlx(weight).shape}})
    return changes["unet"]["conv.weight"], weight


EXPECTED = [
    (name, program, strength)
    for name, case in CASES.items()
    for program in ("a1111", "comfy")
    for strength in (1.0, 0.7)
    # IA3 is A1111's alone, and ComfyUI fails with one LoKr.
    if name not in ODD and "error" not in case.get(f"{program}_strength_{strength}", {"error": "not there"})
]


@pytest.mark.parametrize(("name", "program", "strength"), EXPECTED)
def test_programs_numbers(name, program, strength, tmp_path):
    expected = CASES[name][f"{program}_strength_{strength}"]
    change, weight = change_of(CASES[name], tmp_path)
    added = np.array(change.delta(mx.array(np.ascontiguousarray(oracle.mlx(weight))), strength))
    merged = weight + (added.transpose(0, 3, 1, 2) if added.ndim == 4 else added)
    scale = float(np.abs(merged).sum())
    assert merged.sum(dtype=np.float64) == pytest.approx(expected["sum"], abs=1e-6 * scale)
    assert scale == pytest.approx(expected["abs_sum"], rel=1e-6)
    np.testing.assert_allclose(merged.ravel()[:6], expected["first6"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_a_change_of_low_rank_is_its_product(name, tmp_path):
    change, weight = change_of(CASES[name], tmp_path)
    halves = change.low_rank()
    if halves is None:
        assert name.startswith(("dora", "ia3", "full", "lokr", "loha"))
        return
    down, up = halves
    whole = np.array(change.delta(mx.zeros(change.shape), 1.0))
    product = (up.reshape(up.shape[0], -1) @ down.reshape(down.shape[0], -1)).reshape(change.shape)
    np.testing.assert_allclose(np.array(product), whole, rtol=1e-5, atol=1e-6)
    assert up.shape[0] == weight.shape[0]
    assert change.rank is not None


def test_there_are_numbers_of_every_form():
    assert len(EXPECTED) == 62
    assert {name for name, _, _ in EXPECTED} == CASES.keys() - ODD


def test_ranks_and_alphas(tmp_path):
    said = {name: (change.rank, change.alpha) for name in CASES for change, _ in [change_of(CASES[name], tmp_path)]}
    assert said["lora"] == (2, 1.0)
    assert said["lora_no_alpha"] == (2, None)
    assert said["locon3x3"] == (2, 4.0)
    assert said["loha_tucker"] == (2, 1.0)
    assert said["lokr_full"] == (None, 1.0)
    assert said["full_diff"] == (None, None)
    assert said["dora_in_axis"] == (2, 2.0)


@pytest.mark.parametrize("base", ["sd1", "sdxl"])
def test_names_of_blocks(base):
    """The original implementation's names of a UNet's blocks, where adapters for SDXL have them."""
    from mlxdiff.adapters.names import Place, Places

    known = recipe_numbers.lora(f"sgm_to_diffusers_{base}")
    inside = {"resnets": "conv1", "attentions": "proj_in", "downsamplers": "conv", "upsamplers": "conv"}
    original = {"resnets": "in_layers_2", "attentions": "proj_in", "downsamplers": "op", "upsamplers": "conv"}
    kinds = {path: path.split(".")[-2] for path in known.values()}
    places = Places({"unet": {f"{path}.{inside[kinds[path]]}.weight": (1, 1) for path in known.values()}})
    for name, path in known.items():
        kind = kinds[path]
        expected = [Place("unet", f"{path}.{inside[kind]}")]
        assert places.find(f"lora_unet_{name}_{original[kind]}") == expected
        assert places.find(f"lora_unet_{path.replace('.', '_')}_{inside[kind]}") == expected
