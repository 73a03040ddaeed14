"""The choices for Apple's newest GPUs: what they compute is the same, and only such a chip gets them unasked."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from arrays import nchw, nhwc, normal, relative_error

from mlxdiff.errors import BackendError
from mlxdiff.kernels import apple, attention, conv, native


@pytest.fixture
def metal(monkeypatch):
    """metal(*choices): as on a Mac where these hold, but that MLX computes on this machine's processor."""
    monkeypatch.setattr(native, "serving", lambda *_: None)
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)

    def hold(*choices: str) -> None:
        monkeypatch.setattr(apple, "used", lambda: choices)

    return hold


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("kernel", [2, 3])
def test_a_convolution_as_a_product_equals_torch(kernel, padding):
    x, weight = normal(2, 7, 9, 5, seed=1), normal(4, kernel, kernel, 5, seed=2)
    got = apple.unfolded(mx.array(x), mx.array(weight), padding)
    wanted = F.conv2d(nchw(x).double(), nchw(weight).double(), padding=padding)
    assert relative_error(got, nhwc(wanted)) < 1e-6


def test_wide_convolutions_of_small_maps_in_half_precision_are_unfolded(metal, monkeypatch):
    metal(apple.UNFOLD)
    called = []
    monkeypatch.setattr(apple, "unfolded", lambda *given, real=apple.unfolded: called.append(1) or real(*given))
    x, weight = (mx.array(normal(*shape)).astype(mx.float16) for shape in ((1, 6, 6, 512), (8, 3, 3, 512)))
    bias = mx.arange(8).astype(mx.float16)
    got = conv.conv2d(x, weight, bias, padding=1)
    wanted = mx.conv2d(x.astype(mx.float32), weight.astype(mx.float32), 1, 1) + bias
    assert called == [1]
    assert relative_error(got, np.array(wanted)) < 2e-3


@pytest.mark.parametrize(
    ("shape", "weight", "dtype", "stride"),
    [
        ((1, 6, 6, 511), (8, 3, 3, 511), mx.float16, 1),
        ((1, 64, 64, 512), (8, 3, 3, 512), mx.float16, 1),
        ((1, 6, 6, 512), (8, 3, 3, 512), mx.float32, 1),
        ((1, 6, 6, 512), (8, 1, 1, 512), mx.float16, 1),
        ((1, 6, 6, 512), (8, 3, 3, 512), mx.float16, 2),
    ],
)
def test_no_other_convolution_is(metal, shape, weight, dtype, stride):
    metal(apple.UNFOLD)
    assert not apple.unfolds(mx.zeros(shape, dtype), mx.zeros(weight, dtype), stride)
    assert apple.unfolds(mx.zeros((1, 6, 6, 512), mx.bfloat16), mx.zeros((8, 3, 3, 512)), 1)
    metal()
    assert not apple.unfolds(mx.zeros((1, 6, 6, 512), mx.bfloat16), mx.zeros((8, 3, 3, 512)), 1)


@pytest.mark.parametrize(
    ("size", "choices", "padded"), [(80, ("heads96",), 96), (80, (), 80), (40, (), 64), (160, ("heads96",), 160)]
)
def test_padded_heads_are_the_same_attention(metal, monkeypatch, size, choices, padded):
    metal(*choices)
    seen = []
    fast = mx.fast.scaled_dot_product_attention
    monkeypatch.setattr(
        mx.fast,
        "scaled_dot_product_attention",
        lambda q, *rest, **more: seen.append(q.shape[-1]) or fast(q, *rest, **more),
    )
    q, k, v = (normal(1, n, 2 * size, seed=n) for n in (1024, 77, 78))
    v = v[:, :77]
    split = [mx.array(a).reshape(1, -1, 2, size).transpose(0, 2, 1, 3) for a in (q, k, v)]
    got = attention._attention(*split, None, False)
    q, k, v = (torch.from_numpy(a).double().unflatten(-1, (2, size)).transpose(1, 2) for a in (q, k, v))
    wanted = F.scaled_dot_product_attention(q, k, v).numpy()
    assert set(seen) == {padded}
    assert relative_error(got, wanted) < 1e-5


@pytest.mark.parametrize(
    ("architecture", "system", "has"),
    [
        ("applegpu_g17s", "26.2", True),
        ("applegpu_g17g", "27.0.1", True),
        ("applegpu_g18", "26.10", True),
        ("applegpu_g17s", "26.1", False),
        ("applegpu_g17s", "15.7", False),
        ("applegpu_g16s", "26.2", False),
        ("applegpu_g13g", "26.4", False),
        ("", "26.2", False),
        ("applegpu_gX", "26.2", False),
        ("applegpu_g17s", "", False),
    ],
)
def test_only_a_chip_with_matrix_units_and_a_system_that_uses_them_gets_them(architecture, system, has):
    assert apple.has_matrix_units(architecture, system) is has


def test_nothing_holds_where_there_is_no_metal(monkeypatch):
    monkeypatch.setenv(apple.VARIABLE, "unfold")
    monkeypatch.setattr(mx.metal, "is_available", lambda: False)
    apple._used.cache_clear()
    assert apple.used() == ()


def test_the_variable_overrides_the_choice():
    assert apple.chosen("none") == ()
    assert apple.chosen("heads96, unfold") == ("unfold", "heads96")
    for wrong in ("fast", "unfold,none", "unfold;heads96", ","):
        with pytest.raises(BackendError, match="MLXDIFF_METAL is"):
            apple.chosen(wrong)
