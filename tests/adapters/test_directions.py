"""The first directions of a LoRA beside A1111's `dyn` (`rebuild_conventional`) written in NumPy, for every form."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import save_file

from mlxdiff.adapters import has_directions, limited, match, read_adapter

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


WEIGHT, KERNEL = normal(8, 8), normal(8, 8, 3, 3)
DOWN, UP = normal(4, 8), normal(8, 4)
ALPHA = np.float32(2)
LENGTHS = np.abs(normal(8, 1)) + 1
KRON = {"lokr_w1": normal(2, 2), "lokr_w2_a": normal(4, 1), "lokr_w2_b": normal(1, 4), "alpha": np.float32(1)}
WHOLE = {
    "loha": {"hada_w1_a": UP, "hada_w1_b": DOWN, "hada_w2_a": UP, "hada_w2_b": DOWN, "alpha": ALPHA},
    "loha of low rank": {
        f"hada_w{i}_{half}": part for i in (1, 2) for half, part in (("a", UP[:, :2]), ("b", DOWN[:2]))
    },
    "lokr": KRON,
    "difference": {"diff": normal(8, 8)},
}


def changes_of(parts: dict[str, np.ndarray], weight: np.ndarray, folder):
    tensors = {f"lora_unet_mid.{name}": np.ascontiguousarray(value) for name, value in parts.items()}
    save_file(tensors, folder / "a.safetensors")
    shape = weight.shape if weight.ndim == 2 else (8, 3, 3, 8)
    return match(read_adapter(folder / "a.safetensors"), {"unet": {"mid.weight": shape}})


def delta(changes, weight: np.ndarray) -> np.ndarray:
    layout = weight if weight.ndim == 2 else np.ascontiguousarray(weight.transpose(0, 2, 3, 1))
    added = np.array(changes["unet"]["mid.weight"].delta(mx.array(layout), 1.0))
    return added if weight.ndim == 2 else added.transpose(0, 3, 1, 2)


@pytest.mark.parametrize("rank", [1, 3, 4, 9])
def test_alpha_is_over_the_whole_rank(rank, tmp_path):
    changes = changes_of({"lora_down.weight": DOWN, "lora_up.weight": UP, "alpha": ALPHA}, WEIGHT, tmp_path)
    expected = 2 / 4 * UP[:, :rank] @ DOWN[:rank]
    found = limited(changes, rank)
    np.testing.assert_allclose(delta(found, WEIGHT), expected, rtol=1e-5, atol=1e-6)
    halves = found["unet"]["mid.weight"].low_rank()
    assert halves is not None
    np.testing.assert_allclose(np.array(halves[1] @ halves[0]), expected, rtol=1e-5, atol=1e-6)


def test_a_convolution(tmp_path):
    down, up = normal(4, 8, 3, 3), normal(8, 4, 1, 1)
    changes = changes_of({"lora_down.weight": down, "lora_up.weight": up}, KERNEL, tmp_path)
    expected = (up.reshape(8, 4)[:, :2] @ down.reshape(4, -1)[:2]).reshape(KERNEL.shape)
    np.testing.assert_allclose(delta(limited(changes, 2), KERNEL), expected, rtol=1e-5, atol=1e-6)


def test_a_doras_lengths_are_set_of_the_weight_with_those_directions(tmp_path):
    parts = {"lora_down.weight": DOWN, "lora_up.weight": UP, "alpha": ALPHA, "dora_scale": LENGTHS}
    changed = WEIGHT + 2 / 4 * UP[:, :1] @ DOWN[:1]
    expected = changed * LENGTHS / np.linalg.norm(changed, axis=1, keepdims=True) - WEIGHT
    found = delta(limited(changes_of(parts, WEIGHT, tmp_path), 1), WEIGHT)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", WHOLE)
def test_other_forms_keep_all_that_they_are(name, tmp_path):
    changes = changes_of(WHOLE[name], WEIGHT, tmp_path)
    assert not has_directions(changes)
    assert np.array_equal(delta(limited(changes, 1), WEIGHT), delta(changes, WEIGHT))


def test_a_core_between_keeps_all_of_it(tmp_path):
    parts = {"lora_down.weight": normal(4, 8, 1, 1), "lora_up.weight": normal(8, 4, 1, 1)}
    changes = changes_of({**parts, "lora_mid.weight": normal(4, 4, 3, 3)}, KERNEL, tmp_path)
    assert not has_directions(changes)
    assert np.array_equal(delta(limited(changes, 1), KERNEL), delta(changes, KERNEL))
